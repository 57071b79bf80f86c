//! The CSI driver of a node: Identity and Node over a socket of its own, registration with kubelet over another.
//! Never decides: requests become plain data here, plans decide, and answers go back by one table of codes.

pub mod failure;
mod flights;
mod identity;
pub mod messages;
mod node;
mod publish;
mod registration;
pub mod server;
pub mod sweep;
mod unpublish;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crds::v1alpha1::CUDANodeSpec;
use tokio::sync::{mpsc, watch};

use crate::{
    provision::service::Provision,
    snapshot::{happening::Happening, known::Known, node::Node, status::SelfTest},
    store::NodeStore,
};
use flights::Flights;

/// What the driver is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The node's name, as Kubernetes has it.
    pub node_name: String,
    /// kubelet's folder of pods: targets lie below it.
    pub pods: PathBuf,
    /// Environments, caches, namespaces.
    pub known: watch::Receiver<Known>,
    /// The node as last detected.
    pub node: watch::Receiver<Arc<Node>>,
    /// What is asked of the node: the spec of its CUDANode, as last seen.
    pub spec: watch::Receiver<CUDANodeSpec>,
    /// Whether a mount can be made on this node, as last tried.
    pub self_test: watch::Receiver<SelfTest>,
    /// Where views are made.
    pub provision: Provision,
    /// The SELinux label of overlays' files, where SELinux is active.
    pub selinux_label: Option<String>,
    /// Whoever tells people. What does not fit is dropped: a volume never waits for that.
    pub happenings: mpsc::Sender<Happening>,
}

/// The driver. Cheap to clone; all clones share their calls.
#[derive(Debug, Clone)]
pub struct Volumes {
    parts: Arc<Parts>,
    flights: Flights,
}

impl Volumes {
    /// A driver over the store that `parts` provision to.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            flights: Flights::default(),
        }
    }

    fn store(&self) -> &NodeStore {
        self.parts.provision.store()
    }

    fn tell(&self, happening: Happening) {
        // A full queue is counted by its reader; a volume does not wait for it.
        let _ = self.parts.happenings.try_send(happening);
    }
}

/// The file name of the socket that registers. kubelet takes any name; this one has an `@` for a reason: kubelet's gRPC
/// client makes the `:authority` of its requests from the socket's path with every slash as `%2F` (grpc-go,
/// `encodeAuthority`), and HTTP/2 servers that check it, as ours does, take a `%` only before an `@`.
pub const REGISTRATION_SOCKET: &str = "reg@csi.cudaenv.dev.sock";

/// How long a call may be held where its caller does not say: kubelet gives up after two minutes (its `csiTimeout`).
const KUBELETS_PATIENCE: Duration = Duration::from_secs(120);
/// The answer leaves this long before the caller gives up.
const ANSWER_BEFORE: Duration = Duration::from_secs(10);

#[expect(
    clippy::disallowed_methods,
    reason = "when a view counts as used, and how old it is, is the wall clock's"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
