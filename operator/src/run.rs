//! The composition root: makes every part, joins them, and ends them together.
//! The only file that spawns the process's tasks; it never decides anything itself.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::info;

use crate::{
    act::write::{FIELD_MANAGER, Writer},
    admission::{self, Admission, keep::Keep, serve::Limits, tls},
    args::{RunArgs, UninstallStep, WebhookArgs},
    client::client,
    http::{self, Told},
    leader::Candidate,
    metrics::Metrics,
    observe::{self, world::Worlds},
    plan::certificates::Wanted,
    readiness::Readiness,
    reconcile::Reconciler,
    resolver::Resolver,
    snapshot::{certificates::Names, settled::Settled},
    uninstall,
};

/// Runs until SIGTERM or SIGINT, or until a part fails.
///
/// # Errors
/// What cannot be set up; a part that ended by itself.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(serve(args))
}

/// Does one step of leaving the cluster.
///
/// # Errors
/// What is in the way; what the API server refused.
pub fn uninstall(step: UninstallStep) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(async { uninstall::step(client().await?, step).await })
}

async fn serve(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs {
        namespace,
        pod_name,
        http,
        agent_pods,
        agent_nodes,
        webhook,
        credentials_secret,
    } = args;
    let readiness = Readiness::default();
    let metrics = Metrics::new().context("the metrics cannot be registered")?;
    let client = client().await?;
    let mut parts = Parts::default();

    let listener = TcpListener::bind(http)
        .await
        .with_context(|| format!("--http {http} cannot be listened at"))?;
    let told = Told {
        readiness: readiness.clone(),
        metrics: metrics.clone(),
    };
    parts.start("http", http::serve(listener, told));

    let (published, worlds) = watch::channel::<Option<Arc<Settled>>>(None);
    let (watched, part, own) = (client.clone(), readiness.part("watches"), namespace.clone());
    parts.start("watches", async move {
        observe::world::observe(watched, (&own, &agent_pods), published, part).await;
    });

    let me = Replica {
        namespace,
        pod_name,
        credentials_secret,
    };
    let (end, ending) = watch::channel(false);
    let election = reconcile(
        &mut parts,
        &me,
        (client.clone(), worlds.clone(), metrics.clone()),
        ending,
    );
    let webhook = Webhook {
        args: webhook,
        namespace: me.namespace.clone(),
        client,
        admission: Admission::new(worlds, me.namespace, agent_nodes, metrics),
        ending: end.subscribe(),
    };
    serve_webhook(&mut parts, webhook, &readiness).await?;

    let ended = parts.until_told_to_end().await;
    // Nothing writes any more: the lease can go to another replica at once.
    end.send_replace(true);
    election.join_all().await;
    let _lingering = ended?;
    tokio::time::sleep(LINGER).await;
    Ok(())
}

/// Who this replica is.
struct Replica {
    namespace: String,
    pod_name: String,
    credentials_secret: String,
}

/// Resolving and reconciling, by whoever is elected. The election itself outlives the parts: it ends last.
fn reconcile(
    parts: &mut Parts,
    me: &Replica,
    (client, worlds, metrics): (Client, Worlds, Metrics),
    ending: watch::Receiver<bool>,
) -> JoinSet<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), &me.namespace);
    let (candidate, leading) = Candidate::new(leases, me.pod_name.clone(), metrics.leader.clone(), now);
    let (resolver, heard) = Resolver::new(worlds.clone(), leading.clone(), metrics.clone(), now);
    parts.start("resolving", resolver.run());
    let reporter = Reporter {
        controller: FIELD_MANAGER.to_owned(),
        instance: Some(me.pod_name.clone()),
    };
    let reconciler = Reconciler {
        worlds,
        heard,
        writer: Writer {
            client: client.clone(),
            leading: leading.clone(),
            namespace: me.namespace.clone(),
            credentials_secret: me.credentials_secret.clone(),
        },
        leading,
        recorder: Recorder::new(client, reporter),
        metrics,
        clock: now,
    };
    parts.start("reconciling", reconciler.run());
    JoinSet::from_iter([candidate.stand(ending)])
}

/// What the webhook is made of.
struct Webhook {
    args: WebhookArgs,
    namespace: String,
    client: Client,
    admission: Admission,
    ending: watch::Receiver<bool>,
}

/// The webhook, and what keeps its certificates.
async fn serve_webhook(parts: &mut Parts, webhook: Webhook, readiness: &Readiness) -> anyhow::Result<()> {
    let Webhook {
        args,
        namespace,
        client,
        admission,
        ending,
    } = webhook;
    let WebhookArgs {
        address,
        service,
        configuration,
        secret,
        host,
        authority_lifetime,
        certificate_lifetime,
    } = args;
    let service = [
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    let (serving, certificates) = watch::channel(None);
    let keep = Keep {
        client,
        names: Names {
            namespace,
            secret,
            configuration,
        },
        wanted: Wanted {
            names: host.into_iter().chain(service).collect(),
            authority: Duration::from_secs(authority_lifetime),
            serving: Duration::from_secs(certificate_lifetime),
        },
        clock,
        serving,
        part: readiness.part("certificates"),
    };
    parts.start("certificates", keep.keep());
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("--webhook-address {address} cannot be listened at"))?;
    let tls = tls::config(certificates).context("TLS cannot be configured")?;
    parts.start_lingering(
        "admission",
        admission::serve::serve(listener, tls, admission, ending, Limits::default()),
    );
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the composition root reads the clock")]
fn clock() -> SystemTime {
    SystemTime::now()
}

/// In whole seconds, as statuses have it.
fn now() -> Timestamp {
    let now = Timestamp::try_from(clock()).unwrap_or(Timestamp::UNIX_EPOCH);
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// How long the webhook goes on after the process was told to end: Kubernetes tells the API server of it at the same time, and
/// what comes until it knows is answered.
const LINGER: Duration = Duration::from_secs(5);

/// The tasks of the process. None of them ends by itself: one that does ends them all.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<&'static str>,
    /// Those that go on for a while when the others have ended.
    lingering: JoinSet<&'static str>,
}

impl Parts {
    fn start(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            name
        });
    }

    fn start_lingering(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.lingering.spawn(async move {
            part.await;
            name
        });
    }

    /// Gives what goes on for a while.
    async fn until_told_to_end(mut self) -> anyhow::Result<JoinSet<&'static str>> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
        tokio::select! {
            _ = terminate.recv() => info!("told to end"),
            _ = interrupt.recv() => info!("told to end"),
            ended = ended(&mut self.tasks) => return ended,
            ended = ended(&mut self.lingering) => return ended,
        }
        self.tasks.shutdown().await;
        Ok(self.lingering)
    }
}

/// Waits for a task that ends by itself, which none may.
async fn ended<T>(tasks: &mut JoinSet<&'static str>) -> anyhow::Result<T> {
    let ended = tasks.join_next().await;
    let name = ended.transpose().context("a part panicked")?.unwrap_or("every part");
    anyhow::bail!("{name} ended by itself")
}
