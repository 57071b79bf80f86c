//! What a node store holds and uses now, gathered for garbage collection and for reports.
//! Never decides what goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use crds::{catalogue::EnvironmentKey, domain::store_path::StorePath};
use serde::{Deserialize, Serialize};

use super::{NodeStore, StoreError, lease::Live, list, mounts};
use crate::snapshot::{
    happening::Pod,
    status::{PublishedVolume, StoreNumbers},
    store::{BuiltView, Layer, StoreState},
    view::{BridgeId, ViewDigest, ViewKind},
};

/// The file `views/<digest>/view.json`: what a view holds, so that nothing of it is collected under its mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ViewRecord {
    /// Every store path of the view.
    pub(crate) paths: BTreeSet<StorePath>,
    /// The driver bridge of the view.
    #[serde(default)]
    pub(crate) bridge: Option<BridgeId>,
}

/// The part of `volumes/<id>.json` that is read here: which view is published, and for whom.
#[derive(Debug, Deserialize)]
struct PublishedView {
    view: ViewDigest,
    #[serde(default)]
    pod: Option<Pod>,
    #[serde(default)]
    environment: Option<EnvironmentKey>,
    #[serde(default)]
    variants: BTreeMap<String, String>,
}

impl NodeStore {
    /// Layers, views and leases as they were a moment ago, for whoever only looks. Nobody is kept waiting but for the leases:
    /// one that is just being written looks like a stale one.
    pub(crate) fn peek(&self) -> Result<StoreState, StoreError> {
        let exclusive = self.exclusively()?;
        let leases = self.live_leases()?;
        drop(exclusive);
        self.state_with(leases)
    }

    /// Layers, views and leases as they are now. Hold the exclusive lock.
    pub(crate) fn state(&self) -> Result<StoreState, StoreError> {
        self.state_with(self.live_leases()?)
    }

    fn state_with(&self, live: Vec<Live>) -> Result<StoreState, StoreError> {
        let mut layers = self.layers()?;
        let mut unknown_use = false;
        let mut leases = Vec::new();
        for lease in live {
            match lease {
                Live::Keeps(content) => leases.push(content),
                Live::Unreadable => unknown_use = true,
            }
        }
        let mut used_views: BTreeSet<ViewDigest> = leases.iter().filter_map(|lease| lease.view.clone()).collect();
        match self.published_views() {
            Ok(published) => used_views.extend(published),
            Err(StoreError::BadList { path, source }) => {
                tracing::warn!(path = %path.display(), error = %source, "a volume's record cannot be read: nothing is removed");
                unknown_use = true;
            }
            Err(error) => return Err(error),
        }
        let views = self.built_views(&used_views)?;
        used_with_views(&mut layers, &views);
        unknown_use |= views.iter().any(|view| view.broken && view.in_use);
        let leased_bridges = leases.iter().filter_map(|lease| lease.bridge.clone()).collect();
        let in_views = leases.iter().filter(|lease| lease.view.is_some());
        let leased_in_views = in_views.flat_map(|lease| lease.paths.iter().cloned()).collect();
        let leased = leases.into_iter().flat_map(|lease| lease.paths).collect();
        let bridges = list(&self.layout().drivers())?;
        Ok(StoreState {
            layers,
            views,
            bridges: bridges.iter().filter_map(|name| name.parse().ok()).collect(),
            leased,
            leased_in_views,
            leased_bridges,
            unknown_use,
        })
    }

    /// What is published where, with the driver bridge that it shows. A record that cannot be read is passed over: others
    /// tell of it.
    ///
    /// # Errors
    /// The folder of records cannot be read.
    pub fn published(&self) -> Result<Vec<PublishedVolume>, StoreError> {
        let folder = self.layout().volumes();
        let files = list(&folder)?.into_iter().filter(|name| name.ends_with(".json"));
        let records = files.filter_map(|name| read_json::<PublishedView>(&folder.join(name)).ok().flatten());
        let volumes = records.map(|record| {
            let view = read_json::<ViewRecord>(&self.layout().view_record(&record.view))
                .ok()
                .flatten();
            PublishedVolume {
                pod: record.pod,
                environment: record.environment,
                packages: record.variants.into_iter().collect(),
                bridge: view.and_then(|view| view.bridge),
            }
        });
        Ok(volumes.collect())
    }

