//! Making finished layers part of the store: durable before visible, and recorded last.
//! Never leaves a record whose files could be lost by a power cut, and never half a layer under its final name.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use binary_cache::narinfo::VerifiedNarInfo;
use crds::domain::store_path::StorePath;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};

use super::{
    NodeStore, Record, StoreError, Workspace,
    layout::{RECORD_SUFFIX, inside_layer},
    lock, sync_folder,
};

/// The times of a layer's own folders: those of a store path's files.
const MTIME: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
};

impl Workspace {
    /// Makes the folders of a layer for `path`, anew, and opens the one that its files go into, under the path's base name.
    pub fn stage_layer(&self, path: &StorePath) -> Result<OwnedFd, StoreError> {
        let layer = self.staged_layer(path);
        super::staging::remove(&layer)?;
        let parent = layer.join(inside_layer());
        fs::create_dir_all(&parent).map_err(|source| StoreError::Create {
            path: parent.clone(),
            source,
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&parent, flags, Mode::empty()).map_err(|errno| StoreError::Open {
            path: parent,
            source: errno.into(),
        })
    }

    /// Removes what was staged for `path`: after an error nothing of it is used again.
    pub fn discard_layer(&self, path: &StorePath) -> Result<(), StoreError> {
        super::staging::remove(&self.staged_layer(path))
    }

    fn staged_layer(&self, path: &StorePath) -> PathBuf {
        self.path().join(path.hash())
    }

    fn staged_record(&self, path: &StorePath) -> PathBuf {
        self.path().join(format!("{}{RECORD_SUFFIX}", path.hash()))
    }
}

impl NodeStore {
    /// Makes staged layers, whose files were verified against these narinfos, part of the store.
    ///
    /// One `syncfs` for all of them, then layers, then records, each rename made durable before the next kind: a crash at
    /// any point leaves of each either nothing, a layer without a record (which is swept), or all.
    ///
    /// # Errors
    /// An error of writing back data anywhere on the file system since the workspace was made is an error here: discard
    /// the workspace then, its contents cannot be trusted. [`StoreError::InUse`] as [`Self::make_room`].
    pub fn commit(&self, work: &Workspace, narinfos: &[&VerifiedNarInfo]) -> Result<(), StoreError> {
        for narinfo in narinfos {
            let path = narinfo.store_path();
            seal_folders(&work.staged_layer(path))?;
            let record = work.staged_record(path);
            fs::write(&record, Record::seal(narinfo)).map_err(|source| StoreError::Write { path: record, source })?;
        }
        work.sync()?;
        for narinfo in narinfos {
            self.make_room(work, narinfo.store_path())?;
        }
        let layout = self.layout();
        let _no_sweep = lock::shared(&layout.lock())?;
        for narinfo in narinfos {
            let (staged, place) = (
                work.staged_layer(narinfo.store_path()),
                layout.layer(narinfo.store_path()),
            );
            rename(&staged, &place)?;
        }
        sync_folder(&layout.store())?;
        for narinfo in narinfos {
            rename(
                &work.staged_record(narinfo.store_path()),
                &layout.record(narinfo.store_path()),
            )?;
        }
        sync_folder(&layout.meta())
    }

    /// Moves a layer without a good record out of sight, if there is one: what is fetched takes its place.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where somebody may be reading it; nothing has changed then.
    pub fn make_room(&self, work: &Workspace, path: &StorePath) -> Result<(), StoreError> {
        let place = self.layout().layer(path);
        if fs::symlink_metadata(&place).is_err() {
            return Ok(());
        }
        // What is not in use now cannot come into use before it is out of sight.
        let _exclusive = self.exclusively()?;
        if self.state()?.is_viewed(path) {
            return Err(StoreError::InUse { path: path.clone() });
        }
        let aside = work.path().join(format!("{}.old", path.hash()));
        match fs::rename(&place, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::Move {
                from: place,
                to: aside,
                source,
            }),
            Ok(()) => Ok(()),
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let (from, to) = (from.to_owned(), to.to_owned());
    fs::rename(&from, &to).map_err(|source| StoreError::Move { from, to, source })
}

/// Layers from different caches and times look alike: same mode, same time, also for the folders around the files.
fn seal_folders(layer: &Path) -> Result<(), StoreError> {
    for folder in inside_layer().ancestors().map(|inner| layer.join(inner)) {
        let sealed = fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))
            .and_then(|()| Ok(rustix::fs::utimensat(CWD, &folder, &MTIME, AtFlags::SYMLINK_NOFOLLOW)?));
        sealed.map_err(|source| StoreError::Write { path: folder, source })?;
    }
    Ok(())
}
