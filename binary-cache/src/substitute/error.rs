//! Why a path could not be had: every cache with its own reason, and the verdict over all of them.
//! Never reports only the last cache's fault; never shows a secret.

use std::{fmt, sync::Arc};

use crds::domain::store_path::StorePath;

use crate::{
    fault::{Class, Fault},
    hash::NarHash,
    nar::NarError,
    narinfo::TrustError,
};

/// One address that was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Name of the cache.
    pub cache: String,
    pub url: String,
    pub fault: Arc<Fault>,
}

/// Why a store path could not be substituted. `asked` has every attempt, in order; the text names a cache there only, with
/// its reason. `cache` is the one that the verdict is about.
#[derive(Debug, thiserror::Error)]
pub enum SubstituteError {
    #[error("{path} is in none of the caches: {}", list(asked))]
    NotInAnyCache { path: StorePath, asked: Vec<Attempt> },
    #[error("{path} has no signature by a key that its cache is trusted by: {}", list(asked))]
    SignatureUntrusted {
        path: StorePath,
        cache: String,
        /// Names of the keys that it claims to be signed by.
        keys: Vec<String>,
        asked: Vec<Attempt>,
    },
    #[error(
        "{path} could not be had, as a cache refuses the credentials it gets, or gets none: {}",
        list(asked)
    )]
    CredentialsRefused {
        path: StorePath,
        cache: String,
        asked: Vec<Attempt>,
    },
    #[error("{path} could not be had, as a cache cannot be reached: {}", list(asked))]
    CacheUnreachable {
        path: StorePath,
        cache: String,
        asked: Vec<Attempt>,
    },
    #[error("{path} came with other contents than signed: {}", list(asked))]
    HashMismatch {
        path: StorePath,
        cache: String,
        expected: NarHash,
        actual: NarHash,
        asked: Vec<Attempt>,
    },
    #[error("{path} could not be had, as a cache serves something unusable: {}", list(asked))]
    CacheCorrupt {
        path: StorePath,
        cache: String,
        asked: Vec<Attempt>,
    },
    #[error("{path} could not be had, as an answer looks like an attack: {}", list(asked))]
    CacheHostile {
        path: StorePath,
        cache: String,
        asked: Vec<Attempt>,
    },
    #[error("{path} could not be unpacked on this machine: {}", list(asked))]
    Local { path: StorePath, asked: Vec<Attempt> },
}

impl SubstituteError {
    /// The path that was asked for.
    pub fn path(&self) -> &StorePath {
        match self {
            Self::NotInAnyCache { path, .. }
            | Self::SignatureUntrusted { path, .. }
            | Self::CredentialsRefused { path, .. }
            | Self::CacheUnreachable { path, .. }
            | Self::HashMismatch { path, .. }
            | Self::CacheCorrupt { path, .. }
            | Self::CacheHostile { path, .. }
            | Self::Local { path, .. } => path,
        }
    }

    /// Every address that was asked, and why it did not help.
    pub fn asked(&self) -> &[Attempt] {
        match self {
            Self::NotInAnyCache { asked, .. }
            | Self::SignatureUntrusted { asked, .. }
            | Self::CredentialsRefused { asked, .. }
            | Self::CacheUnreachable { asked, .. }
            | Self::HashMismatch { asked, .. }
            | Self::CacheCorrupt { asked, .. }
            | Self::CacheHostile { asked, .. }
            | Self::Local { asked, .. } => asked,
        }
    }

    /// Where this machine itself failed, so that no other cache can help.
    pub(super) fn local(path: &StorePath, attempts: &[Attempt]) -> Option<Self> {
        let local = attempts.iter().any(|attempt| attempt.fault.class() == Class::Local);
        local.then(|| Self::Local {
            path: path.clone(),
            asked: attempts.to_vec(),
        })
    }

    /// The error of unpacking, where this machine's disk failed: its `io::Error` says whether it is full.
    pub fn disk(&self) -> Option<&NarError> {
        self.asked().iter().find_map(|attempt| {
            let Fault::Disk(error) = &*attempt.fault else {
                return None;
            };
            Some(error)
        })
    }
}

