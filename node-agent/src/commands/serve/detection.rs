//! Looks again and again whether the node's driver is still the same, and whether a mount can be made.
//! Never holds anything below the driver's root between two looks.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::super::facts;
use crate::{
    act::view::self_test,
    args::NodeArgs,
    observe::driver::fingerprint::{Fingerprint, fingerprint},
    report::{
        failure::chain,
        metrics::{Ended, Metrics},
    },
    snapshot::{node::Node, status::SelfTest},
    store::NodeStore,
};

/// Between two cheap looks: some `stat` calls.
const GLANCE_EVERY: Duration = Duration::from_secs(5);
/// Between two thorough looks where nothing seems to have changed: GPUs may have.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Between two self-tests that succeed.
const TEST_EVERY: Duration = Duration::from_secs(600);
/// After a self-test that failed.
const TEST_AGAIN: Duration = Duration::from_secs(15);

/// What is looked at.
#[derive(Debug)]
pub(super) struct Looking {
    /// The host's root.
    pub(super) root: PathBuf,
    /// What the command line says of the node.
    pub(super) said: NodeArgs,
}

/// Keeps `node` up with the machine.
pub(super) async fn follow(looking: Looking, node: watch::Sender<Arc<Node>>, metrics: Metrics) {
    let looking = Arc::new(looking);
    let first = Arc::clone(&node.borrow());
    let mut print = glance(&looking, &first).await;
    drop(first);
    let mut looked = Instant::now();
    loop {
        sleep(GLANCE_EVERY).await;
        let before = node.borrow().clone();
        let now = glance(&looking, &before).await;
        if now == print && looked.elapsed() < LOOK_EVERY {
            continue;
        }
        (print, looked) = (now, Instant::now());
        let Some(found) = look(&looking, &metrics).await else {
            continue;
        };
        if found == *before {
            continue;
        }
        tracing::info!(
            driver.before = ?before.facts.driver,
            driver.now = ?found.facts.driver,
            class = found.facts.class(),
            "the node's driver or GPUs changed"
        );
        let found = Arc::new(found);
        // The places that the next glance looks at are those of the new detection.
        print = glance(&looking, &found).await;
        node.send_replace(found);
    }
}

async fn glance(looking: &Arc<Looking>, node: &Arc<Node>) -> Option<Fingerprint> {
    let (looking, node) = (Arc::clone(looking), Arc::clone(node));
    let print = spawn_blocking(move || fingerprint(&looking.root, &node.detection)).await;
    print.ok()?.ok()
}

async fn look(looking: &Arc<Looking>, metrics: &Metrics) -> Option<Node> {
    let here = Arc::clone(looking);
    let found = spawn_blocking(move || {
        let Looking { root, said } = here.as_ref();
        facts::observe(root, said, facts::kernel_source(&said.kernel_module))
    });
    match found.await {
        Ok(Ok(found)) => {
            metrics.detected(Ended::Ok);
            Some(found)
        }
        Ok(Err(failure)) => {
            metrics.detected(Ended::Failed);
            tracing::warn!(error = failure.message(), "the driver was not looked for");
            None
        }
        Err(error) => {
            metrics.detected(Ended::Failed);
            tracing::warn!(%error, "the task that looks for the driver died");
            None
        }
    }
}

/// Tries a mount at the start, when the node changed, and now and then.
pub(super) async fn test(store: NodeStore, mut node: watch::Receiver<Arc<Node>>, result: watch::Sender<SelfTest>) {
    loop {
        let store = store.clone();
        let now = match spawn_blocking(move || self_test(&store)).await {
            Ok(Ok(())) => SelfTest::Passed,
            Ok(Err(error)) => SelfTest::Failed { why: chain(&error) },
            Err(error) => SelfTest::Failed { why: error.to_string() },
        };
        let pause = if now == SelfTest::Passed {
            TEST_EVERY
        } else {
            TEST_AGAIN
        };
        let changed = result.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
        if let (true, SelfTest::Failed { why }) = (changed, &now) {
            tracing::error!(error = why, "no mount can be made: pods cannot be served");
        }
        tokio::select! {
            () = sleep(pause) => {}
            changed = node.changed() => if changed.is_err() { return },
        }
    }
}
