//! What was asked a short while ago: narinfos found, narinfos not there, and each site's nix-cache-info.
//! Never older than its time to live, never more entries than `Options::remembered`, never on disk.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crds::domain::store_path::StorePath;

use crate::{cache_info::CacheInfo, fault::Fault, narinfo::VerifiedNarInfo, options::Options};

#[derive(Debug)]
pub(super) struct Memory {
    found_ttl: Duration,
    absent_ttl: Duration,
    capacity: usize,
    found: Arc<Mutex<FoundTable>>,
    absent: Mutex<HashMap<(usize, StorePath), Instant>>,
    /// One for each source; the lock is held while it is being asked, so that everyone asks once.
    pub(super) infos: Arc<[tokio::sync::Mutex<Info>]>,
}

/// A narinfo, the source it came from, and when.
type FoundTable = HashMap<StorePath, (Arc<VerifiedNarInfo>, usize, Instant)>;

/// What a source last said of itself, and when.
#[derive(Debug, Default)]
pub(super) enum Info {
    #[default]
    Unknown,
    Good(CacheInfo, Instant),
    Bad(Arc<Fault>, Instant),
}

impl Memory {
    pub(super) fn new(options: &Options, sources: usize) -> Self {
        Self {
            found_ttl: options.found_ttl,
            absent_ttl: options.absent_ttl,
            capacity: options.remembered,
            found: Arc::default(),
            absent: Mutex::default(),
            infos: (0..sources).map(|_| tokio::sync::Mutex::default()).collect(),
        }
    }

    /// Shares what was found with this one, and knows of nothing that it is not there.
    pub(super) fn renewed(&self) -> Self {
        Self {
            found: self.found.clone(),
            absent: Mutex::default(),
            infos: self.infos.clone(),
            ..*self
        }
    }

    /// The narinfo of `path` and the source it came from.
    pub(super) fn found(&self, path: &StorePath, now: Instant) -> Option<(Arc<VerifiedNarInfo>, usize)> {
        let found = locked(&self.found);
        let (narinfo, source, at) = found.get(path)?;
        (now.saturating_duration_since(*at) < self.found_ttl).then(|| (narinfo.clone(), *source))
    }

    pub(super) fn remember(&self, narinfo: &Arc<VerifiedNarInfo>, source: usize, now: Instant) {
        let mut found = locked(&self.found);
        make_room(&mut found, self.capacity, |(_, _, at)| {
            now.saturating_duration_since(*at) < self.found_ttl
        });
        found.insert(narinfo.store_path().clone(), (narinfo.clone(), source, now));
    }

    pub(super) fn forget(&self, path: &StorePath) {
        locked(&self.found).remove(path);
    }

    /// How much longer `source` counts as not having `path`.
    pub(super) fn absent(&self, source: usize, path: &StorePath, now: Instant) -> Option<Duration> {
        let at = *locked(&self.absent).get(&(source, path.clone()))?;
        let left = self.absent_ttl.saturating_sub(now.saturating_duration_since(at));
        (!left.is_zero()).then_some(left)
    }

    pub(super) fn remember_absent(&self, source: usize, path: &StorePath, now: Instant) {
        let mut absent = locked(&self.absent);
        make_room(&mut absent, self.capacity, |at| {
            now.saturating_duration_since(*at) < self.absent_ttl
        });
        absent.insert((source, path.clone()), now);
    }
}

fn locked<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before a full table takes one entry more: drops what has expired, or else every other entry.
fn make_room<K: std::hash::Hash + Eq, V>(table: &mut HashMap<K, V>, capacity: usize, fresh: impl Fn(&V) -> bool) {
    if table.len() < capacity {
        return;
    }
    table.retain(|_, value| fresh(value));
    if table.len() >= capacity {
        let mut keep = false;
        table.retain(|_, _| {
            keep = !keep;
            keep && capacity > 1
        });
    }
}
