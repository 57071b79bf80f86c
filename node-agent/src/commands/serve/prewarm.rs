//! Has environments fetched that are wanted on every node, before a pod asks.
//! Never takes a turn from more than it must: one at a time, and each node at its own moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crds::catalogue::EnvironmentKey;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    observe::cluster::Seen,
    plan::{
        prewarm::{Ahead, Situation, pause, plan},
        standing::{Made, Standings},
    },
    provision::service::{Order, Provision},
    report::failure::chain,
    snapshot::{
        happening::{Happening, What},
        known::Known,
        node::Node,
        view::ViewKind,
    },
};

/// After a failure.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// What is there counts as used every so often, so that garbage collection takes other things first; and what it took all
/// the same is fetched again.
const USED_EVERY: Duration = Duration::from_secs(600);

/// With what it is decided and done.
#[derive(Debug)]
pub(super) struct Prewarmer {
    pub(super) name: String,
    pub(super) known: watch::Receiver<Known>,
    pub(super) node: watch::Receiver<Arc<Node>>,
    /// The Node's labels; nothing without an API server.
    pub(super) seen: watch::Receiver<Seen>,
    pub(super) provision: Provision,
    pub(super) happenings: mpsc::Sender<Happening>,
    pub(super) standings: watch::Sender<Standings>,
}

impl Prewarmer {
    /// Fetches ahead for as long as the daemon lives.
    pub(super) async fn run(mut self) {
        let mut begin_at: BTreeMap<(EnvironmentKey, i64), Instant> = BTreeMap::new();
        let mut node = self.node.borrow().clone();
        loop {
            let wanted = self.wanted();
            let now = Instant::now();
            let current = self.node.borrow().clone();
            if current != node {
                // Another driver needs another view, of other variants perhaps.
                node = current;
                begin_at.clear();
            }
            let name = |ahead: &Ahead| (ahead.granted.key.clone(), ahead.granted.entry.generation);
            begin_at.retain(|known, _| wanted.iter().any(|ahead| name(ahead) == *known));
            for ahead in &wanted {
                let begins = || now + pause(&self.name, &ahead.granted.key);
                begin_at.entry(name(ahead)).or_insert_with(begins);
            }
            let due = wanted
                .into_iter()
                .find(|ahead| begin_at.get(&name(ahead)).is_some_and(|at| *at <= now));
            if let Some(ahead) = due {
                let name = name(&ahead);
                let again = self.fetch(ahead, &node).await;
                begin_at.insert(name, Instant::now() + again);
                continue;
            }
            let next = begin_at.values().min().copied().unwrap_or(now + TRY_AGAIN);
            tokio::select! {
                () = sleep_until(next) => {}
                Ok(()) = self.known.changed() => {}
                Ok(()) = self.node.changed() => {}
                Ok(()) = self.seen.changed() => {}
            }
        }
    }

    fn wanted(&mut self) -> Vec<Ahead> {
        let known = self.known.borrow_and_update().clone();
        let node = self.node.borrow_and_update().clone();
        let seen = self.seen.borrow_and_update().clone();
        plan(Situation {
            catalogue: &known.catalogue,
            labels: seen.objects.node_labels.as_ref(),
            facts: &node.facts,
            drain: seen.node.object.flatten().is_some_and(|object| object.spec.drain),
        })
    }

    /// Has it there, and counted as used; says in how long to look again.
    async fn fetch(&self, ahead: Ahead, node: &Arc<Node>) -> Duration {
        let environment = ahead.granted.key.clone();
        let generation = ahead.granted.entry.generation;
        let order = Order {
            granted: ahead.granted,
            node: Arc::clone(node),
            kind: ViewKind::Overlay,
        };
        let outcome = match self.provision.order(order) {
            Ok(mut ticket) => ticket.finished().await,
            Err(busy) => {
                tracing::debug!(environment = %environment, %busy, "not fetched ahead now");
                return TRY_AGAIN;
            }
        };
        match outcome {
            Ok(provisioned) => {
                if provisioned.fetched.paths > 0 {
                    let paths = provisioned.fetched.paths;
                    tracing::info!(environment = %environment, paths, "fetched ahead");
                }
                let made = Made::of(environment, generation, &provisioned.selection);
                self.standings.send_if_modified(|standings| standings.made(made));
                USED_EVERY
            }
            Err(error) => {
                tracing::warn!(environment = %environment, error = %chain(&error), "not fetched ahead");
                let happening = Happening {
                    pod: None,
                    environment: Some(environment),
                    what: What::Failed {
                        reason: error.reason(),
                        message: chain(&error),
                    },
                };
                // What is too much for the queue is in the log.
                let _ = self.happenings.try_send(happening);
                TRY_AGAIN
            }
        }
    }
}
