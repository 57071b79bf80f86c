//! Views that were made before: another pod gets one by taking a lease, without asking a cache or selecting again.
//! Never hands one out before looking that all of it is still there.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use crds::selection::Selection;

use super::{ProvisionError, Provisioned};
use crate::{
    act::{
        fetch::Fetched,
        view::{self, ViewError},
    },
    plan::view::ViewPlan,
    store::{Holder, Lease, LeaseContent, NodeStore},
};

/// Orders that are remembered; the least recently used is forgotten first.
const MOST: usize = 64;

/// What was made, as long as it is remembered. Holds no lease: garbage collection may take it.
#[derive(Debug, Clone)]
pub(super) struct Made {
    view: Arc<ViewPlan>,
    selection: Arc<Selection>,
}

/// What was made of which order.
#[derive(Debug)]
pub(super) struct Warm<T> {
    made: VecDeque<(T, Made)>,
}

impl<T> Default for Warm<T> {
    fn default() -> Self {
        Self { made: VecDeque::new() }
    }
}

impl<T: PartialEq + Clone> Warm<T> {
    pub(super) fn of(&mut self, order: &T) -> Option<Made> {
        let at = self.made.iter().position(|(known, _)| known == order)?;
        let entry = self.made.remove(at)?;
        let made = entry.1.clone();
        self.made.push_back(entry);
        Some(made)
    }

    pub(super) fn keep(&mut self, order: &T, provisioned: &Provisioned) {
        self.made.retain(|(known, _)| known != order);
        if self.made.len() >= MOST {
            self.made.pop_front();
        }
        let made = Made {
            view: Arc::clone(&provisioned.view),
            selection: Arc::clone(&provisioned.selection),
        };
        self.made.push_back((order.clone(), made));
    }

    pub(super) fn all(&self) -> Vec<(T, Arc<Selection>)> {
        let all = self.made.iter();
        all.map(|(order, made)| (order.clone(), Arc::clone(&made.selection)))
            .collect()
    }
}

/// Leases what was made and looks whether it is all there; nothing where some of it is gone.
pub(super) fn take(made: &Made, store: &NodeStore, now: SystemTime) -> Result<Option<Provisioned>, ProvisionError> {
    let lease = match mounted(&made.view, store, now)? {
        Some(lease) => Some(lease),
        None => built(&made.view, store, now)?,
    };
    Ok(lease.map(|lease| Provisioned {
        view: Arc::clone(&made.view),
        selection: Arc::clone(&made.selection),
        fetched: Fetched::default(),
        downloaded: 0,
        lease,
    }))
}

/// A lease on a view that is mounted. It takes as long for thousand store paths as for one: garbage collection has left a
/// mounted view alone, and leaves alone what the record of a leased one lists.
fn mounted(view: &ViewPlan, store: &NodeStore, now: SystemTime) -> Result<Option<Lease>, ProvisionError> {
    let leasing = |source| ProvisionError::Lease { source };
    let building = |source| ProvisionError::Build { source };
    let content = LeaseContent {
        paths: BTreeSet::new(),
        ..lease_of(view)
    };
    let lease = store.lease(&content).map_err(leasing)?;
    if view::is_mounted(view, store).map_err(building)? {
        view::used(view, store, now).map_err(building)?;
        return Ok(Some(lease));
    }
    lease.end().map_err(leasing)?;
    Ok(None)
}

/// A lease on a view whose files are there.
fn built(view: &ViewPlan, store: &NodeStore, now: SystemTime) -> Result<Option<Lease>, ProvisionError> {
    let leasing = |source| ProvisionError::Lease { source };
    let lease = store.lease(&lease_of(view)).map_err(leasing)?;
    let there = view.paths.iter().all(|path| store.has(path));
    let bridged = view.bridge().is_none_or(|id| store.layout().bridge(id).is_dir());
    if !there || !bridged {
        lease.end().map_err(leasing)?;
        return Ok(None);
    }
    match view::build(view, store, now) {
        Ok(()) => Ok(Some(lease)),
        Err(ViewError::MissingPath { .. } | ViewError::MissingBridge { .. }) => Ok(None),
        Err(source) => Err(ProvisionError::Build { source }),
    }
}

/// What must stay for a view to be mounted.
pub(super) fn lease_of(view: &ViewPlan) -> LeaseContent {
    LeaseContent {
        view: Some(view.digest.clone()),
        bridge: view.bridge().cloned(),
        paths: view.paths.clone(),
        holder: Holder::this_process(),
    }
}
