//! Garbage collection: out of sight first, removed afterwards.
//! Never removes what the plan does not name; a crash at any point leaves garbage, never a record without its files.

use std::collections::BTreeSet;

use crate::{
    plan::collect::CollectPlan,
    snapshot::store::StoreState,
    store::{NodeStore, StoreError, sync_folder},
};

/// Asks `decide` what to remove, and removes it. Returns the plan as it was carried out.
///
/// While `decide` is asked, nobody can lease or commit: what it does not see in use cannot come into use before it is out
/// of sight. Removing the files, which is slow, happens after that and keeps nobody waiting.
pub fn collect(store: &NodeStore, decide: impl FnOnce(&StoreState) -> CollectPlan) -> Result<CollectPlan, StoreError> {
    let layout = store.layout();
    let exclusive = store.exclusively()?;
    let state = store.state()?;
    let plan = decide(&state);
    if plan.remove.is_empty() && plan.remove_views.is_empty() && plan.remove_bridges.is_empty() {
        return Ok(plan);
    }
    remember_use(store, &state, &plan)?;
    let trash = store.trash_folder()?;
    // Records go first, and for good: a layer without a record is swept, a record without its layer would be a lie.
    for path in &plan.remove {
        trash.take(&layout.record(path))?;
        trash.take(&layout.scan(path))?;
    }
    sync_folder(&layout.meta())?;
    for path in &plan.remove {
        trash.take(&layout.layer(path))?;
    }
    for digest in &plan.remove_views {
        trash.take(&layout.view(digest))?;
    }
    for id in &plan.remove_bridges {
        trash.take(&layout.bridge(id))?;
    }
    drop(exclusive);
    trash.empty()?;
    Ok(plan)
}

/// When a view goes, the layers that stay lose what tells of their last use: it is put into their own records.
fn remember_use(store: &NodeStore, state: &StoreState, plan: &CollectPlan) -> Result<(), StoreError> {
    let gone = state
        .views
        .iter()
        .filter(|view| plan.remove_views.contains(&view.digest));
    let shown: BTreeSet<_> = gone.flat_map(|view| &view.paths).collect();
    let layers = state.layers.iter().filter(|layer| shown.contains(&layer.path));
    layers
        .filter(|layer| !plan.remove.contains(&layer.path))
        .try_for_each(|layer| store.touch([&layer.path], layer.last_used))
}
