//! What a cache asks of its readers: a netrc file or a bearer token.
//! Never shows a secret (not in `Debug`, not in errors), never gives one to an origin it was not meant for.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::header::HeaderValue;
use url::{Host, Url};

/// Largest netrc text.
const MAX_NETRC: usize = 1 << 20;
/// Longest token, login or password.
const MAX_SECRET: usize = 16 << 10;

/// How a request proves who asks. Sent to the cache's own origins only, and only over https or to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `Authorization: Bearer …`, for the cache's `url`, not for its mirrors.
    Bearer(Secret),
    /// `Authorization: Basic …` for the hosts that the netrc names.
    Netrc(Netrc),
}

/// A string that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

/// A parsed netrc: who logs in where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// `None` is `default`: any host of the cache.
    machine: Option<String>,
    login: String,
    password: Secret,
}

/// Why credentials are refused. Carries places and lengths, never the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    #[error("the netrc has {0} bytes, more than {MAX_NETRC}")]
    NetrcTooLong(usize),
    #[error("a secret has {0} bytes, more than {MAX_SECRET}")]
    SecretTooLong(usize),
    #[error("the token is empty")]
    Empty,
    #[error("a secret has a control character or is no ASCII text")]
    Unprintable,
    #[error("the netrc's word {word} is none of machine, default, login, password, account")]
    UnknownWord { word: usize },
    #[error("the netrc ends after its word {word}, which wants a value")]
    MissingValue { word: usize },
    #[error("the netrc's entry {entry} has no {field}")]
    Incomplete { entry: usize, field: &'static str },
    #[error("the netrc's word {word} stands before any machine")]
    NoMachine { word: usize },
}

impl Secret {
    /// Takes a token; one trailing newline, as files have, is dropped.
    pub fn new(text: &str) -> Result<Self, CredentialsError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        match text.len() {
            0 => Err(CredentialsError::Empty),
            n if n > MAX_SECRET => Err(CredentialsError::SecretTooLong(n)),
            _ if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) => Err(CredentialsError::Unprintable),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Netrc {
    /// Parses the words of a netrc file: `machine H login L password P`, `default login L password P`; `account A` is
    /// read over. Comments (`#` at the start of a word) last to the end of the line.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        if text.len() > MAX_NETRC {
            return Err(CredentialsError::NetrcTooLong(text.len()));
        }
        let mut words = text
            .lines()
            .flat_map(|line| line.split_whitespace().take_while(|w| !w.starts_with('#')))
            .enumerate();
        let mut drafts: Vec<Draft> = Vec::new();
        while let Some((word, key)) = words.next() {
            let mut value = || {
                words
                    .next()
                    .map(|(_, v)| v)
                    .ok_or(CredentialsError::MissingValue { word })
            };
            match key {
                "machine" => drafts.push(Draft {
                    machine: Some(value()?.to_ascii_lowercase()),
                    ..Draft::default()
                }),
                "default" => drafts.push(Draft::default()),
                "login" | "password" | "account" => {
                    let value = value()?;
                    let draft = drafts.last_mut().ok_or(CredentialsError::NoMachine { word })?;
                    match key {
                        "login" => draft.login = Some(value),
                        "password" => draft.password = Some(value),
                        _ => {}
                    }
                }
                _ => return Err(CredentialsError::UnknownWord { word }),
            }
        }
        let entries = drafts
            .into_iter()
            .enumerate()
            .map(|(entry, draft)| draft.finish(entry))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// The entry for `host`: the first that names it, else the first `default`.
    fn entry(&self, host: &str) -> Option<&Entry> {
        let named = self.entries.iter().find(|e| e.machine.as_deref() == Some(host));
        named.or_else(|| self.entries.iter().find(|e| e.machine.is_none()))
    }
}

#[derive(Default)]
struct Draft<'a> {
    machine: Option<String>,
    login: Option<&'a str>,
    password: Option<&'a str>,
}

