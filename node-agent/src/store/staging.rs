//! Unfinished work: folders that count as garbage as soon as their owner's lock is gone, and locks on single fetches.
//! Never hands out a name that another live process uses.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use binary_cache::nar;
use crds::domain::store_path::StorePath;

use super::{NodeStore, StoreError, lock};

/// A folder of our own below `staging/`, locked for as long as this value lives.
///
/// [`Workspace::finish`] removes it and says what failed. Dropping it, as every error on the way does, removes what can be
/// removed: an agent runs for months, and what its failures leave would fill the disk. What then stays is swept later.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    locked: File,
}

/// The right to fetch one store path, held by one task of one process at a time.
#[derive(Debug)]
pub struct PathLock {
    path: PathBuf,
    _locked: File,
}

impl NodeStore {
    /// A new, empty, private folder on the store's own file system.
    pub fn workspace(&self) -> Result<Workspace, StoreError> {
        // Between making a folder and locking it a sweep could take it for garbage: keep sweeps out.
        let _no_sweep = lock::shared(&self.layout().lock())?;
        self.workspace_under_lock()
    }

    /// Like [`NodeStore::workspace`], for callers that hold the store's lock already.
    pub(super) fn workspace_under_lock(&self) -> Result<Workspace, StoreError> {
        for attempt in 0_u64.. {
            let path = self
                .layout()
                .staging()
                .join(format!("{}.{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(StoreError::Create { path, source }),
            }
            return claim(&path)?.ok_or_else(|| StoreError::Lock {
                path,
                source: io::ErrorKind::WouldBlock.into(),
            });
        }
        let path = self.layout().staging();
        Err(StoreError::Create {
            path,
            source: io::ErrorKind::AlreadyExists.into(),
        })
    }

    /// The right to fetch `path`, or nothing while somebody else, here or in another process, has it.
    pub fn try_lock_path(&self, path: &StorePath) -> Result<Option<PathLock>, StoreError> {
        let file_name = self.layout().fetch_lock(path);
        let unusable = |source| StoreError::Lock {
            path: file_name.clone(),
            source,
        };
        loop {
            let file = lock::open(&file_name).map_err(unusable)?;
            if !lock::try_exclusive(&file).map_err(unusable)? {
                return Ok(None);
            }
            // A holder removes the file before it lets go: what we locked may be a file without a name by now.
            let ours = file.metadata().map_err(unusable)?.ino();
            if fs::symlink_metadata(&file_name).is_ok_and(|named| named.ino() == ours) {
                return Ok(Some(PathLock {
                    path: file_name,
                    _locked: file,
                }));
            }
        }
    }
}

impl Workspace {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes everything to disk that the file system holds back. Its descriptor is as old as the folder, so that no
    /// failed write in it, however long ago, goes unnoticed (syncfs(2), since Linux 5.8).
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.locked).map_err(|errno| StoreError::Sync {
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    /// Removes the folder and all in it.
    pub fn finish(self) -> Result<(), StoreError> {
        self.clear()
    }

    /// Like [`Workspace::finish`], for a folder that others share; nobody can work in it any more.
    pub(crate) fn clear(&self) -> Result<(), StoreError> {
        remove(&self.path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // As soon as a folder is gone its name may be another's: only what our descriptor still is, is ours to remove.
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let named = fs::symlink_metadata(&self.path);
        if let (Ok(named), Ok(ours)) = (named, self.locked.metadata())
            && same(&named, &ours)
        {
            let _ = self.clear();
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // The name goes before the lock does. A name left behind is swept; nothing depends on it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Takes over a folder of `staging/` if its owner is gone.
pub(super) fn claim(path: &Path) -> Result<Option<Workspace>, StoreError> {
    let unusable = |source| StoreError::Lock {
        path: path.to_owned(),
        source,
    };
    let folder = match File::open(path) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unusable(source)),
    };
    let locked = lock::try_exclusive(&folder).map_err(unusable)?;
    Ok(locked.then(|| Workspace {
        path: path.to_owned(),
        locked: folder,
    }))
}

/// Removes a file or a whole tree, read-only folders included. What is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let folder = match File::open(parent) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(StoreError::Open {
                path: parent.to_owned(),
                source,
            });
        }
    };
    nar::remove_tree(folder.as_fd(), name).map_err(|source| StoreError::Remove {
        path: path.to_owned(),
        source,
    })
}
