//! Which closures must be known, whom to ask for them, and when again.
//! Never asks for a credential to be sent anywhere: it names the version of a secret, nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use crds::{
    catalogue::{Denied, EnvironmentKey},
    condition::ConditionReason,
    domain::{
        cache::CacheSource,
        environment::{Environment, Variant},
        store_path::StorePath,
    },
};
use k8s_openapi::jiff::Timestamp;

use crate::snapshot::{
    resolution::{Answer, Answers, CacheSet, Question, Resolved, Unresolved},
    world::World,
};

/// How long a good answer counts. What is signed does not change; a cache may lose it.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// First wait after a failure; doubles each time.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The caches that an environment's closures come from. Of a `ClusterCUDAEnvironment`, every cache that it may name counts:
/// which namespaces may use a cache is decided when a pod asks.
///
/// # Errors
/// A cache that is not there, not allowed, or makes no sense; none at all.
pub fn cache_set(world: &World, key: &EnvironmentKey, environment: &Environment) -> Result<Arc<CacheSet>, Unresolved> {
    let caches = match &key.namespace {
        Some(namespace) => world.catalogue.grant(namespace, key).map(|granted| granted.caches),
        None => caches_of_all(world, key, environment),
    };
    let caches = caches.map_err(|denied| Unresolved {
        reason: ConditionReason::CacheNotFound,
        message: denied.to_string(),
    })?;
    let version = |cache: &Arc<CacheSource>| {
        let secret = world.secrets.get(cache.auth_secret.as_ref()?)?;
        Some((cache.name.clone(), secret.resource_version.clone()))
    };
    Ok(Arc::new(CacheSet {
        secrets: caches.iter().filter_map(version).collect(),
        in_order: environment.caches.is_some(),
        caches,
    }))
}

fn caches_of_all(
    world: &World,
    key: &EnvironmentKey,
    environment: &Environment,
) -> Result<Vec<Arc<CacheSource>>, Denied> {
    let all = &world.catalogue.caches;
    let usable = |name: &String| all.get(name).and_then(|entry| entry.source.clone().ok());
    let Some(named) = &environment.caches else {
        let caches: Vec<_> = all.keys().filter_map(usable).collect();
        if caches.is_empty() {
            return Err(Denied::NoCache {
                key: key.clone(),
                namespace: "any".to_owned(),
            });
        }
        return Ok(caches);
    };
    let found = named.iter().map(|name| {
        usable(name).ok_or_else(|| Denied::Cache {
            key: key.clone(),
            cache: name.clone(),
            namespace: "any".to_owned(),
        })
    });
    found.collect()
}

/// The store paths that must be known for a variant: its own, one a system, and its compat libraries.
pub fn roots(variant: &Variant) -> impl Iterator<Item = &StorePath> {
    let compat = variant.forward_compat.as_ref().map(|compat| &compat.store_path);
    variant.store_paths.values().chain(compat)
}

/// All questions of the world, each once.
pub fn questions(world: &World) -> BTreeSet<Question> {
    let mut all = BTreeSet::new();
    for (key, entry) in &world.catalogue.environments {
        let Ok(environment) = &entry.environment else { continue };
        let Ok(caches) = cache_set(world, key, environment) else {
            continue;
        };
        let variants = environment.packages.iter().flat_map(|package| &package.variants);
        all.extend(variants.flat_map(roots).map(|path| Question {
            path: path.clone(),
            caches: Arc::clone(&caches),
        }));
    }
    all
}

/// What to ask now, of `questions`, and when the next one is due: at that time at the latest, look again.
pub fn due(questions: &BTreeSet<Question>, answers: &Answers, now: Timestamp) -> (Vec<Question>, Option<Timestamp>) {
    let mut due = Vec::new();
    let mut next: Option<Timestamp> = None;
    for question in questions {
        match answers.get(question) {
            Some(answer) if answer.again > now => {
                next = Some(next.map_or(answer.again, |earliest| earliest.min(answer.again)));
            }
            Some(_) | None => due.push(question.clone()),
        }
    }
    // What was never answered goes first: somebody waits for it.
    due.sort_by_key(|question| answers.contains_key(question));
    (due, next)
}

/// The answer after a try at `now`, in place of the one before. A good answer of before stays beside a failure.
pub fn answered(
    question: &Question,
    before: Option<&Answer>,
    outcome: Result<Resolved, Unresolved>,
    now: Timestamp,
) -> Answer {
    match outcome {
        Ok(resolved) => Answer {
            resolved: Some(Arc::new(resolved)),
            failed: None,
            failures: 0,
            again: later(now, spread(GOOD_FOR, question, 0)),
        },
        Err(failed) => {
            let failures = before.map_or(0, |answer| answer.failures).saturating_add(1);
            let doubled = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16));
            Answer {
                resolved: before.and_then(|answer| answer.resolved.clone()),
                failed: Some(failed),
                failures,
                again: later(now, spread(doubled.min(LONGEST_WAIT), question, failures)),
            }
        }
    }
}

