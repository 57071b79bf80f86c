//! Asking caches: the closure of a store path, and whether a cache is one.
//! Never downloads a NAR, never lets a credential into an error.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use binary_cache::{
    cache::CacheConfig,
    closure::{Closure, ClosureError},
    credentials::{Credentials, CredentialsError, Netrc, Secret},
    fault::Fault,
    key::{KeyRing, KeyRingError},
    options::Options,
    substitute::{SetupError, SubstituteError, Substituter},
};
use crds::domain::{
    cache::CacheSource,
    store_path::{StorePath, StorePathError},
};
use url::Url;

use crate::snapshot::{
    resolution::{CacheSet, Member, Question, Resolved},
    secret::AuthSecret,
};

/// A whole closure may take this long: thousands of narinfos from a slow cache.
const CLOSURE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long what a cache said is taken for its word: always less than until it is asked again, so that it is really asked.
const FOUND_TTL: Duration = Duration::from_secs(2400);
const ABSENT_TTL: Duration = Duration::from_secs(3);
/// Sets of caches whose connections and narinfos are kept.
const KEPT_SETS: usize = 8;
/// No cache has it: the hash of nothing.
const NOBODY_HAS: &str = "/nix/store/00000000000000000000000000000000-cudaenv-probe";

/// The operator's own namespace's secrets, by name.
pub type Secrets = BTreeMap<String, Arc<AuthSecret>>;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// An address of a cache.
    #[error("CUDABinaryCache {cache}: spec.{field} is no URL")]
    Url {
        /// The cache.
        cache: String,
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: url::ParseError,
    },
    /// A key of a cache.
    #[error("CUDABinaryCache {cache}: spec.publicKeys")]
    Keys {
        /// The cache.
        cache: String,
        /// What is wrong.
        source: KeyRingError,
    },
    /// The contents of a cache's secret.
    #[error("CUDABinaryCache {cache}: the key `{key}` of the secret `{secret}` in the operator's namespace")]
    Credentials {
        /// The cache.
        cache: String,
        /// The secret.
        secret: String,
        /// The key of the secret.
        key: &'static str,
        /// What is wrong.
        source: CredentialsError,
    },
    /// The contents of a cache's secret are no text.
    #[error("CUDABinaryCache {cache}: the key `{key}` of the secret `{secret}` in the operator's namespace is no text")]
    NotText {
        /// The cache.
        cache: String,
        /// The secret.
        secret: String,
        /// The key of the secret.
        key: &'static str,
    },
    /// The caches together.
    #[error("the caches cannot be asked together")]
    Setup(#[source] SetupError),
    /// The closure.
    #[error(transparent)]
    Closure(ClosureError),
    /// The cache alone.
    #[error(transparent)]
    Probe(SubstituteError),
    /// Nothing a cache could do about it.
    #[error("the store path that caches are probed with")]
    ProbePath(#[source] StorePathError),
    /// A defect of the operator itself, which its log tells of.
    #[error("the question was given up; the operator's log says why")]
    GivenUp,
    /// Too slow.
    #[error("the closure of {path} was not known within {} s", limit.as_secs())]
    Timeout {
        /// The root.
        path: StorePath,
        /// The limit.
        limit: Duration,
    },
}

/// Asks caches, and keeps what connections and narinfos it needs for that.
#[derive(Debug)]
pub struct Asker {
    options: Options,
    /// The ones used last, at the back.
    kept: Mutex<VecDeque<(Arc<CacheSet>, Substituter)>>,
}

impl Default for Asker {
    fn default() -> Self {
        let options = Options {
            attempts: 3,
            parallel_narinfos: 16,
            remembered: 4096,
            found_ttl: FOUND_TTL,
            absent_ttl: ABSENT_TTL,
            ..Options::default()
        };
        Self {
            options,
            kept: Mutex::default(),
        }
    }
}

impl Asker {
    /// The closure that a question is about.
    ///
    /// # Errors
    /// A cache that cannot be asked as configured; a path that cannot be had, or that no trusted key signed.
    pub async fn ask(&self, question: &Question, secrets: &Secrets) -> Result<Resolved, AskError> {
        let substituter = self.substituter(&question.caches, secrets)?;
        let roots = [question.path.clone()];
        let walk = substituter.closure(&roots, &|_| None);
        match tokio::time::timeout(CLOSURE_TIMEOUT, walk).await {
            Ok(closure) => closure.map(|closure| resolved(&closure)).map_err(AskError::Closure),
            Err(_) => Err(AskError::Timeout {
                path: question.path.clone(),
                limit: CLOSURE_TIMEOUT,
            }),
        }
    }

    /// Whether a cache answers as one does, at one of its addresses at least.
    ///
    /// # Errors
    /// What it does instead.
    pub async fn probe(&self, cache: &CacheSource, secrets: &Secrets) -> Result<(), AskError> {
        let path = StorePath::parse(NOBODY_HAS).map_err(AskError::ProbePath)?;
        let config = config(cache, secrets)?;
        // A new one each time: it remembers nothing, so that the cache is really asked.
        let substituter = Substituter::new(vec![config], self.options.clone()).map_err(AskError::Setup)?;
        let answers = |fault: &Fault| matches!(fault, Fault::Absent { .. } | Fault::NoFile | Fault::OtherName { .. });
        match substituter.lookup(&path).await {
            Ok(_) => Ok(()),
            Err(error) if error.asked().iter().any(|attempt| answers(&attempt.fault)) => Ok(()),
            Err(error) => Err(AskError::Probe(error)),
        }
    }

    fn substituter(&self, caches: &Arc<CacheSet>, secrets: &Secrets) -> Result<Substituter, AskError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = kept.iter().position(|(set, _)| set == caches)
            && let Some(found) = kept.remove(place)
        {
            let substituter = found.1.clone();
            kept.push_back(found);
            return Ok(substituter);
        }
        let configs = caches.caches.iter().zip(0..).map(|(cache, place)| {
            let config = config(cache, secrets)?;
            // The author's order goes before the caches' own priorities.
            let priority = if caches.in_order { Some(place) } else { config.priority };
            Ok(CacheConfig { priority, ..config })
        });
        let configs = configs.collect::<Result<_, _>>()?;
        let substituter = Substituter::new(configs, self.options.clone()).map_err(AskError::Setup)?;
        if kept.len() >= KEPT_SETS {
            kept.pop_front();
        }
        kept.push_back((Arc::clone(caches), substituter.clone()));
        Ok(substituter)
    }
}

