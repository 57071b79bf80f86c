//! `serve`: the daemon of a node. Its composition root: opens, detects, wires, and stops in order when told to.
//! Never decides anything about a volume; a fault of one part is that part's to report.

mod cluster;
mod detection;
mod live;
mod prewarm;
mod status;
mod tell;
mod volumes;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crds::{catalogue::Catalogue, pod::DRIVER, v1alpha1::CUDANodeSpec};
use kube::Client;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

pub(super) use cluster::ClientError;

use super::{facts, reasons::ServeError};
use crate::{
    args::ServeArgs,
    csi::{self, Volumes, server::Sockets},
    observe::{host_root, objects},
    plan::view::selinux_label,
    provision::{
        service::{Means, Provision},
        supply,
    },
    report::failure::Failure,
    snapshot::{cluster::Objects, happening::Happening, known::Known, node::Node, status::SelfTest},
    store::NodeStore,
};

/// What the parts of the daemon share, and by which they are kept apart: each side knows the channel only.
#[derive(Debug)]
struct Seams {
    /// Environments, caches, namespaces: from files, or from the API server.
    known: watch::Sender<Known>,
    /// The node as last detected.
    node: watch::Sender<Arc<Node>>,
    /// Whether kubelet counts the driver as registered, as far as is known: our name in `CSINode`. Where nobody can tell
    /// it stays true.
    registered: watch::Sender<bool>,
    /// What is asked of the node: the spec of its CUDANode, as last seen.
    spec: watch::Sender<CUDANodeSpec>,
    /// Whether a mount can be made, as last tried.
    self_test: watch::Sender<SelfTest>,
    /// The one place where views are made.
    provision: Provision,
    /// What happens to volumes, for events and metrics. Whoever sends drops what does not fit.
    happenings: mpsc::Sender<Happening>,
}

impl Seams {
    /// The CSI driver of this node, whose pods' volumes lie below `pods`.
    fn driver(&self, node_name: &str, pods: PathBuf, selinux_label: Option<String>) -> Volumes {
        Volumes::new(csi::Parts {
            node_name: node_name.to_owned(),
            pods,
            known: self.known.subscribe(),
            node: self.node.subscribe(),
            spec: self.spec.subscribe(),
            self_test: self.self_test.subscribe(),
            provision: self.provision.clone(),
            selinux_label,
            happenings: self.happenings.clone(),
        })
    }
}

pub(super) fn run(args: ServeArgs) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Runtime { source })?;
    runtime.block_on(serve(args))?;
    Ok(0)
}

async fn serve(args: ServeArgs) -> Result<(), Failure> {
    let ServeArgs {
        objects: files,
        kubeconfig,
        node_name,
        host_root,
        kubelet_dir,
        csi_socket,
        registration_dir,
        credentials,
        http,
        jobs,
        node,
        state,
    } = args;
    let stop = stop_signals()?;
    let detected = facts::observe(&host_root, &node, facts::kernel_source(&node.kernel_module))?;
    let store = supply::open_store(&state.state)?;
    let (known, cluster) = objects_to_serve(&files, kubeconfig.as_deref(), &store).await?;
    let label = selinux_label(host_root::selinux(&host_root));
    let means = Means {
        store: store.clone(),
        credentials,
        parallel: jobs.into(),
        selinux_label: label.clone(),
    };
    let (happenings, told) = mpsc::channel(tell::WAITING);
    let seams = Seams {
        known: watch::Sender::new(Known {
            catalogue: Arc::new(known),
            synced: cluster.is_none(),
        }),
        node: watch::Sender::new(Arc::new(detected)),
        registered: watch::Sender::new(true),
        spec: watch::Sender::default(),
        self_test: watch::Sender::default(),
        provision: Provision::new(means),
        happenings,
    };
    let sockets = sockets(&kubelet_dir, csi_socket, registration_dir);
    let driver = seams.driver(&node_name, kubelet_dir.join("pods"), label);
    let parts = live::Parts {
        seams: &seams,
        name: node_name.clone(),
        store,
        cluster,
        host_root,
        said: node,
        csi_socket: sockets.csi.clone(),
        http,
        happenings: told,
    };
    let live = live::start(parts).await?;
    tracing::info!(node.name = node_name, "serving");
    let served = volumes::serve(driver, sockets, seams.registered.subscribe(), told_to_stop(stop)).await;
    drop((live, seams));
    served.map_err(|source| ServeError::Sockets { source }.into())
}

/// Where kubelet looks for them, unless somebody says otherwise.
fn sockets(kubelet: &Path, csi: Option<PathBuf>, registration_dir: Option<PathBuf>) -> Sockets {
    Sockets {
        csi: csi.unwrap_or_else(|| kubelet.join("plugins").join(DRIVER).join("csi.sock")),
        registration_dir: registration_dir.unwrap_or_else(|| kubelet.join("plugins_registry")),
        kubelet: kubelet.join("pod-resources/kubelet.sock"),
    }
}

/// From files where some are given; else from an API server, to begin with what it gave last.
async fn objects_to_serve(
    files: &[PathBuf],
    kubeconfig: Option<&Path>,
    store: &NodeStore,
) -> Result<(Catalogue, Option<(Client, Option<Objects>)>), ServeError> {
    if !files.is_empty() {
        let catalogue = objects::read(files).map_err(|source| ServeError::Objects { source })?;
        return Ok((catalogue, None));
    }
    let client = cluster::client(kubeconfig)
        .await
        .map_err(|source| ServeError::Client { source })?;
    let kept = cluster::kept(store);
    let catalogue = kept.as_ref().map(Objects::catalogue).unwrap_or_default();
    Ok((catalogue, Some((client, kept))))
}

fn stop_signals() -> Result<[Signal; 2], ServeError> {
    let listen = |kind| signal(kind).map_err(|source| ServeError::Signals { source });
    Ok([listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?])
}

async fn told_to_stop([mut terminate, mut interrupt]: [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
