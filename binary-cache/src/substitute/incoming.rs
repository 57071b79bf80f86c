//! One compressed file as it arrives: counted, and known by its first bytes before the rest of it is read.
//! Never holds more of it than its head.

use bytes::Bytes;

use super::Progress;
use crate::{
    compression::{Compression, LARGEST_HEAD, Window, block, window},
    download::Download,
    fault::Fault,
};

/// A download with its books.
pub(super) struct Incoming<'a> {
    download: Download<'a>,
    progress: &'a dyn Progress,
    /// What was read to learn the window, and is not handed out yet.
    head: Vec<Bytes>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(download: Download<'a>, progress: &'a dyn Progress) -> Self {
        Self {
            download,
            progress,
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

    /// What a block of it takes that is decoded ahead of its turn, where it has such blocks. Ask after
    /// [`Incoming::window`].
    pub(super) fn block(&self, compression: Compression) -> Option<u64> {
        if compression != Compression::Xz {
            return None;
        }
        let mut head: Vec<u8> = Vec::new();
        for chunk in &self.head {
            head.extend_from_slice(chunk.get(..LARGEST_HEAD).unwrap_or(chunk));
        }
        block(&head)
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

    /// The next bytes; `None` at the end of the file.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if !self.head.is_empty() {
            return Ok(Some(self.head.remove(0)));
        }
        self.read().await
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Fault> {
        let chunk = self.download.chunk().await?;
        if let Some(chunk) = &chunk {
            self.progress.downloaded(chunk.len() as u64);
        }
        Ok(chunk)
    }
}
