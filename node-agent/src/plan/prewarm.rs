//! Which environments are fetched before a pod asks for them.
//! Never decides what fits: that is selection's business, when it is fetched.

use std::time::Duration;

use crds::{
    catalogue::{Catalogue, EnvironmentKey, Granted, Labels},
    domain::node::{DriverState, NodeFacts},
    v1alpha1::Prewarm,
};
use sha2::{Digest, Sha256};

/// The longest pause before the first fetch: the nodes of a cluster do not ask the caches all at once.
const SPREAD: Duration = Duration::from_secs(30);

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Environments and caches.
    pub catalogue: &'a Catalogue,
    /// The Node's labels, where they are known.
    pub labels: Option<&'a Labels>,
    /// The driver and the GPUs.
    pub facts: &'a NodeFacts,
    /// Whether the node takes no new volumes.
    pub drain: bool,
}

/// An environment to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Ahead {
    /// On behalf of which namespace: its own, or for a cluster-wide one the first that may use it.
    pub namespace: String,
    /// What it is and where it comes from.
    pub granted: Granted,
}

/// The environments with `prewarm: Always` that are meant for the node, in the order of their names. One that cannot be
/// used by anybody is left out: its status says why.
pub fn plan(situation: Situation<'_>) -> Vec<Ahead> {
    let Situation {
        catalogue,
        labels,
        facts,
        drain,
    } = situation;
    if drain || !matches!(facts.driver, DriverState::Ready { .. }) {
        return Vec::new();
    }
    let wanted = catalogue.environments.iter();
    let wanted = wanted.filter(|(_, entry)| entry.prewarm == Prewarm::Always && is_meant(&entry.node_selector, labels));
    wanted.filter_map(|(key, _)| ahead(catalogue, key)).collect()
}

fn ahead(catalogue: &Catalogue, key: &EnvironmentKey) -> Option<Ahead> {
    let grant = |namespace: &String| {
        let granted = catalogue.grant(namespace, key).ok()?;
        Some(Ahead {
            namespace: namespace.clone(),
            granted,
        })
    };
    match &key.namespace {
        Some(own) => grant(own),
        None => catalogue.namespaces.keys().find_map(grant),
    }
}

/// Whether a node with `labels` is one that an environment is meant for. Labels that are not known match only a selector
/// that asks for none.
pub fn is_meant(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// How long the node called `node` waits with `key`: always the same, different from its neighbours.
pub fn pause(node: &str, key: &EnvironmentKey) -> Duration {
    let hash = Sha256::digest(format!("{node}\n{key}"));
    let share = hash
        .iter()
        .take(2)
        .fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    SPREAD * share / (1 << 16)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crds::{
        catalogue::{CacheEntry, EnvironmentEntry},
        domain::store_path::System,
        v1alpha1::{CUDABinaryCache, CUDAEnvironment, ClusterCUDAEnvironment},
    };
    use serde_json::{Value, json};

    use super::*;

    fn spec(prewarm: &str, selector: Value) -> Value {
        json!({
            "prewarm": prewarm,
            "nodeSelector": selector,
            "packages": [{"name": "cuda", "variants": [{
                "name": "cu128", "cuda": "12.8",
                "storePaths": {"x86_64-linux": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda"},
            }]}],
        })
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn catalogue() -> Catalogue {
        let mut all = Catalogue::default();
        for (name, prewarm, selector) in [
            ("always", "Always", json!({})),
            ("demand", "OnDemand", json!({})),
            ("h100", "Always", json!({"gpu": "h100"})),
        ] {
            let object: CUDAEnvironment = serde_json::from_value(json!({
                "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
                "metadata": {"namespace": "a", "name": name}, "spec": spec(prewarm, selector)}))
            .unwrap();
            let key = EnvironmentKey {
                namespace: Some("a".to_owned()),
                name: name.to_owned(),
            };
            all.environments.insert(key, Arc::new(EnvironmentEntry::from(&object)));
        }
        let mut spec = spec("Always", json!({}));
        spec["allowedNamespaces"] = json!({"matchLabels": {"tier": "gold"}});
        let object: ClusterCUDAEnvironment = serde_json::from_value(json!({
            "apiVersion": "cudaenv.dev/v1alpha1", "kind": "ClusterCUDAEnvironment",
            "metadata": {"name": "shared"}, "spec": spec}))
        .unwrap();
        let key = EnvironmentKey {
            namespace: None,
            name: "shared".to_owned(),
        };
        all.environments.insert(key, Arc::new(EnvironmentEntry::from(&object)));
        let key = "cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=";
        let cache: CUDABinaryCache = serde_json::from_value(json!({
            "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": "open"},
            "spec": {"url": "https://cache.example.org", "publicKeys": [key]}}))
        .unwrap();
        all.caches.insert("open".to_owned(), Arc::new(CacheEntry::from(&cache)));
        all.namespaces.insert("a".to_owned(), Labels::new());
        all.namespaces.insert("b".to_owned(), labels(&[("tier", "gold")]));
        all
    }

    fn facts(driver: DriverState) -> NodeFacts {
        NodeFacts {
            driver,
            gpus: Vec::new(),
            system: System::X86_64Linux,
        }
    }

    #[test]
    fn what_is_always_wanted_and_meant_for_the_node_is_fetched_ahead() {
        let ready = facts(DriverState::Ready {
            version: "550.54.14".parse().unwrap(),
            cuda: "12.4".parse().unwrap(),
        });
        let all = catalogue();
        let names = |catalogue: &Catalogue, labels: Option<&Labels>, facts: &NodeFacts, drain| {
            let found = plan(Situation {
                catalogue,
                labels,
                facts,
                drain,
            });
            let names = found
                .iter()
                .map(|ahead| format!("{} for {}", ahead.granted.key.name, ahead.namespace));
            names.collect::<Vec<_>>()
        };
        let h100 = labels(&[("gpu", "h100"), ("zone", "1")]);
        let l4 = labels(&[("gpu", "l4")]);
        assert_eq!(
            names(&all, Some(&h100), &ready, false),
            ["shared for b", "always for a", "h100 for a"]
        );
        assert_eq!(names(&all, Some(&l4), &ready, false), ["shared for b", "always for a"]);
        assert_eq!(names(&all, None, &ready, false), ["shared for b", "always for a"]);
        assert_eq!(names(&all, Some(&h100), &ready, true), Vec::<String>::new());
        assert_eq!(
            names(&all, Some(&h100), &facts(DriverState::Missing), false),
            Vec::<String>::new()
        );
        // An environment that no namespace may use is fetched for nobody.
        let mut closed = all.clone();
        closed.namespaces.remove("b");
        assert_eq!(names(&closed, None, &ready, false), ["always for a"]);
        // Without a cache there is nothing to fetch from.
        let mut without = all;
        without.caches.clear();
        assert_eq!(names(&without, Some(&h100), &ready, false), Vec::<String>::new());
    }

    #[test]
    fn nodes_begin_at_different_times_and_each_at_its_own() {
        let key = EnvironmentKey {
            namespace: None,
            name: "shared".to_owned(),
        };
        let pauses: Vec<_> = (0..100).map(|node| pause(&format!("node-{node}"), &key)).collect();
        assert!(pauses.iter().all(|pause| *pause < SPREAD));
        let early = pauses.iter().filter(|pause| **pause < SPREAD / 2).count();
        assert!((20..80).contains(&early), "{early} of 100 begin in the first half");
        assert_eq!(pause("node-1", &key), pause("node-1", &key));
    }
}
