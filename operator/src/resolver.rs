//! The shell around questions to caches: asks what is due, a few at a time, and publishes what is known.
//! Never asks where another replica leads: nobody there needs the answer.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use crds::domain::cache::CacheSource;
use k8s_openapi::jiff::Timestamp;
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
};
use tracing::{info, warn};

use crate::{
    act::ask::{AskError, Asker},
    leader::Leading,
    metrics::Metrics,
    observe::world::Worlds,
    plan::resolve,
    snapshot::{
        probe::{Probe, Probes},
        resolution::{Answers, Question, Resolved},
        settled::Settled,
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
    under_way: UnderWay<Told>,
}

/// Who is being asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Closure(Question),
    Cache(String, i64),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closure(question) => question.path.fmt(f),
            Self::Cache(name, _) => write!(f, "CUDABinaryCache {name}"),
        }
    }
}

#[derive(Debug)]
enum Told {
    Closure(Result<Resolved, AskError>),
    Cache(Result<(), AskError>),
}

/// As one that failed: it is asked again after a while, like any other.
fn given_up(asked: &Asked, error: &JoinError) -> Told {
    warn!(question = %asked, error = %error, "a question was given up; it is asked again");
    match asked {
        Asked::Closure(_) => Told::Closure(Err(AskError::GivenUp)),
        Asked::Cache(..) => Told::Cache(Err(AskError::GivenUp)),
    }
}

/// Questions under way, each of them once at a time.
#[derive(Debug)]
struct UnderWay<T> {
    tasks: JoinSet<T>,
    asked: HashMap<Id, Asked>,
}

impl<T> Default for UnderWay<T> {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            asked: HashMap::new(),
        }
    }
}

impl<T: Send + 'static> UnderWay<T> {
    fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Starts it, unless the same is under way.
    fn start(&mut self, asked: Asked, asking: impl Future<Output = T> + Send + 'static) {
        if self.asked.values().all(|under_way| *under_way != asked) {
            let id = self.tasks.spawn(asking).id();
            self.asked.insert(id, asked);
        }
    }

    /// The next that ended, and how; it may be asked again. Nothing where none is under way.
    async fn next(&mut self) -> Option<(Asked, Result<T, JoinError>)> {
        loop {
            let (id, told) = match self.tasks.join_next_with_id().await? {
                Ok((id, told)) => (id, Ok(told)),
                Err(error) => (error.id(), Err(error)),
            };
            // Every task has its question.
            if let Some(asked) = self.asked.remove(&id) {
                return Some((asked, told));
            }
        }
    }
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
            under_way: UnderWay::default(),
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
                Some((asked, told)) = self.under_way.next() => {
                    let told = told.unwrap_or_else(|error| given_up(&asked, &error));
                    self.told(asked, told);
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
            let (asker, world) = (Arc::clone(&self.asker), Arc::clone(&world));
            self.under_way.start(Asked::Closure(question.clone()), async move {
                Told::Closure(asker.ask(&question, &world.secrets).await)
            });
        }
        let until = next.map_or(IDLE, |next| {
            Duration::try_from(next.duration_since(now)).unwrap_or_default()
        });
        until.clamp(Duration::from_millis(500), IDLE)
    }

    fn probe_what_is_due(&mut self, world: &Arc<Settled>, now: Timestamp) {
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
            self.probe(Asked::Cache(name.clone(), entry.generation), Arc::clone(source), world);
        }
    }

    fn probe(&mut self, asked: Asked, source: Arc<CacheSource>, world: &Arc<Settled>) {
        let (asker, world) = (Arc::clone(&self.asker), Arc::clone(world));
        self.under_way.start(
            asked,
            async move { Told::Cache(asker.probe(&source, &world.secrets).await) },
        );
    }

    fn told(&mut self, asked: Asked, told: Told) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_whose_task_panicked_can_be_asked_again() {
        let asked = || Asked::Cache("good".to_owned(), 1);
        let mut under_way = UnderWay::default();
        under_way.start(asked(), async { panic!("as a defect would") });
        under_way.start(asked(), async { 0 });
        assert_eq!(under_way.len(), 1, "once at a time");
        let (ended, told) = under_way.next().await.unwrap();
        assert_eq!(ended, asked());
        let told = given_up(&ended, &told.unwrap_err());
        assert!(matches!(told, Told::Cache(Err(AskError::GivenUp))), "{told:?}");
        under_way.start(asked(), async { 7 });
        let (answered, told) = under_way.next().await.unwrap();
        assert_eq!((answered, told.unwrap()), (asked(), 7));
        assert!(under_way.next().await.is_none());
    }
}
