//! Where the objects of each watched kind live in the world.
//! Never keeps what planning does not need: a `Node` brings its list of images along, and it is dropped here.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use crds::{
    catalogue::{CacheEntry, EnvironmentEntry, EnvironmentKey},
    domain::node::NodeFacts,
    pod::DRIVER,
    v1alpha1::{CUDABinaryCache, CUDADriverPreflight, CUDAEnvironment, CUDANode, ClusterCUDAEnvironment},
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Secret},
        storage::v1::CSINode,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::snapshot::{
    secret::{AuthSecret, KEYS, OURS, SecretBytes},
    world::{AgentPod, KubeNode, Machine, Preflight, World, Written},
};

/// The type of a service account's token, whose key is called `token`, too.
const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

/// A kind that is watched.
pub trait Kept: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    /// Its name, for the log.
    const KIND: &'static str;

    /// What tells its objects apart in the world.
    type Key: Ord + Clone + Debug + Send + 'static;

    /// The object's key.
    fn key(&self) -> Self::Key;

    /// Puts what is needed of the object into the world, in place of what was there; whether that changed anything.
    fn keep(self, world: &mut World) -> bool;

    /// Takes the object out of the world; whether it was there.
    fn forget(world: &mut World, key: &Self::Key) -> bool;

    /// The keys of all objects of this kind that the world has.
    fn keys(world: &World) -> Vec<Self::Key>;
}

impl Kept for CUDAEnvironment {
    const KIND: &str = "CUDAEnvironment";

    type Key = EnvironmentKey;

    fn key(&self) -> EnvironmentKey {
        EnvironmentKey {
            namespace: Some(self.namespace().unwrap_or_default()),
            name: self.name_any(),
        }
    }

    fn keep(self, world: &mut World) -> bool {
        let (key, entry) = (self.key(), EnvironmentEntry::from(&self));
        let written = written(self.metadata, self.status);
        let status = put(&mut world.environment_statuses, key.clone(), written);
        put(&mut world.catalogue.environments, key, entry) || status
    }

    fn forget(world: &mut World, key: &EnvironmentKey) -> bool {
        world.environment_statuses.remove(key);
        world.catalogue.environments.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<EnvironmentKey> {
        let all = world.catalogue.environments.keys();
        all.filter(|key| key.namespace.is_some()).cloned().collect()
    }
}

impl Kept for ClusterCUDAEnvironment {
    const KIND: &str = "ClusterCUDAEnvironment";

    type Key = EnvironmentKey;

    fn key(&self) -> EnvironmentKey {
        EnvironmentKey {
            namespace: None,
            name: self.name_any(),
        }
    }

    fn keep(self, world: &mut World) -> bool {
        let (key, entry) = (self.key(), EnvironmentEntry::from(&self));
        let written = written(self.metadata, self.status);
        let status = put(&mut world.environment_statuses, key.clone(), written);
        put(&mut world.catalogue.environments, key, entry) || status
    }

    fn forget(world: &mut World, key: &EnvironmentKey) -> bool {
        world.environment_statuses.remove(key);
        world.catalogue.environments.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<EnvironmentKey> {
        let all = world.catalogue.environments.keys();
        all.filter(|key| key.namespace.is_none()).cloned().collect()
    }
}

impl Kept for CUDABinaryCache {
    const KIND: &str = "CUDABinaryCache";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let (key, entry) = (self.key(), CacheEntry::from(&self));
        let written = written(self.metadata, self.status);
        let status = put(&mut world.cache_statuses, key.clone(), written);
        put(&mut world.catalogue.caches, key, entry) || status
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.cache_statuses.remove(key);
        world.catalogue.caches.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.catalogue.caches)
    }
}

impl Kept for Namespace {
    const KIND: &str = "Namespace";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let labels = self.metadata.labels.clone().unwrap_or_default();
        world.catalogue.namespaces.insert(self.key(), labels.clone()) != Some(labels)
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.catalogue.namespaces.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.catalogue.namespaces)
    }
}

