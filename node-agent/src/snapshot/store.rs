//! What a node store holds, as plain data.
//! Never reads a file or a clock.

use std::{collections::BTreeSet, time::SystemTime};

use crds::domain::store_path::StorePath;

use super::view::{BridgeId, ViewDigest};

/// One complete, verified store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Which.
    pub path: StorePath,
    /// NarSize of its record, in bytes; what it takes on disk is about that.
    pub bytes: u64,
    /// When a view with it was last asked for, or when it was fetched.
    pub last_used: SystemTime,
}

/// One view that was built at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltView {
    /// Which.
    pub digest: ViewDigest,
    /// The store paths it holds.
    pub paths: BTreeSet<StorePath>,
    /// The driver bridge it holds.
    pub bridge: Option<BridgeId>,
    /// When it was last asked for.
    pub last_used: SystemTime,
    /// Whether it is mounted, published or leased now.
    pub in_use: bool,
    /// Whether what it holds could not be read: it is of no use, and cannot say what it uses.
    pub broken: bool,
}

/// Everything that garbage collection looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreState {
    /// Every recorded layer.
    pub layers: Vec<Layer>,
    /// Every view.
    pub views: Vec<BuiltView>,
    /// Every driver bridge.
    pub bridges: BTreeSet<BridgeId>,
    /// Store paths of live leases.
    pub leased: BTreeSet<StorePath>,
    /// Those of them whose lease is on a view: their files are being read, not fetched.
    pub leased_in_views: BTreeSet<StorePath>,
    /// Driver bridges of live leases.
    pub leased_bridges: BTreeSet<BridgeId>,
    /// Something that is in use could not be read: whatever it uses must stay, so all must.
    pub unknown_use: bool,
}

impl StoreState {
    /// Sum over the layers, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Whether somebody may be reading the files of `path`: a view in use has it, or a lease on a view.
    pub fn is_viewed(&self, path: &StorePath) -> bool {
        let shown = |view: &BuiltView| view.in_use && view.paths.contains(path);
        self.unknown_use || self.leased_in_views.contains(path) || self.views.iter().any(shown)
    }

    /// Store paths that something uses now: those of live leases and of views in use.
    pub fn in_use(&self) -> BTreeSet<&StorePath> {
        if self.unknown_use {
            return self.layers.iter().map(|layer| &layer.path).collect();
        }
        let views = self
            .views
            .iter()
            .filter(|view| view.in_use)
            .flat_map(|view| &view.paths);
        self.leased.iter().chain(views).collect()
    }
}
