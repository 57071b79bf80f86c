//! The composition root: makes every part, joins them, and ends them together.
//! The only file that spawns the process's tasks; it never decides anything itself.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use kube::{Client, Config};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tracing::info;

use crate::{
    admission::{self, Admission, keep::Keep, tls},
    args::{RunArgs, WebhookArgs},
    http::{self, Told},
    metrics::Metrics,
    observe,
    plan::certificates::Wanted,
    readiness::Readiness,
    snapshot::{certificates::Names, world::World},
};

/// Runs until SIGTERM or SIGINT, or until a part fails.
///
/// # Errors
/// What cannot be set up; a part that ended by itself.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(serve(args))
}

async fn serve(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs {
        namespace,
        pod_name: _,
        http,
        webhook,
        credentials_secret: _,
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

    let (published, worlds) = watch::channel::<Option<Arc<World>>>(None);
    let watched = observe::world::observe(client.clone(), published, readiness.part("watches"));
    parts.start("watches", watched);

    let admission = Admission {
        worlds,
        namespace,
        metrics,
    };
    serve_webhook(&mut parts, webhook, (admission, client), &readiness).await?;

    parts.until_told_to_end().await
}

/// The webhook, and what keeps its certificates.
async fn serve_webhook(
    parts: &mut Parts,
    args: WebhookArgs,
    (admission, client): (Admission, Client),
    readiness: &Readiness,
) -> anyhow::Result<()> {
    let WebhookArgs {
        address,
        service,
        configuration,
        secret,
        host,
        authority_lifetime,
        certificate_lifetime,
    } = args;
    let namespace = &admission.namespace;
    let service = [
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    let (serving, certificates) = watch::channel(None);
    let keep = Keep {
        client,
        names: Names {
            namespace: namespace.clone(),
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
    parts.start("admission", admission::serve::serve(listener, tls, admission));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the composition root reads the clock")]
fn clock() -> SystemTime {
    SystemTime::now()
}

/// A client of the cluster that the kubeconfig, or the pod's service account, leads to.
async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.context("no cluster is configured")?;
    Client::try_from(config).context("the client of the API server cannot be made")
}

/// The tasks of the process. None of them ends by itself: one that does ends them all.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<&'static str>,
}

impl Parts {
    fn start(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            part.await;
            name
        });
    }

    async fn until_told_to_end(mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
        tokio::select! {
            _ = terminate.recv() => info!("told to end"),
            _ = interrupt.recv() => info!("told to end"),
            ended = self.tasks.join_next() => {
                let name = ended.transpose().context("a part panicked")?.unwrap_or("every part");
                anyhow::bail!("{name} ended by itself");
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}
