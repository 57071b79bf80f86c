//! What all downloads share: connections besides each one's first, and memory for what those bring before its turn.
//! Never waits for either: whoever holds one may be waiting itself.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lane;
use crate::options::Options;

/// How many more connections there may be, and how many more bytes.
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
    pub(super) fn take(&self, bytes: u64) -> Option<lane::Ahead> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let memory = self.memory.clone().try_acquire_many_owned(bytes).ok()?;
        self.take_with(memory)
    }

    /// A connection for memory that was taken before.
    pub(super) fn take_with(&self, memory: OwnedSemaphorePermit) -> Option<lane::Ahead> {
        let connection = self.connection()?;
        Some(lane::Ahead { memory, connection })
    }

    /// A connection alone.
    pub(super) fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }
}
