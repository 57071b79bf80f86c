//! What the agent knows of its node and of what it does there, at one moment: what a status tells.
//! Never a time: when something changed is found by comparing with what was told before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{happening::Pod, view::BridgeId};
use crds::{
    catalogue::EnvironmentKey,
    domain::{code::GpuCode, node::NodeFacts, store_path::StorePath},
    failure::Reason,
};

/// Everything that a node's status tells.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// The driver and the GPUs.
    pub facts: NodeFacts,
    /// Where the driver lies, and what kind of installation that is.
    pub driver_place: Option<DriverPlace>,
    /// The node store, or why it cannot be read.
    pub store: Result<StoreNumbers, String>,
    /// Whether a mount could be made and read.
    pub self_test: SelfTest,
    /// Whether kubelet knows our driver; nothing where nobody was asked yet.
    pub registered: Option<bool>,
    /// What is on the node or on its way to it.
    pub environments: Vec<EnvironmentReport>,
    /// Store paths of variants, for the node's system, of which nobody declared the code.
    pub undeclared: BTreeSet<StorePath>,
    /// What was found in some of them.
    pub contents: BTreeMap<StorePath, GpuCode>,
    /// Pods, as `namespace/name`, whose volume shows the files of another driver than the node has now.
    pub outdated_pods: Vec<String>,
    /// Whether the node takes no new volumes.
    pub drain: bool,
}

/// Where a driver lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverPlace {
    /// Its own root, below the host's.
    pub root: PathBuf,
    /// The kind of installation, in words.
    pub source: String,
}

/// A node store in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreNumbers {
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes of its layers.
    pub used_bytes: u64,
    /// Bytes of the layers that something uses.
    pub pinned_bytes: u64,
    /// Its layers.
    pub paths: u64,
}

/// A volume that a pod reads now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedVolume {
    /// Whose, where that was recorded.
    pub pod: Option<Pod>,
    /// The driver bridge that it shows.
    pub bridge: Option<BridgeId>,
    /// Of which environment, where that was recorded.
    pub environment: Option<EnvironmentKey>,
    /// The variant of each package.
    pub packages: Vec<(String, String)>,
}

/// Whether the agent can mount what pods are to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SelfTest {
    /// Not tried yet.
    #[default]
    Pending,
    /// Mounted, read, found read-only, unmounted.
    Passed,
    /// A step failed.
    Failed {
        /// Which, and why.
        why: String,
    },
}

/// An environment on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentReport {
    /// Which.
    pub key: EnvironmentKey,
    /// The generation that was selected from.
    pub generation: i64,
    /// The selected variant of each package: package, variant.
    pub packages: Vec<(String, String)>,
    /// How far it is.
    pub standing: Standing,
    /// Pods that have it mounted now.
    pub pods: usize,
}

/// How far an environment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Asked for, nothing done yet.
    Pending,
    /// On its way.
    Fetching {
        /// Bytes unpacked.
        bytes_done: u64,
        /// Bytes in all.
        bytes_total: u64,
    },
    /// Complete and mounted.
    Ready,
    /// No variant fits the node.
    Incompatible {
        /// The word of the variant that came closest.
        reason: Reason,
        /// Every variant and why.
        message: String,
    },
    /// Something else went wrong.
    Failed {
        /// The word.
        reason: Reason,
        /// The sentence.
        message: String,
    },
}
