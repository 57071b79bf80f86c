//! What cudaenv has left on a node, for the day that it leaves.
//! Never what others left there.

use std::path::PathBuf;

/// What there is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// An agent still answers at the driver's socket.
    pub serving: bool,
    /// Volumes of our driver that kubelet has still to unmount, by its folder of each.
    pub volumes: Vec<PathBuf>,
    /// Sockets, by which kubelet knows the driver.
    pub sockets: Vec<PathBuf>,
    /// The driver's folder among kubelet's plugins, where nothing else is in it.
    pub plugin: Option<PathBuf>,
    /// Mounts below the node store, in mount order.
    pub mounts: Vec<PathBuf>,
    /// The node store, if anything lies in it.
    pub store: Option<PathBuf>,
}
