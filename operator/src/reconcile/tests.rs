//! The shell on loopback: what it does while the API server refuses everything, or says nothing.
//! Never a cluster: that is what `e2e/tests/cluster_operator.rs` is for.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

use crds::{
    catalogue::CacheEntry,
    condition::{ConditionReason, ConditionType},
    v1alpha1::{CUDABinaryCache, CUDABinaryCacheStatus},
};
use kube::{Client, runtime::events::Reporter};
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::{
    client::{answering, silent},
    plan::{
        conditions::{Holds, Verdict, conditions},
        step::Change,
    },
    snapshot::{
        probe::Probes,
        resolution::Answers,
        world::{World, Written},
    },
};

#[tokio::test]
async fn eight_are_under_way_at_most_and_each_is_done_once() {
    let (now, most) = (Cell::new(0), Cell::new(0));
    let work = |number: usize| {
        let (now, most) = (&now, &most);
        async move {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::time::sleep(20 * BETWEEN_WRITES).await;
            now.set(now.get() - 1);
            number
        }
    };
    let mut done = a_few_at_a_time(0..40, work).await;
    done.sort_unstable();
    assert_eq!(done, (0..40).collect::<Vec<_>>());
    assert_eq!((most.get(), now.get()), (8, 0));
    assert!(a_few_at_a_time(0..0, work).await.is_empty());
}

/// What must stay for a reconciler to go on.
type Others = (
    watch::Sender<Arc<Answers>>,
    watch::Sender<Arc<Probes>>,
    watch::Sender<Option<Instant>>,
);

/// A reconciler that leads, and where its worlds come from.
fn reconciler(client: &Client) -> (Reconciler, watch::Sender<Option<Arc<Settled>>>, Others) {
    let (published, worlds) = watch::channel(None);
    let (answers, answers_heard) = watch::channel(Arc::default());
    let (probes, probes_heard) = watch::channel(Arc::default());
    let (lease, leading) = Leading::for_ever();
    let reconciler = Reconciler {
        worlds,
        heard: Heard {
            answers: answers_heard,
            probes: probes_heard,
        },
        leading: leading.clone(),
        writer: Writer {
            client: client.clone(),
            leading,
            namespace: "cudaenv".to_owned(),
            credentials_secret: "credentials".to_owned(),
        },
        recorder: Recorder::new(client.clone(), Reporter::from("cudaenv-operator")),
        metrics: Metrics::new().unwrap(),
        clock: || Timestamp::UNIX_EPOCH,
    };
    (reconciler, published, (answers, probes, lease))
}

#[tokio::test]
async fn an_event_that_nobody_takes_does_not_keep_the_next_writes_waiting() {
    let (_listener, client) = silent::server(Duration::from_secs(60));
    let (reconciler, _worlds, _others) = reconciler(&client);
    let verdict = Verdict::new(
        ConditionType::Ready,
        Holds::True,
        ConditionReason::Reachable,
        "it answers",
    );
    let after = CUDABinaryCacheStatus {
        conditions: conditions(vec![verdict], 1, &[], Timestamp::UNIX_EPOCH),
        ..CUDABinaryCacheStatus::default()
    };
    let before = Written::default();
    let step = Step::Cache("good".to_owned(), Change { before, after });
    assert!(report::event::of_step(&step).is_some_and(|(events, _)| events.len() == 1));
    let told = tokio::time::timeout(5 * TELL, reconciler.tell(&step)).await;
    told.unwrap();
}

/// A world with a cache whose status is to be written; `team` tells it from others.
fn world(team: usize) -> Arc<Settled> {
    let mut world = World::default();
    let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": "bad", "generation": 1},
        "spec": {"url": "ftp://x", "publicKeys": []}});
    let object: CUDABinaryCache = serde_json::from_value(object).unwrap();
    let entry = CacheEntry::from(&object);
    assert!(entry.source.is_err());
    world.catalogue.caches.insert("bad".to_owned(), entry.into());
    world.cache_statuses.insert("bad".to_owned(), Arc::default());
    let labels = [("team".to_owned(), team.to_string())].into();
    world.catalogue.namespaces.insert("team".to_owned(), labels);
    Arc::new(world.into())
}

#[expect(clippy::disallowed_methods, reason = "the test is the composition root")]
#[tokio::test]
async fn while_writes_fail_changes_of_the_world_do_not_make_it_try_more_often() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let client = answering::server(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        (500, json!({}))
    });
    let client = client.await;
    let (reconciler, worlds, _others) = reconciler(&client);
    let running = tokio::spawn(reconciler.run());
    let began = Instant::now();
    let mut team = 0;
    while began.elapsed() < Duration::from_millis(6500) {
        team += 1;
        worlds.send_replace(Some(world(team)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    running.abort();
    // After one second, and after two more; the next is four later.
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn the_wait_after_failures_doubles_up_to_a_minute_and_ends_with_a_pass_that_was_written() {
    let now = Instant::now();
    let mut backing_off = BackingOff::default();
    for seconds in [2, 4, 8, 16, 32, 60, 60] {
        backing_off.look(3, 4, now);
        let until = now + Duration::from_secs(seconds);
        assert_eq!(backing_off.at(now), Some(until));
        assert_eq!(backing_off.at(until), None);
    }
    backing_off.look(2, 4, now);
    assert_eq!(backing_off.at(now), None, "half of it was written");
    backing_off.look(0, 0, now);
    assert_eq!(backing_off.at(now), None);
}
