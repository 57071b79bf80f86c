//! The memory that the decoders of all downloads share.
//! Never lets a download hold a part of it while it waits for more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{compression::MAX_WINDOW, fault::Fault};

/// Bytes of windows that may be in use at once; handed out in the order of asking.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    free: Arc<Semaphore>,
    all: u64,
    largest: u64,
}

/// A window that may be in use until this is dropped.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) bytes: u64,
    /// Whether a stream that asked for more to begin with could have had it.
    pub(super) is_largest: bool,
    /// What the decoder may hold besides of blocks that it decodes ahead, on other cores.
    pub(super) ahead: u64,
    /// Given back with this.
    held: Vec<OwnedSemaphorePermit>,
}

impl Windows {
    pub(super) fn new(bytes: u64) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Self {
            free: Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS))),
            all: bytes.into(),
            largest: MAX_WINDOW.min(1 << bytes.ilog2()),
        }
    }

    /// The largest window that one download may have, a power of two.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    /// A window of so many bytes, at most [`Windows::largest`]; `waiting` is called where it is not free yet.
    pub(super) async fn take(&self, bytes: u64, waiting: impl FnOnce()) -> Result<Granted, Fault> {
        let bytes = bytes.min(self.largest);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let held = if let Ok(held) = self.free.clone().try_acquire_many_owned(permits) {
            held
        } else {
            waiting();
            let taken = self.free.clone().acquire_many_owned(permits).await;
            taken.map_err(|_never_closed| Fault::Cancelled)?
        };
        Ok(Granted {
            bytes,
            is_largest: bytes == self.largest,
            ahead: 0,
            held: vec![held],
        })
    }

    /// Adds memory for decoding on all `cores`, where half of all is still free afterwards: blocks of `block` bytes each.
    /// One core needs none.
    pub(super) fn spread(&self, granted: &mut Granted, block: u64, cores: usize) {
        let ahead = block.saturating_mul(cores as u64);
        let Ok(permits) = u32::try_from(ahead) else { return };
        let half = self.all / 2;
        if cores < 2 || self.free.available_permits() as u64 <= half.saturating_add(ahead) {
            return;
        }
        if let Ok(held) = self.free.clone().try_acquire_many_owned(permits) {
            granted.ahead = ahead;
            granted.held.push(held);
        }
    }
}
