//! A stretch that a task of its own reads into a queue.
//! Never outlives whoever listens; never holds more than its queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{
        OwnedSemaphorePermit,
        mpsc::{Receiver, Sender, channel},
    },
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::stretch::{Item, Stretch};
use crate::fault::Fault;

/// Pieces that wait in the queue of a stretch that is being handed out: enough that the network does not stop.
const HANDED_OUT: usize = 2;
/// Smallest piece that the queue of a stretch read ahead is laid out for. Smaller ones only make it wait for its turn.
const SMALLEST_PIECE: usize = 2 << 10;

/// A stretch under way.
pub(super) struct Lane {
    /// Byte of the file behind the last that is wanted of it; `None` where it reads to the end.
    pub(super) to: Option<u64>,
    /// Whether it was asked for with that end.
    part: bool,
    pieces: Receiver<Result<Item, Fault>>,
    task: AbortHandle,
    began: Instant,
    /// Bytes that have arrived.
    arrived: Arc<AtomicU64>,
    /// The memory that it may take before its turn, and its place among the connections.
    _ahead: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Lane {
    /// Begins to read. `ahead`, for a stretch that is read before its turn: its bytes, and its connection.
    pub(super) fn begin(
        tasks: &mut JoinSet<()>,
        stretch: Stretch,
        to: Option<u64>,
        ahead: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    ) -> Self {
        let capacity = ahead
            .as_ref()
            .map_or(HANDED_OUT, |(memory, _)| memory.num_permits() / SMALLEST_PIECE);
        let (sender, pieces) = channel(capacity.max(HANDED_OUT));
        let arrived = Arc::new(AtomicU64::new(0));
        let task = tasks.spawn(read(stretch, sender, arrived.clone()));
        // Ended tasks are let go of now and then.
        while tasks.try_join_next().is_some() {}
        Self {
            to,
            part: to.is_some(),
            pieces,
            task,
            began: Instant::now(),
            arrived,
            _ahead: ahead,
        }
    }

    /// The next piece; `None` at the end of the stretch.
    pub(super) async fn next(&mut self) -> Option<Result<Item, Fault>> {
        self.pieces.recv().await
    }

    /// Whether no more than the stretch was asked for.
    pub(super) fn is_part(&self) -> bool {
        self.part
    }

    /// Whether all of it has arrived, or it has failed.
    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Bytes a second, since it began.
    pub(super) fn rate(&self) -> f64 {
        self.arrived.load(Ordering::Relaxed) as f64 / self.age().as_secs_f64().max(0.001)
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(mut stretch: Stretch, queue: Sender<Result<Item, Fault>>, arrived: Arc<AtomicU64>) {
    loop {
        let item = match stretch.next().await {
            Ok(None) => return,
            Ok(Some(item)) => Ok(item),
            Err(fault) => Err(fault),
        };
        if let Ok(Item::Bytes(bytes)) = &item {
            arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        let failed = item.is_err();
        if queue.send(item).await.is_err() || failed {
            return;
        }
    }
}
