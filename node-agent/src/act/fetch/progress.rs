//! Counting what a fetch does, from many tasks and threads at once.
//! Never blocks for longer than it takes to copy a name.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use binary_cache::{fault::Fault, substitute::Progress};

use crate::{plan::fetch::FetchPlan, snapshot::fetch::FetchStatus};

/// The figures of a fetch under way; [`FetchProgress::status`] reads them at any time.
#[derive(Debug, Default)]
pub struct FetchProgress {
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_downloaded: AtomicU64,
    paths_done: AtomicU64,
    paths_total: AtomicU64,
    retries: AtomicU64,
    restarts: AtomicU64,
    source: Mutex<Option<String>>,
}

impl FetchProgress {
    /// All figures, each as it is at this moment.
    pub fn status(&self) -> FetchStatus {
        FetchStatus {
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_downloaded: self.bytes_downloaded.load(Relaxed),
            paths_done: self.paths_done.load(Relaxed),
            paths_total: self.paths_total.load(Relaxed),
            retries: self.retries.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            source: self.source.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(super) fn begin(&self, plan: &FetchPlan) {
        self.bytes_total.fetch_add(plan.bytes, Relaxed);
        self.paths_total
            .fetch_add(u64::try_from(plan.fetch.len()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn path_done(&self) {
        self.paths_done.fetch_add(1, Relaxed);
    }

    /// A path that came without us counts as done: totals are reached whoever did the work.
    pub(super) fn by_others(&self, nar_size: u64) {
        self.bytes_done.fetch_add(nar_size, Relaxed);
        self.path_done();
    }
}

/// One store path's share, which can be taken back.
pub(super) struct PathProgress {
    whole: Arc<FetchProgress>,
    unpacked: AtomicU64,
}

impl PathProgress {
    pub(super) fn new(whole: Arc<FetchProgress>) -> Self {
        Self {
            whole,
            unpacked: AtomicU64::new(0),
        }
    }

    /// Forgets what was unpacked of this path.
    pub(super) fn take_back(&self) {
        self.whole.bytes_done.fetch_sub(self.unpacked.swap(0, Relaxed), Relaxed);
    }
}

impl Progress for PathProgress {
    fn source(&self, cache: &str) {
        let mut source = self.whole.source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.as_deref() != Some(cache) {
            *source = Some(cache.to_owned());
        }
    }

    fn downloaded(&self, bytes: u64) {
        self.whole.bytes_downloaded.fetch_add(bytes, Relaxed);
    }

    fn unpacked(&self, bytes: u64) {
        self.unpacked.fetch_add(bytes, Relaxed);
        self.whole.bytes_done.fetch_add(bytes, Relaxed);
    }

    fn retried(&self, _: &Fault) {
        self.whole.retries.fetch_add(1, Relaxed);
    }

    fn restarted(&self, _: &Fault) {
        self.whole.restarts.fetch_add(1, Relaxed);
        self.take_back();
    }
}
