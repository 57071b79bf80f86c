//! The catalogue: environments, caches and namespaces of a cluster, or of files, as they are at one moment.
//! Who may use what is decided here, for admission and for publishing alike, so that they cannot disagree.
//! Never tells an environment that is absent from one that is forbidden.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use serde::{Deserialize, Serialize};

use crate::{
    convert::InvalidField,
    domain::{
        cache::CacheSource,
        environment::Environment,
        store_path::{StorePath, System},
    },
    v1alpha1::{CUDABinaryCache, CUDAEnvironment, ClusterCUDAEnvironment, Prewarm},
};

mod files;
pub mod selector;

pub use files::Collision;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What names an environment in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EnvironmentKey {
    /// The namespace of a `CUDAEnvironment`; `None`: a `ClusterCUDAEnvironment`.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

impl EnvironmentKey {
    /// The object's kind.
    pub const fn kind(&self) -> &'static str {
        match self.namespace {
            Some(_) => "CUDAEnvironment",
            None => "ClusterCUDAEnvironment",
        }
    }
}

impl fmt::Display for EnvironmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind(), self.name),
            None => write!(f, "{} {}", self.kind(), self.name),
        }
    }
}

/// An environment of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentEntry {
    /// `metadata.uid`; empty where it comes from a file.
    pub uid: String,
    /// `metadata.generation`: counts changes of the spec; 0 where it comes from a file.
    pub generation: i64,
    /// What it says, or the field that makes no sense.
    pub environment: Result<Arc<Environment>, InvalidField>,
    /// When closures are fetched.
    pub prewarm: Prewarm,
    /// Labels of the nodes it is meant for; empty: every node with an NVIDIA driver.
    pub node_selector: Labels,
    /// Of a `ClusterCUDAEnvironment`: the namespaces whose pods may use it; `None`: all.
    pub allowed_namespaces: Option<LabelSelector>,
}

/// A cache of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheEntry {
    /// `metadata.generation`; 0 where it comes from a file.
    pub generation: i64,
    /// What it says, or the field that makes no sense.
    pub source: Result<Arc<CacheSource>, InvalidField>,
    /// The namespaces whose environments may use it; `None`: all.
    pub allowed_namespaces: Option<LabelSelector>,
}

/// Environments, caches and namespaces at one moment. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    /// Environments of both kinds.
    pub environments: BTreeMap<EnvironmentKey, Arc<EnvironmentEntry>>,
    /// Caches by name.
    pub caches: BTreeMap<String, Arc<CacheEntry>>,
    /// Labels of the namespaces. One that is not listed has no labels.
    pub namespaces: BTreeMap<String, Labels>,
}

/// Why a pod cannot have an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Absent or forbidden: the same words, so that nobody learns what other namespaces have.
    #[error(
        "namespace `{namespace}` has no {kind} `{name}` that its pods may use: check the name, or ask the platform team \
         for access"
    )]
    NotFound {
        /// The pod's namespace.
        namespace: String,
        /// The kind that was asked for.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
    },
    /// It is there, and says something impossible. Only where the schema was not enforced.
    #[error("{key} is invalid")]
    Invalid {
        /// Which one.
        key: EnvironmentKey,
        /// The field, and what is wrong with it.
        source: InvalidField,
    },
    /// A cache that it names is absent, or forbidden to the pod's namespace.
    #[error(
        "{key}: spec.caches names `{cache}`, and there is no such CUDABinaryCache that namespace `{namespace}` may use"
    )]
    Cache {
        /// The environment.
        key: EnvironmentKey,
        /// The cache.
        cache: String,
        /// The pod's namespace.
        namespace: String,
    },
    /// No cache at all.
    #[error(
        "{key}: there is no CUDABinaryCache that namespace `{namespace}` may use; create one, or widen its allowedNamespaces"
    )]
    NoCache {
        /// The environment.
        key: EnvironmentKey,
        /// The pod's namespace.
        namespace: String,
    },
}

/// An environment that a pod may use, with the caches it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// Which one.
    pub key: EnvironmentKey,
    /// The entry.
    pub entry: Arc<EnvironmentEntry>,
    /// What it says.
    pub environment: Arc<Environment>,
    /// The caches to ask. In the environment's order where it names some, then that order counts; else in the order of
    /// their names, and their priorities count.
    pub caches: Vec<Arc<CacheSource>>,
}

