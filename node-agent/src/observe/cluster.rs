//! Follows a cluster's objects through its API server, for as long as the agent lives.
//! Never fails: what cannot be had is asked for again, and what was seen stays until there is something newer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::ready,
    mem,
    sync::Arc,
    time::Duration,
};

use crds::{
    catalogue::Labels,
    v1alpha1::{CUDABinaryCache, CUDAEnvironment, CUDANode, ClusterCUDAEnvironment},
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream, select_all},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node},
    storage::v1::CSINode,
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::mirror::Mirror;
use super::driver::chain;
use crate::snapshot::cluster::{Objects, ThisNode, trimmed};

pub mod access;
mod mirror;

/// Name of the CSI driver, as pods and CSINode have it.
pub const CSI_DRIVER: &str = "csi.cudaenv.dev";

/// A watch that says nothing for this long is asked for anew: seconds. Bookmarks come every minute.
const SILENCE: u32 = 240;

/// A watch that goes on after an error says nothing until something changes. One that does not fails again within this time.
const QUIET: Duration = Duration::from_secs(300);

/// Changes that arrive together are shown together.
const AT_ONCE: usize = 512;

/// What was seen of a cluster up to now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// What catalogues are made of.
    pub objects: Arc<Objects>,
    /// Whether every kind that a catalogue is made of was listed once: only then is absent really absent.
    pub synced: bool,
    /// What is said of this node.
    pub node: ThisNode,
    /// The resources that could not be followed when they were last asked for.
    pub failing: BTreeSet<&'static str>,
}

/// Something that a watch brought.
enum Change {
    Environment(Event<DeserializeGuard<CUDAEnvironment>>),
    ClusterEnvironment(Event<DeserializeGuard<ClusterCUDAEnvironment>>),
    Cache(Event<DeserializeGuard<CUDABinaryCache>>),
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Node(Event<PartialObjectMeta<Node>>),
    CudaNode(Event<DeserializeGuard<CUDANode>>),
    CsiNode(Event<CSINode>),
}

type Arrived = (&'static str, Result<Change, watcher::Error>);

/// Mirrors of all that is followed.
#[derive(Default)]
struct Followed {
    environments: Mirror<CUDAEnvironment>,
    cluster_environments: Mirror<ClusterCUDAEnvironment>,
    caches: Mirror<CUDABinaryCache>,
    namespaces: Mirror<Labels>,
    nodes: Mirror<(Option<String>, Labels)>,
    cuda_nodes: Mirror<CUDANode>,
    csi_nodes: Mirror<bool>,
    /// With the time of the last error.
    failing: BTreeMap<&'static str, Instant>,
}

/// Follows what an agent on node `name` needs, and shows it on `out`. Ends only with its task.
pub async fn follow(client: Client, name: &str, out: watch::Sender<Seen>) {
    let all = watcher::Config::default().timeout(SILENCE);
    let own = all.clone().fields(&format!("metadata.name={name}"));
    let changes = [
        of(&client, "cudaenvironments", all.clone(), Change::Environment),
        of(
            &client,
            "clustercudaenvironments",
            all.clone(),
            Change::ClusterEnvironment,
        ),
        of(&client, "cudabinarycaches", all.clone(), Change::Cache),
        of(&client, "namespaces", all, Change::Namespace),
        of(&client, "cudanodes", own.clone(), Change::CudaNode),
        of(&client, "nodes", own.clone(), Change::Node),
        of(&client, "csinodes", own, Change::CsiNode),
    ];
    let mut changes = select_all(changes).ready_chunks(AT_ONCE);
    let mut followed = Followed::default();
    loop {
        let changed = tokio::select! {
            arrived = changes.next() => {
                let Some(arrived) = arrived else { return };
                let now = Instant::now();
                arrived
                    .into_iter()
                    .fold(false, |changed, (kind, change)| followed.see(kind, change, now) | changed)
            }
            () = quiet(followed.failing.values().min()) => followed.settle(Instant::now()),
        };
        if changed {
            let seen = followed.seen(&out.borrow());
            out.send_if_modified(|shown| {
                let differs = *shown != seen;
                *shown = seen;
                differs
            });
        }
    }
}

/// Returns when an error of then is no news any more; never where there was none.
async fn quiet(error: Option<&Instant>) {
    match error {
        Some(at) => sleep_until(*at + QUIET).await,
        None => std::future::pending().await,
    }
}

fn of<K>(
    client: &Client,
    kind: &'static str,
    config: watcher::Config,
    change: fn(Event<K>) -> Change,
) -> BoxStream<'static, Arrived>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    // With growing, jittered pauses after errors. That a list was asked for is no success yet: it is told with the first of the list.
    let mut asked = false;
    let events = watcher::watcher(api, config).filter_map(move |event| {
        ready(match event {
            Ok(Event::Init) => {
                asked = true;
                None
            }
            Ok(event) => Some(Ok((mem::take(&mut asked), event))),
            Err(error) => Some(Err(error)),
        })
    });
    let told = events.default_backoff().flat_map(move |event| {
        let (begins, event) = match event {
            Ok((begins, event)) => (begins, Ok(event)),
            Err(error) => (false, Err(error)),
        };
        let both = begins.then_some(Ok(Event::Init)).into_iter().chain([event]);
        stream::iter(both)
    });
    told.map(move |event| (kind, event.map(change))).boxed()
}

