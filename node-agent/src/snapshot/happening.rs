//! What happened to a pod's volume, for whoever tells people: events, metrics.
//! Never holds a secret, never a volume's raw context.

use std::time::{Duration, SystemTime};

use crds::{catalogue::EnvironmentKey, failure::Reason};

use super::{
    fetch::FetchStatus,
    view::{ViewDigest, ViewKind},
};

/// The pod that a volume is for, as kubelet says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// One thing that happened to a volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    /// Whose volume; `None` where the request did not say.
    pub pod: Option<Pod>,
    /// Which environment; `None` where the request did not say.
    pub environment: Option<EnvironmentKey>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Variants were chosen: `package → variant`.
    Selected {
        /// In the order of the packages' names.
        variants: Vec<(String, String)>,
    },
    /// It is being fetched.
    Fetching {
        /// How far.
        status: FetchStatus,
        /// Compressed bytes a second over the whole fetch.
        bytes_per_second: u64,
    },
    /// It is mounted where the pod sees it.
    Published {
        /// Which view.
        view: ViewDigest,
        /// How it was made.
        kind: ViewKind,
        /// From kubelet's call to the answer.
        took: Duration,
    },
    /// It is no longer mounted.
    Unpublished {
        /// From kubelet's call to the answer.
        took: Duration,
    },
    /// Its pod is gone, and kubelet never asked for it to be taken away.
    Forgotten,
    /// Garbage was collected, or there was none to collect. Of no pod and no environment.
    Collected {
        /// Bytes that went.
        freed_bytes: u64,
        /// When it ended.
        at: SystemTime,
    },
    /// A call was answered with an error.
    Failed {
        /// The word.
        reason: Reason,
        /// The sentence that kubelet got, at most 1,000 bytes.
        message: String,
    },
}
