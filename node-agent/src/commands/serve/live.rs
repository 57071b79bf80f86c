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
    report::{failure::chain, metrics::Metrics},
    snapshot::{
        cluster::Objects,
        happening::Happening,
        known::Known,
        status::{SelfTest, StoreNumbers},
    },
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

/// What the parts tell each other.
#[derive(Debug)]
struct Channels {
    numbers: watch::Sender<Result<StoreNumbers, String>>,
    standings: watch::Sender<Standings>,
    outdated_pods: watch::Sender<Vec<String>>,
    seen: watch::Sender<Seen>,
}

/// Starts them all; they end with the set.
pub(super) async fn start(parts: Parts<'_>) -> Result<JoinSet<()>, ServeError> {
    let metrics = Metrics::register().map_err(|source| ServeError::Metrics { source })?;
    let address = parts.http;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Http { address, source })?;
    let kept = parts.cluster.as_ref().and_then(|(_, kept)| kept.clone());
    let published = parts.store.published().unwrap_or_default();
    let standings = Standings::of(&published, &parts.seams.known.borrow().catalogue);
    let channels = Channels {
        numbers: watch::Sender::new(parts.store.numbers().map_err(|error| chain(&error))),
        standings: watch::Sender::new(standings),
        outdated_pods: watch::Sender::default(),
        seen: watch::Sender::new(Seen {
            objects: Arc::new(kept.unwrap_or_default()),
            ..Seen::default()
        }),
    };
    let mut tasks = JoinSet::new();
    serve_http(&mut tasks, &parts, (listener, metrics.clone()));
    look_around(&mut tasks, &parts, &channels, &metrics);
    tell(&mut tasks, parts, channels, metrics);
    Ok(tasks)
}

fn serve_http(tasks: &mut JoinSet<()>, parts: &Parts<'_>, (listener, metrics): (TcpListener, Metrics)) {
    let waiting_for = watch::Sender::new(vec!["the first look"]);
    let answers = Answers {
        metrics,
        waiting_for: waiting_for.subscribe(),
    };
    tasks.spawn(http::serve(listener, answers));
    let (known, tested) = (parts.seams.known.subscribe(), parts.seams.self_test.subscribe());
    tasks.spawn(ready(parts.csi_socket.clone(), known, tested, waiting_for));
}

/// What looks at the machine, again and again.
fn look_around(tasks: &mut JoinSet<()>, parts: &Parts<'_>, channels: &Channels, metrics: &Metrics) {
    let Parts { seams, store, .. } = parts;
    let node = seams.node.subscribe();
    tasks.spawn(detection::test(store.clone(), node, seams.self_test.clone()));
    let looking = Looking {
        root: parts.host_root.clone(),
        said: parts.said.clone(),
    };
    tasks.spawn(detection::follow(looking, seams.node.clone(), metrics.clone()));
    tasks.spawn(status::count(store.clone(), channels.numbers.clone()));
    let pods = channels.outdated_pods.clone();
    tasks.spawn(status::compare(store.clone(), seams.node.subscribe(), pods));
    let prewarmer = Prewarmer {
        name: parts.name.clone(),
        known: seams.known.subscribe(),
        node: seams.node.subscribe(),
        seen: channels.seen.subscribe(),
        provision: seams.provision.clone(),
        happenings: seams.happenings.clone(),
        standings: channels.standings.clone(),
    };
    tasks.spawn(prewarmer.run());
}

/// What tells of it: with an API server there, without one in metrics alone.
fn tell(tasks: &mut JoinSet<()>, parts: Parts<'_>, channels: Channels, metrics: Metrics) {
    let Parts {
        seams,
        name,
        store,
        cluster,
        happenings,
        ..
    } = parts;
    let sources = Sources {
        known: seams.known.subscribe(),
        node: seams.node.subscribe(),
        self_test: seams.self_test.subscribe(),
        standings: channels.standings.subscribe(),
        store: channels.numbers.subscribe(),
        outdated_pods: channels.outdated_pods.subscribe(),
        provision: seams.provision.clone(),
    };
    let events = cluster.as_ref().map(|(client, _)| {
        let (events, unwritten) = tell::queue();
        tasks.spawn(tell::write(client.clone(), unwritten, metrics.clone()));
        events
    });
    let listening = Listener {
        node: name.clone(),
        known: seams.known.subscribe(),
        standings: channels.standings,
        metrics: metrics.clone(),
        events,
    };
    tasks.spawn(listening.listen(happenings));
    let Some((client, kept)) = cluster else {
        tasks.spawn(status::measure(sources, metrics));
        return;
    };
    let shown = Shown {
        known: seams.known.clone(),
        registered: seams.registered.clone(),
        spec: seams.spec.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(cluster::show(store, kept, channels.seen.subscribe(), shown));
    let teller = Teller {
        client: client.clone(),
        name: name.clone(),
        seen: channels.seen.subscribe(),
        sources,
        metrics,
    };
    tasks.spawn(teller.tell());
    let seen = channels.seen;
    tasks.spawn(async move { follow(client, &name, seen).await });
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
