//! The node store: a state folder of verified store paths, one layer each, shared by several processes.
//! Never shows a layer that is not complete and recorded; never removes one that something uses.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use binary_cache::{hash::NarHash, key::KeyRing, nar::RemoveError, narinfo::VerifiedNarInfo};
use crds::domain::store_path::{StorePath, is_hash};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

pub use kept_catalogue::KeptError;
pub use layout::Layout;
pub use lease::{Holder, Lease, LeaseContent};
pub use record::{Record, RecordError};
pub use staging::{PathLock, Workspace};
pub(crate) use state::ViewRecord;
pub use sweep::Swept;

mod commit;
mod kept_catalogue;
pub mod layout;
mod lease;
mod lock;
pub mod mounts;
mod record;
mod seen;
mod staging;
mod state;
mod sweep;
mod volume;

/// A step on a node store failed. The path says where, the source says why.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make {} durable", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("cannot move {} to {}", from.display(), to.display())]
    Move {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: RemoveError },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("{} belongs to user {owner}, not to user {me}: nobody else may own a node store", path.display())]
    ForeignOwner { path: PathBuf, owner: u32, me: u32 },
    #[error("{} is writable by others (mode {mode:o}): take that away, nobody else may write to a node store", path.display())]
    WritableByOthers { path: PathBuf, mode: u32 },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{} is no node store", path.display())]
    NoStore { path: PathBuf, source: io::Error },
    #[error("{path} is in a view that is in use, and its record is damaged: it is replaced when nothing uses it")]
    InUse { path: StorePath },
    #[error("the record {} says nothing that can be trusted", path.display())]
    BadRecord { path: PathBuf, source: RecordError },
    #[error("the list {} cannot be understood", path.display())]
    BadList { path: PathBuf, source: serde_json::Error },
}

/// A record file: its hash, and what it says, or why nobody should listen.
pub(crate) type Claim = (String, Result<Record, StoreError>);

/// One state folder. Cheap to clone; holds no descriptor and no lock.
#[derive(Debug, Clone)]
pub struct NodeStore {
    layout: Arc<Layout>,
    seen: Arc<seen::SeenRecords>,
}

