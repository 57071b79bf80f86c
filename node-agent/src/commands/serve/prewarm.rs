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
    plan::prewarm::{Ahead, Situation, pause, plan},
    provision::service::{Order, Provision},
    report::failure::chain,
    snapshot::{
        happening::{Happening, What},
        known::Known,
        node::Node,
        view::ViewKind,
    },
};

/// Between two looks where nothing seems to have changed: something may have been collected, or failed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

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
}

impl Prewarmer {
    /// Fetches ahead for as long as the daemon lives.
    pub(super) async fn run(mut self) {
        let mut begin_at: BTreeMap<(EnvironmentKey, i64), Instant> = BTreeMap::new();
        loop {
            let wanted = self.wanted();
            let now = Instant::now();
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
                // It is looked at again in a while; until then the others have their turn.
                begin_at.insert(name(&ahead), now + LOOK_EVERY);
                self.fetch(ahead).await;
                continue;
            }
            let next = begin_at.values().min().copied().unwrap_or(now + LOOK_EVERY);
            tokio::select! {
                () = sleep_until(next) => {}
                Ok(()) = self.known.changed() => {}
                Ok(()) = self.node.changed() => {}
                Ok(()) = self.seen.changed() => {}
            }
        }
    }

    /// What is wanted and not there.
    fn wanted(&mut self) -> Vec<Ahead> {
        let known = self.known.borrow_and_update().clone();
        let node = self.node.borrow_and_update().clone();
        let seen = self.seen.borrow_and_update().clone();
        let wanted = plan(Situation {
            catalogue: &known.catalogue,
            labels: seen.objects.node_labels.as_ref(),
            facts: &node.facts,
            drain: seen.node.object.flatten().is_some_and(|object| object.spec.drain),
        });
        let made = self.provision.made();
        let there = |ahead: &Ahead| {
            let same = |order: &Order| order.granted == ahead.granted && order.node == node;
            made.iter().any(|(order, _)| same(order))
        };
        wanted.into_iter().filter(|ahead| !there(ahead)).collect()
    }

    async fn fetch(&self, ahead: Ahead) {
        let environment = ahead.granted.key.clone();
        let order = Order {
            granted: ahead.granted,
            node: self.node.borrow().clone(),
            kind: ViewKind::Overlay,
        };
        let outcome = match self.provision.order(order) {
            Ok(mut ticket) => ticket.finished().await,
            Err(busy) => {
                tracing::debug!(environment = %environment, %busy, "not fetched ahead now");
                return;
            }
        };
        match outcome {
            Ok(_) => tracing::info!(environment = %environment, "fetched ahead"),
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
            }
        }
    }
}
