//! One compressed file as it arrives: counted, hashed, and known by its first bytes before the rest of it is read.
//! Never holds more of it than its head.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Progress;
use crate::{
    compression::{Compression, Window, window},
    download::Download,
    fault::Fault,
    hash::FileHash,
};

/// A download with its books.
pub(super) struct Incoming<'a> {
    download: Download<'a>,
    progress: &'a dyn Progress,
    wanted: Option<FileHash>,
    hasher: Option<Sha256>,
    /// What was read to learn the window, and is not handed out yet.
    head: Vec<Bytes>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(download: Download<'a>, wanted: Option<FileHash>, progress: &'a dyn Progress) -> Self {
        Self {
            download,
            progress,
            wanted,
            hasher: wanted.map(|_| Sha256::new()),
            head: Vec::new(),
        }
    }

    /// Reads as much as tells which window the decoder will need; `None` where the stream does not say.
    pub(super) async fn window(&mut self, compression: Compression) -> Result<Option<u64>, Fault> {
        let mut seen = Vec::new();
        loop {
            match window(compression, &seen) {
                Window::Bytes(bytes) => return Ok(Some(bytes)),
                Window::Unsaid => return Ok(None),
                Window::Undecided => {}
            }
            let Some(chunk) = self.read().await? else {
                return Ok(None);
            };
            seen.extend_from_slice(&chunk);
            self.head.push(chunk);
        }
    }

    /// Gives up the connection, where the rest can be had over another one: a reader that waits keeps others of its
    /// connection from being read.
    pub(super) fn pause(&mut self) {
        self.download.pause();
    }

    /// Bytes that have arrived.
    pub(super) fn received(&self) -> u64 {
        self.download.received()
    }

    /// The next bytes; `None` at the end of a file that is what was announced.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if !self.head.is_empty() {
            return Ok(Some(self.head.remove(0)));
        }
        if let Some(chunk) = self.read().await? {
            return Ok(Some(chunk));
        }
        if let (Some(wanted), Some(hasher)) = (self.wanted, self.hasher.take()) {
            let found = FileHash::from(hasher.finalize());
            if found != wanted {
                return Err(Fault::FileHash { wanted, found });
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Fault> {
        let chunk = self.download.chunk(&|fault| self.progress.retried(fault)).await?;
        if let Some(chunk) = &chunk {
            self.progress.downloaded(chunk.len() as u64);
            if let Some(hasher) = &mut self.hasher {
                hasher.update(chunk);
            }
        }
        Ok(chunk)
    }
}