impl NodeStore {
    /// Opens the store below `state`, creates what is missing and sweeps what a crash left.
    ///
    /// # Errors
    /// Refuses folders that another user owns or may write to; otherwise the step that failed.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        own_folder(state, 0o755)?;
        // The mount table knows places by their real names: through a link a mounted view would not be found again.
        let state = fs::canonicalize(state).map_err(|source| StoreError::Open {
            path: state.to_owned(),
            source,
        })?;
        let store = Self {
            layout: Arc::new(Layout::new(state)),
            seen: Arc::default(),
        };
        let layout = &store.layout;
        for (folder, mode) in [
            (layout.store(), 0o755),
            (layout.meta(), 0o755),
            (layout.drivers(), 0o755),
            (layout.views(), 0o700),
            (layout.volumes(), 0o700),
            (layout.leases(), 0o700),
            (layout.staging(), 0o700),
        ] {
            own_folder(&folder, mode)?;
        }
        store.sweep()?;
        Ok(store)
    }

    /// Opens the store below `state` only if there is one: a mistyped name makes no empty store. Nothing is swept.
    ///
    /// # Errors
    /// A folder that is not there, or is no node store of this user.
    pub fn existing(state: &Path) -> Result<Self, StoreError> {
        let open = |source| StoreError::Open {
            path: state.to_owned(),
            source,
        };
        let store = Self::at(&fs::canonicalize(state).map_err(open)?);
        fs::metadata(store.layout.meta()).map_err(|source| StoreError::NoStore {
            path: state.to_owned(),
            source,
        })?;
        own_folder(state, 0o755)?;
        Ok(store)
    }

    /// The store at an absolute path as it is: creates nothing, checks nothing, sweeps nothing. For looking only.
    pub fn at(state: &Path) -> Self {
        Self {
            layout: Arc::new(Layout::new(state)),
            seen: Arc::default(),
        }
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether `path` is here: recorded, and its files in place. Their bytes were verified when they came; `verify`
    /// reads them again.
    pub fn has(&self, path: &StorePath) -> bool {
        matches!(self.record(path), Ok(Some(_)))
    }

    /// The record of `path`, or nothing where it is not here. A record whose files are gone counts as nothing.
    ///
    /// # Errors
    /// A record that cannot be read or was damaged.
    pub fn record(&self, path: &StorePath) -> Result<Option<Record>, StoreError> {
        let Some(record) = self.read_record(path.hash())? else {
            return Ok(None);
        };
        if record.path() != path {
            let source = RecordError::WrongPath {
                found: record.path().clone(),
            };
            return Err(StoreError::BadRecord {
                path: self.layout.record(path),
                source,
            });
        }
        Ok(self.has_files(path).then_some(record))
    }

    /// Every recorded store path, in the order of their hashes. Damaged records are left out; `verify` names them.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let all = self.claims()?.into_iter().filter_map(|(_, claim)| claim.ok());
        Ok(all.filter(|record| self.has_files(record.path())).collect())
    }

    /// Every record file, in the order of their hashes.
    pub(crate) fn claims(&self) -> Result<Vec<Claim>, StoreError> {
        let names = list(&self.layout.meta())?;
        let hashes = names.iter().filter_map(|name| name.strip_suffix(layout::RECORD_SUFFIX));
        let hashes = hashes.filter(|hash| is_hash(hash.as_bytes()));
        Ok(hashes
            .filter_map(|hash| Some((hash.to_owned(), self.read_record(hash).transpose()?)))
            .collect())
    }

    /// What is here of `paths`, with the hashes it was accepted on: what a fetch is planned with.
    pub fn present<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) -> BTreeMap<StorePath, NarHash> {
        let records = paths.into_iter().filter_map(|path| self.record(path).ok().flatten());
        records
            .map(|record| (record.path().clone(), record.nar_hash()))
            .collect()
    }

    /// The narinfo of `path`, where it is here and one of `keys` signed it: a closure walk need not ask a cache then.
    ///
    /// That it is here proves nothing to those who trust other keys: they get nothing, and ask their own caches.
    pub fn verified(&self, path: &StorePath, keys: &KeyRing) -> Option<Arc<VerifiedNarInfo>> {
        self.record(path).ok().flatten()?.verify(keys).ok().map(Arc::new)
    }

    fn read_record(&self, hash: &str) -> Result<Option<Record>, StoreError> {
        let file = self.layout.meta().join(format!("{hash}{}", layout::RECORD_SUFFIX));
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path: file, source }),
        };
        let record = Record::unseal(&bytes).and_then(|record| match record.path() {
            path if path.hash() == hash => Ok(record),
            path => Err(RecordError::WrongPath { found: path.clone() }),
        });
        record
            .map(Some)
            .map_err(|source| StoreError::BadRecord { path: file, source })
    }

    pub(crate) fn has_files(&self, path: &StorePath) -> bool {
        fs::symlink_metadata(self.layout.files(path)).is_ok()
    }

    /// Marks store paths as used at `now`: garbage collection takes the least recently used first. A path that is not
    /// here is passed over.
    pub fn touch<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
        now: std::time::SystemTime,
    ) -> Result<(), StoreError> {
        paths
            .into_iter()
            .try_for_each(|path| touch(&self.layout.record(path), now))
    }

    /// Bytes that the file system of the state folder still has for us.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let path = self.layout.state();
        let space = rustix::fs::statvfs(path).map_err(|errno| StoreError::Read {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Sets the modification time of `file`; a file that is not there is passed over.
pub(crate) fn touch(file: &Path, now: std::time::SystemTime) -> Result<(), StoreError> {
    let since_epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: since_epoch.subsec_nanos().into(),
        },
    };
    match rustix::fs::utimensat(CWD, file, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(StoreError::Write {
            path: file.to_owned(),
            source: errno.into(),
        }),
    }
}

/// The names in a folder, sorted. Names that are not UTF-8 are not ours and are left out.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>, StoreError> {
    let unreadable = |source| StoreError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        names.extend(entry.map_err(unreadable)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes the names in a folder survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    fs::File::open(folder)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| StoreError::Sync {
            path: folder.to_owned(),
            source,
        })
}

/// Creates `folder` with `mode`, or checks that the one that is there is ours alone and narrows its mode.
fn own_folder(folder: &Path, mode: u32) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Create {
        path: folder.to_owned(),
        source,
    };
    match fs::DirBuilder::new().recursive(true).mode(0o755).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        Ok(()) | Err(_) => {}
    }
    let found = fs::symlink_metadata(folder).map_err(unusable)?;
    let (owner, me) = (found.uid(), rustix::process::geteuid().as_raw());
    if !found.is_dir() {
        return Err(StoreError::NotAFolder {
            path: folder.to_owned(),
        });
    }
    if owner != me {
        return Err(StoreError::ForeignOwner {
            path: folder.to_owned(),
            owner,
            me,
        });
    }
    let found_mode = found.mode() & 0o7777;
    if found_mode & 0o022 != 0 {
        return Err(StoreError::WritableByOthers {
            path: folder.to_owned(),
            mode: found_mode,
        });
    }
    // Never widens the state folder that somebody made narrow on purpose; what is inside is ours to set.
    let narrowed = found_mode & mode;
    if narrowed != found_mode {
        fs::set_permissions(folder, fs::Permissions::from_mode(narrowed)).map_err(unusable)?;
    }
    Ok(())
}
