//! The status of a cache.
//! Never written for the sake of its time: `lastChecked` moves with the condition, and once an hour.

use std::time::Duration;

use crds::{
    catalogue::CacheEntry,
    condition::{ConditionReason as Why, ConditionType},
    domain::cache::CacheSource,
    v1alpha1::CUDABinaryCacheStatus,
};
use k8s_openapi::jiff::Timestamp;

use super::{
    conditions::{Holds, Verdict, conditions},
    step::{Change, Step},
};
use crate::snapshot::{
    probe::{Probe, Probes},
    resolution::Unresolved,
    secret::KEYS,
    world::World,
};

/// How old `lastChecked` may become while nothing else changes.
const CHECKED_WITHIN: Duration = Duration::from_secs(3600);

/// The statuses to be written, where they differ.
pub fn steps(world: &World, probes: &Probes, now: Timestamp) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, entry) in &world.catalogue.caches {
        let Some(before) = world.cache_statuses.get(name) else {
            continue;
        };
        let unusable = entry.source.as_ref().ok().and_then(|source| unusable(world, source));
        let after = status(entry, unusable, probes.get(name), &before.status, now);
        if let Some(after) = after.filter(|after| *after != before.status) {
            let change = Change {
                before: (**before).clone(),
                after,
            };
            steps.push(Step::Cache(name.clone(), change));
        }
    }
    steps
}

/// What is wrong with the secret that a cache names, and what to do.
fn unusable(world: &World, source: &CacheSource) -> Option<String> {
    let name = source.auth_secret.as_ref()?;
    let secret = world.secrets.get(name);
    if secret.is_some_and(|secret| secret.of_service_account) {
        return Some(format!(
            "spec.authSecretRef names the secret `{name}`, which is a service account's token: a cache that got it could act in \
             this cluster; name a secret of another type with a key `netrc` or `token`"
        ));
    }
    let found = secret.is_some_and(|secret| KEYS.iter().any(|key| secret.data.contains_key(*key)));
    (!found).then(|| {
        format!(
            "spec.authSecretRef names the secret `{name}`, and the operator's namespace has none with a key `netrc` or `token`: \
             create it there"
        )
    })
}

