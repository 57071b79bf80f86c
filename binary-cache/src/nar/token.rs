//! The bytes of a NAR, token by token: counted, hashed, bounded.
//! Never reads beyond one byte more than the NAR may have, and never allocates by a length it has read.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::{
    Limits, MAGIC, NarError,
    beside::{Beside, Work},
    blocks::{self, Blocks, Piece},
    pages::PAGE,
};
use crate::{
    compression::{DecodeError, looks_like},
    hash::NarHash,
};

/// Longest keyword of the format is `nix-archive-1`; anything longer than this is none.
const MAX_TAG_LEN: u64 = 32;

/// Why a bounded string was not read.
pub(super) enum StringError {
    TooLong(u64),
    Nar(NarError),
}

impl From<NarError> for StringError {
    fn from(error: NarError) -> Self {
        Self::Nar(error)
    }
}

/// Reads tokens out of a stream.
pub(super) struct Tokens<R> {
    source: R,
    buffer: Blocks,
    /// The part of the current block that is read but not yet taken.
    start: usize,
    end: usize,
    /// Bytes of the NAR taken so far.
    offset: u64,
    nar_size: u64,
    hashing: Beside<Sha256>,
}

impl<R: Read> Tokens<R> {
    pub(super) fn new(source: R, limits: &Limits) -> Self {
        let buffer = Blocks::new(limits.nar_size);
        let hash: Work<Sha256> = |hasher, bytes| {
            hasher.update(bytes);
            Ok(())
        };
        Self {
            source,
            hashing: buffer.work(Sha256::new(), hash),
            buffer,
            start: 0,
            end: 0,
            offset: 0,
            nar_size: limits.nar_size,
        }
    }

    /// Bytes that may still come.
    pub(super) fn left(&self) -> u64 {
        self.nar_size.saturating_sub(self.offset)
    }

    /// The first token. Anything else than a NAR is named where its first bytes tell.
    pub(super) fn magic(&mut self) -> Result<(), NarError> {
        let wanted = encode(MAGIC);
        match self.need(wanted.len()) {
            Ok(()) | Err(NarError::Truncated { .. } | NarError::OverNarSize { .. }) => {}
            Err(error) => return Err(error),
        }
        let found = &self.buffer[self.start..self.end];
        let same = found.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
        if same < wanted.len().min(found.len()) {
            return Err(NarError::BadMagic {
                looks_like: looks_like(found),
            });
        }
        self.need(wanted.len())?;
        self.take(wanted.len());
        Ok(())
    }

    /// The token `tag`, and no other.
    pub(super) fn expect(&mut self, tag: &'static str) -> Result<(), NarError> {
        self.one_of(&[tag], tag).map(|_| ())
    }

    /// One of the tokens `tags`: which. `expected` words the choice for the error.
    pub(super) fn one_of(&mut self, tags: &[&str], expected: &'static str) -> Result<usize, NarError> {
        let offset = self.offset;
        let found = match self.string(MAX_TAG_LEN) {
            Ok(bytes) => tags.iter().position(|tag| tag.as_bytes() == bytes),
            Err(StringError::TooLong(_)) => None,
            Err(StringError::Nar(error)) => return Err(error),
        };
        found.ok_or(NarError::BadTag { offset, expected })
    }

    /// A string of at most `max` bytes (less than the buffer); the length is checked before anything is read for it.
    pub(super) fn string(&mut self, max: u64) -> Result<&[u8], StringError> {
        let length = self.number()?;
        if length > max {
            return Err(StringError::TooLong(length));
        }
        let padding = padding_of(length);
        // `max` is far below the buffer's size, so this cannot fail.
        let length = usize::try_from(length).map_err(|_| StringError::TooLong(length))?;
        self.need(length + padding)?;
        let text = self.start..self.start + length;
        let behind = self.offset + length as u64;
        if self.buffer[text.end..text.end + padding].iter().any(|byte| *byte != 0) {
            return Err(NarError::BadPadding { offset: behind }.into());
        }
        self.take(length + padding);
        Ok(&self.buffer[text])
    }

    /// A length.
    pub(super) fn number(&mut self) -> Result<u64, NarError> {
        self.need(8)?;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.buffer[self.start..self.start + 8]);
        self.take(8);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Makes the contents that begin here begin at a page of the buffer, and so every whole piece of them.
    pub(super) fn begin_page(&mut self) {
        if !self.start.is_multiple_of(PAGE) {
            self.move_to_front();
        }
    }

