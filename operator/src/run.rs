//! The composition root: makes every part, joins them, and ends them together.
//! The only file that spawns the process's tasks; it never decides anything itself.

use std::{future::Future, sync::Arc};

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
    args::RunArgs,
    http::{self, Told},
    metrics::Metrics,
    observe,
    readiness::Readiness,
    snapshot::world::World,
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
        namespace: _,
        pod_name: _,
        http,
        webhook_address: _,
        webhook_service: _,
        webhook_configuration: _,
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

    let (published, _worlds) = watch::channel::<Option<Arc<World>>>(None);
    let watched = observe::world::observe(client.clone(), published, readiness.part("watches"));
    parts.start("watches", watched);

    parts.until_told_to_end().await
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