/// Between three quarters and the whole of a wait, different for each question, so that they do not all come at once.
fn spread(wait: Duration, question: &Question, failures: u32) -> Duration {
    let mut hasher = DefaultHasher::new();
    (question.path.hash(), failures).hash(&mut hasher);
    let per_mille = u32::try_from(750 + hasher.finish() % 250).unwrap_or(1000);
    wait * per_mille / 1000
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// What is known of a closure at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<'a> {
    /// Nobody has been asked yet.
    Waiting,
    /// Its paths are known and signed.
    Good(&'a Arc<Resolved>),
    /// It cannot be had.
    Failed(&'a Unresolved),
}

/// What is known of the closure of `path`. A cache that cannot be reached for a while takes nothing away from what it was
/// known to have: the cache's own status says that it is not there.
pub fn known<'a>(answers: &'a Answers, caches: &Arc<CacheSet>, path: &StorePath) -> Known<'a> {
    let question = Question {
        path: path.clone(),
        caches: Arc::clone(caches),
    };
    let Some(answer) = answers.get(&question) else {
        return Known::Waiting;
    };
    match (&answer.resolved, &answer.failed) {
        (Some(resolved), None) => Known::Good(resolved),
        (Some(resolved), Some(failed)) if failed.reason == ConditionReason::CacheUnreachable => Known::Good(resolved),
        (_, Some(failed)) => Known::Failed(failed),
        (None, None) => Known::Waiting,
    }
}

/// Bytes of several closures together, every path counted once.
pub fn bytes_together<'a>(closures: impl IntoIterator<Item = &'a Resolved>) -> u64 {
    let members = closures.into_iter().flat_map(|closure| &closure.members);
    let paths: BTreeMap<&str, u64> = members.map(|member| (&*member.hash, member.nar_bytes)).collect();
    paths.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Question {
        let path = format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}");
        Question {
            path: StorePath::parse(&path).unwrap(),
            caches: Arc::new(CacheSet {
                caches: Vec::new(),
                in_order: false,
                secrets: BTreeMap::new(),
            }),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn resolved() -> Resolved {
        Resolved {
            closure_bytes: 1,
            download_bytes: 1,
            signed_by: BTreeSet::new(),
            members: Box::new([]),
        }
    }

    fn unreachable() -> Unresolved {
        Unresolved {
            reason: ConditionReason::CacheUnreachable,
            message: "no answer".to_owned(),
        }
    }

    #[test]
    fn failures_are_asked_again_later_and_later_and_good_answers_within_the_hour() {
        let question = question("a");
        let mut answer = None;
        for (failures, least, most) in [(1, 3, 5), (2, 7, 10), (3, 15, 20), (7, 225, 300), (40, 225, 300)] {
            while answer.as_ref().map_or(0, |answer: &Answer| answer.failures) < failures {
                answer = Some(answered(&question, answer.as_ref(), Err(unreachable()), at(0)));
            }
            let wait = answer.as_ref().unwrap().again.as_second();
            assert!((least..=most).contains(&wait), "{failures} failures: {wait} s");
        }
        let good = answered(&question, answer.as_ref(), Ok(resolved()), at(0));
        assert!((2700..=3600).contains(&good.again.as_second()) && good.failures == 0);
    }

    #[test]
    fn a_cache_that_is_away_takes_nothing_back_but_one_that_lost_a_path_does() {
        let question = question("a");
        let good = answered(&question, None, Ok(resolved()), at(0));
        let known_after = |reason| {
            let failed = Unresolved {
                reason,
                ..unreachable()
            };
            let answer = answered(&question, Some(&good), Err(failed), at(9));
            let answers = Answers::from([(question.clone(), Arc::new(answer))]);
            matches!(known(&answers, &question.caches, &question.path), Known::Good(_))
        };
        assert!(known_after(ConditionReason::CacheUnreachable));
        assert!(!known_after(ConditionReason::NotInAnyCache));
        assert!(!known_after(ConditionReason::SignatureUntrusted));
    }

    #[test]
    fn what_was_never_asked_is_due_first() {
        let (old, new, fresh) = (question("old"), question("zz-new"), question("fresh"));
        let good = |now| Arc::new(answered(&old, None, Ok(resolved()), at(now)));
        let answers = Answers::from([(old.clone(), good(0)), (fresh.clone(), good(5000))]);
        let all = BTreeSet::from([old.clone(), new.clone(), fresh.clone()]);
        let (due, next) = due(&all, &answers, at(5000));
        assert_eq!(due, [new, old]);
        assert_eq!(next, Some(answers[&fresh].again));
    }
}
