//! The compressions a NAR may be downloaded in.
//! Never lets a compressed file choose how much memory its decoder takes, and never swallows its checksum's verdict.

mod codec;
mod decode;
mod encode;
mod window;

use std::{fmt, io, str::FromStr};

pub use self::decode::{decoder, parallel_decoder};
pub use self::encode::Encoder;
pub(crate) use self::window::{LARGEST_HEAD, ORDINARY_WINDOW, Window, block, window};

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

/// Largest window or dictionary that a decoder may ask for, in bytes: `xz -9` takes 64 MiB, `zstd --ultra -22` 128 MiB.
pub const MAX_WINDOW: u64 = 128 << 20;

/// Why compressed bytes could not be decoded. Travels inside an [`io::Error`]; [`DecodeError::of`] finds it there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0} stream ends early")]
    Truncated(Compression),
    #[error("not {compression}{}", looks_like.map(|what| format!("; looks like {what}")).unwrap_or_default())]
    WrongFormat {
        compression: Compression,
        looks_like: Option<&'static str>,
    },
    #[error("{0} stream is corrupt")]
    Corrupt(Compression),
    #[error("bytes behind the end of the {0} stream")]
    TrailingBytes(Compression),
    #[error("{compression} stream asks for more memory than a window of {limit} bytes takes")]
    WindowTooLarge { compression: Compression, limit: u64 },
    #[error(
        "a later part of the {compression} stream needs a larger window than the {taken} bytes that its first part did"
    )]
    WindowGrows { compression: Compression, taken: u64 },
    #[error("zstd frame needs a dictionary")]
    Dictionary,
    #[error("{compression} stream is more than {limit} bytes larger than what it decodes to")]
    Padding { compression: Compression, limit: u64 },
    #[error("no memory for the {0} decoder")]
    NoMemory(Compression),
}

impl DecodeError {
    /// The decoder's error inside `error`, if it came from a decoder and not from the source of the bytes.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        let kind = match error {
            DecodeError::Truncated(_) => io::ErrorKind::UnexpectedEof,
            DecodeError::NoMemory(_) => io::ErrorKind::OutOfMemory,
            DecodeError::WrongFormat { .. }
            | DecodeError::Corrupt(_)
            | DecodeError::TrailingBytes(_)
            | DecodeError::WindowTooLarge { .. }
            | DecodeError::WindowGrows { .. }
            | DecodeError::Dictionary
            | DecodeError::Padding { .. } => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Names what `head`, the first bytes of something, look like; for error messages.
pub fn looks_like(head: &[u8]) -> Option<&'static str> {
    const SIGNS: [(&[u8], &str); 8] = [
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x1f\x8b", "gzip"),
        (b"BZh", "bzip2"),
        (b"\x0d\0\0\0\0\0\0\0nix-arch", "a NAR"),
        (b"<", "a web page"),
        (b"{", "JSON"),
        (b"\x5d\0\0", "lzma"),
    ];
    SIGNS
        .iter()
        .find(|(sign, _)| head.starts_with(sign))
        .map(|(_, name)| *name)
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

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;
    fn from_str(word: &str) -> Result<Self, UnknownCompression> {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or(UnknownCompression)
    }
}