/// The status that a cache should have; nothing where nothing is known yet.
fn status(
    entry: &CacheEntry,
    unusable: Option<String>,
    probe: Option<&Probe>,
    written: &CUDABinaryCacheStatus,
    now: Timestamp,
) -> Option<CUDABinaryCacheStatus> {
    let about = ConditionType::Ready;
    let not = |reason, message: String| Verdict::new(about, Holds::False, reason, message);
    let current = probe.filter(|probe| probe.generation == entry.generation);
    let verdict = match (&entry.source, unusable, current.map(|probe| &probe.outcome)) {
        (Err(invalid), _, _) => not(Why::InvalidSpec, invalid.to_string()),
        (Ok(_), Some(unusable), _) => not(Why::CredentialsUnusable, unusable),
        (Ok(_), None, None) => return None,
        (Ok(_), None, Some(Err(Unresolved { reason, message }))) => not(*reason, message.clone()),
        (Ok(_), None, Some(Ok(()))) => Verdict::new(
            about,
            Holds::True,
            Why::Reachable,
            "it answers, and serves the store directory /nix/store",
        ),
    };
    let conditions = conditions(vec![verdict], entry.generation, &written.conditions, now);
    let changed = conditions != written.conditions;
    let asked = current.map(|probe| probe.at);
    let recent = |at: Timestamp| {
        let last = written.last_checked.as_ref()?.parse::<Timestamp>().ok()?;
        let due = last.checked_add(CHECKED_WITHIN).ok()?;
        (at < due).then_some(())
    };
    let last_checked = match asked {
        Some(at) if changed || recent(at).is_none() => Some(at.to_string()),
        Some(_) | None => written.last_checked.clone(),
    };
    Some(CUDABinaryCacheStatus {
        conditions,
        observed_generation: Some(entry.generation),
        last_checked,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crds::v1alpha1::CUDABinaryCache;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        observe::kinds::Kept,
        plan::{
            credentials::{self, Copying},
            made_up::{at, cache},
        },
    };

    fn keep<K: Kept>(world: &mut World, object: Value) {
        serde_json::from_value::<K>(object).unwrap().keep(world);
    }

    fn probed(outcome: Result<(), Unresolved>, second: i64) -> Probes {
        let probe = Probe {
            generation: 1,
            at: at(second),
            outcome,
        };
        Probes::from([("good".to_owned(), probe)])
    }

    fn away() -> Result<(), Unresolved> {
        Err(Unresolved {
            reason: Why::CacheUnreachable,
            message: "no connection".to_owned(),
        })
    }

    /// What is written, if anything; the world has it afterwards.
    fn written(world: &mut World, probes: &Probes, second: i64) -> Option<(String, Option<String>)> {
        let step = steps(world, probes, at(second)).pop()?;
        let Step::Cache(name, change) = step else {
            panic!("{step:?}")
        };
        let condition = &change.after.conditions[0];
        let told = (
            format!("{}={} {}", condition.type_, condition.status, condition.reason),
            change.after.last_checked.clone(),
        );
        let after = crate::snapshot::world::Written {
            status: change.after,
            ..change.before
        };
        world.cache_statuses.insert(name, Arc::new(after));
        Some(told)
    }

    #[test]
    fn a_cache_is_written_when_its_condition_changes_and_once_an_hour() {
        let mut world = World::default();
        cache(&mut world, "good");
        let time = |second| Some(at(second).to_string());
        assert_eq!(written(&mut world, &Probes::new(), 0), None, "nobody has asked yet");
        let ready = || "Ready=True Reachable".to_owned();
        assert_eq!(written(&mut world, &probed(Ok(()), 10), 10), Some((ready(), time(10))));
        assert_eq!(written(&mut world, &probed(Ok(()), 3609), 3609), None);
        assert_eq!(
            written(&mut world, &probed(Ok(()), 3610), 3610),
            Some((ready(), time(3610)))
        );
        let bad = "Ready=False CacheUnreachable".to_owned();
        assert_eq!(
            written(&mut world, &probed(away(), 3700), 3700),
            Some((bad, time(3700)))
        );
        assert_eq!(written(&mut world, &probed(away(), 3730), 3730), None);
    }

    #[test]
    fn a_service_accounts_token_is_refused_and_any_other_secret_is_not() {
        let keep = |type_: &str| {
            let mut world = World::default();
            let key = "cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=";
            let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": "good", "generation": 1},
                "spec": {"url": "https://cache.example.org", "publicKeys": [key], "authSecretRef": {"name": "flox"}}});
            keep::<CUDABinaryCache>(&mut world, object);
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "flox", "namespace": "cudaenv"},
                "type": type_, "data": {"token": "VDBLRU4="}});
            keep::<Secret>(&mut world, secret);
            world
        };
        for (type_, said, told, copied) in [
            ("Opaque", "Ready=True Reachable", "it answers", true),
            (
                "kubernetes.io/service-account-token",
                "Ready=False CredentialsUnusable",
                "which is a service account's token: a cache that got it could act in this cluster; name a secret of another type",
                false,
            ),
        ] {
            let mut world = keep(type_);
            let copying = credentials::copying(&world, "copies");
            assert_eq!(matches!(copying, Copying::Write(_)), copied, "{type_}: {copying:?}");
            let after = steps(&world, &probed(Ok(()), 10), at(10)).pop();
            let Some(Step::Cache(_, change)) = after else {
                panic!("{after:?}")
            };
            assert!(change.after.conditions[0].message.contains(told), "{change:?}");
            assert_eq!(written(&mut world, &probed(Ok(()), 10), 10).unwrap().0, said);
        }
    }
}
