//! What came of asking a cache for a path that nobody has: whether it answers as a cache does.
//! Never what it answered: that it knows of no such path, in whichever words, is all that is asked.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::resolution::Unresolved;

/// One look at a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The generation of the spec that was used.
    pub generation: i64,
    /// When; whole seconds.
    pub at: Timestamp,
    /// Whether it answers as a cache of `/nix/store` does.
    pub outcome: Result<(), Unresolved>,
}

/// What is known of caches, by name.
pub type Probes = BTreeMap<String, Probe>;
