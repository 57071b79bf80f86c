//! How callers watch a substitution.
//! Never blocks: implementations are called from the network task and from the unpacking thread, often.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::Fault;

/// What happens during [`crate::substitute::Substituter::substitute`]. All methods do nothing by default.
pub trait Progress: Send + Sync {
    /// The cache of this name is asked for the bytes now.
    fn source(&self, cache: &str) {
        let _ = cache;
    }
    /// So many compressed bytes more have arrived.
    fn downloaded(&self, bytes: u64) {
        let _ = bytes;
    }
    /// So many bytes more of the NAR have been unpacked.
    fn unpacked(&self, bytes: u64) {
        let _ = bytes;
    }
    /// A connection failed and the download goes on from where it was.
    fn retried(&self, fault: &Fault) {
        let _ = fault;
    }
    /// What was unpacked so far is discarded; the next cache begins anew, if there is one.
    fn restarted(&self, fault: &Fault) {
        let _ = fault;
    }
}

/// Nobody watches.
impl Progress for () {}

/// Sums over all substitutions that share it.
#[derive(Debug, Default)]
pub struct Counters {
    pub downloaded: AtomicU64,
    pub unpacked: AtomicU64,
    pub retries: AtomicU64,
    pub restarts: AtomicU64,
}

impl Progress for Counters {
    fn downloaded(&self, bytes: u64) {
        self.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }
    fn unpacked(&self, bytes: u64) {
        self.unpacked.fetch_add(bytes, Ordering::Relaxed);
    }
    fn retried(&self, _: &Fault) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
    fn restarted(&self, _: &Fault) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }
}
