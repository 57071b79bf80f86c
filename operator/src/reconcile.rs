//! The shell that wires the rooms: waits for news, plans, writes, tells.
//! Never decides anything, never writes while another replica leads.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::Recorder;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use crate::{
    act::write::{WriteError, Writer},
    failure::chain,
    leader::Leading,
    metrics::Metrics,
    observe::world::Worlds,
    plan::{
        nodes::Seen,
        pace::Pace,
        pass::{Pass, pass},
        step::Step,
    },
    report,
    resolver::Heard,
    snapshot::world::World,
};

/// How long news are gathered before they are planned for.
const GATHER: Duration = Duration::from_secs(1);
/// Looks again at least this often, whatever happens.
const IDLE: Duration = Duration::from_secs(60);
/// Between the beginnings of two writes: fifty a second.
const BETWEEN_WRITES: Duration = Duration::from_millis(20);
/// Writes under way at once.
const WRITES_AT_ONCE: usize = 4;
/// Steps of one pass; what is left is planned anew, from a newer world.
const MOST_STEPS: usize = 200;
/// Longest wait after writes failed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// All that reconciling needs.
pub struct Reconciler {
    /// The cluster.
    pub worlds: Worlds,
    /// What caches answered.
    pub heard: Heard,
    /// Whether this replica writes.
    pub leading: Leading,
    /// Writes.
    pub writer: Writer,
    /// Tells.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Metrics,
    /// The time in whole seconds, as statuses have it.
    pub clock: fn() -> Timestamp,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").finish_non_exhaustive()
    }
}

/// What lasts from one pass to the next.
#[derive(Default)]
struct Memory {
    seen: Seen,
    pace: Pace,
    /// Passes in a row in which nothing could be written that should have been.
    failures: u32,
    not_ours: bool,
}

impl Reconciler {
    /// Reconciles until it is dropped.
    pub async fn run(mut self) {
        let mut memory = Memory::default();
        let mut wake = Instant::now() + IDLE;
        loop {
            tokio::select! {
                changed = self.worlds.changed() => if changed.is_err() { return },
                changed = self.heard.answers.changed() => if changed.is_err() { return },
                changed = self.heard.probes.changed() => if changed.is_err() { return },
                () = self.leading.changed() => {}
                () = sleep_until(wake) => {}
            }
            tokio::time::sleep(GATHER).await;
            let world = self.worlds.borrow_and_update().clone();
            let Some(world) = world.filter(|_| self.leading.holds()) else {
                // What was seen while another replica wrote says nothing about now.
                memory = Memory::default();
                wake = Instant::now() + IDLE;
                continue;
            };
            wake = Instant::now() + self.once(&world, &mut memory).await;
        }
    }

    /// One pass; how long until the next one if nothing happens.
    async fn once(&mut self, world: &Arc<World>, memory: &mut Memory) -> Duration {
        let now = (self.clock)();
        memory.seen.look(world, now);
        let answers = Arc::clone(&self.heard.answers.borrow_and_update());
        let probes = Arc::clone(&self.heard.probes.borrow_and_update());
        let planned = {
            let (world, seen) = (Arc::clone(world), memory.seen.clone());
            let secret = self.writer.credentials_secret.clone();
            // Thousands of nodes take a while: the threads that answer admission are not kept from it.
            tokio::task::spawn_blocking(move || {
                pass(&Pass {
                    world: &world,
                    answers: &answers,
                    probes: &probes,
                    seen: &seen,
                    credentials_secret: &secret,
                    now,
                })
            })
            .await
        };
        let Ok(planned) = planned else {
            warn!("a pass was given up; tried again");
            return LONGEST_WAIT;
        };
        if planned.secret_not_ours && !memory.not_ours {
            warn!(
                secret = self.writer.credentials_secret,
                "there is a secret of this name that the operator did not make: remove it, or name another in --credentials-secret"
            );
        }
        memory.not_ours = planned.secret_not_ours;
        let (mut steps, paced) = memory.pace.sort(planned.steps, now);
        let more = steps.len() > MOST_STEPS;
        steps.truncate(MOST_STEPS);
        let left = self.write_all(&steps, memory, now).await;
        if left == steps.len() && left > 0 {
            memory.failures = memory.failures.saturating_add(1);
            return Duration::from_secs(1 << memory.failures.min(6)).min(LONGEST_WAIT);
        }
        memory.failures = 0;
        if more || left > 0 {
            return GATHER;
        }
        let next = [planned.next, paced].into_iter().flatten().min();
        let until = next.map_or(IDLE, |next| {
            Duration::try_from(next.duration_since(now)).unwrap_or_default()
        });
        until.min(IDLE)
    }

    /// Writes steps, a few at a time; how many were not written.
    async fn write_all(&self, steps: &[Step], memory: &mut Memory, now: Timestamp) -> usize {
        let mut ticks = interval(BETWEEN_WRITES);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = 0;
        let mut under_way = FuturesUnordered::new();
        let mut steps = steps.iter();
        loop {
            let step = if under_way.len() < WRITES_AT_ONCE {
                steps.next()
            } else {
                None
            };
            if let Some(step) = step {
                ticks.tick().await;
                under_way.push(async move { (step, self.writer.write(step).await) });
                continue;
            }
            let Some((step, outcome)) = under_way.next().await else {
                return left;
            };
            self.wrote(step, &outcome).await;
            match outcome {
                Ok(()) => memory.pace.wrote(step.object(), now),
                Err(_) => left += 1,
            }
        }
    }

    /// Counts and tells.
    async fn wrote(&self, step: &Step, outcome: &Result<(), WriteError>) {
        match outcome {
            Ok(()) => {
                info!(object = step.object(), "written");
                self.metrics.writes.with_label_values(&[step.kind()]).inc();
                self.tell(step).await;
            }
            Err(error @ (WriteError::Changed { .. } | WriteError::NotLeading)) => {
                debug!(error = chain(error), "planned anew");
                self.metrics.conflicts.with_label_values(&[step.kind()]).inc();
            }
            Err(error @ (WriteError::Refused { .. } | WriteError::Timeout { .. } | WriteError::Patch { .. })) => {
                warn!(error = chain(error), "tried again");
                self.metrics.write_failures.with_label_values(&[step.kind()]).inc();
            }
        }
    }

    /// Events for what a written status changed. They are for people: where one is lost, the status still says it.
    async fn tell(&self, step: &Step) {
        let Some((events, reference)) = report::event::of_step(step) else {
            return;
        };
        for event in events {
            if let Err(error) = self.recorder.publish(&event, &reference).await {
                debug!(error = %error, "an event was lost");
            }
        }
    }
}
