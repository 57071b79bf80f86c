//! What someone configures about one cache, checked once.
//! Never a cache without a trusted key; never an address that could carry secrets or lead elsewhere.

use std::sync::Arc;

use hyper::header::HeaderValue;
use url::{Origin, Url};

use crate::{cache_info::MAX_PRIORITY, credentials::Credentials, key::KeyRing};

/// Longest URL of a cache.
const MAX_URL: usize = 2048;

/// One binary cache: where it is and whom it is trusted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// What errors call it.
    pub name: String,
    /// `http://`, `https://` or `file://`, without user name, query or fragment.
    pub url: Url,
    /// The same contents and keys elsewhere; asked before `url`, in this order.
    pub mirrors: Vec<Url>,
    /// The keys, one of which must have signed whatever comes from here.
    pub keys: KeyRing,
    /// Lower is asked first; `None` takes the cache's own word, or 50.
    pub priority: Option<u32>,
    /// Origins, besides its own, that it may redirect to.
    pub redirect_origins: Vec<Url>,
    /// Sent to its own origins only.
    pub credentials: Option<Credentials>,
}

/// Why a configuration is refused. Shows no part of a URL that could be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("no cache is configured")]
    NoCaches,
    #[error("cache `{cache}` is configured twice")]
    DuplicateName { cache: String },
    #[error("cache `{cache}`: the {field} has the scheme `{scheme}`; http, https and file are served")]
    Scheme {
        cache: String,
        field: &'static str,
        scheme: String,
    },
    #[error("cache `{cache}`: the {field} has a user name or password; use credentials")]
    UserInfo { cache: String, field: &'static str },
    #[error("cache `{cache}`: the {field} has a query or a fragment")]
    QueryOrFragment { cache: String, field: &'static str },
    #[error("cache `{cache}`: the {field} is longer than {MAX_URL} bytes")]
    TooLong { cache: String, field: &'static str },
    #[error("cache `{cache}`: the {field} is no absolute path of this machine")]
    FilePath { cache: String, field: &'static str },
    #[error("cache `{cache}`: the priority {priority} is above {MAX_PRIORITY}")]
    Priority { cache: String, priority: u32 },
}

/// One address that a cache is asked at.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Ends in a slash.
    pub(crate) base: Url,
    /// Where redirects may lead besides the base's own origin.
    pub(crate) redirect_origins: Arc<[Origin]>,
    /// For the base's own origin.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Site {
    /// What errors and logs call it: nothing in it is secret, as user names and queries are refused.
    pub(crate) fn label(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The URL of the file `location` of this cache; `None` where it would lie anywhere else.
    pub(crate) fn locate(&self, location: &str) -> Option<Url> {
        let url = self.base.join(&format!("./{location}")).ok()?;
        let inside = url.origin() == self.base.origin() || url.scheme() == "file" && self.base.scheme() == "file";
        (inside && url.path().starts_with(self.base.path()) && url.path().len() > self.base.path().len()).then_some(url)
    }
}

impl CacheConfig {
    /// The addresses in the order of asking: mirrors, then the URL itself.
    pub(crate) fn sites(&self) -> Result<Vec<Site>, ConfigError> {
        if let Some(priority) = self.priority.filter(|p| *p > MAX_PRIORITY) {
            return Err(ConfigError::Priority {
                cache: self.name.clone(),
                priority,
            });
        }
        let origins = self.redirect_origins.iter().map(|url| {
            self.check(url, "redirect origin")?;
            Ok(url.origin())
        });
        let redirect_origins: Arc<[Origin]> = origins.collect::<Result<Vec<_>, _>>()?.into();
        let mirrors = self.mirrors.iter().map(|url| (url, "mirror"));
        let all = mirrors.chain([(&self.url, "URL")]);
        all.map(|(url, field)| {
            self.check(url, field)?;
            let mut base = url.clone();
            if !base.path().ends_with('/') {
                base.set_path(&format!("{}/", url.path()));
            }
            let authorization = self
                .credentials
                .as_ref()
                .and_then(|c| c.header_for(&base, field == "URL"));
            Ok(Site {
                base,
                redirect_origins: redirect_origins.clone(),
                authorization,
            })
        })
        .collect()
    }

    fn check(&self, url: &Url, field: &'static str) -> Result<(), ConfigError> {
        let cache = || self.name.clone();
        match url.scheme() {
            "http" | "https" if url.has_host() => {}
            "file" if field == "redirect origin" => {
                return Err(ConfigError::Scheme {
                    cache: cache(),
                    field,
                    scheme: "file".to_owned(),
                });
            }
            "file" if url.host().is_none() => {}
            "file" => return Err(ConfigError::FilePath { cache: cache(), field }),
            other => {
                return Err(ConfigError::Scheme {
                    cache: cache(),
                    field,
                    scheme: other.chars().take(20).collect(),
                });
            }
        }
        if url.as_str().len() > MAX_URL {
            return Err(ConfigError::TooLong { cache: cache(), field });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::UserInfo { cache: cache(), field });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ConfigError::QueryOrFragment { cache: cache(), field });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    fn config(url: &str) -> CacheConfig {
        let key = SecretKey::from_seed("k-1", &[7; 32]).unwrap().public_key();
        CacheConfig {
            name: "c".to_owned(),
            url: Url::parse(url).unwrap(),
            mirrors: Vec::new(),
            keys: KeyRing::new(vec![key]).unwrap(),
            priority: None,
            redirect_origins: Vec::new(),
            credentials: None,
        }
    }

    #[test]
    fn an_address_that_hides_something_is_refused_by_name() {
        for (url, want) in [
            ("ftp://a.example/", "Scheme"),
            ("ssh://a.example/", "Scheme"),
            ("data:text/plain,x", "Scheme"),
            ("unix:/run/x.sock", "Scheme"),
            ("http://u@a.example/", "UserInfo"),
            ("http://:CANARY@a.example/", "UserInfo"),
            ("http://a.example/?x=CANARY", "QueryOrFragment"),
            ("http://a.example/#x", "QueryOrFragment"),
            ("file://host/srv", "FilePath"),
            (&format!("http://a.example/{}", "x".repeat(MAX_URL)), "TooLong"),
        ] {
            let error = config(url).sites().unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{url}: {error:?}");
            assert!(!format!("{error:?} {error}").contains("CANARY"));
        }
        for url in [
            "http://a.example",
            "https://a.example:444/x/y",
            "file:///srv/cache",
            "http://[::1]:8/",
        ] {
            config(url).sites().unwrap();
        }
        let mut high = config("http://a.example");
        high.priority = Some(MAX_PRIORITY + 1);
        assert!(matches!(high.sites(), Err(ConfigError::Priority { .. })));
        let mut redirecting = config("http://a.example");
        redirecting.redirect_origins = vec![Url::parse("file:///etc").unwrap()];
        assert!(matches!(redirecting.sites(), Err(ConfigError::Scheme { .. })));
    }

    #[test]
    fn mirrors_come_first_and_files_lie_below_the_base() {
        let mut config = config("https://a.example/x");
        config.mirrors = vec![Url::parse("https://m.example/y/").unwrap()];
        let sites = config.sites().unwrap();
        assert_eq!(
            sites.iter().map(Site::label).collect::<Vec<_>>(),
            ["https://m.example/y", "https://a.example/x"]
        );
        let site = &sites[1];
        assert_eq!(
            site.locate("nar/a.nar.xz?sig=1").unwrap().as_str(),
            "https://a.example/x/nar/a.nar.xz?sig=1"
        );
        for outside in [
            "../z",
            "a/../../z",
            "%2e%2e/z",
            "/etc/shadow",
            "//b.example/z",
            "\\\\b.example\\z",
            "",
            ".",
            "a/..",
        ] {
            let located = site.locate(outside);
            let inside = located
                .as_ref()
                .is_none_or(|url| url.as_str().starts_with("https://a.example/x/"));
            assert!(inside, "{outside}: {located:?}");
        }
        assert_eq!(site.locate("../z"), None);
        assert_eq!(site.locate(""), None);
    }
}
