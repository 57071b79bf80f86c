//! Selection: which variant of each package fits a node, and why each other one does not.
//! One pure function for status, admission, publishing and the command line alike, so that they cannot disagree.
//! Never does I/O, never fails: a node on which nothing fits gets an answer that says why.

use std::cmp::Reverse;

pub mod code;
pub mod compat;
pub mod contents;
mod judge;
mod misfit;
pub mod outcome;
pub mod releases;
mod warnings;

pub use contents::{CompatLibrary, CompatNote, Contents, FileCode, KnownContents};
pub use outcome::{Alternative, Mode, Reason, Rejected, Selected, Selection};
pub use releases::cuda_of_branch;

use crate::domain::{
    code::GpuCode,
    environment::{Environment, Package, Variant},
    node::NodeFacts,
    store_path::StorePath,
};
use judge::{Fit, judge};

/// Selects one variant per package for a node. `known` holds what scans have found so far; what is not in it is assumed to
/// fit and listed in [`Selected::unknown`].
///
/// Among the variants that fit, native comes before minor-version-compat before forward-compat; within a mode, SASS for
/// every GPU before compiling PTX; then the higher CUDA release; then the author's order.
pub fn select(environment: &Environment, node: &NodeFacts, known: &KnownContents) -> Selection {
    let mut selection = Selection::default();
    for package in &environment.packages {
        select_package(package, node, known, &mut selection);
    }
    selection
}

fn select_package(package: &Package, node: &NodeFacts, known: &KnownContents, selection: &mut Selection) {
    let mut fits: Vec<(&Variant, Fit)> = Vec::new();
    for variant in &package.variants {
        selection.read.extend(read(variant, node, known));
        match judge(variant, node, known) {
            Ok(fit) => fits.push((variant, fit)),
            Err(misfit) => selection.rejected.push(Rejected {
                package: package.name.clone(),
                variant: variant.name.clone(),
                reason: misfit.reason(),
                detail: misfit.to_string(),
            }),
        }
    }
    // A stable sort: what ranks equal stays in the author's order.
    fits.sort_by_key(|(variant, fit)| (fit.mode, fit.jit, Reverse(variant.cuda)));
    let mut ranked = fits.into_iter();
    if let Some((variant, fit)) = ranked.next() {
        selection.selected.insert(package.name.clone(), selected(variant, fit));
    }
    selection.alternatives.extend(ranked.map(|(variant, fit)| Alternative {
        package: package.name.clone(),
        variant: variant.name.clone(),
        mode: fit.mode,
    }));
}

/// What a scan found of a variant whose code nobody declared; nothing where it could not read all of it.
fn read(variant: &Variant, node: &NodeFacts, known: &KnownContents) -> Option<(StorePath, GpuCode)> {
    let path = variant
        .store_paths
        .get(&node.system)
        .filter(|_| variant.code.is_none())?;
    let contents = known.get(path).filter(|contents| contents.unreadable.is_empty())?;
    Some((path.clone(), contents.code.clone()))
}

fn selected(variant: &Variant, fit: Fit) -> Selected {
    Selected {
        variant: variant.name.clone(),
        mode: fit.mode,
        warnings: fit.warnings,
        cuda: variant.cuda,
        store_path: fit.store_path,
        forward_compat: fit.forward_compat,
        unknown: fit.unknown,
    }
}

impl Selection {
    /// Whether every package of the environment got a variant.
    pub fn covers(&self, environment: &Environment) -> bool {
        environment
            .packages
            .iter()
            .all(|package| self.selected.contains_key(&package.name))
    }

    /// The one rejection behind several: where nothing fits, and every variant for the same reason in the same words, as
    /// on a node without driver. What is said for people then says it once.
    pub fn shared_rejection(&self) -> Option<&Rejected> {
        let (first, others) = self.rejected.split_first()?;
        let same = |other: &Rejected| (other.reason, &other.detail) == (first.reason, &first.detail);
        let nothing_fits = self.selected.is_empty() && self.alternatives.is_empty();
        (nothing_fits && !others.is_empty() && others.iter().all(same)).then_some(first)
    }
}
