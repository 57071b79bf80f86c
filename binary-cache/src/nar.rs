//! NAR, the archive format of Nix: restoring one into a folder, and dumping a tree as one.
//! Never follows a link, never trusts a length, never leaves a half-restored tree behind.

mod beside;
mod blocks;
mod contents;
mod dump;
mod error;
mod metadata;
mod pages;
mod restore;
mod token;
mod tree;

pub use self::dump::{DumpError, dump};
pub use self::error::NarError;
pub use self::restore::restore;
pub use self::tree::{RemoveError, remove_tree};
use crate::{hash::NarHash, narinfo::VerifiedNarInfo};

/// What a NAR begins with, as a length-prefixed string.
const MAGIC: &[u8] = b"nix-archive-1";
/// Deepest nesting accepted by Nix since 2.34.7, and here: a file alone is 1 deep.
pub const MAX_DEPTH: usize = 64;
/// Longest name of a directory entry, in bytes.
pub const MAX_NAME_LEN: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const MAX_TARGET_LEN: usize = 4095;

/// What a NAR may be at most, and what it must be in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the NAR: reading stops one byte above.
    pub nar_size: u64,
    /// Where given, hash and size must be exactly these.
    pub nar_hash: Option<NarHash>,
    /// Deepest nesting; a file alone is 1 deep. An open descriptor is kept per level, so this is [`MAX_DEPTH`] or less.
    pub depth: usize,
}

impl Limits {
    /// The NAR that `info` is signed for, and no other.
    pub fn exactly(info: &VerifiedNarInfo) -> Self {
        Self {
            nar_size: info.nar_size(),
            nar_hash: Some(info.nar_hash()),
            depth: MAX_DEPTH,
        }
    }

    /// Any NAR of at most `nar_size` bytes.
    pub const fn at_most(nar_size: u64) -> Self {
        Self {
            nar_size,
            nar_hash: None,
            depth: MAX_DEPTH,
        }
    }
}

/// What a NAR turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    pub nar_hash: NarHash,
    /// Bytes of the NAR.
    pub nar_size: u64,
    pub regular_files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Bytes of all regular files together.
    pub file_bytes: u64,
}
