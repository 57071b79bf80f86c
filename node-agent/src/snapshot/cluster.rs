//! What the agent follows in a cluster, trimmed to what it reads: environments, caches, namespaces, and its own node.
//! Never holds a status or a field that only its writer needs: a change of those is no change here.

use std::{collections::BTreeMap, sync::Arc};

use crds::{
    catalogue::{CacheEntry, Catalogue, EnvironmentEntry, EnvironmentKey, Labels},
    v1alpha1::{CUDABinaryCache, CUDAEnvironment, CUDANode, ClusterCUDAEnvironment},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The objects that a catalogue is made of, as the API server gave them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// Of every namespace.
    pub environments: Vec<Arc<CUDAEnvironment>>,
    /// The platform team's.
    pub cluster_environments: Vec<Arc<ClusterCUDAEnvironment>>,
    /// Binary caches.
    pub caches: Vec<Arc<CUDABinaryCache>>,
    /// Labels of every namespace.
    pub namespaces: BTreeMap<String, Labels>,
    /// Labels of this node's Node, where it was seen: environments are meant for some of them.
    pub node_labels: Option<Labels>,
}

/// The same as one document, for a file that outlives the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectsDocument {
    environments: Vec<CUDAEnvironment>,
    cluster_environments: Vec<ClusterCUDAEnvironment>,
    caches: Vec<CUDABinaryCache>,
    namespaces: BTreeMap<String, Labels>,
    #[serde(default)]
    node_labels: Option<Labels>,
}

/// What the cluster says of this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThisNode {
    /// `metadata.uid` of the Node, where it was seen: the owner of the node's CUDANode.
    pub uid: Option<String>,
    /// The node's CUDANode. `None`: not looked yet; `Some(None)`: there is none.
    pub object: Option<Option<Arc<CUDANode>>>,
    /// Whether kubelet registered our driver, where the CSINode was seen.
    pub registered: Option<bool>,
}

impl Objects {
    /// The catalogue that these objects make. One that says something impossible is in it, with the field that does.
    pub fn catalogue(&self) -> Catalogue {
        let key = |meta: &ObjectMeta| EnvironmentKey {
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
        };
        let own = self.environments.iter();
        let own = own.map(|object| (key(&object.metadata), EnvironmentEntry::from(object.as_ref())));
        let shared = self.cluster_environments.iter();
        let shared = shared.map(|object| (key(&object.metadata), EnvironmentEntry::from(object.as_ref())));
        let caches = self.caches.iter().map(|object| {
            let name = object.metadata.name.clone().unwrap_or_default();
            (name, Arc::new(CacheEntry::from(object.as_ref())))
        });
        Catalogue {
            environments: own.chain(shared).map(|(key, entry)| (key, Arc::new(entry))).collect(),
            caches: caches.collect(),
            namespaces: self.namespaces.clone(),
        }
    }

    /// As one document.
    pub fn document(&self) -> ObjectsDocument {
        let owned = |objects: &[Arc<CUDAEnvironment>]| objects.iter().map(|object| object.as_ref().clone()).collect();
        ObjectsDocument {
            environments: owned(&self.environments),
            cluster_environments: self
                .cluster_environments
                .iter()
                .map(|one| one.as_ref().clone())
                .collect(),
            caches: self.caches.iter().map(|one| one.as_ref().clone()).collect(),
            namespaces: self.namespaces.clone(),
            node_labels: self.node_labels.clone(),
        }
    }
}

impl From<ObjectsDocument> for Objects {
    fn from(document: ObjectsDocument) -> Self {
        let ObjectsDocument {
            environments,
            cluster_environments,
            caches,
            namespaces,
            node_labels,
        } = document;
        Self {
            environments: environments.into_iter().map(Arc::new).collect(),
            cluster_environments: cluster_environments.into_iter().map(Arc::new).collect(),
            caches: caches.into_iter().map(Arc::new).collect(),
            namespaces,
            node_labels,
        }
    }
}

/// What of an object's metadata is looked at: the rest changes without meaning anything to an agent.
pub fn trimmed(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        generation: meta.generation,
        ..ObjectMeta::default()
    }
}

/// What is wrong with the entries of a catalogue: a sentence for each, in their order.
pub fn faults(catalogue: &Catalogue) -> Vec<String> {
    let environments = catalogue.environments.iter();
    let environments = environments.filter_map(|(key, entry)| {
        let fault = entry.environment.as_ref().err()?;
        Some(format!("{key}: {fault}"))
    });
    let caches = catalogue.caches.iter().filter_map(|(name, entry)| {
        let fault = entry.source.as_ref().err()?;
        Some(format!("CUDABinaryCache {name}: {fault}"))
    });
    environments.chain(caches).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_gives_the_catalogue_that_the_objects_gave_and_an_impossible_object_is_named() {
        let environment = |name: &str, path: &str| {
            let object = json!({
                "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
                "metadata": {"namespace": "a", "name": name, "uid": "1", "generation": 3},
                "spec": {"packages": [{"name": "cuda", "variants": [
                    {"name": "cu128", "cuda": "12.8", "storePaths": {"x86_64-linux": path}}]}]},
            });
            Arc::new(serde_json::from_value::<CUDAEnvironment>(object).unwrap())
        };
        let objects = Objects {
            environments: vec![
                environment("good", "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda"),
                environment("bad", "/etc/passwd"),
            ],
            namespaces: BTreeMap::from([("a".to_owned(), Labels::new())]),
            ..Objects::default()
        };
        let text = serde_json::to_string(&objects.document()).unwrap();
        let read: ObjectsDocument = serde_json::from_str(&text).unwrap();
        let catalogue = Objects::from(read).catalogue();
        assert_eq!(catalogue, objects.catalogue());
        assert_eq!(catalogue.environments.len(), 2);
        let faults = faults(&catalogue);
        assert_eq!(faults.len(), 1);
        assert!(
            faults[0].starts_with("CUDAEnvironment a/bad: spec.packages[0]"),
            "{faults:?}"
        );
    }
}
