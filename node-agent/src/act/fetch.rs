//! Carrying out a fetch: many store paths at once, each by one task of one process, committed in groups.
//! Never shows a layer before it is durable; never uses anything again that failed on the way to disk.

mod one;
mod progress;
mod reserve;

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    future::Future,
    io,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use binary_cache::{
    narinfo::VerifiedNarInfo,
    substitute::{SubstituteError, Substituter},
};
use crds::domain::store_path::StorePath;
use serde::Serialize;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

pub use progress::FetchProgress;

use self::{
    one::{One, Outcome, Staged},
    reserve::Reservation,
};
use crate::{
    plan::fetch::{FetchPlan, FetchRefusal},
    store::{NodeStore, StoreError, Workspace},
};

/// Store paths that are fetched at the same time, unless told otherwise: enough to keep a fast network, all decoders and
/// the disk busy together.
pub const DEFAULT_PARALLEL: usize = 8;
/// How often, and how long apart, to look whether the threads of abandoned downloads have let go of the workspace.
const STRAGGLER_LOOKS: usize = 100;
const STRAGGLER_LOOK: Duration = Duration::from_millis(20);

/// Why a fetch stopped. What was complete by then is in the store.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Substitute(#[from] SubstituteError),
    #[error(transparent)]
    Refused(#[from] FetchRefusal),
    /// Others wrote to the disk as well, or the files take more room than the plan guessed.
    #[error("the disk is full: {needed} bytes were planned for, {free} are free now")]
    DiskFull {
        needed: u64,
        free: u64,
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{path} is to be fetched, but is not in the closure")]
    OutsideClosure { path: StorePath },
    #[error("a task of the fetch died")]
    TaskDied { source: JoinError },
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a fetch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetched {
    /// Store paths that this fetch brought.
    pub paths: u64,
    /// Sum of their NarSizes, in bytes.
    pub bytes: u64,
    /// Store paths that somebody else brought meanwhile.
    pub by_others: u64,
}

/// With what a fetch works. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// Where to.
    pub store: NodeStore,
    /// Where from.
    pub caches: Substituter,
    /// How many store paths at once; 0 counts as 1.
    pub parallel: usize,
}

impl Fetcher {
    /// Fetches what `plan` says of `closure`. Hold a lease on all of the closure meanwhile and afterwards.
    ///
    /// # Errors
    /// The first one. What was complete is committed all the same; dropping the future loses only what was not.
    pub async fn fetch(
        &self,
        plan: &FetchPlan,
        closure: &[Arc<VerifiedNarInfo>],
        progress: &Arc<FetchProgress>,
    ) -> Result<Fetched, FetchError> {
        progress.begin(plan);
        if plan.fetch.is_empty() {
            return Ok(Fetched::default());
        }
        let narinfos: HashMap<&StorePath, &Arc<VerifiedNarInfo>> =
            closure.iter().map(|narinfo| (narinfo.store_path(), narinfo)).collect();
        let missing = |path: &StorePath| FetchError::OutsideClosure { path: path.clone() };
        let pending = plan.fetch.iter().map(|wanted| {
            narinfos
                .get(&wanted.path)
                .map(|narinfo| Arc::clone(narinfo))
                .ok_or_else(|| missing(&wanted.path))
        });
        let pending = pending.collect::<Result<VecDeque<_>, _>>()?;
        let store = self.store.clone();
        let disk = plan.disk;
        let (work, reservation) = blocking(move || {
            let work = store.workspace()?;
            match Reservation::take(&store, &work, disk) {
                Ok(reservation) => Ok((Arc::new(work), Arc::new(reservation))),
                Err(error) => {
                    work.finish()?;
                    Err(error)
                }
            }
        })
        .await?;
        let run = Run {
            fetcher: self.clone(),
            work,
            reservation,
            progress: progress.clone(),
            pending,
            fetching: JoinSet::new(),
            ready: Vec::new(),
            fetched: Fetched::default(),
        };
        let result = run.finish().await;
        result.map_err(|error| self.name_full_disk(error, disk))
    }

    /// A full disk is told apart from other faults of this machine: it has its own remedy.
    fn name_full_disk(&self, error: FetchError, needed: u64) -> FetchError {
        let full = match &error {
            FetchError::Store(store) => is_full(store),
            FetchError::Substitute(substitute) => substitute.disk().is_some_and(|nar| is_full(nar)),
            FetchError::Refused(_)
            | FetchError::DiskFull { .. }
            | FetchError::OutsideClosure { .. }
            | FetchError::TaskDied { .. } => false,
        };
        if !full {
            return error;
        }
        let free = self.store.free_bytes().unwrap_or_default();
        FetchError::DiskFull {
            needed,
            free,
            source: Box::new(error),
        }
    }
}

/// Whether some cause of `error` is a full disk or a used-up quota.
pub(crate) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A fetch under way.
struct Run {
    fetcher: Fetcher,
    work: Arc<Workspace>,
    reservation: Arc<Reservation>,
    progress: Arc<FetchProgress>,
    pending: VecDeque<Arc<VerifiedNarInfo>>,
    fetching: JoinSet<Result<Outcome, FetchError>>,
    ready: Vec<Staged>,
    fetched: Fetched,
}

impl Run {
    /// Fetches all, commits all, removes the workspace.
    async fn finish(mut self) -> Result<Fetched, FetchError> {
        let result = self.all().await;
        self.fetching.shutdown().await;
        let result = match result {
            // What failed to reach the disk fails all that is in the workspace: Linux reports such an error once.
            Err(error @ FetchError::Store(_)) => Err(error),
            // What was complete before another error came is kept; that error is the one to tell.
            Err(error) => self.commit().await.and(Err(error)),
            Ok(()) => Ok(self.fetched),
        };
        clean_up(self.work).await;
        result
    }

    async fn all(&mut self) -> Result<(), FetchError> {
        loop {
            self.start_more();
            if !self.ready.is_empty() {
                self.commit_and_go_on().await?;
            } else if let Some(outcome) = self.fetching.join_next().await {
                self.take_in(outcome)?;
            } else {
                return Ok(());
            }
        }
    }

    /// While one group is being written to disk, the next one gathers: the slower the disk, the larger the groups.
    async fn commit_and_go_on(&mut self) -> Result<(), FetchError> {
        let mut committing = pin!(self.begin_commit());
        let mut result = Ok(());
        loop {
            tokio::select! {
                committed = &mut committing => {
                    self.shown(committed?);
                    return result;
                }
                Some(outcome) = self.fetching.join_next(), if result.is_ok() => {
                    result = self.take_in(outcome);
                    if result.is_ok() {
                        self.start_more();
                    }
                }
            }
        }
    }

    async fn commit(&mut self) -> Result<(), FetchError> {
        if !self.ready.is_empty() {
            let shown = self.begin_commit().await?;
            self.shown(shown);
        }
        Ok(())
    }

    /// The locks of the group's paths are let go when it is visible, or failed.
    fn begin_commit(&mut self) -> impl Future<Output = Result<Vec<Staged>, FetchError>> + use<> {
        let group = std::mem::take(&mut self.ready);
        let (store, work) = (self.fetcher.store.clone(), self.work.clone());
        blocking(move || {
            let narinfos: Vec<&VerifiedNarInfo> = group.iter().map(|staged| staged.narinfo.as_ref()).collect();
            store.commit(&work, &narinfos)?;
            Ok(group)
        })
    }

    fn shown(&mut self, group: Vec<Staged>) {
        for staged in group {
            self.fetched.paths += 1;
            self.fetched.bytes += staged.narinfo.nar_size();
            self.progress.path_done();
        }
    }

    fn start_more(&mut self) {
        while self.fetching.len() < self.fetcher.parallel.max(1)
            && let Some(narinfo) = self.pending.pop_front()
        {
            let one = One {
                fetcher: self.fetcher.clone(),
                work: self.work.clone(),
                reservation: self.reservation.clone(),
                progress: self.progress.clone(),
                narinfo,
            };
            self.fetching.spawn(one.fetch());
        }
    }

    fn take_in(&mut self, outcome: Result<Result<Outcome, FetchError>, JoinError>) -> Result<(), FetchError> {
        match outcome.map_err(|source| FetchError::TaskDied { source })?? {
            Outcome::Staged(staged) => self.ready.push(staged),
            Outcome::ByOthers => self.fetched.by_others += 1,
            Outcome::Busy(narinfo) => self.pending.push_back(narinfo),
        }
        Ok(())
    }
}

/// Removes the workspace. What cannot be removed is swept later: a clean-up is no reason to fail.
async fn clean_up(work: Arc<Workspace>) {
    for _ in 0..STRAGGLER_LOOKS {
        let folder = work.clone();
        if let Ok(Ok(())) = spawn_blocking(move || folder.clear()).await {
            return;
        }
        tokio::time::sleep(STRAGGLER_LOOK).await;
    }
    tracing::warn!(path = %work.path().display(), "unfinished work stays until the next sweep");
}

/// Runs what waits for a disk where it keeps nobody else waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    spawn_blocking(work)
        .await
        .map_err(|source| FetchError::TaskDied { source })?
}
