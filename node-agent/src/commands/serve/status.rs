//! Writes the node's CUDANode: makes it where there is none, and keeps its status true.
//! Never writes what the API server has already, and never more often than planned.

use std::{sync::Arc, time::Duration};

use crds::{catalogue::Catalogue, v1alpha1::CUDANode};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    act::cluster::{create_node, write_status},
    observe::cluster::Seen,
    plan::{
        outdated::outdated,
        standing::{AtWork, Made, Standings, UnderWay},
        status::{AT_MOST_EVERY, Attempt, baseline, due},
    },
    provision::service::Provision,
    report::{
        failure::chain,
        metrics::{Ended, Metrics},
        node::{Before, status},
    },
    snapshot::{
        known::Known,
        node::Node,
        status::{DriverPlace, NodeReport, SelfTest, StoreNumbers},
    },
    store::NodeStore,
};

/// Between two looks at the store and its volumes where nothing seems to have changed.
const COUNT_EVERY: Duration = Duration::from_secs(60);

/// What a report is made of.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) known: watch::Receiver<Known>,
    pub(super) node: watch::Receiver<Arc<Node>>,
    pub(super) self_test: watch::Receiver<SelfTest>,
    pub(super) standings: watch::Receiver<Standings>,
    pub(super) store: watch::Receiver<Result<StoreNumbers, String>>,
    /// Pods whose volumes show another driver.
    pub(super) outdated_pods: watch::Receiver<Vec<String>>,
    pub(super) provision: Provision,
}

impl Sources {
    /// Everything as it is now; `object` is the node's CUDANode, `registered` what its CSINode says.
    pub(super) fn report(&self, object: Option<&CUDANode>, registered: Option<bool>) -> NodeReport {
        let node = self.node.borrow().clone();
        let catalogue: Arc<Catalogue> = Arc::clone(&self.known.borrow().catalogue);
        let driver_place = node.detection.driver.as_ref().map(|driver| DriverPlace {
            root: driver.root.clone(),
            source: driver.environment.to_string(),
        });
        NodeReport {
            facts: node.facts.clone(),
            driver_place,
            store: self.store.borrow().clone(),
            self_test: self.self_test.borrow().clone(),
            registered,
            environments: self.standings.borrow().reports(&catalogue, &self.at_work(&node)),
            undeclared: catalogue.undeclared(node.facts.system),
            contents: self.provision.read(),
            outdated_pods: self.outdated_pods.borrow().clone(),
            drain: object.is_some_and(|object| object.spec.drain),
        }
    }

    /// Shows in metrics what the provisioning counts.
    fn measure(&self, report: &NodeReport, metrics: &Metrics) {
        metrics.node(report);
        metrics.downloaded(self.provision.downloaded());
    }

    /// What is provisioned now, and what was for the node as it is now.
    fn at_work(&self, node: &Arc<Node>) -> AtWork {
        let under_way = self
            .provision
            .under_way()
            .into_iter()
            .map(|(order, progress)| UnderWay {
                key: order.granted.key,
                generation: order.granted.entry.generation,
                progress,
            });
        let made = self
            .provision
            .made()
            .into_iter()
            .filter(|(order, _)| order.node == *node);
        let made = made.map(|(order, selection)| {
            let generation = order.granted.entry.generation;
            Made::of(order.granted.key, generation, &selection)
        });
        AtWork {
            under_way: under_way.collect(),
            made: made.collect(),
        }
    }

