//! Gets closures into the node store, for the commands that need some: closure, lease, plan, fetch.
//! Never trusts what the store holds on the strength of somebody else's keys.

use std::{path::Path, sync::Arc, time::SystemTime};

use binary_cache::{
    cache::CacheConfig,
    closure::{Closure, ClosureError},
    key::KeyRing,
    narinfo::VerifiedNarInfo,
    options::Options,
    substitute::{SetupError, Substituter},
};
use crds::domain::store_path::StorePath;

use crate::{
    act::{
        self,
        fetch::{FetchError, FetchProgress, Fetched, Fetcher},
    },
    args::{FetchOptions, Output},
    plan::{
        collect::{self, CollectPlan, CollectPolicy},
        fetch::{self, FetchPlan, FetchRefusal, Space, Wanted},
    },
    report::progress::{self, Display},
    store::{Lease, LeaseContent, NodeStore, StoreError},
};

/// Which step of getting a closure failed.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    #[error("setting up the caches")]
    Setup { source: SetupError },
    #[error("starting the network's threads")]
    Runtime { source: std::io::Error },
    #[error("asking the caches for the closure")]
    Closure { source: ClosureError },
    #[error("the node store {}", state.display())]
    Store {
        state: std::path::PathBuf,
        source: StoreError,
    },
    #[error("planning the fetch")]
    Refused { source: FetchRefusal },
    #[error("fetching the closure")]
    Fetch { source: FetchError },
}

/// A closure that is in the store, and stays there while the lease is held.
#[derive(Debug)]
pub(super) struct Obtained {
    pub closure: Closure,
    pub fetched: Fetched,
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
pub(super) struct Supply<'a> {
    pub store: &'a NodeStore,
    caches: Substituter,
    rings: Vec<KeyRing>,
    options: &'a FetchOptions,
    output: Output,
}

impl<'a> Supply<'a> {
    pub(super) fn new(
        store: &'a NodeStore,
        caches: Vec<CacheConfig>,
        options: &'a FetchOptions,
        output: Output,
    ) -> Result<Self, ObtainError> {
        let rings = caches.iter().map(|cache| cache.keys.clone()).collect();
        let caches = Substituter::new(caches, Options::default()).map_err(|source| ObtainError::Setup { source })?;
        Ok(Self {
            store,
            caches,
            rings,
            options,
            output,
        })
    }

    /// Gets everything that `roots` need into the store. `now` is when they count as used.
    pub(super) async fn obtain(&self, roots: &[StorePath], now: SystemTime) -> Result<Obtained, ObtainError> {
        let known = |path: &StorePath| self.known(path);
        let closure = self
            .caches
            .closure(roots, &known)
            .await
            .map_err(|source| ObtainError::Closure { source })?;
        let paths = closure
            .paths
            .iter()
            .map(|narinfo| narinfo.store_path().clone())
            .collect();
        let lease = self
            .store
            .lease(&LeaseContent {
                paths,
                ..LeaseContent::default()
            })
            .map_err(|source| self.store_error(source))?;
        let plan = self.plan(&closure, now)?;
        let (fetched, downloaded) = self.fetch(&plan, &closure).await?;
        let used = closure.paths.iter().map(|narinfo| narinfo.store_path());
        self.store.touch(used, now).map_err(|source| self.store_error(source))?;
        Ok(Obtained {
            closure,
            fetched,
            lease,
            downloaded,
        })
    }

    fn plan(&self, closure: &Closure, now: SystemTime) -> Result<FetchPlan, ObtainError> {
        let free = self.store.free_bytes().map_err(|source| self.store_error(source))?;
        let wanted = || closure.paths.iter().map(|narinfo| wanted(narinfo));
        let present = self
            .store
            .present(closure.paths.iter().map(|narinfo| narinfo.store_path()));
        let refused = match fetch::plan(wanted(), &present, Space { free, freeable: 0 }) {
            Err(FetchRefusal::InsufficientDisk { .. }) => {
                let freeable = self.freeable(now);
                fetch::plan(wanted(), &present, Space { free, freeable })
            }
            planned => planned,
        };
        refused.map_err(|source| ObtainError::Refused { source })
    }

    /// Fetches, showing how far it is.
    async fn fetch(&self, plan: &FetchPlan, closure: &Closure) -> Result<(Fetched, u64), ObtainError> {
        let progress = Arc::new(FetchProgress::default());
        let fetcher = Fetcher {
            store: self.store.clone(),
            caches: self.caches.clone(),
            parallel: self.options.jobs.into(),
        };
        let started = tokio::time::Instant::now();
        let mut display = Display::new(self.options.progress, self.output);
        let mut tick = tokio::time::interval(progress::INTERVAL);
        let mut fetch = std::pin::pin!(fetcher.fetch(plan, &closure.paths, &progress));
        let fetched = loop {
            tokio::select! {
                fetched = &mut fetch => break fetched,
                _ = tick.tick() => display.show(&progress.status(), started.elapsed()),
            }
        };
        display.finish(&progress.status(), started.elapsed());
        let fetched = fetched.map_err(|source| ObtainError::Fetch { source })?;
        Ok((fetched, progress.status().bytes_downloaded))
    }

    /// The narinfo of a path that is here, if these caches' keys vouch for it too.
    fn known(&self, path: &StorePath) -> Option<Arc<VerifiedNarInfo>> {
        self.rings.iter().find_map(|keys| self.store.verified(path, keys))
    }

    /// What garbage collection could free; asked only once the room does not suffice, as it keeps everybody waiting.
    fn freeable(&self, now: SystemTime) -> u64 {
        let mut freeable = 0;
        let asked = act::collect::collect(self.store, |state| {
            freeable = collect::freeable(state, &CollectPolicy::everything(), now);
            CollectPlan::default()
        });
        asked.map_or(0, |_| freeable)
    }

    fn store_error(&self, source: StoreError) -> ObtainError {
        ObtainError::Store {
            state: self.store.layout().state().to_owned(),
            source,
        }
    }
}

/// Opens the node store of a command.
pub(super) fn open_store(state: &Path) -> Result<NodeStore, ObtainError> {
    NodeStore::open(state).map_err(|source| ObtainError::Store {
        state: state.to_owned(),
        source,
    })
}

/// Opens a node store that must be there already, and sweeps nothing.
pub(super) fn existing_store(state: &Path) -> Result<NodeStore, ObtainError> {
    NodeStore::existing(state).map_err(|source| ObtainError::Store {
        state: state.to_owned(),
        source,
    })
}

/// The threads that the network and the unpacking run on; gone, all of them, when this is dropped.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, ObtainError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ObtainError::Runtime { source })
}

fn wanted(narinfo: &VerifiedNarInfo) -> Wanted {
    Wanted {
        path: narinfo.store_path().clone(),
        nar_hash: narinfo.nar_hash(),
        nar_size: narinfo.nar_size(),
    }
}
