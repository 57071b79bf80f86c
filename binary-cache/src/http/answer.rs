//! The head of an answer: usable, or which fault. Pure functions of status and header fields.
//! Never lets a body be read that would not be the bytes asked for.

use std::time::Duration;

use hyper::{
    HeaderMap,
    header::{
        ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderName, HeaderValue,
        LAST_MODIFIED, RETRY_AFTER,
    },
    http::response::Parts,
};

use super::Part;
use crate::fault::Fault;

/// A usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Where the body begins in the file: 0, or where the request wanted.
    pub(crate) from: u64,
    /// Bytes of the body, where the server says so.
    pub(crate) length: Option<u64>,
    /// Whether the server gives out parts of the file (RFC 9110, 14.3), or just did.
    pub(crate) in_parts: bool,
    /// What identifies this version of the file.
    pub(crate) validator: Option<Validator>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validator {
    ETag(HeaderValue),
    LastModified(HeaderValue),
}

impl Validator {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let etag = headers.get(ETAG).cloned().map(Self::ETag);
        etag.or_else(|| headers.get(LAST_MODIFIED).cloned().map(Self::LastModified))
    }

    /// What `If-Range` may carry: a strong entity tag (RFC 9110, 13.1.5). A date is too coarse to be a strong one.
    pub(crate) fn for_if_range(&self) -> Option<&HeaderValue> {
        match self {
            Self::ETag(tag) if !tag.as_bytes().starts_with(b"W/") => Some(tag),
            Self::ETag(_) | Self::LastModified(_) => None,
        }
    }
}

