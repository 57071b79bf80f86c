//! Views that were made before: another pod gets one by taking a lease, without asking a cache or selecting again.
//! Never hands one out before looking that all of it is still there.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use crds::selection::Selection;

use super::{ProvisionError, Provisioned};
use crate::{
    act::{
        fetch::Fetched,
        view::{self, ViewError},
    },
    plan::view::ViewPlan,
    store::{Holder, LeaseContent, NodeStore},
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
    let leasing = |source| ProvisionError::Lease { source };
    let view = &made.view;
    let lease = store.lease(&lease_of(view)).map_err(leasing)?;
    let there = view.paths.iter().all(|path| store.has(path));
    let bridged = view.bridge().is_none_or(|id| store.layout().bridge(id).is_dir());
    if !there || !bridged {
        lease.end().map_err(leasing)?;
        return Ok(None);
    }
    match view::build(view, store, now) {
        Ok(()) => {}
        Err(ViewError::MissingPath { .. } | ViewError::MissingBridge { .. }) => return Ok(None),
        Err(source) => return Err(ProvisionError::Build { source }),
    }
    Ok(Some(Provisioned {
        view: Arc::clone(view),
        selection: Arc::clone(&made.selection),
        fetched: Fetched::default(),
        downloaded: 0,
        lease,
    }))
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
