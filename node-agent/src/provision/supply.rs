//! Gets closures into the node store: closure, lease, plan, fetch.
//! Never trusts what the store holds on the strength of somebody else's keys.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use binary_cache::{
    cache::CacheConfig,
    closure::{Closure, ClosureError},
    key::KeyRing,
    narinfo::VerifiedNarInfo,
    options::Options,
    substitute::{Bounds, SetupError, Substituter},
};
use crds::domain::store_path::StorePath;
use tokio::task::{JoinError, spawn_blocking};

use crate::{
    act::{
        self,
        fetch::{FetchError, FetchProgress, Fetched, Fetcher},
    },
    plan::{
        collect::{self, CollectPlan, CollectPolicy},
        fetch::{self, FetchPlan, FetchRefusal, Space, Wanted},
    },
    store::{Lease, LeaseContent, NodeStore, StoreError},
};

/// Which step of getting a closure failed.
#[derive(Debug, thiserror::Error)]
pub enum SupplyError {
    #[error("setting up the caches")]
    Setup { source: SetupError },
    #[error("asking the caches for the closure")]
    Closure { source: ClosureError },
    #[error("the node store {}", state.display())]
    Store { state: PathBuf, source: StoreError },
    #[error("planning the fetch")]
    Refused { source: FetchRefusal },
    #[error("fetching the closure")]
    Fetch { source: FetchError },
    #[error("a task of this process died")]
    TaskDied { source: JoinError },
}

/// A closure that is in the store, and stays there while the lease is held.
#[derive(Debug)]
pub struct Obtained {
    /// What it consists of, verified.
    pub closure: Closure,
    /// What had to be fetched.
    pub fetched: Fetched,
    /// Keeps it.
    pub lease: Lease,
    /// Compressed bytes that came over the network.
    pub downloaded: u64,
}

impl Obtained {
    /// Counts what was fetched earlier, to decide, as part of this.
    pub(super) fn absorb(&mut self, earlier: Self) -> Result<(), StoreError> {
        let Self {
            closure: _,
            fetched,
            lease,
            downloaded,
        } = earlier;
        self.fetched.paths += fetched.paths;
        self.fetched.bytes += fetched.bytes;
        self.fetched.by_others += fetched.by_others;
        self.downloaded += downloaded;
        lease.end()
    }
}

/// With what closures are got.
#[derive(Debug)]
pub struct Supply {
    store: NodeStore,
    caches: Substituter,
    rings: Vec<KeyRing>,
    parallel: usize,
    progress: Arc<FetchProgress>,
}

impl Supply {
    /// Asks `caches`, fetches `parallel` store paths at once.
    pub fn new(store: NodeStore, caches: Vec<CacheConfig>, parallel: usize) -> Result<Self, SupplyError> {
        Self::within(&Bounds::new(&Options::default()), store, caches, parallel)
    }

    /// As [`Supply::new`], within bounds that all supplies of a process share.
    pub(super) fn within(
        bounds: &Bounds,
        store: NodeStore,
        caches: Vec<CacheConfig>,
        parallel: usize,
    ) -> Result<Self, SupplyError> {
        let rings = caches.iter().map(|cache| cache.keys.clone()).collect();
        let caches = Substituter::within(bounds, caches, Options::default());
        let caches = caches.map_err(|source| SupplyError::Setup { source })?;
        Ok(Self {
            store,
            caches,
            rings,
            parallel,
            progress: Arc::default(),
        })
    }

    /// For another closure out of the same caches; see [`Substituter::renewed`].
    pub(super) fn renewed(&self) -> Self {
        Self {
            store: self.store.clone(),
            caches: self.caches.renewed(),
            rings: self.rings.clone(),
            parallel: self.parallel,
            progress: Arc::default(),
        }
    }

    /// Where to.
    pub fn store(&self) -> &NodeStore {
        &self.store
    }

    /// How far everything that was asked of this supply is, all together.
    pub fn progress(&self) -> &Arc<FetchProgress> {
        &self.progress
    }

