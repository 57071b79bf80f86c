//! One store path of a fetch: lock it, look again, download and unpack it into the workspace.
//! Never makes it visible: that is the commit's part.

use std::{sync::Arc, time::Duration};

use binary_cache::{narinfo::VerifiedNarInfo, substitute::Target};
use std::os::fd::OwnedFd;

use super::{FetchError, FetchProgress, Fetcher, blocking, progress::PathProgress, reserve::Reservation};
use crate::{
    plan::fetch::FetchRefusal,
    store::{NodeStore, PathLock, StoreError, Workspace},
};

/// How long to leave alone a path that somebody else fetches.
const BUSY: Duration = Duration::from_millis(50);

/// What one task works with.
pub(super) struct One {
    pub(super) fetcher: Fetcher,
    pub(super) work: Arc<Workspace>,
    pub(super) reservation: Arc<Reservation>,
    pub(super) progress: Arc<FetchProgress>,
    pub(super) narinfo: Arc<VerifiedNarInfo>,
}

/// A store path in the workspace: verified, not yet durable, its lock still held.
pub(super) struct Staged {
    pub(super) narinfo: Arc<VerifiedNarInfo>,
    _lock: PathLock,
}

/// What became of one store path.
pub(super) enum Outcome {
    Staged(Staged),
    /// Somebody else brought it meanwhile.
    ByOthers,
    /// Somebody else fetches it now: try again later.
    Busy(Arc<VerifiedNarInfo>),
}

enum Turn {
    Ours(PathLock, OwnedFd),
    ByOthers,
    Busy,
}

impl One {
    pub(super) async fn fetch(self) -> Result<Outcome, FetchError> {
        let (store, work, reservation) = (self.fetcher.store.clone(), self.work.clone(), self.reservation.clone());
        let narinfo = self.narinfo.clone();
        let (lock, parent) = match blocking(move || turn(&store, &work, &reservation, &narinfo)).await? {
            Turn::Ours(lock, parent) => (lock, parent),
            Turn::ByOthers => {
                self.progress.by_others(self.narinfo.nar_size());
                return Ok(Outcome::ByOthers);
            }
            Turn::Busy => {
                tokio::time::sleep(BUSY).await;
                return Ok(Outcome::Busy(self.narinfo));
            }
        };
        let name = self.narinfo.store_path().base_name().into();
        let target = Target {
            parent: Arc::new(parent),
            name,
        };
        let progress = Arc::new(PathProgress::new(self.progress));
        let fetched = self
            .fetcher
            .caches
            .substitute(&self.narinfo, &target, progress.clone())
            .await;
        match fetched {
            Ok(narinfo) => Ok(Outcome::Staged(Staged { narinfo, _lock: lock })),
            Err(error) => {
                progress.take_back();
                Err(error.into())
            }
        }
    }
}

/// Locks the path. Whoever held the lock before us may have brought it: looks again before making room for it.
fn turn(
    store: &NodeStore,
    work: &Workspace,
    reservation: &Reservation,
    narinfo: &VerifiedNarInfo,
) -> Result<Turn, FetchError> {
    let path = narinfo.store_path();
    let Some(lock) = store.try_lock_path(path)? else {
        return Ok(Turn::Busy);
    };
    // A damaged record is as good as none: what is fetched now replaces it, unless somebody reads the files.
    let present = store.record(path).ok().flatten();
    let turn = match present {
        Some(record) if record.nar_hash() == narinfo.nar_hash() => Turn::ByOthers,
        Some(record) => {
            let (path, here, wanted) = (path.clone(), record.nar_hash(), narinfo.nar_hash());
            return Err(FetchRefusal::DifferentContents { path, here, wanted }.into());
        }
        None => {
            match store.make_room(work, path) {
                Err(StoreError::InUse { path }) => return Err(FetchRefusal::InUse { path }.into()),
                made => made?,
            }
            Turn::Ours(lock, work.stage_layer(path)?)
        }
    };
    reservation.give_back(narinfo.nar_size())?;
    Ok(turn)
}
