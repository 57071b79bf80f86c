//! Advisory locks on files: they order processes and threads, and end with the descriptor, so a crash leaves none.
//! Never guards anything by the mere existence of a file.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::FlockOperation;

use super::StoreError;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Locked {
    _file: File,
}

/// Takes the lock of `path` together with other sharers; waits for an exclusive holder.
pub(crate) fn shared(path: &Path) -> Result<Locked, StoreError> {
    take(path, FlockOperation::LockShared)
}

/// Takes the lock of `path` alone; waits for everyone else.
pub(crate) fn exclusive(path: &Path) -> Result<Locked, StoreError> {
    take(path, FlockOperation::LockExclusive)
}

fn take(path: &Path, operation: FlockOperation) -> Result<Locked, StoreError> {
    let file = open(path).map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })?;
    match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
        Ok(()) => Ok(Locked { _file: file }),
        Err(errno) => Err(StoreError::Lock {
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Takes the lock of an open file or folder alone if nobody holds it.
pub(crate) fn try_exclusive(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a lock file, creating it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}
