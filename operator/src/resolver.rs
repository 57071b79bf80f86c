//! The shell around questions to caches: asks what is due, a few at a time, and publishes what is known.
//! Never asks where another replica leads: nobody there needs the answer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crds::domain::cache::CacheSource;
use k8s_openapi::jiff::Timestamp;
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, info};

use crate::{
    act::ask::{AskError, Asker},
    leader::Leading,
    metrics::Metrics,
    observe::world::Worlds,
    plan::resolve,
    snapshot::{
        probe::{Probe, Probes},
        resolution::{Answers, Question, Resolved},
        world::World,
    },
};

mod reasons;

/// Questions under way at once.
const AT_ONCE: usize = 8;
/// Between two looks at a cache that answers, and at one that does not.
const PROBE_GOOD: Duration = Duration::from_secs(300);
const PROBE_BAD: Duration = Duration::from_secs(30);
/// Looks again at least this often.
const IDLE: Duration = Duration::from_secs(30);

/// What caches have answered. Receivers see every change.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Of closures.
    pub answers: watch::Receiver<Arc<Answers>>,
    /// Of themselves.
    pub probes: watch::Receiver<Arc<Probes>>,
}

/// Asks, and remembers.
#[derive(Debug)]
pub struct Resolver {
    asker: Arc<Asker>,
    worlds: Worlds,
    leading: Leading,
    metrics: Metrics,
    clock: fn() -> Timestamp,
    answers: watch::Sender<Arc<Answers>>,
    probes: watch::Sender<Arc<Probes>>,
    asking: BTreeSet<Asked>,
    under_way: JoinSet<(Asked, Told)>,
}

/// Who is being asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Closure(Question),
    Cache(String, i64),
}

enum Told {
    Closure(Result<Resolved, AskError>),
    Cache(Result<(), AskError>),
}

impl Resolver {
    /// A resolver that has not asked yet, and where its answers are heard.
    pub fn new(worlds: Worlds, leading: Leading, metrics: Metrics, clock: fn() -> Timestamp) -> (Self, Heard) {
        let (answers, answers_heard) = watch::channel(Arc::default());
        let (probes, probes_heard) = watch::channel(Arc::default());
        let resolver = Self {
            asker: Arc::default(),
            worlds,
            leading,
            metrics,
            clock,
            answers,
            probes,
            asking: BTreeSet::new(),
            under_way: JoinSet::new(),
        };
        let heard = Heard {
            answers: answers_heard,
            probes: probes_heard,
        };
        (resolver, heard)
    }

    /// Asks until it is dropped.
    pub async fn run(mut self) {
        loop {
            let wait = self.ask_what_is_due();
            tokio::select! {
                changed = self.worlds.changed() => if changed.is_err() { return },
                () = self.leading.changed() => {}
                Some(done) = self.under_way.join_next() => {
                    match done {
                        Ok((asked, told)) => self.told(asked, told),
                        Err(error) => debug!(error = %error, "a question was given up"),
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts what is due, as far as there is room; how long nothing else will be due.
    fn ask_what_is_due(&mut self) -> Duration {
        let world = self.worlds.borrow_and_update().clone();
        let Some(world) = world.filter(|_| self.leading.holds()) else {
            return IDLE;
        };
        let now = (self.clock)();
        self.probe_what_is_due(&world, now);
        let questions = resolve::questions(&world);
        self.forget(&questions, &world);
        let answers = Arc::clone(&self.answers.borrow());
        let (due, next) = resolve::due(&questions, &answers, now);
        for question in due {
            if self.under_way.len() >= AT_ONCE {
                break;
            }
            if !self.asking.insert(Asked::Closure(question.clone())) {
                continue;
            }
            let (asker, world) = (Arc::clone(&self.asker), Arc::clone(&world));
            self.under_way.spawn(async move {
                let told = asker.ask(&question, &world.secrets).await;
                (Asked::Closure(question), Told::Closure(told))
            });
        }
        let until = next.map_or(IDLE, |next| {
            Duration::try_from(next.duration_since(now)).unwrap_or_default()
        });
        until.clamp(Duration::from_millis(500), IDLE)
    }

    fn probe_what_is_due(&mut self, world: &Arc<World>, now: Timestamp) {
        let probes = Arc::clone(&self.probes.borrow());
        for (name, entry) in &world.catalogue.caches {
            let Ok(source) = &entry.source else { continue };
            let known = probes.get(name).filter(|probe| probe.generation == entry.generation);
            let fresh = known.is_some_and(|probe| {
                let every = if probe.outcome.is_ok() { PROBE_GOOD } else { PROBE_BAD };
                probe.at.checked_add(every).is_ok_and(|due| due > now)
            });
            if fresh || self.under_way.len() >= AT_ONCE {
                continue;
            }
            let asked = Asked::Cache(name.clone(), entry.generation);
            if self.asking.insert(asked.clone()) {
                self.probe(asked, Arc::clone(source), world);
            }
        }
    }

    fn probe(&mut self, asked: Asked, source: Arc<CacheSource>, world: &Arc<World>) {
        let (asker, world) = (Arc::clone(&self.asker), Arc::clone(world));
        self.under_way.spawn(async move {
            let told = asker.probe(&source, &world.secrets).await;
            (asked, Told::Cache(told))
        });
    }

    fn told(&mut self, asked: Asked, told: Told) {
        self.asking.remove(&asked);
        let now = (self.clock)();
        match (asked, told) {
            (Asked::Closure(question), Told::Closure(outcome)) => {
                let outcome = outcome.map_err(|error| reasons::unresolved(&error));
                let label = outcome
                    .as_ref()
                    .map_or_else(|failed| failed.reason.as_str(), |_| "AllSigned");
                self.metrics.questions.with_label_values(&[label]).inc();
                match &outcome {
                    Ok(resolved) => {
                        info!(store.path = %question.path, paths = resolved.members.len(), bytes = resolved.closure_bytes, "resolved");
                    }
                    Err(failed) => info!(store.path = %question.path, error = %failed.message, "not resolved"),
                }
                self.answers.send_modify(|answers| {
                    let answers = Arc::make_mut(answers);
                    let before = answers.get(&question).map(|answer| &**answer);
                    let answer = resolve::answered(&question, before, outcome, now);
                    answers.insert(question, Arc::new(answer));
                });
            }
            (Asked::Cache(name, generation), Told::Cache(outcome)) => {
                let outcome = outcome.map_err(|error| reasons::unresolved(&error));
                let probe = Probe {
                    generation,
                    at: now,
                    outcome,
                };
                self.probes.send_modify(|probes| {
                    Arc::make_mut(probes).insert(name, probe);
                });
            }
            (Asked::Closure(_), Told::Cache(_)) | (Asked::Cache(..), Told::Closure(_)) => {}
        }
    }

    /// What no environment asks for any more is not kept.
    fn forget(&self, questions: &BTreeSet<Question>, world: &World) {
        self.answers.send_if_modified(|answers| {
            let stale = answers.keys().any(|question| !questions.contains(question));
            if stale {
                Arc::make_mut(answers).retain(|question, _| questions.contains(question));
            }
            stale
        });
        self.probes.send_if_modified(|probes| {
            let stale = probes.keys().any(|name| !world.catalogue.caches.contains_key(name));
            if stale {
                Arc::make_mut(probes).retain(|name, _| world.catalogue.caches.contains_key(name));
            }
            stale
        });
    }
}