fn resolved(closure: &Closure) -> Resolved {
    let members = closure.paths.iter().map(|narinfo| Member {
        hash: narinfo.store_path().hash().into(),
        nar_bytes: narinfo.nar_size(),
        download_bytes: narinfo.download().file_size.unwrap_or(narinfo.nar_size()),
    });
    let keys = closure.paths.iter().flat_map(|narinfo| narinfo.signed_by().iter());
    Resolved {
        closure_bytes: closure.nar_size,
        download_bytes: closure.download_size,
        signed_by: keys.cloned().collect::<BTreeSet<_>>(),
        members: members.collect(),
    }
}

fn config(cache: &CacheSource, secrets: &Secrets) -> Result<CacheConfig, AskError> {
    let url = |field: &'static str, text: &String| {
        Url::parse(text).map_err(|source| AskError::Url {
            cache: cache.name.clone(),
            field,
            source,
        })
    };
    let urls = |field, texts: &[String]| texts.iter().map(|text| url(field, text)).collect::<Result<Vec<_>, _>>();
    Ok(CacheConfig {
        name: cache.name.clone(),
        url: url("url", &cache.url)?,
        mirrors: urls("mirrors", &cache.mirrors)?,
        keys: KeyRing::parse(&cache.public_keys).map_err(|source| AskError::Keys {
            cache: cache.name.clone(),
            source,
        })?,
        priority: cache.priority,
        redirect_origins: urls("redirectOrigins", &cache.redirect_origins)?,
        credentials: credentials(cache, secrets)?,
    })
}

/// A token goes before a netrc. A secret that is not there is told of in the cache's status; here the cache itself answers.
fn credentials(cache: &CacheSource, secrets: &Secrets) -> Result<Option<Credentials>, AskError> {
    let Some((name, secret)) = cache
        .auth_secret
        .as_ref()
        .and_then(|name| Some((name, secrets.get(name)?)))
    else {
        return Ok(None);
    };
    let text = |key: &'static str| {
        let Some(bytes) = secret.data.get(key) else {
            return Ok(None);
        };
        let not_text = |_| AskError::NotText {
            cache: cache.name.clone(),
            secret: name.clone(),
            key,
        };
        str::from_utf8(bytes.reveal()).map(Some).map_err(not_text)
    };
    let wrong = |key: &'static str| {
        move |source| AskError::Credentials {
            cache: cache.name.clone(),
            secret: name.clone(),
            key,
            source,
        }
    };
    if let Some(token) = text("token")? {
        let token = Secret::new(token).map_err(wrong("token"))?;
        return Ok(Some(Credentials::Bearer(token)));
    }
    let Some(netrc) = text("netrc")? else {
        return Ok(None);
    };
    let netrc = Netrc::parse(netrc).map_err(wrong("netrc"))?;
    Ok(Some(Credentials::Netrc(netrc)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::{
        plan::resolve::answered,
        snapshot::resolution::{Resolved, Unresolved},
    };

    /// The shortest of the waits after `outcome` of many questions.
    fn shortest(outcome: &Result<Resolved, Unresolved>) -> Duration {
        let caches = Arc::new(CacheSet {
            caches: Vec::new(),
            in_order: false,
            secrets: BTreeMap::new(),
        });
        let again = (0..2000).map(|number| {
            let path = format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-path-{number}");
            let question = Question {
                path: StorePath::parse(&path).unwrap(),
                caches: Arc::clone(&caches),
            };
            answered(&question, None, outcome.clone(), Timestamp::UNIX_EPOCH).again
        });
        let again = again.min().unwrap();
        Duration::try_from(again.duration_since(Timestamp::UNIX_EPOCH)).unwrap()
    }

    #[test]
    fn whoever_is_asked_again_does_not_answer_from_memory() {
        let options = Asker::default().options;
        let good = Resolved {
            closure_bytes: 1,
            download_bytes: 1,
            signed_by: BTreeSet::new(),
            members: Box::new([]),
        };
        let absent = Unresolved {
            reason: crds::condition::ConditionReason::NotInAnyCache,
            message: "nobody has it".to_owned(),
        };
        assert!(options.found_ttl < shortest(&Ok(good)), "{options:?}");
        assert!(options.absent_ttl < shortest(&Err(absent)), "{options:?}");
    }
}
