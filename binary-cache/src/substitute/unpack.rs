//! One NAR from one cache into one folder: the network task feeds a bounded queue, a thread decompresses, hashes, writes.
//! Never leaves a tree behind that was not verified to its last byte.

use std::{
    io::{self, Read},
    num::NonZero,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    thread::available_parallelism,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    task::spawn_blocking,
    time::timeout,
};

use super::{Inner, Progress, Target, incoming::Incoming, windows::Granted};
use crate::{
    compression::{self, Compression, DecodeError, ORDINARY_WINDOW},
    download::{Download, Wanted},
    fault::{Class, Fault},
    nar::{self, Limits, NarError},
    narinfo::VerifiedNarInfo,
    source::Source,
};

/// The parts of one try.
pub(super) struct Unpack<'a> {
    pub(super) inner: &'a Inner,
    pub(super) narinfo: &'a Arc<VerifiedNarInfo>,
    pub(super) source: &'a Source,
    pub(super) target: &'a Target,
    pub(super) progress: &'a Arc<dyn Progress>,
}

/// What the queue carries. A queue that ends without `End` was abandoned.
enum Piece {
    Data(Bytes),
    End,
}

impl Unpack<'_> {
    /// Downloads and unpacks; the first fault of either side that is not a consequence of the other's.
    pub(super) async fn run(&self) -> Result<(), Fault> {
        let mut file = Incoming::new(self.download()?, self.progress.as_ref());
        let window = self.window(&mut file).await?;
        let (sender, receiver) = channel(self.inner.options.queued_chunks.max(1));
        let (narinfo, target, progress) = (self.narinfo.clone(), self.target.clone(), self.progress.clone());
        let thread = spawn_blocking(move || unpack(receiver, &narinfo, &target, &progress, window));
        let (fed, unpacked) = tokio::join!(self.feed_in_time(&mut file, sender), thread);
        let unpacked = unpacked.unwrap_or(Err(Fault::Cancelled));
        match (fed, unpacked) {
            // Our disk failed while the download went on or broke: no other cache helps.
            (_, Err(fault)) if fault.class() == Class::Local && !matches!(fault, Fault::Cancelled) => Err(fault),
            (Err(fault), _) | (Ok(()), Err(fault)) => Err(fault),
            (Ok(()), Ok(())) => Ok(()),
        }
    }

    /// Waits until the decoder may have the window that the stream begins with, an ordinary one at least.
    ///
    /// Taken once: a download that held a part and waited for more could wait for another that does the same. So later
    /// members of the stream must do with what the first one got, and an ordinary window is enough for most of them.
    async fn window(&self, file: &mut Incoming<'_>) -> Result<Granted, Fault> {
        let compression = self.narinfo.download().compression;
        let limit = self.inner.windows.largest();
        let ordinary = ORDINARY_WINDOW.min(limit);
        let asked = timeout(self.inner.options.download_timeout, file.window(compression)).await;
        let bytes = match asked.map_err(|_elapsed| self.late(file))?? {
            Some(0) => 0,
            Some(bytes) => bytes.max(ordinary),
            None => ordinary,
        };
        // Decoders count in powers of two.
        let Some(bytes) = bytes.checked_next_power_of_two().filter(|bytes| *bytes <= limit) else {
            let source = DecodeError::WindowTooLarge { compression, limit };
            return Err(Fault::of_nar(NarError::Decode { offset: 0, source }));
        };
        let mut granted = self.inner.windows.take(bytes, || file.pause()).await?;
        if let Some(block) = file.block(compression) {
            let cores = available_parallelism().map_or(1, NonZero::get);
            self.inner.windows.spread(&mut granted, block, cores);
        }
        Ok(granted)
    }

    fn late(&self, file: &Incoming<'_>) -> Fault {
        Fault::DownloadTimeout {
            limit: self.inner.options.download_timeout,
            received: file.received(),
        }
    }

    fn download(&self) -> Result<Download<'_>, Fault> {
        let hints = self.narinfo.download();
        let nar_size = self.narinfo.nar_size();
        let limit = largest_file(nar_size);
        if let Some(file_size) = hints.file_size.filter(|size| *size > limit) {
            return Err(Fault::ImplausibleFileSize { file_size, nar_size });
        }
        let now = self.inner.options.clock.now();
        let mut sources: Vec<Arc<Source>> = self
            .inner
            .sources
            .iter()
            .filter(|s| s.cache == self.source.cache && (s.id == self.source.id || s.conduct().rest(now).is_none()))
            .cloned()
            .collect();
        sources.sort_by_key(|s| s.id != self.source.id);
        let wanted = Wanted {
            path: self.narinfo.store_path().clone(),
            location: hints.url.as_str().to_owned(),
            size: hints.file_size,
            limit,
        };
        Ok(Download::new(
            (&self.inner.transport, &self.inner.options),
            &self.inner.ahead,
            sources,
            wanted,
            self.progress.clone(),
        ))
    }

    /// Feeds for as long as one download may take; dropping the queue then stops the thread.
    async fn feed_in_time(&self, file: &mut Incoming<'_>, queue: Sender<Piece>) -> Result<(), Fault> {
        let fed = timeout(self.inner.options.download_timeout, feed(file, queue)).await;
        fed.unwrap_or_else(|_elapsed| Err(self.late(file)))
    }
}

