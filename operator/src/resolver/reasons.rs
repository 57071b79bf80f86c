//! Why a closure is not known: the word for programs, and for people what to do about it.
//! Never a secret; never more than fits into a status.

use binary_cache::{closure::ClosureError, substitute::SubstituteError};
use crds::condition::ConditionReason;

use crate::{act::ask::AskError, failure::chain, plan::conditions::shortened, snapshot::resolution::Unresolved};

/// Room for what happened; the advice behind it is never cut off.
const LONGEST_CAUSE: usize = 800;

/// An error as a status tells it. Every match is exhaustive, so that no new error goes without a word.
pub(super) fn unresolved(error: &AskError) -> Unresolved {
    let (reason, advice) = match error {
        AskError::Url { .. } | AskError::Keys { .. } => {
            (ConditionReason::InvalidSpec, "correct the CUDABinaryCache".to_owned())
        }
        AskError::Setup(_) => (ConditionReason::InvalidSpec, "correct the CUDABinaryCaches".to_owned()),
        AskError::Credentials { .. } | AskError::NotText { .. } => {
            (ConditionReason::CredentialsUnusable, "correct the secret".to_owned())
        }
        AskError::Closure(ClosureError::Root(source) | ClosureError::Reference { source, .. }) => of(source),
        AskError::Closure(ClosureError::TooLarge { .. }) => (
            ConditionReason::ClosureTooLarge,
            "name a path that refers to less".to_owned(),
        ),
        AskError::Probe(source) => of(source),
        AskError::ProbePath(_) | AskError::Timeout { .. } | AskError::GivenUp => (
            ConditionReason::CacheUnreachable,
            "it is tried again by itself".to_owned(),
        ),
    };
    let cause = shortened(&chain(error), LONGEST_CAUSE);
    Unresolved {
        reason,
        message: format!("{cause}; {advice}"),
    }
}

fn of(error: &SubstituteError) -> (ConditionReason, String) {
    match error {
        SubstituteError::NotInAnyCache { .. } => (
            ConditionReason::NotInAnyCache,
            "copy the path to one of these caches with everything that it refers to (`nix copy --to`), or name a cache that \
             has it"
                .to_owned(),
        ),
        SubstituteError::SignatureUntrusted { cache, keys, .. } => {
            (ConditionReason::SignatureUntrusted, sign_advice(cache, keys))
        }
        SubstituteError::HashMismatch { cache, .. }
        | SubstituteError::CacheCorrupt { cache, .. }
        | SubstituteError::CacheHostile { cache, .. } => (
            ConditionReason::CacheCorrupt,
            format!("check what is served at the addresses of CUDABinaryCache {cache}"),
        ),
        SubstituteError::CredentialsRefused { cache, .. } => (
            ConditionReason::CredentialsRefused,
            format!(
                "have the secret that spec.authSecretRef of CUDABinaryCache {cache} names hold credentials that the cache takes"
            ),
        ),
        SubstituteError::CacheUnreachable { .. } | SubstituteError::Local { .. } => (
            ConditionReason::CacheUnreachable,
            "it is tried again by itself".to_owned(),
        ),
    }
}

fn sign_advice(cache: &str, keys: &[String]) -> String {
    match keys {
        [] => {
            format!("sign the path (`nix store sign`) with a key that CUDABinaryCache {cache} names in spec.publicKeys")
        }
        _ => format!(
            "if you trust the key {}, add its public key to spec.publicKeys of CUDABinaryCache {cache}; else have the path \
             signed by a key that is there",
            keys.iter().take(4).cloned().collect::<Vec<_>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use binary_cache::{fault::Fault, substitute::Attempt};

    use super::*;

    #[test]
    fn refused_credentials_are_told_from_a_cache_that_is_away() {
        let told = |fault: Fault| {
            let (path, cache) = ("/nix/store/00000000000000000000000000000000-x", "flox".to_owned());
            let path = path.parse().unwrap();
            let refused = matches!(fault, Fault::Unauthorized);
            let attempt = Attempt {
                cache: cache.clone(),
                url: "https://cache.example".to_owned(),
                fault: Arc::new(fault),
            };
            let asked = vec![attempt];
            unresolved(&AskError::Probe(if refused {
                SubstituteError::CredentialsRefused { path, cache, asked }
            } else {
                SubstituteError::CacheUnreachable { path, cache, asked }
            }))
        };
        let refused = told(Fault::Unauthorized);
        assert_eq!(refused.reason, ConditionReason::CredentialsRefused);
        for named in ["HTTP 401", "spec.authSecretRef", "CUDABinaryCache flox"] {
            assert!(refused.message.contains(named), "{named}: {}", refused.message);
        }
        let away = told(Fault::NoFolder);
        assert_eq!(away.reason, ConditionReason::CacheUnreachable);
        assert!(!away.message.contains("authSecretRef"), "{}", away.message);
    }
}
