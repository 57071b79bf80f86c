//! The dynamic loader's cache of a root, `/etc/ld.so.cache`: where its distribution or its owner put libcuda.
//! Never trusts a number in it: every offset is checked against the bytes that are there, and what it names is only a
//! place to look at, below the same root.
//!
//! The format is glibc's (`dl-cache.h`): a header of 48 bytes, entries of 24, offsets of strings from the header on. Before
//! glibc 2.32 it stood behind a table of the old format, as it still may.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crds::domain::store_path::System;

use crate::rooted::Root;

/// Where it lies.
pub(super) const LD_CACHE: &str = "/etc/ld.so.cache";

/// A cache of ten thousand libraries has about a megabyte.
const LONGEST: u64 = 16 << 20;
/// Directories that are looked at.
const DIRECTORIES_LIMIT: usize = 16;
const LIBRARY: &[u8] = b"libcuda.so.1";

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const LIBRARIES_AT: usize = 20;
const FLAGS_AT: usize = 28;
/// Of the flags' lowest two bits: little-endian. Caches written before glibc 2.33 have 0.
const LITTLE_ENDIAN: u8 = 2;

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const OLD_LIBRARIES_AT: usize = 12;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
/// The new table behind an old one starts at a multiple of this.
const ALIGNMENT: usize = 8;

/// Why a cache says nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LdCacheError {
    #[error("cannot read the loader's cache")]
    Read(#[source] io::Error),
    #[error("the loader's cache has more than {LONGEST} bytes")]
    TooLong,
    #[error("the loader's cache does not start as glibc's does")]
    Magic,
    #[error("the loader's cache was made for another byte order")]
    ByteOrder,
    #[error("the loader's cache ends in the middle: {wanted} bytes were expected, and it has {length}")]
    Truncated { wanted: usize, length: usize },
}

impl LdCacheError {
    /// Whether there is no cache at all.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Read(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }
}

/// The directories that the cache below `root` names for libcuda, in its order, each once.
pub(super) fn directories(root: &Root, system: System) -> Result<Vec<PathBuf>, LdCacheError> {
    let mut bytes = Vec::new();
    let file = root.open_file(Path::new(LD_CACHE)).map_err(LdCacheError::Read)?;
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(LdCacheError::Read)?;
    if bytes.len() as u64 > LONGEST {
        return Err(LdCacheError::TooLong);
    }
    parse(&bytes, system)
}

fn parse(bytes: &[u8], system: System) -> Result<Vec<PathBuf>, LdCacheError> {
    let table = new_table(bytes)?;
    if !table.starts_with(MAGIC) {
        return Err(LdCacheError::Magic);
    }
    let count = number(table, LIBRARIES_AT)?;
    let end = HEADER.saturating_add(count.saturating_mul(ENTRY));
    let entries = part(table, HEADER, end)?;
    if ![0, LITTLE_ENDIAN].contains(&(table[FLAGS_AT] & 3)) {
        return Err(LdCacheError::ByteOrder);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in entries.chunks_exact(ENTRY) {
        let [flags, name, path] = [number(entry, 0)?, number(entry, 4)?, number(entry, 8)?];
        if flags != flags_of(system) || string(table, name) != Some(LIBRARY) {
            continue;
        }
        let directory = string(table, path).and_then(directory_of);
        let new = directory.filter(|directory| !found.iter().any(|known| known == directory));
        found.extend(new.map(Path::to_owned));
        if found.len() == DIRECTORIES_LIMIT {
            break;
        }
    }
    Ok(found)
}

/// The table of the new format: the file itself, or what stands behind the old format's.
fn new_table(bytes: &[u8]) -> Result<&[u8], LdCacheError> {
    if !bytes.starts_with(OLD_MAGIC) {
        return Ok(bytes);
    }
    let count = number(bytes, OLD_LIBRARIES_AT)?;
    let start = OLD_HEADER
        .saturating_add(count.saturating_mul(OLD_ENTRY))
        .checked_next_multiple_of(ALIGNMENT)
        .unwrap_or(usize::MAX);
    part(bytes, start, bytes.len().max(start))
}

/// The kind of library that the system's own loader takes: ELF for its libc 6, of its architecture.
const fn flags_of(system: System) -> usize {
    match system {
        System::X86_64Linux => 0x0303,
        System::Aarch64Linux => 0x0a03,
    }
}

/// The folder of an absolute path, unless it holds CUDA's forward compatibility libraries: those are not the node's driver.
fn directory_of(path: &[u8]) -> Option<&Path> {
    let directory = Path::new(OsStr::from_bytes(path)).parent()?;
    let compat = directory.components().any(|part| part.as_os_str() == "compat");
    (directory.is_absolute() && !compat).then_some(directory)
}

fn part(bytes: &[u8], from: usize, to: usize) -> Result<&[u8], LdCacheError> {
    bytes.get(from..to).ok_or(LdCacheError::Truncated {
        wanted: to,
        length: bytes.len(),
    })
}

fn number(bytes: &[u8], at: usize) -> Result<usize, LdCacheError> {
    let four = part(bytes, at, at.saturating_add(4))?;
    let number = four.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// The string that starts there and ends with NUL, if it does; no path is longer than Linux takes.
fn string(table: &[u8], at: usize) -> Option<&[u8]> {
    const LONGEST_PATH: usize = 4096;
    let rest = table.get(at..)?;
    let rest = &rest[..rest.len().min(LONGEST_PATH)];
    rest.iter().position(|byte| *byte == 0).map(|end| &rest[..end])
}
