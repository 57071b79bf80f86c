//! The world: everything of the cluster that the operator looks at, as it is at one moment.
//! Never more of an object than planning needs: a large cluster's nodes fit into little memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use crds::{
    catalogue::{Catalogue, EnvironmentKey, Labels},
    convert::InvalidField,
    domain::{code::GpuCode, node::NodeFacts, store_path::StorePath},
    selection::{Contents, KnownContents},
    v1alpha1::{
        CUDABinaryCacheStatus, CUDADriverPreflightSpec, CUDADriverPreflightStatus, CUDAEnvironmentStatus,
        CUDANodeStatus,
    },
};
use k8s_openapi::api::core::v1::Taint;

use super::{
    reading::{Readings, Shelf},
    secret::AuthSecret,
};

/// Everything at one moment. Cheap to clone: the objects are shared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    /// Environments, caches and namespaces.
    pub catalogue: Catalogue,
    /// The statuses of environments as they are written now.
    pub environment_statuses: BTreeMap<EnvironmentKey, Arc<Written<CUDAEnvironmentStatus>>>,
    /// The statuses of caches as they are written now.
    pub cache_statuses: BTreeMap<String, Arc<Written<CUDABinaryCacheStatus>>>,
    /// The nodes of Kubernetes, by name.
    pub nodes: BTreeMap<String, Arc<KubeNode>>,
    /// Nodes whose kubelet knows our CSI driver: those with `csi.cudaenv.dev` in their `CSINode`.
    pub registered: BTreeSet<String>,
    /// What the nodes' agents reported, by the node's name.
    pub machines: BTreeMap<String, Arc<Machine>>,
    /// The agents' own pods, by name: an agent that died can no longer say so itself.
    pub agents: BTreeMap<String, Arc<AgentPod>>,
    /// The questions asked, by name.
    pub preflights: BTreeMap<String, Arc<Preflight>>,
    /// The secrets of the operator's own namespace that hold credentials, by name.
    pub secrets: BTreeMap<String, Arc<AuthSecret>>,
    /// Where what machines have read is shared.
    pub shelf: Shelf,
}

/// A status as it is written now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Written<S> {
    /// `metadata.uid` of its object.
    pub uid: String,
    /// `metadata.resourceVersion` of its object: what was decided by this version is written over no other.
    pub resource_version: String,
    /// The status.
    pub status: S,
}

/// What planning needs of a `Node`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KubeNode {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.taints`, in their order.
    pub taints: Vec<Taint>,
}

/// What planning needs of a pod of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPod {
    /// `spec.nodeName`.
    pub node: String,
    /// Whether kubelet says that it is ready.
    pub ready: bool,
}

impl World {
    /// What agents have read of store paths. A store path has the same files everywhere: one of which two agents say
    /// different things counts as unread, as one of them is wrong.
    pub(super) fn contents(&self) -> KnownContents {
        let (mut sets, mut readings) = (HashSet::new(), HashSet::new());
        let mut found: BTreeMap<&StorePath, Option<&GpuCode>> = BTreeMap::new();
        let all = self.machines.values().map(|machine| &machine.contents);
        let new = all
            .filter(|set| sets.insert(set.as_ptr().addr()))
            .flat_map(|set| &**set);
        for reading in new.filter(|reading| readings.insert(Arc::as_ptr(reading).addr())) {
            let agreed = found.entry(&reading.path).or_insert(Some(&reading.code));
            *agreed = agreed.filter(|other| **other == reading.code);
        }
        let known = found.into_iter().filter_map(|(path, code)| {
            let code = code?.clone();
            let contents = Contents {
                code,
                ..Contents::default()
            };
            Some((path.clone(), contents))
        });
        known.collect()
    }
}

/// What a node's agent reported in its `CUDANode`.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// What selection looks at; the field that makes no sense; or nothing, where no agent has reported yet.
    pub facts: Option<Result<Arc<NodeFacts>, InvalidField>>,
    /// The class of those facts.
    pub class: Option<String>,
    /// What its agent has read of store paths.
    pub contents: Readings,
    /// All else that was reported: `contents` is empty.
    pub status: CUDANodeStatus,
}

/// A `CUDADriverPreflight`.
#[derive(Debug, Clone, PartialEq)]
pub struct Preflight {
    /// `metadata.generation`.
    pub generation: i64,
    /// The question.
    pub spec: CUDADriverPreflightSpec,
    /// The answer as it is written now.
    pub written: Written<CUDADriverPreflightStatus>,
}
