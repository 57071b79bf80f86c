//! The `URL` of a narinfo: where the NAR lies, relative to the cache.
//! Never accepts a form that could lead to another origin, or above the cache's own address.

use std::fmt;

/// Longest `URL` accepted, in bytes.
const MAX_LEN: usize = 4096;

/// Why a `URL` is refused. It is signed by nobody, so it must not be able to say much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("empty")]
    Empty,
    #[error("longer than {MAX_LEN} bytes")]
    TooLong,
    #[error("character outside printable ASCII at position {position}")]
    Character { position: usize },
    #[error("backslash")]
    Backslash,
    #[error("fragment")]
    Fragment,
    #[error("absolute; only a location below the cache's own address is accepted")]
    Absolute,
    #[error("begins with a slash; only a location below the cache's own address is accepted")]
    LeadingSlash,
    #[error("`%` without two hexadecimal digits")]
    BadEscape,
    #[error("encoded slash, backslash or control character")]
    HiddenSeparator,
    #[error("`..`, plain or encoded")]
    ParentDirectory,
}

/// A relative location of a NAR: plain path segments, perhaps a query.
#[derive(Clone, PartialEq, Eq)]
pub struct DownloadUrl(Box<str>);

impl DownloadUrl {
    /// The text: to be joined to the cache's address, with a slash between.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for DownloadUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(UrlError::TooLong);
        }
        if let Some(position) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(UrlError::Character { position });
        }
        if text.contains('\\') {
            return Err(UrlError::Backslash);
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let path = text.split('?').next().unwrap_or_default();
        if path.is_empty() {
            return Err(UrlError::Empty);
        }
        if path.starts_with('/') {
            return Err(UrlError::LeadingSlash);
        }
        for (index, segment) in path.split('/').enumerate() {
            if index == 0 && segment.contains(':') {
                return Err(UrlError::Absolute);
            }
            if unescape(segment)? == b".." {
                return Err(UrlError::ParentDirectory);
            }
        }
        Ok(Self(text.into()))
    }
}

/// What a server will see of one path segment.
fn unescape(segment: &str) -> Result<Vec<u8>, UrlError> {
    let mut bytes = segment.bytes();
    let mut plain = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let mut nibble = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (nibble(), nibble()) else {
            return Err(UrlError::BadEscape);
        };
        match high << 4 | low {
            b'/' | b'\\' | 0..0x20 | 0x7f => return Err(UrlError::HiddenSeparator),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

impl fmt::Display for DownloadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DownloadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
