//! Whether a redirect is followed: to the cache's own origin, or to one that its configuration lists.
//! Never towards a weaker scheme, a user name, or a text that two parsers could read in two ways.

use hyper::{HeaderMap, StatusCode, header::LOCATION};
use url::Url;

use crate::{cache::Site, fault::RedirectFault};

/// What follows an answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// No redirect: judge the answer.
    Here,
    Follow(Url),
}

/// Reads the redirect in an answer that `from` gave, if it is one.
pub(crate) fn next(site: &Site, from: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Hop, RedirectFault> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(Hop::Here);
    }
    let location = headers.get(LOCATION).ok_or(RedirectFault::NoLocation)?.as_bytes();
    if !location.iter().all(|b| (0x21..0x7f).contains(b) && *b != b'\\') || has_hidden_control(location) {
        return Err(RedirectFault::Characters);
    }
    let text = str::from_utf8(location).map_err(|_| RedirectFault::Characters)?;
    let url = from.join(text).map_err(|_| RedirectFault::NotAUrl)?;
    match (from.scheme(), url.scheme()) {
        ("https", "https") | ("http", "http" | "https") => {}
        ("https", "http") => return Err(RedirectFault::Downgrade),
        (_, other) => {
            return Err(RedirectFault::Scheme {
                scheme: other.chars().take(20).collect(),
            });
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RedirectFault::UserInfo);
    }
    let origin = url.origin();
    if origin != site.base.origin() && !site.redirect_origins.contains(&origin) {
        return Err(RedirectFault::OtherOrigin {
            origin: origin.ascii_serialization(),
        });
    }
    Ok(Hop::Follow(url))
}

/// `%00` to `%1f` and `%7f`: no object of a cache is called that.
fn has_hidden_control(text: &[u8]) -> bool {
    text.windows(3).any(|w| {
        let digits = |b: u8| char::from(b).to_digit(16);
        w[0] == b'%'
            && matches!(
                (digits(w[1]), digits(w[2])),
                (Some(0 | 1), Some(_)) | (Some(7), Some(15))
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_followed_within_the_listed_origins_only() {
        let site = Site {
            base: Url::parse("https://cache.example/x/").unwrap(),
            redirect_origins: vec![Url::parse("https://blobs.example").unwrap().origin()].into(),
            authorization: None,
        };
        let from = Url::parse("https://cache.example/x/nar/a").unwrap();
        let ask = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            next(&site, &from, StatusCode::FOUND, &headers)
        };
        for (location, target) in [
            ("b", "https://cache.example/x/nar/b"),
            ("/c", "https://cache.example/c"),
            ("https://cache.example:443/d", "https://cache.example/d"),
            ("https://blobs.example/e?sig=1", "https://blobs.example/e?sig=1"),
        ] {
            assert_eq!(
                ask(location),
                Ok(Hop::Follow(Url::parse(target).unwrap())),
                "{location}"
            );
        }
        for (location, want) in [
            ("http://cache.example/x", "Downgrade"),
            ("http://127.0.0.1/", "Downgrade"),
            ("https://cache.example:8443/", "OtherOrigin"),
            ("https://cache.example.evil.example/", "OtherOrigin"),
            ("https://127.1/", "OtherOrigin"),
            ("https://0x7f000001/", "OtherOrigin"),
            ("https://[::ffff:127.0.0.1]/", "OtherOrigin"),
            ("https://169.254.169.254/latest/meta-data/", "OtherOrigin"),
            ("https://[fe80::1%25eth0]/", "NotAUrl"),
            ("//evil.example/", "OtherOrigin"),
            ("https://u:p@cache.example/", "UserInfo"),
            ("https://cache.example@evil.example/", "UserInfo"),
            ("file:///etc/shadow", "Scheme"),
            ("unix:/run/x.sock", "Scheme"),
            ("gopher://cache.example/", "Scheme"),
            ("data:text/plain,x", "Scheme"),
            ("/a%0d%0aSet-Cookie:%20x", "Characters"),
            ("/a%00", "Characters"),
            ("/a b", "Characters"),
            ("\\\\evil.example\\", "Characters"),
            ("/\u{e9}", "Characters"),
        ] {
            let error = ask(location).unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{location}: {error:?}");
        }
        assert_eq!(
            next(&site, &from, StatusCode::FOUND, &HeaderMap::new()),
            Err(RedirectFault::NoLocation)
        );
        assert_eq!(next(&site, &from, StatusCode::OK, &HeaderMap::new()), Ok(Hop::Here));
    }
}