impl Followed {
    /// Takes in what arrived; says whether anything is different now.
    fn see(&mut self, kind: &'static str, change: Result<Change, watcher::Error>, now: Instant) -> bool {
        let change = match change {
            Ok(change) => change,
            Err(error) => return self.failed(kind, &error, now),
        };
        let recovered = self.failing.remove(kind).is_some();
        if recovered {
            tracing::info!(kind, "followed again");
        }
        let changed = match change {
            Change::Environment(event) => self.environments.see(event, |found| {
                let mut object = readable(kind, found)?;
                object.metadata = trimmed(object.metadata);
                object.status = None;
                Some(object)
            }),
            Change::ClusterEnvironment(event) => self.cluster_environments.see(event, |found| {
                let mut object = readable(kind, found)?;
                object.metadata = trimmed(object.metadata);
                object.status = None;
                Some(object)
            }),
            Change::Cache(event) => self.caches.see(event, |found| {
                let mut object = readable(kind, found)?;
                object.metadata = trimmed(object.metadata);
                object.status = None;
                Some(object)
            }),
            Change::CudaNode(event) => self.cuda_nodes.see(event, |found| {
                let mut object = readable(kind, found)?;
                object.metadata = trimmed(object.metadata);
                Some(object)
            }),
            Change::Namespace(event) => self
                .namespaces
                .see(event, |found| Some(found.metadata.labels.unwrap_or_default())),
            Change::Node(event) => self.nodes.see(event, |found| {
                Some((found.metadata.uid, found.metadata.labels.unwrap_or_default()))
            }),
            Change::CsiNode(event) => self.csi_nodes.see(event, |found| {
                Some(found.spec.drivers.iter().any(|driver| driver.name == CSI_DRIVER))
            }),
        };
        changed | recovered
    }

    /// Kinds without an error for long are followed again, though nothing arrived; says whether there are any.
    fn settle(&mut self, now: Instant) -> bool {
        let before = self.failing.len();
        self.failing.retain(|kind, last| {
            let fails = now < *last + QUIET;
            if !fails {
                tracing::info!(kind, "followed again");
            }
            fails
        });
        self.failing.len() != before
    }

    fn failed(&mut self, kind: &'static str, error: &watcher::Error, now: Instant) -> bool {
        let first = self.failing.insert(kind, now).is_none();
        if first {
            tracing::warn!(kind, error = %chain(error), "cannot be followed; what was seen before stays");
        } else {
            tracing::debug!(kind, error = %chain(error), "still cannot be followed");
        }
        first
    }

    /// What is to be shown; what did not change is shared with what was shown `before`.
    fn seen(&self, before: &Seen) -> Seen {
        let node = self.nodes.values().into_iter().next();
        let objects = Objects {
            environments: self.environments.values(),
            cluster_environments: self.cluster_environments.values(),
            caches: self.caches.values(),
            namespaces: self
                .namespaces
                .names()
                .map(|(name, labels)| (name, labels.clone()))
                .collect(),
            node_labels: match &node {
                Some(node) => Some(node.1.clone()),
                // Not seen yet: what is known from before counts.
                None if !self.nodes.synced() => before.objects.node_labels.clone(),
                None => None,
            },
        };
        let synced = self.environments.synced()
            && self.cluster_environments.synced()
            && self.caches.synced()
            && self.namespaces.synced();
        Seen {
            objects: if *before.objects == objects {
                Arc::clone(&before.objects)
            } else {
                Arc::new(objects)
            },
            synced,
            node: ThisNode {
                uid: node.as_ref().and_then(|node| node.0.clone()),
                object: self
                    .cuda_nodes
                    .synced()
                    .then(|| self.cuda_nodes.values().into_iter().next()),
                registered: self
                    .csi_nodes
                    .synced()
                    .then(|| self.csi_nodes.values().iter().any(|found| **found)),
            },
            failing: self.failing.keys().copied().collect(),
        }
    }
}