    /// Gets everything that `roots` need into the store. `now` is when they count as used.
    pub async fn obtain(&self, roots: &[StorePath], now: SystemTime) -> Result<Obtained, SupplyError> {
        let known = |path: &StorePath| self.known(path);
        let closure = self
            .caches
            .closure(roots, &known)
            .await
            .map_err(|source| SupplyError::Closure { source })?;
        let paths = closure.paths.clone();
        let (lease, plan) = self.blocking(move |store| reserve(store, &paths, now)).await?;
        let before = self.progress.status().bytes_downloaded;
        let fetcher = Fetcher {
            store: self.store.clone(),
            caches: self.caches.clone(),
            parallel: self.parallel,
        };
        let fetched = fetcher.fetch(&plan, &closure.paths, &self.progress).await;
        let fetched = fetched.map_err(|source| SupplyError::Fetch { source })?;
        let paths = closure.paths.clone();
        self.blocking(move |store| {
            let used = paths.iter().map(|narinfo| narinfo.store_path());
            store.touch(used, now).map_err(|source| failed(store, source))
        })
        .await?;
        Ok(Obtained {
            closure,
            fetched,
            lease,
            downloaded: self.progress.status().bytes_downloaded - before,
        })
    }

    /// The narinfo of a path that is here, if these caches' keys vouch for it too.
    fn known(&self, path: &StorePath) -> Option<Arc<VerifiedNarInfo>> {
        self.rings.iter().find_map(|keys| self.store.verified(path, keys))
    }

    /// Runs what waits for a disk or a lock where it keeps nobody else waiting.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&NodeStore) -> Result<T, SupplyError> + Send + 'static,
    ) -> Result<T, SupplyError> {
        let store = self.store.clone();
        spawn_blocking(move || work(&store))
            .await
            .map_err(|source| SupplyError::TaskDied { source })?
    }
}

/// Leases the closure, then plans what is missing of it: what is here then stays here.
fn reserve(
    store: &NodeStore,
    closure: &[Arc<VerifiedNarInfo>],
    now: SystemTime,
) -> Result<(Lease, FetchPlan), SupplyError> {
    let paths = || closure.iter().map(|narinfo| narinfo.store_path());
    let content = LeaseContent {
        paths: paths().cloned().collect(),
        ..LeaseContent::default()
    };
    let lease = store.lease(&content).map_err(|source| failed(store, source))?;
    let free = store.free_bytes().map_err(|source| failed(store, source))?;
    let wanted = || closure.iter().map(|narinfo| wanted(narinfo));
    let present = store.present(paths());
    let planned = match fetch::plan(wanted(), &present, Space { free, freeable: 0 }) {
        Err(FetchRefusal::InsufficientDisk { .. }) => {
            let freeable = freeable(store, now);
            fetch::plan(wanted(), &present, Space { free, freeable })
        }
        planned => planned,
    };
    let plan = planned.map_err(|source| SupplyError::Refused { source })?;
    Ok((lease, plan))
}

/// What garbage collection could free; asked only once the room does not suffice, as it keeps everybody waiting.
fn freeable(store: &NodeStore, now: SystemTime) -> u64 {
    let mut freeable = 0;
    let asked = act::collect::collect(store, |state| {
        freeable = collect::freeable(state, &CollectPolicy::everything(), now);
        CollectPlan::default()
    });
    asked.map_or(0, |_| freeable)
}

pub(super) fn failed(store: &NodeStore, source: StoreError) -> SupplyError {
    SupplyError::Store {
        state: store.layout().state().to_owned(),
        source,
    }
}

/// Opens a node store, created if missing.
pub fn open_store(state: &Path) -> Result<NodeStore, SupplyError> {
    NodeStore::open(state).map_err(|source| SupplyError::Store {
        state: state.to_owned(),
        source,
    })
}

/// Opens a node store that must be there already, and sweeps nothing.
pub fn existing_store(state: &Path) -> Result<NodeStore, SupplyError> {
    NodeStore::existing(state).map_err(|source| SupplyError::Store {
        state: state.to_owned(),
        source,
    })
}

fn wanted(narinfo: &VerifiedNarInfo) -> Wanted {
    Wanted {
        path: narinfo.store_path().clone(),
        nar_hash: narinfo.nar_hash(),
        nar_size: narinfo.nar_size(),
    }
}
