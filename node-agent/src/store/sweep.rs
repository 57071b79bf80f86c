//! Sweeping: what a crash left is found by what it lacks (a lock, a record, its files) and removed.
//! Never touches what a live process works on, what is in use, or names that are not of our making.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crds::domain::store_path::is_hash;

use super::{NodeStore, StoreError, Workspace, layout, list, lock, staging};
use crate::snapshot::view::ViewDigest;

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Folders and files of unfinished work.
    pub unfinished: usize,
    /// Layers without a good record.
    pub layers: usize,
    /// Records, and scan results, without a layer.
    pub records: usize,
    /// Views that were never finished.
    pub views: usize,
}

impl NodeStore {
    /// Removes what no live process, no record and no user accounts for.
    ///
    /// Does nothing while another process commits or collects: that one sweeps, or the next.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let path = self.layout().lock();
        let file = lock::open(&path).map_err(|source| StoreError::Open {
            path: path.clone(),
            source,
        })?;
        if !lock::try_exclusive(&file).map_err(|source| StoreError::Lock { path, source })? {
            return Ok(Swept::default());
        }
        let mut swept = Swept::default();
        let abandoned = self.claim_abandoned(&mut swept)?;
        let trash = self.collect_orphans(&mut swept)?;
        // Nobody sees what is in staging: the slow part needs no lock.
        drop(file);
        abandoned.into_iter().try_for_each(Workspace::finish)?;
        trash.map_or(Ok(()), Trash::empty)?;
        Ok(swept)
    }

    /// Takes over every folder of `staging/` without an owner, and removes every lock without a holder.
    fn claim_abandoned(&self, swept: &mut Swept) -> Result<Vec<Workspace>, StoreError> {
        let mut claimed = Vec::new();
        for name in list(&self.layout().staging())? {
            let path = self.layout().staging().join(&name);
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            if is_folder {
                claimed.extend(staging::claim(&path)?);
                continue;
            }
            let file = lock::open(&path).map_err(|source| StoreError::Open {
                path: path.clone(),
                source,
            })?;
            if lock::try_exclusive(&file).map_err(|source| StoreError::Lock {
                path: path.clone(),
                source,
            })? {
                staging::remove(&path)?;
                swept.unfinished += 1;
            }
        }
        swept.unfinished += claimed.len();
        Ok(claimed)
    }

    /// Moves layers, records and views that lack their other half out of sight.
    fn collect_orphans(&self, swept: &mut Swept) -> Result<Option<Trash>, StoreError> {
        let state = self.state()?;
        let used: BTreeSet<&str> = state.in_use().into_iter().map(|path| path.hash()).collect();
        let good: HashSet<&str> = state.layers.iter().map(|layer| layer.path.hash()).collect();
        let mut orphans: Vec<PathBuf> = Vec::new();
        let keep_all = state.unknown_use;
        let orphan = |hash: &str| !keep_all && is_hash(hash.as_bytes()) && !good.contains(hash) && !used.contains(hash);
        for name in list(&self.layout().meta())? {
            let hash = [layout::RECORD_SUFFIX, layout::SCAN_SUFFIX]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            if hash.is_some_and(orphan) {
                orphans.push(self.layout().meta().join(&name));
                swept.records += 1;
            }
        }
        for hash in list(&self.layout().store())? {
            if orphan(&hash) {
                orphans.push(self.layout().store().join(&hash));
                swept.layers += 1;
            }
        }
        for view in state.views.iter().filter(|view| !view.in_use) {
            if view.broken || is_unfinished(&self.layout().view_record(&view.digest)) {
                orphans.push(self.layout().view(&view.digest));
                swept.views += 1;
            }
        }
        if orphans.is_empty() {
            return Ok(None);
        }
        let trash = self.trash_folder()?;
        orphans.iter().try_for_each(|orphan| trash.take(orphan))?;
        Ok(Some(trash))
    }

    /// Keeps everyone else from leasing, committing, sweeping and collecting.
    pub(crate) fn exclusively(&self) -> Result<lock::Locked, StoreError> {
        lock::exclusive(&self.layout().lock())
    }

    /// Keeps everyone else from mounting or unmounting a built view.
    pub(crate) fn lock_view(&self, digest: &ViewDigest) -> Result<lock::Locked, StoreError> {
        lock::exclusive(&self.layout().view_lock(digest))
    }

    /// A workspace for what is to go. Call it under the exclusive lock.
    pub(crate) fn trash_folder(&self) -> Result<Trash, StoreError> {
        Ok(Trash {
            folder: self.workspace_under_lock()?,
            taken: Cell::new(0),
        })
    }
}

/// Things out of sight, soon to be removed.
#[derive(Debug)]
pub(crate) struct Trash {
    folder: Workspace,
    taken: Cell<u64>,
}

impl Trash {
    /// Moves a file or a tree here; what is not there is fine.
    pub(crate) fn take(&self, from: &Path) -> Result<(), StoreError> {
        let to = self.folder.path().join(self.taken.get().to_string());
        self.taken.set(self.taken.get() + 1);
        match fs::rename(from, &to) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::Move {
                from: from.to_owned(),
                to,
                source: error,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes everything for good.
    pub(crate) fn empty(self) -> Result<(), StoreError> {
        self.folder.finish()
    }
}

fn is_unfinished(view_record: &Path) -> bool {
    fs::symlink_metadata(view_record).is_err()
}