/// An object that is not of its kind's form is reported and passed over: the others count all the same.
fn readable<K>(kind: &'static str, found: DeserializeGuard<K>) -> Option<K> {
    found
        .0
        .map_err(|invalid| {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            tracing::warn!(kind, namespace, name, error = %invalid.error, "passed over: it cannot be read");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn environment(name: &str, packages: &Value) -> DeserializeGuard<CUDAEnvironment> {
        let object = json!({
            "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
            "metadata": {"namespace": "a", "name": name, "resourceVersion": "7", "generation": 2,
                "managedFields": [{"manager": "kubectl"}]},
            "spec": {"packages": packages},
            "status": {"summary": "whatever"},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_that_cannot_be_read_is_passed_over_and_the_others_count() {
        let good = json!([{"name": "cuda", "variants": []}]);
        let mut followed = Followed::default();
        let listed = [
            Event::Init,
            Event::InitApply(environment("bad", &json!("not a list"))),
            Event::InitApply(environment("good", &good)),
            Event::InitDone,
        ];
        for event in listed {
            followed.see("cudaenvironments", Ok(Change::Environment(event)), Instant::now());
        }
        let seen = followed.seen(&Seen::default());
        let names: Vec<_> = seen.objects.environments.iter().map(|one| &one.metadata).collect();
        assert_eq!(names.len(), 1);
        assert_eq!((names[0].name.as_deref(), names[0].generation), (Some("good"), Some(2)));
        assert_eq!((&names[0].resource_version, &names[0].managed_fields), (&None, &None));
        assert!(!seen.synced, "caches and namespaces were not listed yet");
        // A change of what is not looked at is none.
        let again = Change::Environment(Event::Apply(environment("good", &good)));
        assert!(!followed.see("cudaenvironments", Ok(again), Instant::now()));
        assert!(Arc::ptr_eq(&followed.seen(&seen).objects, &seen.objects));
    }

    #[test]
    fn what_cannot_be_followed_is_named_until_it_can_and_nothing_is_forgotten() {
        let mut followed = Followed::default();
        let good = json!([{"name": "cuda", "variants": []}]);
        for event in [
            Event::Init,
            Event::InitApply(environment("good", &good)),
            Event::InitDone,
        ] {
            followed.see("cudaenvironments", Ok(Change::Environment(event)), Instant::now());
        }
        let broken = || Err(watcher::Error::NoResourceVersion);
        let now = Instant::now();
        assert!(followed.see("cudaenvironments", broken(), now));
        assert!(!followed.see("cudaenvironments", broken(), now + QUIET / 2));
        let seen = followed.seen(&Seen::default());
        assert_eq!(seen.failing, BTreeSet::from(["cudaenvironments"]));
        assert_eq!(seen.objects.environments.len(), 1);
        assert!(!followed.settle(now + QUIET), "it failed again since");
        assert_eq!(followed.seen(&seen).failing, seen.failing);
        assert!(followed.settle(now + QUIET * 2));
        assert!(followed.seen(&seen).failing.is_empty());
        assert!(followed.see("cudaenvironments", broken(), now));
        assert!(followed.see("cudaenvironments", Ok(Change::Environment(Event::Init)), now));
        assert!(followed.seen(&seen).failing.is_empty());
    }

    #[test]
    fn the_registration_is_read_from_the_csi_node() {
        let registry = |drivers: Value| {
            let object = json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}});
            let object: CSINode = serde_json::from_value(object).unwrap();
            let mut followed = Followed::default();
            for event in [Event::Init, Event::InitApply(object), Event::InitDone] {
                followed.see("csinodes", Ok(Change::CsiNode(event)), Instant::now());
            }
            followed.seen(&Seen::default()).node.registered
        };
        assert_eq!(Followed::default().seen(&Seen::default()).node.registered, None);
        assert_eq!(registry(json!([{"name": "other", "nodeID": "n"}])), Some(false));
        assert_eq!(
            registry(json!([{"name": "other", "nodeID": "n"}, {"name": CSI_DRIVER, "nodeID": "n"}])),
            Some(true)
        );
    }
}
