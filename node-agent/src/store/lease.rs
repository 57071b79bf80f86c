//! Leases: who uses which layers, told to every process that shares the state folder.
//! Never outlives its holder: a lease is a lock, and a lock ends with the last descriptor of it.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
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
    /// The process that the lease is for, where a program is to inherit it.
    #[serde(default)]
    pub holder: Option<Holder>,
}

/// A process, told from later ones of its number by when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pid: u32,
    /// Clock ticks after boot (field 22 of proc(5)'s stat).
    started: u64,
}

impl Holder {
    /// This process, and the program that it becomes by `exec`.
    pub fn this_process() -> Option<Self> {
        let pid = std::process::id();
        Some(Self {
            pid,
            started: started(pid)?,
        })
    }

    fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the fields behind it begin with the third.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A lease that somebody holds.
#[derive(Debug)]
pub(super) enum Live {
    Keeps(LeaseContent),
    /// It cannot be read: whatever it keeps must stay.
    Unreadable,
}

/// The lowest number of a lease's descriptor: programs count theirs from 3, and shell scripts use single digits.
const DESCRIPTOR: i32 = 200;

/// A promise by garbage collection to leave some layers alone, for as long as this value, or a program that inherited
/// it, lives.
///
/// Dropping it ends it, as `end` does, which also says what went wrong.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    /// Nothing once it is over, or given away: another lease may have the path by then.
    file: Option<File>,
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
            let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(StoreError::Create { path, source }),
            };
            return match file.write_all(&text).and_then(|()| hold(&path)) {
                Ok(file) => Ok(Lease { path, file: Some(file) }),
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
    pub(super) fn live_leases(&self) -> Result<Vec<Live>, StoreError> {
        let mut live = Vec::new();
        for name in list(&self.layout().leases())? {
            let path = self.layout().leases().join(name);
            live.extend(live_lease(&path)?);
        }
        Ok(live)
    }
}

/// Opens a written lease for reading alone, so that the program that inherits it cannot spoil it, and locks it.
fn hold(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if !lock::try_exclusive(&file)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // The lock is the open file's, not the descriptor's: it goes along. Where the limit is lower, any number will do.
    let high = rustix::io::fcntl_dupfd_cloexec(&file, DESCRIPTOR);
    Ok(high.map_or(file, File::from))
}

fn live_lease(path: &Path) -> Result<Option<Live>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Ok(Some(Live::Unreadable)),
    };
    let unlocked = lock::try_exclusive(&file).map_err(|source| StoreError::Read {
        path: path.to_owned(),
        source,
    })?;
    let content = fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice::<LeaseContent>(&text).ok());
    let holder = content.as_ref().and_then(|content| content.holder.as_ref());
    // A program may have closed the descriptor that it inherited; it uses the layers all the same.
    if unlocked && !holder.is_some_and(Holder::is_alive) {
        super::staging::remove(path)?;
        return Ok(None);
    }
    Ok(Some(content.map_or(Live::Unreadable, Live::Keeps)))
}

impl Lease {
    /// Ends the lease.
    pub fn end(mut self) -> Result<(), StoreError> {
        self.let_go()
    }

    /// The file goes before the lock: while it is there, its name is taken.
    fn let_go(&mut self) -> Result<(), StoreError> {
        let Some(_lock) = self.file.take() else { return Ok(()) };
        super::staging::remove(&self.path)
    }

    /// Lets the lease live on in the program that this process becomes by `exec`; it ends when that program does.
    pub fn outlive_exec(mut self) -> Result<(), StoreError> {
        let Some(file) = &self.file else { return Ok(()) };
        rustix::io::fcntl_setfd(file, FdFlags::empty()).map_err(|errno| StoreError::Lock {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        // The descriptor is given away on purpose: closing it would end the lease.
        let _ = self.file.take().map(std::os::fd::IntoRawFd::into_raw_fd);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::warn!(path = %self.path.display(), %error, "a lease is left; garbage collection will find it");
        }
    }
}
