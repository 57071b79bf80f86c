//! The provisioning of a daemon: many ask, each view is made once, and work goes on when whoever asked has left.
//! Never keeps a failure: the next one who asks tries again, but not faster than a cache that is down can bear.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use binary_cache::{cache::CacheConfig, options::Options, substitute::Bounds};
use crds::{
    catalogue::Granted,
    domain::{code::GpuCode, store_path::StorePath},
    selection::Selection,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    ProvisionError, Provisioned, Wanted,
    patience::Patience,
    room,
    supply::{Supply, SupplyError},
    warm::{self, Warm},
};
use crate::{
    provision::caches,
    snapshot::{node::Node, progress::Progress, view::ViewKind},
    store::NodeStore,
};

/// Provisionings that fetch at the same time; more wait for their turn.
const AT_ONCE: usize = 8;
/// Provisionings under way, waiting ones included. More are refused, to be asked for again.
const MOST_TASKS: usize = 256;
/// Sets of caches whose narinfos are remembered; of each, no more than `Options::remembered`.
const MOST_SUPPLIES: usize = 4;
/// Store paths of which it is remembered what was found in them; a status tells of 256.
const MOST_READ: usize = 1024;
/// Between two looks at the figures of a fetch.
const LOOK: Duration = Duration::from_millis(250);

/// Which view is wanted: two equal orders are one piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The environment, with the caches it may come from. A changed object makes another order.
    pub granted: Granted,
    /// The node. A changed driver makes another order.
    pub node: Arc<Node>,
    /// How the view is to be mounted.
    pub kind: ViewKind,
}

/// How an order stands.
#[derive(Debug, Clone)]
pub enum State {
    /// Under way.
    Working(Progress),
    /// Over. The lease in it holds for as long as somebody keeps it.
    Done(Outcome),
}

/// How an order ended, for all who waited for it.
pub type Outcome = Result<Arc<Provisioned>, Arc<ProvisionError>>;

/// With what a daemon provisions.
#[derive(Debug, Clone)]
pub struct Means {
    /// Where to.
    pub store: NodeStore,
    /// The folder with the caches' credentials, where there is one.
    pub credentials: Option<PathBuf>,
    /// Store paths of one environment fetched at once.
    pub parallel: usize,
    /// The SELinux label of overlays' files, where SELinux is active.
    pub selinux_label: Option<String>,
}

/// The service. Cheap to clone; all clones share the work.
#[derive(Debug, Clone)]
pub struct Provision {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    means: Means,
    turns: Semaphore,
    tasks: Mutex<Vec<Task>>,
    patience: Mutex<Patience<Order>>,
    warm: Mutex<Warm<Order>>,
    read: Mutex<BTreeMap<StorePath, GpuCode>>,
    bounds: Bounds,
    supplies: Mutex<VecDeque<(Vec<CacheConfig>, Supply)>>,
    downloaded: AtomicU64,
}

#[derive(Debug)]
struct Task {
    order: Order,
    state: watch::Receiver<State>,
}

/// More orders than a node can work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_TASKS} environments are being prepared on this node already; this one comes after them")]
pub struct Busy;

/// An order that somebody waits for.
#[derive(Debug)]
pub struct Ticket {
    state: watch::Receiver<State>,
}

impl Ticket {
    /// How far it is. Work whose task died is over.
    pub fn state(&self) -> State {
        // Asked first: whatever was said before the end is there to be read then.
        let ended = self.state.has_changed().is_err();
        match self.state.borrow().clone() {
            State::Working(_) if ended => State::Done(Err(Arc::new(ProvisionError::Abandoned))),
            state @ (State::Working(_) | State::Done(_)) => state,
        }
    }

    /// Waits for the end. Safe to give up: the work goes on.
    pub async fn finished(&mut self) -> Outcome {
        let died = || Err(Arc::new(ProvisionError::Abandoned));
        match self.state.wait_for(|state| matches!(state, State::Done(_))).await {
            Ok(state) => match &*state {
                State::Done(outcome) => outcome.clone(),
                State::Working(_) => died(),
            },
            Err(_) => died(),
        }
    }

    /// Waits until it is further, or over.
    pub async fn changed(&mut self) {
        // A task that is gone is over, as the next look shows.
        let _gone = self.state.changed().await;
    }
}