impl Catalogue {
    /// The store paths of variants, for nodes of `system`, whose code nobody declared.
    pub fn undeclared(&self, system: System) -> BTreeSet<StorePath> {
        let environments = self
            .environments
            .values()
            .filter_map(|entry| entry.environment.as_ref().ok());
        let packages = environments.flat_map(|environment| &environment.packages);
        let variants = packages.flat_map(|package| &package.variants);
        let undeclared = variants.filter(|variant| variant.code.is_none());
        undeclared
            .filter_map(|variant| variant.store_paths.get(&system))
            .cloned()
            .collect()
    }

    /// The environment called `key`, for a pod in `namespace`.
    ///
    /// # Errors
    /// One answer for absent and forbidden; an entry or a cache of it that cannot be used.
    pub fn grant(&self, namespace: &str, key: &EnvironmentKey) -> Result<Granted, Denied> {
        let not_found = || Denied::NotFound {
            namespace: namespace.to_owned(),
            kind: key.kind(),
            name: key.name.clone(),
        };
        if key.namespace.as_ref().is_some_and(|own| own != namespace) {
            return Err(not_found());
        }
        let entry = self.environments.get(key).ok_or_else(not_found)?;
        if !self.allows(entry.allowed_namespaces.as_ref(), namespace) {
            return Err(not_found());
        }
        let environment = entry.environment.clone().map_err(|source| Denied::Invalid {
            key: key.clone(),
            source,
        })?;
        Ok(Granted {
            caches: self.caches_of(key, &environment, namespace)?,
            key: key.clone(),
            entry: Arc::clone(entry),
            environment,
        })
    }

    /// The caches that `environment` comes from, for a pod in `namespace`.
    fn caches_of(
        &self,
        key: &EnvironmentKey,
        environment: &Environment,
        namespace: &str,
    ) -> Result<Vec<Arc<CacheSource>>, Denied> {
        let usable = |entry: &CacheEntry| {
            let allowed = self.allows(entry.allowed_namespaces.as_ref(), namespace);
            entry.source.as_ref().ok().filter(|_| allowed).map(Arc::clone)
        };
        let Some(named) = &environment.caches else {
            let all: Vec<_> = self.caches.values().filter_map(|entry| usable(entry)).collect();
            if all.is_empty() {
                return Err(Denied::NoCache {
                    key: key.clone(),
                    namespace: namespace.to_owned(),
                });
            }
            return Ok(all);
        };
        let found = named.iter().map(|name| {
            let entry = self.caches.get(name).and_then(|entry| usable(entry));
            entry.ok_or_else(|| Denied::Cache {
                key: key.clone(),
                cache: name.clone(),
                namespace: namespace.to_owned(),
            })
        });
        found.collect()
    }

    fn allows(&self, selector: Option<&LabelSelector>, namespace: &str) -> bool {
        let none = Labels::new();
        let labels = self.namespaces.get(namespace).unwrap_or(&none);
        selector.is_none_or(|selector| selector::matches(selector, labels))
    }
}

impl From<&CUDAEnvironment> for EnvironmentEntry {
    fn from(object: &CUDAEnvironment) -> Self {
        Self {
            uid: object.meta().uid.clone().unwrap_or_default(),
            generation: object.meta().generation.unwrap_or_default(),
            environment: Environment::try_from(object).map(Arc::new),
            prewarm: object.spec.prewarm,
            node_selector: object.spec.node_selector.clone(),
            allowed_namespaces: None,
        }
    }
}

impl From<&ClusterCUDAEnvironment> for EnvironmentEntry {
    fn from(object: &ClusterCUDAEnvironment) -> Self {
        Self {
            uid: object.meta().uid.clone().unwrap_or_default(),
            generation: object.meta().generation.unwrap_or_default(),
            environment: Environment::try_from(object).map(Arc::new),
            prewarm: object.spec.prewarm,
            node_selector: object.spec.node_selector.clone(),
            allowed_namespaces: object.spec.allowed_namespaces.clone(),
        }
    }
}

