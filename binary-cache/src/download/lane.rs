//! A stretch that a task of its own reads into a queue.
//! Never outlives whoever listens; never holds more than its queue.

use std::{
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        mpsc::{Receiver, Sender, channel},
    },
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use super::{
    ahead::Place,
    join::{Joined, PIECE},
    share::Left,
    stretch::{Item, Stretch},
    width::PERIOD,
};
use crate::fault::Fault;

/// Pieces that wait in the queue of a stretch that is being handed out: enough that the network does not stop.
const HANDED_OUT: usize = 2;
/// Besides its pieces the queue of a stretch read ahead takes its beginning, its fault, a first and a last piece of any size.
const BESIDES: usize = 4;
/// How long a piece may wait to be joined by more where the queue is empty.
const LINGER: Duration = Duration::from_millis(50);

/// A stretch under way.
pub(super) struct Lane {
    /// Byte of the file that it began with.
    from: u64,
    /// Byte of the file behind the last that is wanted of it; `None` where it reads to the end.
    pub(super) to: Option<u64>,
    /// Whether it was asked for with an end.
    part: bool,
    pieces: Receiver<Result<Item, Fault>>,
    task: AbortHandle,
    began: Instant,
    reading: Arc<Reading>,
    /// The source that was asked last.
    asked: Arc<AtomicUsize>,
    /// The memory that it may take before its turn.
    memory: Option<OwnedSemaphorePermit>,
}

/// What a lane and its task tell each other.
struct Reading {
    /// Bytes that have arrived.
    arrived: AtomicU64,
    /// Bytes after which the task ends: what follows is read elsewhere.
    enough: AtomicU64,
    ended: OnceLock<Instant>,
}

impl Lane {
    /// Begins to read at byte `from`. `ahead`: for a stretch that is read before its turn.
    pub(super) fn begin(
        tasks: &mut JoinSet<()>,
        stretch: Stretch,
        (from, to): (u64, Option<u64>),
        ahead: Option<Place>,
    ) -> Self {
        let (memory, connection) = ahead.map(|ahead| (ahead.memory, ahead.connection)).unzip();
        let capacity = memory
            .as_ref()
            .map_or(HANDED_OUT, |memory| memory.num_permits() / PIECE + BESIDES);
        let (sender, pieces) = channel(capacity);
        let reading = Arc::new(Reading {
            arrived: AtomicU64::new(0),
            enough: AtomicU64::new(to.map_or(u64::MAX, |to| to.saturating_sub(from))),
            ended: OnceLock::new(),
        });
        let (told, began) = (reading.clone(), Instant::now());
        let (asked, early) = (stretch.asked(), memory.is_some());
        let task = tasks.spawn(async move {
            match early {
                true => read_early(stretch, sender, &told).await,
                false => read(stretch, sender, &told).await,
            }
            let _once = told.ended.set(Instant::now());
            drop(connection);
        });
        // Ended tasks are let go of now and then.
        while tasks.try_join_next().is_some() {}
        Self {
            from,
            to,
            part: to.is_some(),
            pieces,
            task,
            began,
            reading,
            asked,
            memory,
        }
    }

    /// The next piece; `None` at the end of the stretch.
    pub(super) async fn next(&mut self) -> Option<Result<Item, Fault>> {
        self.pieces.recv().await
    }

    /// Number of the source that was asked last.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether no more than the stretch was asked for.
    pub(super) fn is_part(&self) -> bool {
        self.part
    }

    /// Whether all of it has arrived, or it has failed.
    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Bytes a second, while it was read; nothing where that was too short to say.
    pub(super) fn rate(&self) -> Option<f64> {
        let age = self.age();
        (age >= PERIOD).then(|| self.arrived() as f64 / age.as_secs_f64())
    }

    /// How long it has been read, or was.
    pub(super) fn age(&self) -> Duration {
        let until = self.reading.ended.get().copied().unwrap_or_else(Instant::now);
        until.duration_since(self.began)
    }

    /// What it still lacks; `None` where nobody knows.
    pub(super) fn left(&self) -> Option<Left> {
        let arrived = self.arrived();
        let bytes = self.to?.saturating_sub(self.from.saturating_add(arrived));
        Some(Left {
            bytes: if self.is_finished() { 0 } else { bytes },
            arrived,
            age: self.age(),
        })
    }

    /// Bytes of the whole stretch; `None` where nobody knows.
    pub(super) fn length(&self) -> Option<u64> {
        self.to.map(|to| to.saturating_sub(self.from))
    }

    /// The memory that was taken for so many bytes of it; nothing where it had none.
    pub(super) fn memory_of(&mut self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.memory.as_mut()?.split(usize::try_from(bytes).ok()?)
    }

    /// Ends sooner: another lane reads what follows.
    pub(super) fn end_at(&mut self, to: u64) {
        let enough = to.saturating_sub(self.from);
        self.reading.enough.store(enough, Ordering::Relaxed);
        self.to = Some(to);
    }

    fn arrived(&self) -> u64 {
        self.reading.arrived.load(Ordering::Relaxed)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reading {
    fn is_enough(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) >= self.enough.load(Ordering::Relaxed)
    }
}

/// Reads a stretch whose turn it is: each piece as it comes.
async fn read(mut stretch: Stretch, queue: Sender<Result<Item, Fault>>, reading: &Reading) {
    while !reading.is_enough() {
        let Some(item) = stretch.next().await.transpose() else {
            return;
        };
        if let Ok(Item::Bytes(bytes)) = &item {
            reading.arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        let failed = item.is_err();
        if queue.send(item).await.is_err() || failed {
            return;
        }
    }
}

/// Reads a stretch before its turn: small pieces are joined, so that the queue holds all of it. What waits to be joined goes
/// on alone where the queue is empty, because its turn has come.
async fn read_early(mut stretch: Stretch, queue: Sender<Result<Item, Fault>>, reading: &Reading) {
    let mut joined = Joined::default();
    let is_empty = || queue.capacity() == queue.max_capacity();
    while !reading.is_enough() {
        let item = {
            let mut next = pin!(stretch.next());
            loop {
                tokio::select! {
                    biased;
                    item = &mut next => break item.transpose(),
                    () = sleep(LINGER), if !joined.is_empty() => {}
                }
                if is_empty() && !send(&queue, joined.take()).await {
                    return;
                }
            }
        };
        let ready = match item {
            Some(Ok(Item::Bytes(bytes))) => {
                reading.arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                joined.push(bytes)
            }
            Some(Ok(Item::Began(began))) => {
                if queue.send(Ok(Item::Began(began))).await.is_err() {
                    return;
                }
                None
            }
            Some(Err(fault)) => {
                if send(&queue, joined.take()).await {
                    let _gone = queue.send(Err(fault)).await.is_err();
                }
                return;
            }
            None => break,
        };
        if !send(&queue, ready).await {
            return;
        }
    }
    send(&queue, joined.take()).await;
}

/// Queues the bytes, if there are any; false where nobody listens any more.
async fn send(queue: &Sender<Result<Item, Fault>>, bytes: Option<Bytes>) -> bool {
    match bytes {
        Some(bytes) => queue.send(Ok(Item::Bytes(bytes))).await.is_ok(),
        None => true,
    }
}