impl Provision {
    /// A service with nothing to do yet.
    pub fn new(means: Means) -> Self {
        Self {
            shared: Arc::new(Shared {
                means,
                turns: Semaphore::new(AT_ONCE),
                tasks: Mutex::default(),
                patience: Mutex::default(),
                warm: Mutex::default(),
                read: Mutex::default(),
                bounds: Bounds::new(&Options::default()),
                supplies: Mutex::default(),
                downloaded: AtomicU64::new(0),
            }),
        }
    }

    /// Where it provisions to.
    pub fn store(&self) -> &NodeStore {
        &self.shared.means.store
    }

    /// Joins the work on `order`, or begins it. Call it within a runtime: the work is a task of it.
    ///
    /// # Errors
    /// Too much is being worked on.
    pub fn order(&self, order: Order) -> Result<Ticket, Busy> {
        let mut tasks = locked(&self.shared.tasks);
        // A task that died cannot take itself off the list.
        tasks.retain(|task| task.state.has_changed().is_ok());
        if let Some(task) = tasks.iter().find(|task| task.order == order) {
            let state = task.state.clone();
            return Ok(Ticket { state });
        }
        if let Some(error) = locked(&self.shared.patience).refuses(&order, Instant::now()) {
            let (_, state) = watch::channel(State::Done(Err(error)));
            return Ok(Ticket { state });
        }
        if tasks.len() >= MOST_TASKS {
            return Err(Busy);
        }
        let (sender, state) = watch::channel(State::Working(Progress::default()));
        tasks.push(Task {
            order: order.clone(),
            state: state.clone(),
        });
        drop(tasks);
        self.begin(order, sender);
        Ok(Ticket { state })
    }

    /// Every order under way, with how far it is.
    pub fn under_way(&self) -> Vec<(Order, Progress)> {
        let tasks = locked(&self.shared.tasks);
        let alive = tasks.iter().filter(|task| task.state.has_changed().is_ok());
        let working = alive.filter_map(|task| match &*task.state.borrow() {
            State::Working(progress) => Some((task.order.clone(), progress.clone())),
            State::Done(_) => None,
        });
        working.collect()
    }

    /// Compressed bytes that came over the network for orders that were completed.
    pub fn downloaded(&self) -> u64 {
        self.shared.downloaded.load(Ordering::Relaxed)
    }

    /// The code that was found in variants of which nobody declared it, as far as this process remembers.
    pub fn read(&self) -> BTreeMap<StorePath, GpuCode> {
        locked(&self.shared.read).clone()
    }

    /// Orders that were made and are there still, as far as this process remembers: what was selected for each.
    pub fn made(&self) -> Vec<(Order, Arc<Selection>)> {
        locked(&self.shared.warm).all()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "what is provisioned outlives the call that asked for it: this is the one place that starts such work"
    )]
    fn begin(&self, order: Order, sender: watch::Sender<State>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let outcome = shared.carry_out(&order, &sender).await.map(Arc::new).map_err(Arc::new);
            shared.remember(&order, &outcome);
            let mut tasks = locked(&shared.tasks);
            tasks.retain(|task| task.order != order);
            // Those who wait hear of it after the order is off the list: whoever asks then begins anew.
            sender.send_replace(State::Done(outcome));
        });
    }
}

impl Shared {
    async fn carry_out(&self, order: &Order, sender: &watch::Sender<State>) -> Result<Provisioned, ProvisionError> {
        let remembered = locked(&self.warm).of(order);
        if let Some(remembered) = remembered {
            let store = self.means.store.clone();
            let now = wall_clock();
            if let Some(warm) = super::blocking(move || warm::take(&remembered, &store, now)).await? {
                return Ok(warm);
            }
        }
        sender.send_replace(State::Working(Progress {
            queued: true,
            ..Progress::default()
        }));
        let _turn = self.turns.acquire().await.map_err(|_| ProvisionError::Abandoned)?;
        sender.send_replace(State::Working(Progress::default()));
        match self.provision(order, sender).await {
            Err(error) => {
                let store = self.means.store.clone();
                let Some(shortage) = room::shortage(&error) else {
                    return Err(error);
                };
                if super::blocking(move || room::make(&store, shortage, wall_clock())).await? {
                    self.provision(order, sender).await
                } else {
                    Err(error)
                }
            }
            done => done,
        }
    }