    /// Work on pieces of contents: beside, where the NAR is worth it.
    pub(super) fn work<State: Send + 'static>(&self, state: State, work: Work<State>) -> Beside<State> {
        self.buffer.work(state, work)
    }

    /// The next bytes of contents of which `left` are missing: all of them, or half a buffer at least.
    pub(super) fn chunk(&mut self, left: u64) -> Result<Piece, NarError> {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        if self.end - self.start < wanted.min(blocks::SIZE / 2) {
            self.need(wanted.min(blocks::SIZE))?;
        }
        let length = match self.end - self.start {
            enough if enough >= wanted => wanted,
            // Whole pages, so that the next piece begins at one.
            part => part - part % PAGE,
        };
        let chunk = self.start..self.start + length;
        self.take(length);
        Ok(self.buffer.piece(chunk))
    }

    /// The zero bytes behind contents of `length` bytes.
    pub(super) fn padding(&mut self, length: u64) -> Result<(), NarError> {
        let padding = padding_of(length);
        self.need(padding)?;
        if self.buffer[self.start..self.start + padding]
            .iter()
            .any(|byte| *byte != 0)
        {
            return Err(NarError::BadPadding { offset: self.offset });
        }
        self.take(padding);
        Ok(())
    }

    /// The end: no byte may follow. Only here do checksums of a compressed source speak. Hash and size of the whole.
    pub(super) fn finish(mut self) -> Result<(NarHash, u64), NarError> {
        let offset = self.offset;
        if self.start < self.end {
            return Err(NarError::TrailingBytes { offset });
        }
        self.make_room(1);
        if self.fill()? > 0 {
            return Err(NarError::TrailingBytes { offset });
        }
        let hasher = self.hashing.finish();
        let hasher = hasher.map_err(|source| NarError::Read { offset, source })?;
        Ok((hasher.finalize().into(), offset))
    }

    fn take(&mut self, length: usize) {
        self.start += length;
        self.offset += length as u64;
    }

    /// Makes `length` bytes (at most the buffer's size) available at `start`.
    fn need(&mut self, length: usize) -> Result<(), NarError> {
        self.fill_to(length)?;
        if self.left() < length as u64 {
            return Err(NarError::OverNarSize {
                nar_size: self.nar_size,
            });
        }
        Ok(())
    }

    fn fill_to(&mut self, length: usize) -> Result<(), NarError> {
        if self.end - self.start >= length {
            return Ok(());
        }
        self.make_room(length);
        let read = self.end;
        while self.end - self.start < length {
            if self.fill()? == 0 {
                return Err(match self.read_so_far() > self.nar_size {
                    true => NarError::OverNarSize {
                        nar_size: self.nar_size,
                    },
                    false => NarError::Truncated {
                        offset: self.read_so_far(),
                    },
                });
            }
        }
        // Whatever is read is taken, or the NAR is refused: hashing it here hashes it in large pieces.
        let offset = self.offset;
        let hashed = self.hashing.push(self.buffer.piece(read..self.end));
        hashed.map_err(|source| NarError::Read { offset, source })
    }

    fn read_so_far(&self) -> u64 {
        self.offset + (self.end - self.start) as u64
    }

    /// Makes room for `length` bytes at `start`, in a block that may be filled.
    fn make_room(&mut self, length: usize) {
        let nothing = self.start == self.end;
        let little = self.start >= blocks::SIZE / 2 || self.start + length > self.buffer.len();
        if nothing || little || !self.buffer.is_free() {
            self.move_to_front();
        }
    }

    fn move_to_front(&mut self) {
        self.buffer.begin_with(self.start..self.end);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Reads once, at most up to one byte above the NAR's size; 0 at the end of the source, or of what may be read.
    fn fill(&mut self) -> Result<usize, NarError> {
        let allowed = self.nar_size.saturating_add(1).saturating_sub(self.read_so_far());
        let room = usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len() - self.end);
        if room == 0 {
            return Ok(0);
        }
        let space = &mut self.buffer.fillable()[self.end..self.end + room];
        let read = loop {
            match self.source.read(space) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = read.map_err(|source| {
            let offset = self.offset + (self.end - self.start) as u64;
            match DecodeError::of(&source) {
                Some(error) => NarError::Decode {
                    offset,
                    source: error.clone(),
                },
                None => NarError::Read { offset, source },
            }
        })?;
        self.end += read;
        Ok(read)
    }
}

/// `text` as a token.
fn encode(text: &[u8]) -> Vec<u8> {
    let mut token = Vec::with_capacity(16 + text.len());
    put(&mut token, text);
    token
}

/// Appends `text` as a token.
pub(super) fn put(buffer: &mut Vec<u8>, text: &[u8]) {
    buffer.extend((text.len() as u64).to_le_bytes());
    buffer.extend(text);
    buffer.extend(&[0; 8][..padding_of(text.len() as u64)]);
}

/// Zero bytes behind `length` bytes, up to the next multiple of eight.
pub(super) fn padding_of(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}
