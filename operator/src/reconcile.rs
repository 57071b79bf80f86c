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
    snapshot::settled::Settled,
};

/// How long news are gathered before they are planned for.
const GATHER: Duration = Duration::from_secs(1);
/// Looks again at least this often, whatever happens.
const IDLE: Duration = Duration::from_secs(60);
/// Between the beginnings of two writes: two hundred a second.
const BETWEEN_WRITES: Duration = Duration::from_millis(5);
/// Writes under way at once.
const WRITES_AT_ONCE: usize = 8;
/// Steps of one pass, about five seconds of them; what is left is planned anew, from a newer world.
const MOST_STEPS: usize = 1000;
/// Longest wait after writes failed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// For one event: what it tells is written already, and the next writes wait.
const TELL: Duration = Duration::from_secs(2);

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
    backing_off: BackingOff,
    not_ours: bool,
}

/// The wait after passes whose writes failed. The world goes on changing meanwhile, which must not end it: an API server in
/// trouble would get a pass of writes each second.
#[derive(Debug, Default)]
struct BackingOff {
    /// Passes in a row in which most of what should have been written was not.
    failures: u32,
    /// Until then, nothing is planned.
    until: Option<Instant>,
}

impl BackingOff {
    /// Looks at a pass at whose end, `now`, `left` of `all` were not written.
    fn look(&mut self, left: usize, all: usize, now: Instant) {
        if left * 2 > all {
            self.fail(now);
        } else {
            *self = Self::default();
        }
    }

    fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + Duration::from_secs(1 << self.failures.min(6)).min(LONGEST_WAIT));
    }

    /// The end of the wait, where it is still to come.
    fn at(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
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
            if let Some(until) = memory.backing_off.at(Instant::now()) {
                wake = until;
                continue;
            }
            let next = self.once(&world, &mut memory).await;
            let now = Instant::now();
            wake = memory.backing_off.at(now).unwrap_or(now + next);
        }
    }

    /// One pass; how long until the next one if nothing happens.
    async fn once(&mut self, world: &Arc<Settled>, memory: &mut Memory) -> Duration {
        let now = (self.clock)();
        memory.seen.look(world, now);
        let answers = Arc::clone(&self.heard.answers.borrow_and_update());
        let probes = Arc::clone(&self.heard.probes.borrow_and_update());
        let begun = Instant::now();
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
            memory.backing_off.fail(Instant::now());
            return IDLE;
        };
        self.metrics.plan_seconds.observe(begun.elapsed().as_secs_f64());
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
        memory.backing_off.look(left, steps.len(), Instant::now());
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
        let mut left = 0;
        for (step, outcome) in a_few_at_a_time(steps, |step| self.write(step)).await {
            match outcome {
                Ok(()) => memory.pace.wrote(step.object(), now),
                Err(_) => left += 1,
            }
        }
        left
    }

    /// Writes one step, and tells of it.
    async fn write<'s>(&self, step: &'s Step) -> (&'s Step, Result<(), WriteError>) {
        let begun = Instant::now();
        let outcome = self.writer.write(step).await;
        if outcome.is_ok() {
            let seconds = self.metrics.write_seconds.with_label_values(&[step.kind()]);
            seconds.observe(begun.elapsed().as_secs_f64());
        }
        self.wrote(step, &outcome).await;
        (step, outcome)
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
            match tokio::time::timeout(TELL, self.recorder.publish(&event, &reference)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(error = %error, "an event was lost"),
                Err(_) => {
                    return debug!(
                        object = step.object(),
                        "events were lost: the API server does not take them in time"
                    );
                }
            }
        }
    }
}

/// Does work a few at a time, each piece begun a moment after the one before; what came of them, as they were done.
async fn a_few_at_a_time<T, F: Future>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> Vec<F::Output> {
    let mut ticks = interval(BETWEEN_WRITES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut done, mut under_way) = (Vec::new(), FuturesUnordered::new());
    for one in all {
        if under_way.len() >= WRITES_AT_ONCE {
            done.extend(under_way.next().await);
        }
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => break,
                Some(one) = under_way.next() => done.push(one),
            }
        }
        under_way.push(work(one));
    }
    done.extend(under_way.collect::<Vec<_>>().await);
    done
}

#[cfg(test)]
mod tests;
