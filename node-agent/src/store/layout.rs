//! The names of everything below a node store's state folder: the one place that knows them.
//! Never joins a string that was not parsed into a single path component first.

use std::path::{Path, PathBuf};

use crds::domain::store_path::{STORE_DIR, StorePath};

use crate::snapshot::view::{BridgeId, ViewDigest, ViewKind};

/// File name of a narinfo record: `<hash>` and this.
pub(crate) const RECORD_SUFFIX: &str = ".narinfo";
/// File name of a scan result beside its record: `<hash>` and this.
pub(crate) const SCAN_SUFFIX: &str = ".scan.json";
/// File name of the lock on one store path's fetch: `<hash>` and this.
pub(crate) const LOCK_SUFFIX: &str = ".lock";

/// Where things are below one state folder. Values only: asking creates nothing.
///
/// ```text
/// <state>/lock                                   shared: "I rely on what I see"; exclusive: sweep, garbage collection
/// <state>/store/<hash>/nix/store/<hash>-<name>   one layer per store path, complete and verified
/// <state>/meta/<hash>.narinfo                    the proof it was accepted on; (+ <hash>.scan.json)
/// <state>/drivers/<id>/driver/lib                the bridge layer of one driver
/// <state>/views/<digest>/{mnt,layers,face}       one view; plain and plain-mnt for the tree of hard links
/// <state>/volumes/<id>.json                      what is published where
/// <state>/catalogue.json                         the environments and caches that an API server gave last
/// <state>/leases/<n>                             who uses which layers, for as long as a lock is held
/// <state>/staging/                               0700; garbage unless its lock is held
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
}

impl Layout {
    /// The layout below `state`.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into() }
    }

    /// The state folder itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The file whose lock orders commits, sweeps and garbage collection between processes.
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// The folder of all layers.
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }

    /// The root of one store path's layer.
    pub fn layer(&self, path: &StorePath) -> PathBuf {
        self.store().join(path.hash())
    }

    /// The files of one store path, inside its layer.
    pub fn files(&self, path: &StorePath) -> PathBuf {
        self.layer(path).join(inside_layer()).join(path.base_name())
    }

    /// The folder of all records.
    pub fn meta(&self) -> PathBuf {
        self.state.join("meta")
    }

    /// The record of one store path: without it, a layer is garbage.
    pub fn record(&self, path: &StorePath) -> PathBuf {
        self.meta().join(format!("{}{RECORD_SUFFIX}", path.hash()))
    }

    /// What the scan of one store path's files found.
    pub fn scan(&self, path: &StorePath) -> PathBuf {
        self.meta().join(format!("{}{SCAN_SUFFIX}", path.hash()))
    }

    /// The folder of all driver bridges.
    pub fn drivers(&self) -> PathBuf {
        self.state.join("drivers")
    }

    /// The root of one driver's bridge layer: everything in it shows at the root of a view.
    pub fn bridge(&self, id: &BridgeId) -> PathBuf {
        self.drivers().join(id.as_str())
    }

    /// The folder of all views.
    pub fn views(&self) -> PathBuf {
        self.state.join("views")
    }

    /// Everything of one view.
    pub fn view(&self, digest: &ViewDigest) -> PathBuf {
        self.views().join(digest.as_str())
    }

    /// The list of the store paths a view holds; its time stamp is the view's last use.
    pub fn view_record(&self, digest: &ViewDigest) -> PathBuf {
        self.view(digest).join("view.json")
    }

    /// The file whose lock means that somebody mounts or unmounts this view now.
    pub fn view_lock(&self, digest: &ViewDigest) -> PathBuf {
        self.view(digest).join("lock")
    }

    /// The layer of a view's own files: `packages/` and `cudaenv.json`.
    pub fn face(&self, digest: &ViewDigest) -> PathBuf {
        self.view(digest).join("face")
    }

    /// Short names for the layers of a view: the options of a mount must fit one page.
    pub fn view_layers(&self, digest: &ViewDigest) -> PathBuf {
        self.view(digest).join("layers")
    }

    /// The tree of hard links of a plain view.
    pub fn plain_tree(&self, digest: &ViewDigest) -> PathBuf {
        self.view(digest).join("plain")
    }

    /// Where a view is mounted.
    pub fn view_mount(&self, digest: &ViewDigest, kind: ViewKind) -> PathBuf {
        self.view(digest).join(match kind {
            ViewKind::Overlay => "mnt",
            ViewKind::Plain => "plain-mnt",
        })
    }

    /// The folder of what is published where.
    pub fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// The last catalogue that an API server gave.
    pub fn catalogue(&self) -> PathBuf {
        self.state.join("catalogue.json")
    }

    /// The folder of leases.
    pub fn leases(&self) -> PathBuf {
        self.state.join("leases")
    }

    /// The folder of unfinished work, never readable by anyone else.
    pub fn staging(&self) -> PathBuf {
        self.state.join("staging")
    }

    /// The file whose lock means that somebody fetches this store path now.
    pub fn fetch_lock(&self, path: &StorePath) -> PathBuf {
        self.staging().join(format!("{}{LOCK_SUFFIX}", path.hash()))
    }
}

/// Where store paths are inside a layer, a view or a staged layer: `nix/store`.
pub fn inside_layer() -> &'static Path {
    Path::new(STORE_DIR.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_lies_where_users_were_told() {
        let layout = Layout::new("/var/lib/cudaenv");
        let path = StorePath::parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools").unwrap();
        let want = "/var/lib/cudaenv/store/00bgd045z0d4icpbc2yyz4gx48ak44la/nix/store/\
                    00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools";
        assert_eq!(layout.files(&path), Path::new(want));
    }
}