/// What all attempts together mean. What someone must look at goes before what may pass by itself, and that before
/// "nobody has it".
pub(super) fn verdict(path: &StorePath, asked: Vec<Attempt>) -> SubstituteError {
    let path = path.clone();
    if let Some(error) = SubstituteError::local(&path, &asked) {
        return error;
    }
    let untrusted = asked
        .iter()
        .find_map(|attempt| Some((attempt.cache.clone(), claimed_keys(&attempt.fault)?)));
    if let Some((cache, keys)) = untrusted {
        return SubstituteError::SignatureUntrusted {
            path,
            cache,
            keys,
            asked,
        };
    }
    let mismatch = asked.iter().find_map(|attempt| {
        let Fault::Nar(NarError::HashMismatch { expected, actual }) = &*attempt.fault else {
            return None;
        };
        Some((attempt.cache.clone(), *expected, *actual))
    });
    if let Some((cache, expected, actual)) = mismatch {
        return SubstituteError::HashMismatch {
            path,
            cache,
            expected,
            actual,
            asked,
        };
    }
    let first = |class| asked.iter().find(|a| a.fault.class() == class).map(|a| a.cache.clone());
    if let Some(cache) = first(Class::Hostile) {
        return SubstituteError::CacheHostile { path, cache, asked };
    }
    if let Some(cache) = first(Class::Corrupt) {
        return SubstituteError::CacheCorrupt { path, cache, asked };
    }
    if let Some(cache) = first(Class::Auth) {
        return SubstituteError::CredentialsRefused { path, cache, asked };
    }
    if let Some(cache) = first(Class::Transient) {
        return SubstituteError::CacheUnreachable { path, cache, asked };
    }
    SubstituteError::NotInAnyCache { path, asked }
}

/// The names on a narinfo that nobody trusted signed; `None` for other faults.
fn claimed_keys(fault: &Fault) -> Option<Vec<String>> {
    let Fault::Trust(error) = fault else { return None };
    match error {
        TrustError::UntrustedKey { names, .. } => Some(names.clone()),
        TrustError::BadSignature { key, .. } => Some(vec![key.clone()]),
        TrustError::NoSignature { .. }
        | TrustError::MalformedSignature { .. }
        | TrustError::TooManySignatures { .. } => Some(Vec::new()),
        TrustError::OtherPath { .. } | TrustError::OtherName { .. } => None,
    }
}

/// At most eight attempts: an error is for people.
fn list(asked: &[Attempt]) -> String {
    let shown: Vec<String> = asked.iter().take(8).map(Attempt::to_string).collect();
    let more = if asked.len() > shown.len() {
        format!("; and {} more", asked.len() - shown.len())
    } else {
        String::new()
    };
    shown.join("; ") + &more
}

/// `flox (https://cache.example): not trusted: …`: an attempt is an operand of the error, so it tells its whole chain.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.cache, self.url, self.fault.chain())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::narinfo::NarInfoError;

    #[test]
    fn the_verdict_is_the_attempt_that_a_person_must_hear_of_first() {
        let path = StorePath::parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x").unwrap();
        let attempt = |cache: &str, fault| Attempt {
            cache: format!("c-{cache}"),
            url: "http://x".to_owned(),
            fault: Arc::new(fault),
        };
        let absent = || attempt("absent", Fault::Absent { status: 404 });
        let slow = || {
            attempt(
                "slow",
                Fault::NoAnswer {
                    limit: Duration::from_secs(30),
                },
            )
        };
        let locked = || attempt("locked", Fault::Unauthorized);
        let corrupt = || attempt("corrupt", Fault::NarInfo(NarInfoError::Empty));
        let hostile = || attempt("hostile", Fault::TooManyRedirects { limit: 10 });
        let untrusted = || {
            attempt(
                "untrusted",
                Fault::Trust(TrustError::UntrustedKey {
                    path: path.clone(),
                    names: vec!["k".to_owned()],
                }),
            )
        };
        for (asked, want) in [
            (vec![absent(), absent()], "NotInAnyCache"),
            (vec![absent(), slow()], "CacheUnreachable"),
            (vec![absent(), locked()], "CredentialsRefused"),
            (vec![slow(), absent(), locked()], "CredentialsRefused"),
            (vec![locked(), corrupt()], "CacheCorrupt"),
            (vec![slow(), corrupt(), absent()], "CacheCorrupt"),
            (vec![slow(), corrupt(), hostile()], "CacheHostile"),
            (vec![absent(), slow(), hostile(), untrusted()], "SignatureUntrusted"),
            (vec![untrusted(), attempt("local", Fault::Cancelled)], "Local"),
        ] {
            let names: Vec<String> = asked.iter().map(|a| a.cache.clone()).collect();
            let error = verdict(&path, asked);
            assert!(format!("{error:?}").starts_with(want), "{error:?}");
            let text = error.to_string();
            assert_eq!(text.matches("c-").count(), names.len(), "each once: {text}");
            for name in names {
                assert!(text.contains(&format!("{name} (http://x): ")), "{text}");
            }
        }
    }
}
