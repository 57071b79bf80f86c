//! Settles on variants: selects, fetches and scans what would decide, and selects again until nothing more would.
//! Never leaves a package out: one without a fitting variant fails the whole.

use std::{collections::BTreeSet, time::SystemTime};

use crds::{
    domain::{environment::Environment, node::NodeFacts, store_path::StorePath},
    selection::{self, KnownContents, Selection},
};

use super::{
    ProvisionError, blocking,
    supply::{Obtained, Supply},
};
use crate::act::contents;

/// The selection that holds with all contents known that it depends on, and its closure in the store.
///
/// Ends: each round makes the contents of one more of the environment's store paths known, or is the last.
pub(super) async fn settle(
    supply: &Supply,
    environment: &Environment,
    node: &NodeFacts,
    now: SystemTime,
) -> Result<(Selection, Obtained), ProvisionError> {
    let mut known = KnownContents::new();
    let mut decided_on: Vec<Obtained> = Vec::new();
    loop {
        let selection = selection::select(environment, node, &known);
        if !selection.covers(environment) {
            return Err(ProvisionError::Rejected {
                selection: Box::new(selection),
            });
        }
        let chosen = selection.selected.values();
        let unknown = chosen.clone().flat_map(|selected| &selected.unknown);
        let unknown: BTreeSet<_> = unknown.filter(|path| !known.contains_key(*path)).cloned().collect();
        if unknown.is_empty() {
            let roots = chosen.flat_map(|selected| [Some(&selected.store_path), selected.forward_compat.as_ref()]);
            let roots: BTreeSet<_> = roots.flatten().cloned().collect();
            let mut obtained = supply.obtain(&Vec::from_iter(roots), now).await?;
            for earlier in decided_on {
                obtained
                    .absorb(earlier)
                    .map_err(|source| ProvisionError::Lease { source })?;
            }
            return Ok((selection, obtained));
        }
        for root in unknown {
            let obtained = supply.obtain(std::slice::from_ref(&root), now).await?;
            let paths = obtained.closure.paths.iter().map(|narinfo| narinfo.store_path());
            let (store, paths) = (supply.store().clone(), paths.cloned().collect::<Vec<StorePath>>());
            let scan =
                move || contents::of_closure(&store, &paths).map_err(|source| ProvisionError::Contents { source });
            known.insert(root, blocking(scan).await?);
            decided_on.push(obtained);
        }
    }
}