    /// Returns when something may be different.
    async fn changed(&mut self) {
        let Self {
            known,
            node,
            self_test,
            standings,
            store,
            outdated_pods,
            provision: _,
        } = self;
        tokio::select! {
            Ok(()) = known.changed() => {}
            Ok(()) = node.changed() => {}
            Ok(()) = self_test.changed() => {}
            Ok(()) = standings.changed() => {}
            Ok(()) = store.changed() => {}
            Ok(()) = outdated_pods.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// One agent's side of the CUDANode.
pub(super) struct Teller {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) seen: watch::Receiver<Seen>,
    pub(super) sources: Sources,
    pub(super) metrics: Metrics,
}

impl Teller {
    /// Keeps the CUDANode true for as long as the daemon lives.
    pub(super) async fn tell(mut self) {
        let mut attempt = Attempt::default();
        let mut tried: Option<Instant> = None;
        let jitter = jitter(&self.name);
        loop {
            let pause = self.step(&mut attempt, &mut tried, jitter).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = self.sources.changed() => {}
                changed = self.seen.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Does what is due; says how long there is nothing to do if nothing changes.
    async fn step(&mut self, attempt: &mut Attempt, tried: &mut Option<Instant>, jitter: f64) -> Duration {
        let now = self.seen.borrow_and_update().node.clone();
        let since = tried.map(|tried| tried.elapsed());
        let Some(object) = now.object else {
            // Not looked yet. For metrics and readiness the report counts all the same.
            let report = self.sources.report(None, now.registered);
            self.sources.measure(&report, &self.metrics);
            return AT_MOST_EVERY;
        };
        let Some(object) = object else {
            *attempt = Attempt {
                accepted: None,
                ..attempt.clone()
            };
            return self.create(now.uid.as_deref(), attempt, tried).await;
        };
        let report = self.sources.report(Some(&object), now.registered);
        self.sources.measure(&report, &self.metrics);
        let observed = object.status.clone().unwrap_or_default();
        let compared = baseline(attempt, since, &observed);
        let before = Before {
            status: compared,
            generation: object.metadata.generation,
        };
        let next = status(&report, before, Timestamp::now());
        match due(attempt, since, jitter, (compared, &next)) {
            // Progress makes no sound.
            None => AT_MOST_EVERY,
            Some(pause) if pause > Duration::ZERO => pause,
            Some(_) => {
                *tried = Some(Instant::now());
                match write_status(&self.client, &self.name, &next).await {
                    Ok(()) => {
                        self.metrics.status_written(Ended::Ok);
                        *attempt = Attempt {
                            accepted: Some(next),
                            failures: 0,
                        };
                    }
                    Err(error) => {
                        self.metrics.status_written(Ended::Failed);
                        attempt.failures = attempt.failures.saturating_add(1);
                        tracing::warn!(error = %chain(&error), "the node's status was not written; it will be tried again");
                    }
                }
                AT_MOST_EVERY
            }
        }
    }

    async fn create(&self, uid: Option<&str>, attempt: &mut Attempt, tried: &mut Option<Instant>) -> Duration {
        let waited = tried.is_none_or(|tried| tried.elapsed() >= AT_MOST_EVERY);
        // Without its Node's uid the object would outlive the node.
        let (Some(uid), true) = (uid, waited) else {
            return AT_MOST_EVERY;
        };
        *tried = Some(Instant::now());
        match create_node(&self.client, &self.name, uid).await {
            Ok(()) => *tried = None,
            Err(error) => {
                attempt.failures = attempt.failures.saturating_add(1);
                tracing::warn!(error = %chain(&error), "the CUDANode was not made; it will be tried again");
            }
        }
        AT_MOST_EVERY
    }
}

/// From 0 to 1, for each node its own.
fn jitter(name: &str) -> f64 {
    let byte = Sha256::digest(name).first().copied().unwrap_or_default();
    f64::from(byte) / 255.0
}

/// Finds the pods that see an old driver: when the driver changed, and now and then, as pods go.
pub(super) async fn compare(store: NodeStore, mut node: watch::Receiver<Arc<Node>>, pods: watch::Sender<Vec<String>>) {
    loop {
        let here = store.clone();
        let volumes = spawn_blocking(move || here.published()).await;
        let driver = node.borrow_and_update().facts.driver.clone();
        match volumes {
            Ok(Ok(volumes)) => {
                let now = outdated(&volumes, &driver);
                pods.send_if_modified(|shown| {
                    let differs = *shown != now;
                    *shown = now;
                    differs
                });
            }
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "the volumes' records cannot be read"),
            Err(error) => tracing::warn!(%error, "the task that reads the volumes' records died"),
        }
        tokio::select! {
            () = sleep(COUNT_EVERY) => {}
            changed = node.changed() => if changed.is_err() { return },
        }
    }
}

/// Counts the store when something came or went, and now and then.
pub(super) async fn count(store: NodeStore, numbers: watch::Sender<Result<StoreNumbers, String>>) {
    loop {
        let here = store.clone();
        // The stamp goes first: what changes while counting is counted again.
        let counted = spawn_blocking(move || (here.stamp(), here.numbers())).await;
        let (stamp, now) = match counted {
            Ok((stamp, Ok(now))) => (Some(stamp), Ok(now)),
            Ok((_, Err(error))) => (None, Err(chain(&error))),
            Err(error) => (None, Err(error.to_string())),
        };
        numbers.send_if_modified(|shown| {
            let differs = *shown != now;
            *shown = now;
            differs
        });
        for _ in 0..COUNT_EVERY.as_secs() / AT_MOST_EVERY.as_secs() {
            sleep(AT_MOST_EVERY).await;
            let here = store.clone();
            if spawn_blocking(move || here.stamp()).await.ok() != stamp {
                break;
            }
        }
    }
}

/// Shows the node in metrics, where there is no API server to tell.
pub(super) async fn measure(mut sources: Sources, metrics: Metrics) {
    loop {
        sources.measure(&sources.report(None, None), &metrics);
        tokio::select! {
            () = sleep(AT_MOST_EVERY) => {}
            () = sources.changed() => {}
        }
    }
}
