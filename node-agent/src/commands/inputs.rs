//! Reads the files that commands are given: environments, caches, credentials.
//! Never guesses which environment of several is meant; never prints a secret.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use binary_cache::{
    cache::CacheConfig,
    credentials::{Credentials, CredentialsError, Netrc},
    key::{KeyRing, KeyRingError},
};
use crds::{
    domain::{cache::CacheSource, environment::Environment},
    manifest::{self, ManifestError},
};
use url::Url;

use crate::observe::gpus::FactsError;

/// A file or an argument that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}", path.display())]
    Manifest { path: PathBuf, source: Box<ManifestError> },
    #[error("{} has no CUDAEnvironment or ClusterCUDAEnvironment", path.display())]
    NoEnvironment { path: PathBuf },
    #[error("{} has no environment `{wanted}`; it has {}", path.display(), present.join(", "))]
    OtherEnvironments {
        path: PathBuf,
        wanted: String,
        present: Vec<String>,
    },
    #[error("{} has several environments, say which with --name: {}", path.display(), present.join(", "))]
    SeveralEnvironments { path: PathBuf, present: Vec<String> },
    #[error("{} has no CUDABinaryCache", path.display())]
    NoCaches { path: PathBuf },
    #[error("spec.caches names `{name}`, which is not in {}", path.display())]
    UnknownCache { path: PathBuf, name: String },
    #[error("cache {cache}: {field} `{text}`")]
    Url {
        cache: String,
        field: &'static str,
        text: String,
        source: url::ParseError,
    },
    #[error("cache {cache}: public keys")]
    Keys { cache: String, source: KeyRingError },
    #[error("{}", path.display())]
    Facts { path: PathBuf, source: FactsError },
    #[error("{}", path.display())]
    Netrc { path: PathBuf, source: CredentialsError },
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
    let mut all = manifest::environments(&read(path)?).map_err(manifest)?;
    let present: Vec<_> = all.iter().map(full_name).collect();
    let path = path.to_owned();
    let Some(wanted) = wanted else {
        return match all.len() {
            0 => Err(InputError::NoEnvironment { path }),
            1 => Ok(all.remove(0)),
            _ => Err(InputError::SeveralEnvironments { path, present }),
        };
    };
    all.retain(|environment| environment.name == wanted || full_name(environment) == wanted);
    match all.len() {
        0 => Err(InputError::OtherEnvironments {
            path,
            wanted: wanted.to_owned(),
            present,
        }),
        1 => Ok(all.remove(0)),
        _ => Err(InputError::SeveralEnvironments { path, present }),
    }
}

fn full_name(environment: &Environment) -> String {
    match &environment.namespace {
        Some(namespace) => format!("{namespace}/{}", environment.name),
        None => environment.name.clone(),
    }
}

/// The caches that the environment may be had from, in its order where it names some.
pub(super) fn caches(
    path: &Path,
    environment: &Environment,
    netrc: Option<&Path>,
) -> Result<Vec<CacheConfig>, InputError> {
    let manifest = |source| InputError::Manifest {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let present = manifest::caches(&read(path)?).map_err(manifest)?;
    let credentials = netrc.map(credentials).transpose()?;
    if present.is_empty() {
        return Err(InputError::NoCaches { path: path.to_owned() });
    }
    let Some(named) = &environment.caches else {
        return present
            .iter()
            .map(|source| config(source, credentials.as_ref()))
            .collect();
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
            ..config(source, credentials.as_ref())?
        });
    }
    Ok(configs)
}

/// Caches from the command line, all trusted by the same keys, in the order given.
pub(super) fn caches_by_url(
    urls: &[String],
    keys: &[String],
    netrc: Option<&Path>,
) -> Result<Vec<CacheConfig>, InputError> {
    let credentials = netrc.map(credentials).transpose()?;
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
    };
    numbered
        .map(source)
        .map(|source| config(&source, credentials.as_ref()))
        .collect()
}

fn credentials(path: &Path) -> Result<Credentials, InputError> {
    let netrc = Netrc::parse(&read(path)?).map_err(|source| InputError::Netrc {
        path: path.to_owned(),
        source,
    })?;
    Ok(Credentials::Netrc(netrc))
}

fn config(source: &CacheSource, credentials: Option<&Credentials>) -> Result<CacheConfig, InputError> {
    let url = |field, text: &String| {
        Url::parse(text).map_err(|error| InputError::Url {
            cache: source.name.clone(),
            field,
            text: text.clone(),
            source: error,
        })
    };
    Ok(CacheConfig {
        name: source.name.clone(),
        url: url("url", &source.url)?,
        mirrors: source
            .mirrors
            .iter()
            .map(|text| url("mirrors", text))
            .collect::<Result<_, _>>()?,
        keys: KeyRing::parse(&source.public_keys).map_err(|error| InputError::Keys {
            cache: source.name.clone(),
            source: error,
        })?,
        priority: source.priority,
        redirect_origins: source
            .redirect_origins
            .iter()
            .map(|text| url("redirectOrigins", text))
            .collect::<Result<_, _>>()?,
        credentials: credentials.cloned(),
    })
}
