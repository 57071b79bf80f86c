//! From caches as objects describe them to caches that can be asked: URLs and keys parsed, credentials read.
//! Never prints a secret; never reads a file that is larger than credentials are.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use binary_cache::{
    cache::CacheConfig,
    credentials::{Credentials, CredentialsError, Netrc, Secret},
    key::{KeyRing, KeyRingError},
};
use crds::domain::cache::CacheSource;
use url::Url;

/// No file of credentials is larger.
const LONGEST_FILE: u64 = 1 << 20;

/// A cache that cannot be asked, or credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("cache {cache}: {field} `{text}`")]
    Url {
        cache: String,
        field: &'static str,
        text: String,
        source: url::ParseError,
    },
    #[error("cache {cache}: public keys")]
    Keys { cache: String, source: KeyRingError },
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Netrc { path: PathBuf, source: CredentialsError },
    #[error("the bearer token in {}", path.display())]
    Token { path: PathBuf, source: CredentialsError },
}

/// The cache, with what it is asked with.
pub fn config(source: &CacheSource, credentials: Option<Credentials>) -> Result<CacheConfig, CacheError> {
    let url = |field, text: &String| {
        Url::parse(text).map_err(|error| CacheError::Url {
            cache: source.name.clone(),
            field,
            text: text.clone(),
            source: error,
        })
    };
    let urls = |field, texts: &[String]| texts.iter().map(|text| url(field, text)).collect::<Result<Vec<_>, _>>();
    Ok(CacheConfig {
        name: source.name.clone(),
        url: url("url", &source.url)?,
        mirrors: urls("mirrors", &source.mirrors)?,
        keys: KeyRing::parse(&source.public_keys).map_err(|error| CacheError::Keys {
            cache: source.name.clone(),
            source: error,
        })?,
        priority: source.priority,
        redirect_origins: urls("redirectOrigins", &source.redirect_origins)?,
        credentials,
    })
}

/// Reads a netrc file.
pub fn netrc(path: &Path) -> Result<Credentials, CacheError> {
    let parsed = Netrc::parse(&read(path)?);
    let netrc = parsed.map_err(|source| CacheError::Netrc {
        path: path.to_owned(),
        source,
    })?;
    Ok(Credentials::Netrc(netrc))
}

/// Reads a file with a bearer token.
pub fn token(path: &Path) -> Result<Credentials, CacheError> {
    let secret = Secret::new(&read(path)?).map_err(|source| CacheError::Token {
        path: path.to_owned(),
        source,
    })?;
    Ok(Credentials::Bearer(secret))
}

/// What `folder` holds for one cache: `<cache>.token`, else `<cache>.netrc`, else nothing.
pub fn credentials_in(folder: &Path, cache: &str) -> Result<Option<Credentials>, CacheError> {
    let file = |suffix| folder.join(format!("{cache}.{suffix}"));
    for (path, parse) in [
        (file("token"), token as fn(&Path) -> Result<Credentials, CacheError>),
        (file("netrc"), netrc),
    ] {
        match parse(&path) {
            Err(CacheError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(Some),
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<String, CacheError> {
    let error = |source| CacheError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    File::open(path)
        .map_err(error)?
        .take(LONGEST_FILE)
        .read_to_string(&mut text)
        .map_err(error)?;
    Ok(text)
}
