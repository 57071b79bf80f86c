//! What can be wrong with the text of a narinfo.
//! Never quotes more of a hostile text than one word of it.

use crds::domain::store_path::StorePathError;

use super::{MAX_REFERENCES, MAX_SIZE, UrlError};
use crate::{compression::UnknownCompression, hash::HashError};

/// Why bytes are no narinfo. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarInfoError {
    #[error("empty")]
    Empty,
    #[error("{size} bytes; at most {MAX_SIZE} are accepted")]
    TooLarge { size: usize },
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    #[error("line {line}: not UTF-8")]
    NotUtf8 { line: usize },
    #[error("line {line}: NUL byte")]
    Nul { line: usize },
    #[error("line {line}: carriage return; lines end in a line feed alone")]
    CarriageReturn { line: usize },
    #[error("line {line}: no line feed at its end; cut short?")]
    Unterminated { line: usize },
    #[error("line {line}: no colon; is this a narinfo?")]
    NoColon { line: usize },
    #[error("line {line}: field name is empty or has a space")]
    BadFieldName { line: usize },
    #[error("line {line}: no space behind `{field}:`")]
    NoSpace { line: usize, field: String },
    #[error("line {line}: second `{field}`")]
    Duplicate { line: usize, field: &'static str },
    #[error("no `{field}`")]
    Missing { field: &'static str },
    #[error("line {line}: bad `StorePath`")]
    StorePath { line: usize, source: StorePathError },
    #[error("line {line}: bad `URL`")]
    Url { line: usize, source: UrlError },
    #[error("line {line}: `Compression` is not one of none, xz, bzip2, gzip, br, zstd, lzma")]
    Compression { line: usize, source: UnknownCompression },
    #[error("line {line}: bad `{field}`")]
    Hash {
        line: usize,
        field: &'static str,
        source: HashError,
    },
    #[error("line {line}: `{field}` is no decimal number below 2^64")]
    Number { line: usize, field: &'static str },
    #[error("line {line}: `NarSize` is 0; no NAR is empty")]
    ZeroNarSize { line: usize },
    #[error("line {line}: reference number {index} (from 0) is not <hash>-<name>")]
    Reference {
        line: usize,
        index: usize,
        source: StorePathError,
    },
    #[error("line {line}: more than one space, or one at an end, in `References`")]
    ReferenceSpacing { line: usize },
    #[error("line {line}: reference `{reference}` twice")]
    DuplicateReference { line: usize, reference: String },
    #[error("line {line}: more than {MAX_REFERENCES} references")]
    TooManyReferences { line: usize },
    #[error("line {line}: bad `Deriver`")]
    Deriver { line: usize, source: StorePathError },
    #[error("line {line}: bad `CA`")]
    Ca { line: usize, source: CaError },
}

/// Why a text is not the content address of the path that it stands beside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    #[error("neither `text:` nor `fixed:`")]
    Method,
    #[error("unknown hash algorithm")]
    Algorithm,
    #[error("digest is not Nix's base 32 of the algorithm's length")]
    Digest,
    #[error("nothing that is addressed so may refer to what this path refers to")]
    References,
    #[error("belongs to another path, whose hash is {made}")]
    OtherPath { made: Box<str> },
}