    async fn provision(&self, order: &Order, sender: &watch::Sender<State>) -> Result<Provisioned, ProvisionError> {
        let configs = order.granted.caches.iter().enumerate().map(|(place, source)| {
            let folder = self.means.credentials.as_deref();
            let credentials = folder.map(|folder| caches::credentials_in(folder, &source.name));
            let mut config = caches::config(source, credentials.transpose()?.flatten())?;
            if order.granted.environment.caches.is_some() {
                // The author's order goes before the caches' own priorities.
                config.priority = u32::try_from(place).ok();
            }
            Ok::<_, ProvisionError>(config)
        });
        let configs = configs.collect::<Result<_, _>>()?;
        let supply = self.supply(configs)?;
        let wanted = Wanted {
            environment: &order.granted.environment,
            node: &order.node,
            kind: order.kind,
            selinux_label: self
                .means
                .selinux_label
                .as_deref()
                .filter(|_| order.kind == ViewKind::Overlay),
        };
        let mut work = std::pin::pin!(super::provision(&supply, wanted, wall_clock()));
        let (mut tick, started) = (tokio::time::interval(LOOK), Instant::now());
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => {
                    let fetch = supply.progress().status();
                    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
                    let bytes_per_second = fetch.bytes_downloaded.saturating_mul(1000) / milliseconds;
                    sender.send_replace(State::Working(Progress { queued: false, fetch, bytes_per_second }));
                }
            }
        }
    }

    /// What was found in these caches for one environment need not be asked for another, nor when it is tried again.
    fn supply(&self, configs: Vec<CacheConfig>) -> Result<Supply, SupplyError> {
        let mut supplies = locked(&self.supplies);
        let known = supplies.iter().position(|(of, _)| *of == configs);
        let entry = match known.and_then(|at| supplies.remove(at)) {
            Some(entry) => entry,
            None => {
                let (store, caches) = (self.means.store.clone(), configs.clone());
                let supply = Supply::within(&self.bounds, store, caches, self.means.parallel)?;
                (configs, supply)
            }
        };
        let supply = entry.1.renewed();
        // The one that was not asked for longest goes.
        supplies.truncate(MOST_SUPPLIES - 1);
        supplies.push_front(entry);
        Ok(supply)
    }

    fn remember(&self, order: &Order, outcome: &Outcome) {
        let selection = match outcome.as_ref().map_err(|error| &**error) {
            Ok(provisioned) => Some(&*provisioned.selection),
            Err(ProvisionError::Rejected { selection }) => Some(&**selection),
            Err(_) => None,
        };
        if let Some(found) = selection
            .map(|selection| &selection.read)
            .filter(|found| !found.is_empty())
        {
            let mut read = locked(&self.read);
            if read.len() >= MOST_READ {
                read.clear();
            }
            read.extend(found.clone());
        }
        match outcome {
            Ok(provisioned) => {
                locked(&self.patience).forget(order);
                locked(&self.warm).keep(order, provisioned);
                self.downloaded.fetch_add(provisioned.downloaded, Ordering::Relaxed);
            }
            Err(error) => locked(&self.patience).failed(order, error, Instant::now()),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "when a store path counts as used is the wall clock's"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_whose_task_died_is_over_for_whoever_waits() {
        let (sender, state) = watch::channel(State::Working(Progress::default()));
        let mut ticket = Ticket { state };
        assert!(matches!(ticket.state(), State::Working(_)), "alive");
        let mut other = ticket.state.clone();
        let died = tokio::task::spawn_blocking(move || {
            let _sender = sender;
            std::panic::resume_unwind(Box::new("died"));
        });
        assert!(died.await.is_err());
        ticket.changed().await;
        for _ in 0..2 {
            let state = ticket.state();
            let State::Done(Err(error)) = state else {
                unreachable!("{state:?}")
            };
            assert!(matches!(*error, ProvisionError::Abandoned), "{error:?}");
        }
        let error = ticket.finished().await.unwrap_err();
        assert!(matches!(*error, ProvisionError::Abandoned), "{error:?}");
        assert!(
            matches!(*other.borrow_and_update(), State::Working(_)),
            "nobody said so"
        );
    }

    #[tokio::test]
    async fn what_a_task_said_last_counts_after_its_end() {
        let (sender, state) = watch::channel(State::Working(Progress::default()));
        let source = crate::plan::view::ViewRefusal::Empty;
        let error = Arc::new(ProvisionError::View { source });
        sender.send_replace(State::Done(Err(Arc::clone(&error))));
        drop(sender);
        let ticket = Ticket { state };
        assert!(matches!(ticket.state(), State::Done(Err(said)) if Arc::ptr_eq(&said, &error)));
    }
}