/// Whether `head` answers the request for `part`.
pub(crate) fn judge(parts: &Parts, part: &Part) -> Result<Head, Fault> {
    let status = parts.status.as_u16();
    let retry_after = || retry_after(&parts.headers);
    match status {
        200 | 206 => {}
        401 => return Err(Fault::Unauthorized),
        403 | 404 | 410 => return Err(Fault::Absent { status }),
        408 | 425 | 429 | 500..=599 => {
            return Err(Fault::Busy {
                status,
                retry_after: retry_after(),
            });
        }
        416 if part.from > 0 => return Err(Fault::Changed),
        _ => return Err(Fault::UnexpectedStatus { status }),
    }
    if let Some(encoding) = parts
        .headers
        .get(CONTENT_ENCODING)
        .filter(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let encoding = encoding.as_bytes().iter().take(40).map(|b| char::from(*b)).collect();
        return Err(Fault::ContentEncoding { encoding });
    }
    let length = number(&parts.headers, CONTENT_LENGTH);
    let validator = Validator::of(&parts.headers);
    let changed = matches!((&part.validator, &validator), (Some(old), Some(new)) if old != new);
    match status {
        206 if !part.is_some() => Err(Fault::UnaskedPart),
        206 if !starts_at(&parts.headers, part.from) => Err(Fault::WrongPart { wanted: part.from }),
        _ if part.from > 0 && changed => Err(Fault::Changed),
        206 => Ok(Head {
            from: part.from,
            length,
            in_parts: true,
            validator,
        }),
        _ => Ok(Head {
            from: 0,
            length,
            in_parts: parts.headers.get(ACCEPT_RANGES).is_some_and(|unit| unit == "bytes"),
            validator,
        }),
    }
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Whether `Content-Range` is `bytes <from>-…`.
fn starts_at(headers: &HeaderMap, from: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range
        .and_then(|r| r.strip_prefix("bytes "))
        .and_then(|r| r.split_once('-'));
    first.is_some_and(|(first, _)| first.parse() == Ok(from))
}

/// `Retry-After` as a duration: seconds, or a date measured against the answer's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let now = http_date(headers.get(DATE)?.to_str().ok()?)?;
    Some(Duration::from_secs(http_date(text)?.saturating_sub(now)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that servers may send (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let rest = text.get(5..)?.strip_suffix(" GMT")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|m| *m == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|y| (1970..10_000).contains(y))?;
    let mut clock = words.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // 60: a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970-03-01-based civil calendar: years begin in March, so that leap days come last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)?;
    Some(since_1970 * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;
    use crate::fault::Class;

    fn parts(status: u16, headers: &[(&str, &str)]) -> Parts {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn every_status_has_a_class() {
        for (status, want) in [
            (401, Class::Auth),
            (403, Class::Absent),
            (404, Class::Absent),
            (410, Class::Absent),
            (408, Class::Transient),
            (425, Class::Transient),
            (429, Class::Transient),
            (500, Class::Transient),
            (502, Class::Transient),
            (503, Class::Transient),
            (599, Class::Transient),
            (204, Class::Corrupt),
            (206, Class::Corrupt),
            (226, Class::Corrupt),
            (300, Class::Corrupt),
            (304, Class::Corrupt),
            (400, Class::Corrupt),
            (416, Class::Corrupt),
            (451, Class::Corrupt),
            (999, Class::Corrupt),
        ] {
            assert_eq!(
                judge(&parts(status, &[]), &Part::default()).unwrap_err().class(),
                want,
                "{status}"
            );
        }
        let head = judge(
            &parts(200, &[("content-length", "5"), ("etag", "\"a\"")]),
            &Part::default(),
        )
        .unwrap();
        assert_eq!((head.from, head.length), (0, Some(5)));
    }

    #[test]
    fn a_resumed_file_continues_where_it_stopped_or_not_at_all() {
        let tag = |t: &str| Some(Validator::ETag(HeaderValue::from_str(t).unwrap()));
        let part = Part {
            from: 100,
            to: None,
            validator: tag("\"a\""),
        };
        let ask = |status, headers: &[(&str, &str)]| judge(&parts(status, headers), &part);
        assert_eq!(
            ask(206, &[("content-range", "bytes 100-199/200"), ("etag", "\"a\"")])
                .unwrap()
                .from,
            100
        );
        assert_eq!(ask(206, &[("content-range", "bytes 100-199/*")]).unwrap().from, 100);
        assert_eq!(ask(200, &[("etag", "\"a\"")]).unwrap().from, 0, "the range was ignored");
        for (status, headers, want) in [
            (206, &[("content-range", "bytes 99-199/200")][..], "WrongPart"),
            (206, &[("content-range", "bytes */200")], "WrongPart"),
            (206, &[], "WrongPart"),
            (
                206,
                &[("content-range", "bytes 100-199/200"), ("etag", "\"b\"")],
                "Changed",
            ),
            (200, &[("etag", "\"b\"")], "Changed"),
            (416, &[], "Changed"),
        ] {
            let error = ask(status, headers).unwrap_err();
            assert!(
                format!("{error:?}").starts_with(want),
                "{status} {headers:?}: {error:?}"
            );
        }
        assert!(tag("W/\"a\"").unwrap().for_if_range().is_none());
        assert!(tag("\"a\"").unwrap().for_if_range().is_some());
    }

    #[test]
    fn an_encoding_that_was_not_asked_for_is_named() {
        for encoding in ["gzip", "zstd", "br", "xz", "identity, gzip"] {
            let error = judge(&parts(200, &[("content-encoding", encoding)]), &Part::default()).unwrap_err();
            assert!(matches!(error, Fault::ContentEncoding { encoding: e } if e == encoding));
        }
        judge(&parts(200, &[("content-encoding", "Identity")]), &Part::default()).unwrap();
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (headers, want) in [
            (&[("retry-after", "1")][..], Some(1)),
            (&[("retry-after", "1000000000")], Some(1_000_000_000)),
            (&[("retry-after", "99999999999999999999999")], Some(u64::MAX)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"), date], Some(30)),
            (&[("retry-after", "Mon, 07 Nov 1994 08:49:37 GMT"), date], Some(86_400)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), date], Some(0)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-5"), date], None),
            (&[], None),
        ] {
            assert_eq!(
                retry_after(&parts(503, headers).headers).map(|d| d.as_secs()),
                want,
                "{headers:?}"
            );
        }
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    }
}
