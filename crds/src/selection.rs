//! Selection: which variant of each package fits a node, and why each other one does not.
//! One pure function for status, admission, publishing and the command line alike, so that they cannot disagree.
//! Never does I/O, never fails: a node on which nothing fits gets an answer that says why.

pub mod contents;
pub mod outcome;
pub mod releases;

pub use contents::{CompatLibrary, CompatNote, Contents, FileCode, KnownContents};
pub use outcome::{Alternative, Mode, Reason, Rejected, Selected, Selection};
pub use releases::cuda_of_branch;

use crate::domain::{
    environment::Environment,
    node::{DriverState, NodeFacts},
};

/// Selects one variant per package for a node. `known` holds what scans have found so far.
pub fn select(environment: &Environment, node: &NodeFacts, known: &KnownContents) -> Selection {
    let _ = known;
    let mut selection = Selection::default();
    let DriverState::Ready { cuda, .. } = &node.driver else {
        return selection;
    };
    for package in &environment.packages {
        let best = package
            .variants
            .iter()
            .filter(|variant| variant.cuda.major() <= cuda.major())
            .filter_map(|variant| Some((variant, variant.store_paths.get(&node.system)?)))
            .next();
        if let Some((variant, path)) = best {
            let chosen = Selected {
                variant: variant.name.clone(),
                mode: if variant.cuda <= *cuda {
                    Mode::Native
                } else {
                    Mode::MinorVersionCompat
                },
                warnings: Vec::new(),
                cuda: variant.cuda,
                store_path: path.clone(),
                forward_compat: None,
                unknown: Vec::new(),
            };
            selection.selected.insert(package.name.clone(), chosen);
        }
    }
    selection
}
