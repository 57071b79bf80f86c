//! The parts of the daemon beside its volumes: what follows the cluster and the driver, and what tells of them.
//! Never holds up a volume: each part is a task of its own, and its faults are its own.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    net::{TcpListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Seams,
    cluster::{self, Shown},
    detection::{self, Looking},
    prewarm::Prewarmer,
    status::{self, Sources, Teller},
    tell::{self, Listener},
};
use crate::{
    args::NodeArgs,
    commands::reasons::ServeError,
    http::{self, Answers},
    observe::cluster::{Seen, follow},
    plan::standing::Standings,
    report::metrics::Metrics,
    snapshot::{cluster::Objects, happening::Happening, known::Known, status::SelfTest},
    store::NodeStore,
};

/// Between two looks at readiness.
const READY_EVERY: Duration = Duration::from_secs(2);
/// For the CSI socket to take a connection.
const SOCKET_WITHIN: Duration = Duration::from_secs(1);

/// What the parts are made with.
pub(super) struct Parts<'a> {
    pub(super) seams: &'a Seams,
    pub(super) name: String,
    pub(super) store: NodeStore,
    /// The API server, and what was kept of it; nothing where objects come from files.
    pub(super) cluster: Option<(Client, Option<Objects>)>,
    pub(super) host_root: PathBuf,
    pub(super) said: NodeArgs,
    pub(super) csi_socket: PathBuf,
    pub(super) http: SocketAddr,
    pub(super) happenings: mpsc::Receiver<Happening>,
}

/// Starts them all; they end with the set.
pub(super) async fn start(parts: Parts<'_>) -> Result<JoinSet<()>, ServeError> {
    let Parts {
        seams,
        name,
        store,
        cluster,
        host_root,
        said,
        csi_socket,
        http: address,
        happenings,
    } = parts;
    let metrics = Metrics::register().map_err(|source| ServeError::Metrics { source })?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Http { address, source })?;
    let mut tasks = JoinSet::new();
    let self_test = watch::Sender::new(SelfTest::default());
    let numbers = watch::Sender::new(store.numbers().map_err(|error| error.to_string()));
    let standings = watch::Sender::new(Standings::default());
    let before = cluster.as_ref().and_then(|(_, kept)| kept.clone()).unwrap_or_default();
    let seen = watch::Sender::new(Seen {
        objects: Arc::new(before),
        ..Seen::default()
    });
    let waiting_for = watch::Sender::new(vec!["the first look"]);
    let sources = Sources {
        known: seams.known.subscribe(),
        node: seams.node.subscribe(),
        self_test: self_test.subscribe(),
        standings: standings.subscribe(),
        store: numbers.subscribe(),
        outdated_pods: watch::Sender::new(Vec::new()).subscribe(),
        provision: seams.provision.clone(),
    };
    let answers = Answers {
        metrics: metrics.clone(),
        waiting_for: waiting_for.subscribe(),
    };
    tasks.spawn(http::serve(listener, answers));
    let (known, tested) = (seams.known.subscribe(), self_test.subscribe());
    tasks.spawn(ready(csi_socket, known, tested, waiting_for));
    tasks.spawn(detection::test(store.clone(), seams.node.subscribe(), self_test));
    let looking = Looking { root: host_root, said };
    tasks.spawn(detection::follow(looking, seams.node.clone(), metrics.clone()));
    tasks.spawn(status::count(store.clone(), numbers));
    let prewarmer = Prewarmer {
        name: name.clone(),
        known: seams.known.subscribe(),
        node: seams.node.subscribe(),
        seen: seen.subscribe(),
        provision: seams.provision.clone(),
        happenings: seams.happenings.clone(),
    };
    tasks.spawn(prewarmer.run());
    let events = cluster.as_ref().map(|(client, _)| {
        let (events, unwritten) = tell::queue();
        tasks.spawn(tell::write(client.clone(), unwritten, metrics.clone()));
        events
    });
    let listening = Listener {
        node: name.clone(),
        known: seams.known.subscribe(),
        standings,
        metrics: metrics.clone(),
        events,
    };
    tasks.spawn(listening.listen(happenings));
    match cluster {
        Some((client, kept)) => {
            let shown = Shown {
                known: seams.known.clone(),
                registered: seams.registered.clone(),
                metrics: metrics.clone(),
            };
            tasks.spawn(cluster::show(store, kept, seen.subscribe(), shown));
            let teller = Teller {
                client: client.clone(),
                name: name.clone(),
                seen: seen.subscribe(),
                sources,
                metrics,
            };
            tasks.spawn(teller.tell());
            tasks.spawn(async move { follow(client, &name, seen).await });
        }
        None => drop(tasks.spawn(status::measure(sources, metrics))),
    }
    Ok(tasks)
}

/// Keeps up what `/readyz` waits for.
async fn ready(
    socket: PathBuf,
    known: watch::Receiver<Known>,
    tested: watch::Receiver<SelfTest>,
    waiting_for: watch::Sender<Vec<&'static str>>,
) {
    loop {
        let mut waiting = Vec::new();
        if *tested.borrow() != SelfTest::Passed {
            waiting.push("a mount that succeeds");
        }
        let catalogue = {
            let known = known.borrow();
            known.synced || !known.catalogue.environments.is_empty()
        };
        if !catalogue {
            waiting.push("the API server");
        }
        if !matches!(timeout(SOCKET_WITHIN, UnixStream::connect(&socket)).await, Ok(Ok(_))) {
            waiting.push("the CSI socket");
        }
        waiting_for.send_replace(waiting);
        sleep(READY_EVERY).await;
    }
}
