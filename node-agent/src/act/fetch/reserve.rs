//! Room on disk, taken before the first byte comes and handed over path by path.
//! Never outlives the workspace it lies in: after a crash it is swept with it.

use std::{fs::File, io, path::PathBuf, sync::Mutex};

use rustix::{fs::FallocateFlags, io::Errno};

use super::FetchError;
use crate::{
    plan::fetch::{FetchRefusal, disk_need},
    store::{NodeStore, StoreError, Workspace},
};

/// A file of real, unwritten blocks. It shrinks as store paths need the room, so two fetches, of one process or of two,
/// cannot both count on the same free space.
#[derive(Debug)]
pub(super) struct Reservation {
    path: PathBuf,
    left: Mutex<Option<(File, u64)>>,
}

impl Reservation {
    /// Takes `bytes`. On a file system that cannot do this nothing is reserved, and a full disk is noticed later.
    pub(super) fn take(store: &NodeStore, work: &Workspace, bytes: u64) -> Result<Self, FetchError> {
        let path = work.path().join("reserved");
        let file = File::create(&path).map_err(|source| StoreError::Create {
            path: path.clone(),
            source,
        })?;
        let left = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Some((file, bytes)),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => None,
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                // Some file systems keep what they could take: that is free as well.
                file.set_len(0).map_err(|source| StoreError::Write { path, source })?;
                let free = store.free_bytes()?;
                return Err(FetchRefusal::InsufficientDisk {
                    needed: bytes,
                    free,
                    freeable: 0,
                }
                .into());
            }
            Err(errno) => {
                return Err(StoreError::Write {
                    path,
                    source: errno.into(),
                }
                .into());
            }
        };
        Ok(Self {
            path,
            left: Mutex::new(left),
        })
    }

    /// Gives back the room of one store path, to whom it is about to come.
    pub(super) fn give_back(&self, nar_size: u64) -> Result<(), StoreError> {
        let mut left = self.left.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((file, bytes)) = left.as_mut() else {
            return Ok(());
        };
        *bytes = bytes.saturating_sub(disk_need(nar_size));
        let shrunk: io::Result<()> = file.set_len(*bytes);
        shrunk.map_err(|source| StoreError::Write {
            path: self.path.clone(),
            source,
        })
    }
}
