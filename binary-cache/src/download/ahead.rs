//! What all downloads share: connections besides each one's first, and memory for what comes before its turn.
//! Never waits: where either is used up, a download goes on with what it has.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::options::Options;

/// What all downloads share: how many connections there may be besides each one's first, and the memory for what they
/// bring before its turn.
#[derive(Debug, Clone)]
pub(crate) struct Ahead {
    connections: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

impl Ahead {
    pub(crate) fn new(options: &Options) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            connections: permits(options.more_connections),
            memory: permits(options.read_ahead),
        }
    }

    /// A connection, and memory for so many bytes; nothing where either is used up.
    pub(super) fn take(&self, bytes: u64) -> Option<Place> {
        let (memory, connection) = (self.memory(bytes)?, self.connection()?);
        Some(Place { memory, connection })
    }

    /// Memory for so many bytes.
    pub(super) fn memory(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.memory.clone().try_acquire_many_owned(bytes).ok()
    }

    /// A connection.
    pub(super) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }
}

/// What a stretch that is read before its turn takes from all downloads.
pub(super) struct Place {
    /// As many bytes as it may hold.
    pub(super) memory: OwnedSemaphorePermit,
    /// Among the connections, until it has ended.
    pub(super) connection: OwnedSemaphorePermit,
}
