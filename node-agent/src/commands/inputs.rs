//! Reads the files that commands are given: environments, caches, credentials.
//! Never guesses which environment of several is meant; never prints a secret.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use binary_cache::{cache::CacheConfig, credentials::Credentials};
use crds::{
    domain::{cache::CacheSource, environment::Environment},
    manifest::{self, ChoiceError, ManifestError},
};

use crate::{
    args::FetchOptions,
    observe::gpus::FactsError,
    provision::caches::{self as sources, CacheError},
};

/// A file or an argument that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}", path.display())]
    Manifest { path: PathBuf, source: Box<ManifestError> },
    #[error("in {}", path.display())]
    Choice { path: PathBuf, source: ChoiceError },
    #[error("{} has no CUDABinaryCache", path.display())]
    NoCaches { path: PathBuf },
    #[error("spec.caches names `{name}`, which is not in {}", path.display())]
    UnknownCache { path: PathBuf, name: String },
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{}", path.display())]
    Facts { path: PathBuf, source: FactsError },
    #[error("--bearer-token names the cache `{cache}`, which is not among those used")]
    TokenWithoutCache { cache: String },
}

/// A file that people write is never larger; a device that never ends is not read to the end.
const LONGEST_FILE: u64 = 5 << 20;

pub(super) fn read(path: &Path) -> Result<String, InputError> {
    let error = |source| InputError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .map_err(error)?
        .take(LONGEST_FILE)
        .read_to_string(&mut text)
        .map_err(error)?;
    Ok(text)
}

/// The environment that is meant: the only one of the file, or the one called `name` or `namespace/name`.
pub(super) fn environment(path: &Path, wanted: Option<&str>) -> Result<Environment, InputError> {
    let manifest = |source| InputError::Manifest {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let all = manifest::environments(&read(path)?).map_err(manifest)?;
    manifest::choose(all, wanted).map_err(|source| InputError::Choice {
        path: path.to_owned(),
        source,
    })
}

/// The caches that the environment may be had from, in its order where it names some.
pub(super) fn caches(
    path: &Path,
    environment: &Environment,
    options: &FetchOptions,
) -> Result<Vec<CacheConfig>, InputError> {
    let manifest = |source| InputError::Manifest {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let present = manifest::caches(&read(path)?).map_err(manifest)?;
    let credentials = Known::read(options)?;
    if present.is_empty() {
        return Err(InputError::NoCaches { path: path.to_owned() });
    }
    let Some(named) = &environment.caches else {
        let configs = present.iter().map(|source| config(source, &credentials));
        let configs = configs.collect::<Result<_, _>>()?;
        return credentials.check(configs);
    };
    let mut configs = Vec::new();
    for (place, name) in (0..).zip(named) {
        let source = present.iter().find(|source| source.name == *name);
        let source = source.ok_or_else(|| InputError::UnknownCache {
            path: path.to_owned(),
            name: name.clone(),
        })?;
        // The author's order goes before the caches' own priorities.
        configs.push(CacheConfig {
            priority: Some(place),
            ..config(source, &credentials)?
        });
    }
    credentials.check(configs)
}

/// Caches from the command line, all trusted by the same keys, in the order given.
pub(super) fn caches_by_url(
    urls: &[String],
    keys: &[String],
    options: &FetchOptions,
) -> Result<Vec<CacheConfig>, InputError> {
    let credentials = Known::read(options)?;
    let numbered = (0..).zip(urls);
    let source = |(place, url): (u32, &String)| CacheSource {
        name: if urls.len() == 1 {
            "cache".to_owned()
        } else {
            format!("cache-{}", place + 1)
        },
        url: url.clone(),
        mirrors: Vec::new(),
        public_keys: keys.to_vec(),
        priority: Some(place),
        redirect_origins: Vec::new(),
        auth_secret: None,
    };
    let configs = numbered.map(source).map(|source| config(&source, &credentials));
    let configs = configs.collect::<Result<_, _>>()?;
    credentials.check(configs)
}

/// The credentials that were given.
struct Known {
    netrc: Option<Credentials>,
    tokens: BTreeMap<String, Credentials>,
}

impl Known {
    fn read(options: &FetchOptions) -> Result<Self, InputError> {
        let netrc = options.netrc.as_ref().map(|path| sources::netrc(path));
        let tokens = options.bearer_tokens.iter();
        let tokens = tokens.map(|(cache, path)| Ok((cache.clone(), sources::token(path)?)));
        Ok(Self {
            netrc: netrc.transpose()?,
            tokens: tokens.collect::<Result<_, InputError>>()?,
        })
    }

    fn of(&self, source: &CacheSource) -> Option<Credentials> {
        let credentials = self.tokens.get(&source.name).or(self.netrc.as_ref()).cloned();
        if let (None, Some(secret)) = (&credentials, &source.auth_secret) {
            tracing::warn!(
                "cache {} is read with the secret {secret} of a cluster; here, give --netrc or --bearer-token {}=FILE",
                source.name,
                source.name
            );
        }
        credentials
    }

    /// A token for a cache that is not asked is a mistake in its name.
    fn check(self, caches: Vec<CacheConfig>) -> Result<Vec<CacheConfig>, InputError> {
        let unused = self
            .tokens
            .into_keys()
            .find(|name| !caches.iter().any(|cache| cache.name == *name));
        match unused {
            Some(cache) => Err(InputError::TokenWithoutCache { cache }),
            None => Ok(caches),
        }
    }
}

fn config(source: &CacheSource, known: &Known) -> Result<CacheConfig, InputError> {
    Ok(sources::config(source, known.of(source))?)
}
