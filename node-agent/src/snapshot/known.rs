//! What the agent knows of the cluster at one moment.
//! Never says where it comes from: files, an API server, or what was kept over a restart.

use std::sync::Arc;

use crds::catalogue::Catalogue;

/// The catalogue, and whether it is complete.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Environments, caches and namespaces.
    pub catalogue: Arc<Catalogue>,
    /// Everything that is there has been seen at least once. Until then an environment that is not in the catalogue may
    /// exist all the same.
    pub synced: bool,
}