/// Moves the file into the queue; ends early, without a fault, where the thread has stopped.
async fn feed(file: &mut Incoming<'_>, queue: Sender<Piece>) -> Result<(), Fault> {
    loop {
        let next = tokio::select! {
            biased;
            () = queue.closed() => return Ok(()),
            next = file.next() => next?,
        };
        let Some(chunk) = next else { break };
        if queue.send(Piece::Data(chunk)).await.is_err() {
            return Ok(());
        }
    }
    // A thread that has stopped tells why by itself.
    let _gone = queue.send(Piece::End).await.is_err();
    Ok(())
}

/// Largest compressed size that is believed: no format in use makes anything a sixteenth larger.
fn largest_file(nar_size: u64) -> u64 {
    nar_size.saturating_add(nar_size / 16).saturating_add(1 << 20)
}

/// The thread's part. Whatever goes wrong, nothing is left at `target`. The window is given back with the decoder.
fn unpack(
    receiver: Receiver<Piece>,
    narinfo: &VerifiedNarInfo,
    target: &Target,
    progress: &Arc<dyn Progress>,
    window: Granted,
) -> Result<(), Fault> {
    let queue = Queue(Arc::new(Mutex::new(QueueState {
        receiver,
        current: Bytes::new(),
        ended: false,
    })));
    let compression = narinfo.download().compression;
    let decoder = compression::parallel_decoder(compression, queue.clone(), window.bytes, window.ahead)
        .map_err(|source| Fault::of_nar(NarError::Decode { offset: 0, source }))?;
    let counted = Counted {
        inner: decoder,
        progress: progress.as_ref(),
    };
    nar::restore(counted, target.parent.as_fd(), &target.name, &Limits::exactly(narinfo))
        .map_err(|error| nar_fault(grown(error, &window)))?;
    drop(window);
    let finished = queue.finish();
    if finished.is_err() {
        // The tree is good as a NAR, but the file it came in is not what was announced.
        nar::remove_tree(target.parent.as_fd(), &target.name).map_err(|error| {
            tracing::warn!(error = %error, "a refused tree could not be removed");
            Fault::Cancelled
        })?;
    }
    finished
}

/// A window that is refused although larger ones are had is one that came too late to ask for. (Brotli's decoder has one
/// bound for every stream.)
fn grown(mut error: NarError, window: &Granted) -> NarError {
    if let NarError::Decode { source, .. } = &mut error
        && let DecodeError::WindowTooLarge { compression, limit } = *source
        && limit == window.bytes
        && !window.is_largest
        && compression != Compression::Brotli
    {
        *source = DecodeError::WindowGrows {
            compression,
            taken: limit,
        };
    }
    error
}

/// The queue itself fails to be read only where it was abandoned: then the network side knows why.
fn nar_fault(error: NarError) -> Fault {
    if matches!(error, NarError::Read { .. }) {
        Fault::Cancelled
    } else {
        Fault::of_nar(error)
    }
}

/// The reading end of the queue; shared, so that its end can be seen once the decoder is done with it.
#[derive(Clone)]
struct Queue(Arc<Mutex<QueueState>>);

struct QueueState {
    receiver: Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Queue {
    /// After the NAR's end: nothing may follow, and the feeder must have been content with the file.
    fn finish(self) -> Result<(), Fault> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.current.is_empty() {
            return Err(Fault::TrailingBytes);
        }
        if state.ended {
            return Ok(());
        }
        match state.receiver.blocking_recv() {
            Some(Piece::End) => Ok(()),
            Some(Piece::Data(_)) => Err(Fault::TrailingBytes),
            None => Err(Fault::Cancelled),
        }
    }
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while state.current.is_empty() {
            if state.ended {
                return Ok(0);
            }
            match state.receiver.blocking_recv() {
                Some(Piece::Data(data)) => state.current = data,
                Some(Piece::End) => state.ended = true,
                None => return Err(io::Error::other("the download was abandoned")),
            }
        }
        let count = buffer.len().min(state.current.len());
        buffer[..count].copy_from_slice(&state.current.split_to(count));
        Ok(count)
    }
}

/// Tells the progress what passes.
struct Counted<'p, R> {
    inner: R,
    progress: &'p dyn Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.unpacked(count as u64);
        Ok(count)
    }
}
