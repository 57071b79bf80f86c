//! Leases: who uses which layers, told to every process that shares the state folder.
//! Never outlives its holder: a lease is a lock, and a lock ends with the last descriptor of it.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crds::domain::store_path::StorePath;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::{NodeStore, StoreError, list, lock};
use crate::snapshot::view::{BridgeId, ViewDigest};

/// What a lease keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseContent {
    /// The view in use, where one is.
    pub view: Option<ViewDigest>,
    /// The driver bridge in use, there already or being built.
    #[serde(default)]
    pub bridge: Option<BridgeId>,
    /// Store paths that must stay, fetched already or being fetched.
    pub paths: BTreeSet<StorePath>,
}

/// A promise by garbage collection to leave some layers alone, for as long as this value, or a program that inherited
/// it, lives.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
}

impl NodeStore {
    /// Leases layers. Take it before looking which of them are here: what is here then stays here.
    pub fn lease(&self, content: &LeaseContent) -> Result<Lease, StoreError> {
        let text = serde_json::to_vec(content).map_err(|source| StoreError::BadList {
            path: self.layout().leases(),
            source,
        })?;
        // A lease becomes visible and locked in one step as far as sweeps and garbage collection can see.
        let _no_collection = lock::shared(&self.layout().lock())?;
        for attempt in 0_u64.. {
            let path = self.layout().leases().join(format!("{}.{attempt}", std::process::id()));
            let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(StoreError::Create { path, source }),
            };
            let locked =
                lock::try_exclusive(&file).and_then(|locked| if locked { file.write_all(&text) } else { Ok(()) });
            return match locked {
                Ok(()) => Ok(Lease { path, file }),
                Err(source) => Err(StoreError::Write { path, source }),
            };
        }
        let path = self.layout().leases();
        Err(StoreError::Create {
            path,
            source: io::ErrorKind::AlreadyExists.into(),
        })
    }

    /// What live leases keep. Removes the files of leases whose holder is gone.
    ///
    /// Call it under the exclusive lock, else a lease that is just being written looks like a stale one.
    pub(super) fn live_leases(&self) -> Result<Vec<LeaseContent>, StoreError> {
        let mut live = Vec::new();
        for name in list(&self.layout().leases())? {
            let path = self.layout().leases().join(name);
            live.extend(live_lease(&path)?);
        }
        Ok(live)
    }
}

fn live_lease(path: &Path) -> Result<Option<LeaseContent>, StoreError> {
    let unreadable = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        // Its holder ended it just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unreadable(source)),
    };
    if lock::try_exclusive(&file).map_err(unreadable)? {
        super::staging::remove(path)?;
        return Ok(None);
    }
    let mut text = Vec::new();
    (&file).read_to_end(&mut text).map_err(unreadable)?;
    let content = serde_json::from_slice(&text).map_err(|source| StoreError::BadList {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(content))
}

impl Lease {
    /// Ends the lease.
    pub fn end(self) -> Result<(), StoreError> {
        super::staging::remove(&self.path)
    }

    /// Lets the lease live on in the program that this process becomes by `exec`; it ends when that program does.
    pub fn outlive_exec(self) -> Result<(), StoreError> {
        rustix::io::fcntl_setfd(&self.file, FdFlags::empty()).map_err(|errno| StoreError::Lock {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        // The descriptor is given away on purpose: closing it would end the lease.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(self.file);
        Ok(())
    }
}
