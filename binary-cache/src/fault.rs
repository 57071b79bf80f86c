//! Everything that can go wrong between us and one cache, and what each of it means for the next step.
//! Never carries a credential, a response body, or a URL behind a redirect: an origin at most.

use std::{error::Error as _, io, net::IpAddr, time::Duration};

use crds::domain::store_path::StorePath;

use crate::{
    cache_info::CacheInfoError,
    compression::DecodeError,
    nar::NarError,
    narinfo::{NarInfoError, TrustError, UrlError},
};

/// What one source of a file did instead of serving it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    #[error("not found (HTTP {status})")]
    Absent { status: u16 },
    #[error("not found")]
    NoFile,
    #[error("the cache has this hash under the name `{}`", answered.name())]
    OtherName { answered: StorePath },
    #[error("not found a moment ago; asked again after {}", seconds(*retry_in))]
    KnownAbsent { retry_in: Duration },
    #[error("asks for credentials, or refuses the ones it got (HTTP 401)")]
    Unauthorized,

    #[error("cannot serve now (HTTP {status})")]
    Busy { status: u16, retry_after: Option<Duration> },
    #[error("no connection")]
    Connect(#[source] ConnectFault),
    #[error("no answer within {}", seconds(*limit))]
    NoAnswer { limit: Duration },
    #[error("the file did not arrive within {}", seconds(*limit))]
    DocumentTimeout { limit: Duration },
    #[error("slower than {min_rate} bytes per second over {}, after {received} bytes", seconds(*window))]
    Stalled {
        min_rate: u64,
        window: Duration,
        received: u64,
    },
    #[error("the connection broke before an answer")]
    Broken(#[source] hyper_util::client::legacy::Error),
    #[error("the connection broke after {received} bytes")]
    Cut { received: u64, source: hyper::Error },
    #[error("not downloaded within {}, after {received} bytes", seconds(*limit))]
    DownloadTimeout { limit: Duration, received: u64 },
    #[error("ended after {received} of {expected} bytes")]
    Short { received: u64, expected: u64 },
    #[error("passed over for {}: too many faults of late", seconds(*rest))]
    Resting { rest: Duration },

    #[error("unexpected answer (HTTP {status})")]
    UnexpectedStatus { status: u16 },
    #[error("a part (HTTP 206) where the whole was asked for")]
    UnaskedPart,
    #[error("another part than asked for: wanted from byte {wanted}")]
    WrongPart { wanted: u64 },
    #[error("the file changed while it was read")]
    Changed,
    #[error("sent with the Content-Encoding {encoding:?}, which was not asked for")]
    ContentEncoding { encoding: String },
    #[error("no well-formed HTTP")]
    Malformed(#[source] hyper_util::client::legacy::Error),
    #[error("larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("has {found} bytes where the narinfo says {wanted}")]
    FileSize { wanted: u64, found: u64 },
    #[error("the narinfo says {file_size} bytes compressed for a NAR of {nar_size}")]
    ImplausibleFileSize { file_size: u64, nar_size: u64 },
    #[error("has bytes behind the end of the compressed NAR")]
    TrailingBytes,
    #[error("bad nix-cache-info")]
    CacheInfo(#[source] CacheInfoError),
    #[error("bad narinfo")]
    NarInfo(#[source] NarInfoError),
    #[error("a web page where a narinfo should be: the address answers, but no cache lives there")]
    WebPage,
    #[error("not trusted")]
    Trust(#[source] TrustError),
    #[error("refers to other paths than the narinfo that was accepted first")]
    OtherReferences { path: StorePath },
    #[error("bad NAR")]
    Nar(#[source] NarError),

    #[error("TLS refused")]
    Tls(#[source] rustls::Error),
    #[error("its name leads to {address}, where no cache may live")]
    AddressRefused { address: IpAddr },
    #[error("the head of the answer is larger than {limit} bytes or has more than 100 fields")]
    HeadTooLarge { limit: usize },
    #[error("more than {limit} interim answers (HTTP 1xx)")]
    TooManyInterim { limit: usize },
    #[error("redirect refused")]
    Redirect(#[source] RedirectFault),
    #[error("more than {limit} redirects")]
    TooManyRedirects { limit: usize },
    #[error("its location {location:?} leads outside the cache")]
    OutsideCache { location: String },

    #[error("no such folder")]
    NoFolder,
    #[error("cannot read from the folder of the cache")]
    Folder(#[source] io::Error),
    #[error("not a regular file in the folder of the cache")]
    NotAFile,
    #[error("cannot write what was unpacked")]
    Disk(#[source] NarError),
    #[error("unpacking was cancelled or its thread died")]
    Cancelled,
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFault {
    #[error("not connected within {}", seconds(*limit))]
    TimedOut { limit: Duration },
    #[error("its name has no address")]
    NoAddress,
    /// What the resolver says, in its own words: its errors have no telling kind. Bounded, one line.
    #[error("its name cannot be resolved: {answer}")]
    Name { answer: Box<str> },
    #[error("{kind}")]
    Io { kind: io::ErrorKind },
    #[error("TLS")]
    Tls(#[source] rustls::Error),
    #[error("the address {0} is refused")]
    AddressRefused(IpAddr),
}

/// Why a redirect is not followed. Nothing was sent to where it leads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectFault {
    #[error("no Location")]
    NoLocation,
    #[error("Location has a control, space, backslash or non-ASCII character, plain or encoded")]
    Characters,
    #[error("Location is no URL")]
    NotAUrl,
    #[error("to the scheme {scheme:?}")]
    Scheme { scheme: String },
    #[error("from https down to http")]
    Downgrade,
    #[error("to a URL with a user name or password")]
    UserInfo,
    #[error("to the origin {origin}, which is neither the cache's own nor one of its redirectOrigins")]
    OtherOrigin { origin: String },
}

/// What to do about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The cache does not have it: the next cache, and remember that for a while.
    Absent,
    /// As absent, and someone should look at the credentials.
    Auth,
    /// Try again a little later, or elsewhere; a strike.
    Transient,
    /// What came is wrong: discard it, the next cache; a strike.
    Corrupt,
    /// No cache does this by accident: refuse, no second try, the next cache; this one rests.
    Hostile,
    /// Our own disk or a cancelled task: no cache can help.
    Local,
}

impl Fault {
    /// The one place that decides what a fault means.
    pub fn class(&self) -> Class {
        match self {
            // 403 is how object stores say 404 to whoever may not list.
            Self::Absent { .. } | Self::NoFile | Self::KnownAbsent { .. } => Class::Absent,
            // The person who asked mistyped the name; the cache is honest.
            Self::OtherName { .. } => Class::Absent,
            Self::Unauthorized => Class::Auth,
            Self::Busy { .. }
            | Self::NoAnswer { .. }
            | Self::DocumentTimeout { .. }
            | Self::Stalled { .. }
            | Self::Broken(_)
            | Self::Cut { .. }
            | Self::DownloadTimeout { .. }
            | Self::Short { .. }
            | Self::Resting { .. }
            | Self::NoFolder
            | Self::Folder(_) => Class::Transient,
            Self::Connect(fault) => match fault {
                ConnectFault::TimedOut { .. }
                | ConnectFault::NoAddress
                | ConnectFault::Name { .. }
                | ConnectFault::Io { .. } => Class::Transient,
                ConnectFault::Tls(_) | ConnectFault::AddressRefused(_) => Class::Hostile,
            },
            Self::UnexpectedStatus { .. }
            | Self::UnaskedPart
            | Self::WrongPart { .. }
            | Self::Changed
            | Self::ContentEncoding { .. }
            | Self::Malformed(_)
            | Self::TooLarge { .. }
            | Self::FileSize { .. }
            | Self::ImplausibleFileSize { .. }
            | Self::TrailingBytes
            | Self::CacheInfo(_)
            | Self::WebPage
            | Self::OtherReferences { .. }
            | Self::NotAFile => Class::Corrupt,
            Self::Trust(error) => match error {
                // Somebody else's path in an honest cache: for us it is not there.
                TrustError::NoSignature { .. } | TrustError::UntrustedKey { .. } | TrustError::OtherName { .. } => {
                    Class::Absent
                }
                TrustError::OtherPath { .. }
                | TrustError::TooManySignatures { .. }
                | TrustError::MalformedSignature { .. }
                | TrustError::BadSignature { .. } => Class::Corrupt,
            },
            Self::NarInfo(error) => class_of_narinfo(error),
            Self::Nar(error) => class_of_nar(error),
            Self::Tls(_)
            | Self::AddressRefused { .. }
            | Self::HeadTooLarge { .. }
            | Self::TooManyInterim { .. }
            | Self::Redirect(_)
            | Self::TooManyRedirects { .. }
            | Self::OutsideCache { .. } => Class::Hostile,
            Self::Disk(_) | Self::Cancelled => Class::Local,
        }
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Busy { retry_after, .. } = self {
            *retry_after
        } else {
            None
        }
    }

    /// A narinfo that is not trusted, or one of another name, which is only a miss.
    pub(crate) fn of_trust(error: TrustError) -> Self {
        match error {
            TrustError::OtherName { answered, .. } => Self::OtherName { answered },
            TrustError::OtherPath { .. }
            | TrustError::TooManySignatures { .. }
            | TrustError::NoSignature { .. }
            | TrustError::MalformedSignature { .. }
            | TrustError::UntrustedKey { .. }
            | TrustError::BadSignature { .. } => Self::Trust(error),
        }
    }

    /// It and its causes in one line, for where a fault is an operand: of a log line, of an attempt.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }

    /// A fault of unpacking: the cache's, or our own disk's.
    pub(crate) fn of_nar(error: NarError) -> Self {
        if class_of_nar(&error) == Class::Local {
            Self::Disk(error)
        } else {
            Self::Nar(error)
        }
    }
}

/// A `URL` that leads elsewhere is hostile: no packer writes one, and whoever follows it may be sent anywhere. The rest is
/// damage.
fn class_of_narinfo(error: &NarInfoError) -> Class {
    match error {
        NarInfoError::Url { source, .. } => match source {
            UrlError::Absolute
            | UrlError::LeadingSlash
            | UrlError::Backslash
            | UrlError::HiddenSeparator
            | UrlError::ParentDirectory => Class::Hostile,
            UrlError::Empty
            | UrlError::TooLong
            | UrlError::Character { .. }
            | UrlError::Fragment
            | UrlError::BadEscape => Class::Corrupt,
        },
        NarInfoError::Empty
        | NarInfoError::TooLarge { .. }
        | NarInfoError::ByteOrderMark
        | NarInfoError::NotUtf8 { .. }
        | NarInfoError::Nul { .. }
        | NarInfoError::CarriageReturn { .. }
        | NarInfoError::Unterminated { .. }
        | NarInfoError::NoColon { .. }
        | NarInfoError::BadFieldName { .. }
        | NarInfoError::NoSpace { .. }
        | NarInfoError::Duplicate { .. }
        | NarInfoError::Missing { .. }
        | NarInfoError::StorePath { .. }
        | NarInfoError::Compression { .. }
        | NarInfoError::Hash { .. }
        | NarInfoError::Number { .. }
        | NarInfoError::ZeroNarSize { .. }
        | NarInfoError::Reference { .. }
        | NarInfoError::ReferenceSpacing { .. }
        | NarInfoError::DuplicateReference { .. }
        | NarInfoError::TooManyReferences { .. }
        | NarInfoError::Deriver { .. }
        | NarInfoError::Ca { .. } => Class::Corrupt,
    }
}

/// Bombs are hostile where they cannot be an accident, disk errors are ours, the rest is corrupt.
fn class_of_nar(error: &NarError) -> Class {
    match error {
        NarError::BadMagic { .. }
        | NarError::BadTag { .. }
        | NarError::BadPadding { .. }
        | NarError::BadName { .. }
        | NarError::NameTooLong { .. }
        | NarError::NotSorted { .. }
        | NarError::Collision { .. }
        | NarError::BadTarget { .. }
        | NarError::TargetTooLong { .. }
        | NarError::SizeOverNar { .. }
        | NarError::Truncated { .. }
        | NarError::TrailingBytes { .. }
        | NarError::SizeMismatch { .. }
        | NarError::HashMismatch { .. } => Class::Corrupt,
        NarError::TooDeep { .. } | NarError::OverNarSize { .. } => Class::Hostile,
        NarError::Decode { source, .. } => match source {
            DecodeError::Truncated(_)
            | DecodeError::WrongFormat { .. }
            | DecodeError::Corrupt(_)
            | DecodeError::TrailingBytes(_)
            // Odd, but a packer that joins streams may have done it.
            | DecodeError::WindowGrows { .. } => Class::Corrupt,
            DecodeError::WindowTooLarge { .. } | DecodeError::Dictionary | DecodeError::Padding { .. } => {
                Class::Hostile
            }
            DecodeError::NoMemory(_) => Class::Local,
        },
        NarError::Read { .. } => Class::Transient,
        NarError::CreateDirectory { .. }
        | NarError::OpenDirectory { .. }
        | NarError::CreateFile { .. }
        | NarError::WriteFile { .. }
        | NarError::CreateSymlink { .. }
        | NarError::SetOwner { .. }
        | NarError::SetMode { .. }
        | NarError::SetTime { .. }
        | NarError::ListAttributes { .. }
        | NarError::RemoveAttribute { .. } => Class::Local,
    }
}

impl From<ConnectFault> for Fault {
    fn from(fault: ConnectFault) -> Self {
        match fault {
            ConnectFault::Tls(error) => Self::Tls(error),
            ConnectFault::AddressRefused(address) => Self::AddressRefused { address },
            ConnectFault::TimedOut { .. }
            | ConnectFault::NoAddress
            | ConnectFault::Name { .. }
            | ConnectFault::Io { .. } => Self::Connect(fault),
        }
    }
}

/// `30 s`, `1.5 s`.
fn seconds(duration: Duration) -> String {
    format!("{} s", (duration.as_secs_f64() * 10.0).round() / 10.0)
}
