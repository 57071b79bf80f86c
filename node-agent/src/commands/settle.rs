//! Settles on variants: selects, fetches and scans what would decide, and selects again until nothing more would.
//! Never leaves a package out: one without a fitting variant fails the whole.

use std::{collections::BTreeSet, time::SystemTime};

use crds::{
    domain::{environment::Environment, node::NodeFacts},
    selection::{self, KnownContents, Selection},
};

use super::{
    obtain::{self, Obtained, Supply},
    run::RunError,
};
use crate::act::contents;

/// The selection that holds with all contents known that it depends on, and its closure in the store.
///
/// Ends: each round makes the contents of one more of the environment's store paths known, or is the last.
pub(super) fn settle(
    supply: &Supply<'_>,
    environment: &Environment,
    node: &NodeFacts,
    now: SystemTime,
) -> Result<(Selection, Obtained), RunError> {
    let runtime = obtain::runtime()?;
    let mut known = KnownContents::new();
    let mut decided_on: Vec<Obtained> = Vec::new();
    loop {
        let selection = selection::select(environment, node, &known);
        if environment
            .packages
            .iter()
            .any(|package| !selection.selected.contains_key(&package.name))
        {
            return Err(RunError::Rejected {
                selection: Box::new(selection),
            });
        }
        let chosen = selection.selected.values();
        let unknown = chosen.clone().flat_map(|selected| &selected.unknown);
        let unknown: BTreeSet<_> = unknown.filter(|path| !known.contains_key(*path)).cloned().collect();
        if unknown.is_empty() {
            let roots = chosen.flat_map(|selected| [Some(&selected.store_path), selected.forward_compat.as_ref()]);
            let roots: BTreeSet<_> = roots.flatten().cloned().collect();
            let mut obtained = runtime.block_on(supply.obtain(&Vec::from_iter(roots), now))?;
            for earlier in decided_on {
                obtained.absorb(earlier).map_err(|source| RunError::Lease { source })?;
            }
            return Ok((selection, obtained));
        }
        for root in unknown {
            let obtained = runtime.block_on(supply.obtain(std::slice::from_ref(&root), now))?;
            let paths = obtained.closure.paths.iter().map(|narinfo| narinfo.store_path());
            let contents = contents::of_closure(supply.store, paths).map_err(|source| RunError::Contents { source })?;
            decided_on.push(obtained);
            known.insert(root, contents);
        }
    }
}