impl Kept for Node {
    const KIND: &str = "Node";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let key = self.key();
        let node = KubeNode {
            uid: self.metadata.uid.unwrap_or_default(),
            labels: self.metadata.labels.unwrap_or_default(),
            taints: self.spec.and_then(|spec| spec.taints).unwrap_or_default(),
        };
        put(&mut world.nodes, key, node)
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.nodes.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.nodes)
    }
}

impl Kept for CSINode {
    const KIND: &str = "CSINode";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let key = self.key();
        if self.spec.drivers.iter().any(|driver| driver.name == DRIVER) {
            world.registered.insert(key)
        } else {
            world.registered.remove(&key)
        }
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.registered.remove(key)
    }

    fn keys(world: &World) -> Vec<String> {
        world.registered.iter().cloned().collect()
    }
}

impl Kept for CUDANode {
    const KIND: &str = "CUDANode";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let key = self.key();
        let mut status = self.status.unwrap_or_default();
        let contents = world.shelf.shared(status.contents());
        status.contents = Vec::new();
        let facts = status
            .system
            .is_some()
            .then(|| NodeFacts::try_from(&status).map(Arc::new));
        let class = facts
            .as_ref()
            .and_then(|facts| facts.as_ref().ok())
            .map(|facts| facts.class());
        let machine = Machine {
            facts,
            class,
            contents,
            status,
        };
        put(&mut world.machines, key, machine)
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.machines.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.machines)
    }
}

/// Of the agents alone: the watch names their label.
impl Kept for Pod {
    const KIND: &str = "Pod";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let key = self.key();
        let conditions = self.status.and_then(|status| status.conditions).unwrap_or_default();
        let pod = AgentPod {
            node: self.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
            ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        };
        put(&mut world.agents, key, pod)
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.agents.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.agents)
    }
}

impl Kept for CUDADriverPreflight {
    const KIND: &str = "CUDADriverPreflight";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    fn keep(self, world: &mut World) -> bool {
        let key = self.key();
        let preflight = Preflight {
            generation: self.metadata.generation.unwrap_or_default(),
            spec: self.spec,
            written: written(self.metadata, self.status),
        };
        put(&mut world.preflights, key, preflight)
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.preflights.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.preflights)
    }
}

impl Kept for Secret {
    const KIND: &str = "Secret";

    type Key = String;

    fn key(&self) -> String {
        self.name_any()
    }

    /// Only what may be a credential is kept: other secrets of the namespace are nobody's business here.
    fn keep(self, world: &mut World) -> bool {
        let key = self.key();
        let of_credentials = |key: &str| KEYS.iter().any(|known| key == *known || is_copy(key, known));
        let of_service_account = self.type_.as_deref() == Some(SERVICE_ACCOUNT_TOKEN);
        let data = self
            .data
            .filter(|_| !of_service_account)
            .unwrap_or_default()
            .into_iter();
        let secret = AuthSecret {
            of_service_account,
            resource_version: self.metadata.resource_version.unwrap_or_default(),
            ours: self.metadata.labels.unwrap_or_default().contains_key(OURS),
            data: data
                .filter(|(key, _)| of_credentials(key))
                .map(|(key, bytes)| (key, SecretBytes::new(bytes.0)))
                .collect(),
        };
        put(&mut world.secrets, key, secret)
    }

    fn forget(world: &mut World, key: &String) -> bool {
        world.secrets.remove(key).is_some()
    }

    fn keys(world: &World) -> Vec<String> {
        names(&world.secrets)
    }
}

/// `flox.token` is a copy of the cache flox's `token`.
fn is_copy(key: &str, of: &str) -> bool {
    key.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'))
}

fn written<S: Default>(metadata: ObjectMeta, status: Option<S>) -> Written<S> {
    Written {
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        status: status.unwrap_or_default(),
    }
}

fn names<V>(map: &BTreeMap<String, V>) -> Vec<String> {
    map.keys().cloned().collect()
}

/// Puts the value in place of what was there. One that is the same stays the very same.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: V) -> bool {
    if map.get(&key).is_some_and(|old| **old == value) {
        return false;
    }
    map.insert(key, Arc::new(value));
    true
}