impl Draft<'_> {
    fn finish(self, entry: usize) -> Result<Entry, CredentialsError> {
        let login = self
            .login
            .ok_or(CredentialsError::Incomplete { entry, field: "login" })?;
        let password = self.password.ok_or(CredentialsError::Incomplete {
            entry,
            field: "password",
        })?;
        Ok(Entry {
            machine: self.machine,
            login: Secret::new(login)?.0.into(),
            password: Secret::new(password)?,
        })
    }
}

impl Credentials {
    /// The `Authorization` header for `base`, a URL of the cache; `own` says whether it is the cache's `url` itself.
    /// `None` where nothing may be sent: over plain http to another machine, or to a host that was not named.
    pub(crate) fn header_for(&self, base: &Url, own: bool) -> Option<HeaderValue> {
        let safe = base.scheme() == "https" || (base.scheme() == "http" && is_this_machine(base));
        let text = match self {
            _ if !safe => return None,
            Self::Bearer(token) if own => format!("Bearer {}", token.0),
            Self::Bearer(_) => return None,
            Self::Netrc(netrc) => {
                let entry = netrc.entry(base.host_str()?)?;
                format!(
                    "Basic {}",
                    STANDARD.encode(format!("{}:{}", entry.login, entry.password.0))
                )
            }
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Whether the URL names this machine by itself, without asking any resolver.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_localhost(name),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// `localhost` and names below it (RFC 6761).
pub(crate) fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(credentials: &Credentials, url: &str) -> Option<String> {
        let value = credentials.header_for(&Url::parse(url).unwrap(), true)?;
        assert!(value.is_sensitive());
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_netrc_answers_for_the_hosts_it_names() {
        let text = "# ours\nmachine a.example login u password p # note\nmachine B.example\n login v\n account x\n password q\n\
                    default login d password e";
        let netrc = Credentials::Netrc(Netrc::parse(text).unwrap());
        assert_eq!(
            header(&netrc, "https://a.example/x").unwrap(),
            format!("Basic {}", STANDARD.encode("u:p"))
        );
        assert_eq!(
            header(&netrc, "https://b.example/x").unwrap(),
            format!("Basic {}", STANDARD.encode("v:q"))
        );
        assert_eq!(
            header(&netrc, "https://c.example/x").unwrap(),
            format!("Basic {}", STANDARD.encode("d:e"))
        );
        let one = Credentials::Netrc(Netrc::parse("machine a.example login u password p").unwrap());
        assert_eq!(header(&one, "https://a.example.evil.example/"), None);
    }

    #[test]
    fn a_malformed_netrc_is_refused_without_its_text() {
        for (text, want) in [
            ("machine a login CANARY", "Incomplete"),
            ("machine a password CANARY", "Incomplete"),
            ("machine", "MissingValue"),
            ("machine a login", "MissingValue"),
            ("login CANARY password CANARY", "NoMachine"),
            ("machine a login x password CANARY CANARY", "UnknownWord"),
            ("machine a login x password CAN\u{e4}RY", "Unprintable"),
        ] {
            let error = Netrc::parse(text).unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{text}: {error:?}");
            assert!(!format!("{error:?} {error}").contains("CAN"), "{error:?}");
        }
        assert!(matches!(
            Netrc::parse(&" ".repeat(MAX_NETRC + 1)),
            Err(CredentialsError::NetrcTooLong(_))
        ));
        Netrc::parse("").unwrap();
    }

    #[test]
    fn secrets_go_over_https_or_to_this_machine_only() {
        let bearer = Credentials::Bearer(Secret::new("CANARY\n").unwrap());
        for (url, sent) in [
            ("https://cache.example/", true),
            ("http://127.0.0.1:8080/", true),
            ("http://[::1]:8080/", true),
            ("http://localhost:8080/", true),
            ("http://cache.example/", false),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
            ("file:///srv/cache", false),
        ] {
            assert_eq!(header(&bearer, url).is_some(), sent, "{url}");
        }
        assert!(
            bearer
                .header_for(&Url::parse("https://mirror.example/").unwrap(), false)
                .is_none()
        );
        assert!(!format!("{bearer:?}").contains("CANARY"));
        for bad in ["", "\n", "a\nb", "a\u{7f}"] {
            Secret::new(bad).unwrap_err();
        }
    }
}
