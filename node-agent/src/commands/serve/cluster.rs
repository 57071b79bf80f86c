//! The cluster's objects on their way into the daemon: from the API server, and over a restart from the state folder.
//! Never empties the catalogue because the API server is away.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crds::v1alpha1::CUDANodeSpec;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{
    observe::cluster::Seen,
    report::{failure::chain, metrics::Metrics},
    snapshot::{
        cluster::{Objects, faults},
        known::Known,
    },
    store::NodeStore,
};

/// Longer than the API server leaves any request of ours unanswered: a hung list is given up then, as a silent watch is.
const UNANSWERED: std::time::Duration = std::time::Duration::from_secs(250);

/// For a connection: one that is not there by then is tried anew.
const CONNECTED: std::time::Duration = std::time::Duration::from_secs(10);

/// Why no API server can be asked.
#[derive(Debug, thiserror::Error)]
pub(in crate::commands) enum ClientError {
    #[error("reading {}", path.display())]
    Kubeconfig {
        path: PathBuf,
        source: Box<kube::config::KubeconfigError>,
    },
    #[error(
        "this is no pod of a cluster: run it in one, or give --kubeconfig for an API server or --objects for files"
    )]
    NotInCluster { source: Box<kube::config::InClusterError> },
    #[error("preparing requests to the API server")]
    Client { source: Box<kube::Error> },
}

/// A client of the API server that `kubeconfig` names, or of the one whose pod this is. Asks nobody yet.
pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unusable = |source| ClientError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
        None => Config::incluster().map_err(|source| ClientError::NotInCluster {
            source: Box::new(source),
        })?,
    };
    config.connect_timeout = Some(CONNECTED);
    config.read_timeout = Some(UNANSWERED);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|source| ClientError::Client {
        source: Box::new(source),
    })
}

/// What was kept when the API server was last there: enough to serve pods until it is there again.
pub(super) fn kept(store: &NodeStore) -> Option<Objects> {
    match store.kept_objects() {
        Ok(document) => document.map(Objects::from),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the kept catalogue is of no use; waiting for the API server");
            None
        }
    }
}

/// Where what was seen goes.
#[derive(Debug)]
pub(super) struct Shown {
    /// The catalogue.
    pub(super) known: watch::Sender<Known>,
    /// Whether kubelet knows our driver.
    pub(super) registered: watch::Sender<bool>,
    /// What is asked of the node.
    pub(super) spec: watch::Sender<CUDANodeSpec>,
    /// Whether it can be followed.
    pub(super) metrics: Metrics,
}

/// Shows the daemon what is seen, and keeps it for the next start. `kept` is what is there from the last one.
pub(super) async fn show(store: NodeStore, mut kept: Option<Objects>, mut seen: watch::Receiver<Seen>, shown: Shown) {
    let mut said = Vec::new();
    let mut last: Option<Arc<Objects>> = None;
    while seen.changed().await.is_ok() {
        let now = seen.borrow_and_update().clone();
        shown.metrics.followed(now.synced, &now.failing);
        if let Some(registered) = now.node.registered {
            shown
                .registered
                .send_if_modified(|shown| std::mem::replace(shown, registered) != registered);
        }
        if let Some(node) = &now.node.object {
            let spec = node.as_ref().map(|node| node.spec.clone()).unwrap_or_default();
            shown.spec.send_if_modified(|shown| {
                let differs = *shown != spec;
                *shown = spec;
                differs
            });
        }
        if !now.synced || last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &now.objects)) {
            continue;
        }
        last = Some(Arc::clone(&now.objects));
        let catalogue = now.objects.catalogue();
        let wrong = faults(&catalogue);
        for fault in wrong.iter().filter(|fault| !said.contains(*fault)) {
            tracing::warn!("{fault}");
        }
        said = wrong;
        tracing::debug!(
            environments = catalogue.environments.len(),
            caches = catalogue.caches.len(),
            "the catalogue changed"
        );
        let catalogue = Arc::new(catalogue);
        shown.known.send_replace(Known {
            catalogue,
            synced: true,
        });
        if kept.as_ref() != Some(now.objects.as_ref()) && keep(&store, &now.objects).await {
            kept = Some(now.objects.as_ref().clone());
        }
    }
}

async fn keep(store: &NodeStore, objects: &Arc<Objects>) -> bool {
    let (store, objects) = (store.clone(), Arc::clone(objects));
    let kept = spawn_blocking(move || store.keep_objects(&objects.document())).await;
    match kept {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "the catalogue is not kept; a restart while the API server is away would find the one before");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "the task that keeps the catalogue died");
            false
        }
    }
}
