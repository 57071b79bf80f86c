//! Watching the cluster: ten kinds, one world, published at most ten times a second.
//! Never publishes a world before every kind was listed once: what is absent then is absent in the cluster.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crds::v1alpha1::{CUDABinaryCache, CUDADriverPreflight, CUDAEnvironment, CUDANode, ClusterCUDAEnvironment};
use futures_util::{
    Stream, StreamExt as _,
    stream::{BoxStream, select_all},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Secret},
    storage::v1::CSINode,
};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use super::kinds::Kept;
use crate::{
    client::SILENCE,
    readiness::Part,
    snapshot::{settled::Settled, world::World},
};

/// How long changes are gathered before the world is published.
const GATHER: Duration = Duration::from_millis(100);

/// Helm keeps a megabyte for each release in a secret of the namespace it installs to.
const NO_RELEASES: &str = "type!=helm.sh/release.v1";

/// The world as it changes; nothing until every kind was listed.
pub type Worlds = watch::Receiver<Option<Arc<Settled>>>;

/// Does it; whether that changed anything.
type Apply = Box<dyn FnOnce(&mut World) -> bool + Send>;

/// What one event of a watch does to the world.
struct Change {
    kind: &'static str,
    apply: Apply,
    /// The first list of this kind is complete with it.
    listed: bool,
}

/// Watches until it is dropped, and publishes every change.
///
/// Secrets, and the agents' pods, which have those labels, are watched in `namespace` alone.
pub async fn observe(
    client: Client,
    (namespace, agents): (&str, &str),
    published: watch::Sender<Option<Arc<Settled>>>,
    part: Part,
) {
    let own_secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let own_agents = Api::<Pod>::namespaced(client.clone(), namespace);
    let watches = [
        kept(own_secrets, all().fields(NO_RELEASES)),
        kept(own_agents, all().labels(agents)),
        everywhere::<CUDAEnvironment>(&client),
        everywhere::<ClusterCUDAEnvironment>(&client),
        everywhere::<CUDABinaryCache>(&client),
        everywhere::<Namespace>(&client),
        everywhere::<Node>(&client),
        everywhere::<CSINode>(&client),
        everywhere::<CUDANode>(&client),
        everywhere::<CUDADriverPreflight>(&client),
    ];
    let mut unlisted: BTreeSet<&'static str> = watches.iter().map(|(kind, _)| *kind).collect();
    let mut changes = select_all(watches.into_iter().map(|(_, changes)| changes));
    let mut world = World::default();
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            change = changes.next() => {
                let Some(change) = change else { return };
                let mut changed = (change.apply)(&mut world);
                if change.listed && unlisted.remove(change.kind) {
                    debug!(kind = change.kind, "listed");
                    changed = true;
                    if unlisted.is_empty() {
                        info!(nodes = world.nodes.len(), environments = world.catalogue.environments.len(), "the cluster is known");
                    }
                }
                // Most events change nothing that is kept: a `Node` gives a sign of life every few minutes.
                if changed && unlisted.is_empty() {
                    due.get_or_insert_with(|| soon(GATHER));
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(|| soon(GATHER))), if due.is_some() => {
                due = None;
                let before = published.borrow().clone();
                published.send_replace(Some(Arc::new(Settled::after(before.as_deref(), world.clone()))));
                part.set(true);
            }
        }
    }
}

fn soon(after: Duration) -> Instant {
    Instant::now() + after
}

fn everywhere<K: Kept>(client: &Client) -> (&'static str, BoxStream<'static, Change>) {
    kept(Api::<K>::all(client.clone()), all())
}

fn all() -> watcher::Config {
    watcher::Config::default().timeout(SILENCE)
}

fn kept<K: Kept>(api: Api<K>, config: watcher::Config) -> (&'static str, BoxStream<'static, Change>) {
    let events = watcher(api, config).default_backoff();
    (K::KIND, changes(events).boxed())
}

/// The events of one watch as changes. What a later list no longer has is forgotten at its end.
fn changes<K: Kept>(events: impl Stream<Item = watcher::Result<Event<K>>>) -> impl Stream<Item = Change> {
    let changes = events.scan(BTreeSet::<K::Key>::new(), move |seen, event| {
        let mut listed = false;
        let apply: Option<Apply> = match event {
            Ok(Event::Apply(object)) => Some(Box::new(|world| object.keep(world))),
            Ok(Event::Delete(object)) => Some(Box::new(move |world| K::forget(world, &object.key()))),
            Ok(Event::Init) => {
                seen.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                seen.insert(object.key());
                Some(Box::new(|world| object.keep(world)))
            }
            Ok(Event::InitDone) => {
                listed = true;
                let seen = std::mem::take(seen);
                Some(Box::new(move |world| retain::<K>(world, &seen)))
            }
            Err(error) => {
                warn!(kind = K::KIND, error = %error, "watching fails and is tried again");
                None
            }
        };
        std::future::ready(Some(apply.map(|apply| Change {
            kind: K::KIND,
            apply,
            listed,
        })))
    });
    changes.filter_map(std::future::ready)
}

fn retain<K: Kept>(world: &mut World, seen: &BTreeSet<K::Key>) -> bool {
    let gone = K::keys(world).into_iter().filter(|key| !seen.contains(key));
    gone.filter(|key| K::forget(world, key)).count() > 0
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, team: &str) -> Namespace {
        let object = json!({"metadata": {"name": name, "labels": {"team": team}}});
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn a_later_list_forgets_what_it_no_longer_has() {
        let events = [
            Event::Init,
            Event::InitApply(namespace("a", "1")),
            Event::InitApply(namespace("b", "1")),
            Event::InitDone,
            Event::Apply(namespace("c", "1")),
            Event::Apply(namespace("c", "1")),
            Event::Delete(namespace("a", "1")),
            Event::Init,
            Event::InitApply(namespace("b", "2")),
            Event::InitApply(namespace("d", "1")),
            Event::InitDone,
        ];
        let mut world = World::default();
        let mut seen = Vec::new();
        let mut changes = changes::<Namespace>(stream::iter(events.map(Ok)));
        while let Some(change) = changes.next().await {
            let changed = (change.apply)(&mut world);
            let names: Vec<_> = world.catalogue.namespaces.keys().cloned().collect();
            seen.push((names.join(""), changed, change.listed));
        }
        let expected = [
            ("a", true, false),
            ("ab", true, false),
            ("ab", false, true),
            ("abc", true, false),
            ("abc", false, false),
            ("bc", true, false),
            ("bc", true, false),
            ("bcd", true, false),
            ("bd", true, true),
        ];
        assert_eq!(
            seen,
            expected.map(|(names, changed, listed)| (names.to_owned(), changed, listed))
        );
        assert_eq!(world.catalogue.namespaces["b"]["team"], "2");
    }
}
