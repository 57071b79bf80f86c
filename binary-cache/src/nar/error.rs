//! What can be wrong with a NAR, or with the disk it is restored to.
//! Never quotes raw bytes of a NAR: paths are escaped.

use std::{io, path::PathBuf};

use super::{MAX_NAME_LEN, MAX_TARGET_LEN};
use crate::{compression::DecodeError, hash::NarHash};

/// Why a NAR was not restored. `path` is inside the NAR, and empty for its root; `offset` counts bytes of the NAR.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    #[error("not a NAR{}", looks_like.map(|what| format!("; looks like {what}")).unwrap_or_default())]
    BadMagic { looks_like: Option<&'static str> },
    #[error("at byte {offset}: `{expected}` expected")]
    BadTag { offset: u64, expected: &'static str },
    #[error("at byte {offset}: padding is not zero")]
    BadPadding { offset: u64 },
    #[error("in {dir:?}: {name:?} is no name of a directory entry")]
    BadName { dir: PathBuf, name: PathBuf },
    #[error("in {dir:?}: name of {length} bytes; at most {MAX_NAME_LEN}")]
    NameTooLong { dir: PathBuf, length: u64 },
    #[error("{path:?} does not come after {previous:?}: entries must be sorted and distinct")]
    NotSorted { path: PathBuf, previous: PathBuf },
    #[error(
        "{path:?} is already there: the file system holds two names of the NAR for one, or the place was not empty"
    )]
    Collision { path: PathBuf },
    #[error("{path:?}: target of a link is empty or has a NUL byte")]
    BadTarget { path: PathBuf },
    #[error("{path:?}: target of {length} bytes; at most {MAX_TARGET_LEN}")]
    TargetTooLong { path: PathBuf, length: u64 },
    #[error("{path:?}: nested deeper than {limit}")]
    TooDeep { path: PathBuf, limit: usize },
    #[error("{path:?}: contents of {length} bytes do not fit into a NAR of {nar_size}")]
    SizeOverNar { path: PathBuf, length: u64, nar_size: u64 },
    #[error("goes on beyond its {nar_size} bytes")]
    OverNarSize { nar_size: u64 },
    #[error("ends early, at byte {offset}")]
    Truncated { offset: u64 },
    #[error("bytes behind its end, at byte {offset}")]
    TrailingBytes { offset: u64 },
    #[error("has {actual} bytes where {expected} are signed")]
    SizeMismatch { expected: u64, actual: u64 },
    #[error("has hash {actual} where {expected} is signed")]
    HashMismatch { expected: NarHash, actual: NarHash },
    #[error("cannot be decompressed, at byte {offset} of the NAR")]
    Decode { offset: u64, source: DecodeError },
    #[error("its source failed, at byte {offset}")]
    Read { offset: u64, source: io::Error },
    #[error("{path:?}: cannot create directory")]
    CreateDirectory { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot open the directory just created")]
    OpenDirectory { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot create file")]
    CreateFile { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot write")]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot create symbolic link")]
    CreateSymlink { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot set owner")]
    SetOwner { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot set mode")]
    SetMode { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot set time")]
    SetTime { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot list extended attributes")]
    ListAttributes { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot remove an extended attribute")]
    RemoveAttribute { path: PathBuf, source: io::Error },
}