impl From<&CUDABinaryCache> for CacheEntry {
    fn from(object: &CUDABinaryCache) -> Self {
        Self {
            generation: object.meta().generation.unwrap_or_default(),
            source: CacheSource::try_from(object).map(Arc::new),
            allowed_namespaces: object.spec.allowed_namespaces.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalogue() -> Catalogue {
        let spec = |caches: serde_json::Value| {
            json!({
                "caches": caches,
                "packages": [{"name": "cuda", "variants": [{
                    "name": "cu128", "cuda": "12.8",
                    "storePaths": {"x86_64-linux": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda"},
                }]}],
            })
        };
        let gold = json!({"matchLabels": {"tier": "gold"}});
        let key = "cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=";
        let mut all = Catalogue::default();
        let environments = [
            ("a", "open", json!(null)),
            ("a", "named", json!(["gold", "open"])),
            ("b", "other", json!(null)),
        ];
        for (namespace, name, caches) in environments {
            let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
                "metadata": {"namespace": namespace, "name": name}, "spec": spec(caches)});
            let object: CUDAEnvironment = serde_json::from_value(object).unwrap();
            let key = EnvironmentKey {
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
            };
            all.environments.insert(key, Arc::new(EnvironmentEntry::from(&object)));
        }
        for (name, allowed) in [("shared", json!(null)), ("gold", gold.clone())] {
            let mut spec = spec(json!(null));
            spec["allowedNamespaces"] = allowed;
            let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "ClusterCUDAEnvironment",
                "metadata": {"name": name}, "spec": spec});
            let object: ClusterCUDAEnvironment = serde_json::from_value(object).unwrap();
            let key = EnvironmentKey {
                namespace: None,
                name: name.to_owned(),
            };
            all.environments.insert(key, Arc::new(EnvironmentEntry::from(&object)));
        }
        for (name, allowed) in [("open", json!(null)), ("gold", gold)] {
            let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": name},
                "spec": {"url": "https://cache.example.org", "publicKeys": [key], "allowedNamespaces": allowed}});
            let object: CUDABinaryCache = serde_json::from_value(object).unwrap();
            all.caches.insert(name.to_owned(), Arc::new(CacheEntry::from(&object)));
        }
        all.namespaces
            .insert("a".to_owned(), Labels::from([("tier".to_owned(), "gold".to_owned())]));
        all
    }

    #[test]
    fn absent_and_forbidden_get_the_same_answer_and_the_allowed_twin_gets_its_caches() {
        let all = catalogue();
        for (pod, namespace, name, expected) in [
            ("a", Some("a"), "open", Ok(&["gold", "open"][..])),
            ("a", Some("a"), "named", Ok(&["gold", "open"])),
            ("b", Some("b"), "other", Ok(&["open"])),
            ("a", None, "gold", Ok(&["gold", "open"])),
            ("a", None, "shared", Ok(&["gold", "open"])),
            ("b", None, "shared", Ok(&["open"])),
            (
                "b",
                None,
                "gold",
                Err("namespace `b` has no ClusterCUDAEnvironment `gold`"),
            ),
            (
                "b",
                None,
                "absent",
                Err("namespace `b` has no ClusterCUDAEnvironment `absent`"),
            ),
            (
                "b",
                Some("a"),
                "open",
                Err("namespace `b` has no CUDAEnvironment `open`"),
            ),
            (
                "b",
                Some("b"),
                "absent",
                Err("namespace `b` has no CUDAEnvironment `absent`"),
            ),
        ] {
            let key = EnvironmentKey {
                namespace: namespace.map(str::to_owned),
                name: name.to_owned(),
            };
            match (all.grant(pod, &key), expected) {
                (Ok(granted), Ok(caches)) => {
                    let names: Vec<_> = granted.caches.iter().map(|cache| cache.name.as_str()).collect();
                    assert_eq!(names, caches, "{pod} {key}");
                }
                (Err(denied), Err(says)) => assert!(denied.to_string().starts_with(says), "{denied}"),
                (found, _) => panic!("{pod} {key}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_cache_that_is_absent_or_forbidden_is_named() {
        let mut all = catalogue();
        all.namespaces.clear();
        let key = EnvironmentKey {
            namespace: Some("a".to_owned()),
            name: "named".to_owned(),
        };
        let forbidden = all.grant("a", &key).unwrap_err().to_string();
        all.caches.remove("gold");
        assert_eq!(all.grant("a", &key).unwrap_err().to_string(), forbidden);
        assert!(forbidden.contains("spec.caches names `gold`"), "{forbidden}");
        all.caches.clear();
        let key = EnvironmentKey {
            namespace: Some("a".to_owned()),
            name: "open".to_owned(),
        };
        assert!(matches!(all.grant("a", &key), Err(Denied::NoCache { .. })));
    }
}