    /// When the folders that [`numbers`](Self::numbers) are counted from last got or lost a name: counting again is of no
    /// use before one of them did.
    pub fn stamp(&self) -> [SystemTime; 4] {
        let layout = self.layout();
        [layout.meta(), layout.views(), layout.volumes(), layout.leases()].map(|folder| modified(&folder))
    }

    /// The store in numbers, for reports.
    ///
    /// # Errors
    /// What cannot be read of it.
    pub fn numbers(&self) -> Result<StoreNumbers, StoreError> {
        let state = self.peek()?;
        let in_use = state.in_use();
        let pinned = state.layers.iter().filter(|layer| in_use.contains(&layer.path));
        let path = self.layout().state();
        let space = rustix::fs::statvfs(path).map_err(|errno| StoreError::Read {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Ok(StoreNumbers {
            capacity_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            used_bytes: state.used_bytes(),
            pinned_bytes: pinned.map(|layer| layer.bytes).sum(),
            paths: u64::try_from(state.layers.len()).unwrap_or(u64::MAX),
        })
    }

    fn built_views(&self, used: &BTreeSet<ViewDigest>) -> Result<Vec<BuiltView>, StoreError> {
        let mut views = Vec::new();
        for name in list(&self.layout().views())? {
            let Ok(digest) = name.parse::<ViewDigest>() else {
                continue;
            };
            let mounted = |kind| mounts::is_mounted(&self.layout().view_mount(&digest, kind));
            let mounted = mounted(ViewKind::Overlay)? || mounted(ViewKind::Plain)?;
            let file = self.layout().view_record(&digest);
            // A view without its list was never mounted: the list is durable before the mount is made.
            let (held, broken) = match read_json::<ViewRecord>(&file) {
                Ok(held) => (held, false),
                Err(StoreError::BadList { .. }) => (None, true),
                Err(error) => return Err(error),
            };
            let (paths, bridge) = held.map(|record| (record.paths, record.bridge)).unwrap_or_default();
            let in_use = mounted || used.contains(&digest);
            views.push(BuiltView {
                digest,
                paths,
                bridge,
                last_used: modified(&file),
                in_use,
                broken,
            });
        }
        Ok(views)
    }

    /// Whether a lease or a volume's record names a view; it is taken for so where one of them cannot be read. Hold the
    /// exclusive lock.
    pub(crate) fn is_view_wanted(&self, digest: &ViewDigest) -> Result<bool, StoreError> {
        let leases = self.live_leases()?;
        let leased = leases.iter().any(|lease| match lease {
            Live::Keeps(content) => content.view.as_ref() == Some(digest),
            Live::Unreadable => true,
        });
        Ok(leased || self.published_views().map_or(true, |views| views.contains(digest)))
    }

    fn published_views(&self) -> Result<BTreeSet<ViewDigest>, StoreError> {
        let folder = self.layout().volumes();
        let files = list(&folder)?.into_iter().filter(|name| name.ends_with(".json"));
        let views = files.map(|name| read_json::<PublishedView>(&folder.join(name)));
        views
            .filter_map(|view| view.map(|found| found.map(|published| published.view)).transpose())
            .collect()
    }
}

/// Reads a list; one that is not there is nothing.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| StoreError::BadList {
                path: path.to_owned(),
                source,
            }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A layer is used when a view that has it is: making another pod see a view that is mounted touches no layer's record.
fn used_with_views(layers: &mut [Layer], views: &[BuiltView]) {
    let mut used = BTreeMap::new();
    for view in views {
        for path in &view.paths {
            let last = used.entry(path).or_insert(view.last_used);
            *last = view.last_used.max(*last);
        }
    }
    for layer in layers {
        if let Some(last) = used.get(&layer.path) {
            layer.last_used = layer.last_used.max(*last);
        }
    }
}

/// When a file was written or touched; the epoch where that cannot be told, so that it goes first.
fn modified(path: &Path) -> SystemTime {
    fs::symlink_metadata(path)
        .and_then(|found| found.modified())
        .unwrap_or(UNIX_EPOCH)
}
