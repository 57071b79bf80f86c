//! On which classes of nodes an environment fits, by the same selection that the agent uses.
//! Never calls a class that has not reported unfit, but for nodes without a driver, which are known beforehand.

use std::{cmp::Reverse, collections::BTreeSet};

use crds::{
    catalogue::Granted,
    domain::{
        node::{DriverState, NodeFacts},
        store_path::System,
    },
    selection::{KnownContents, select},
};

use super::warning;
use crate::snapshot::settled::NodeClass;

/// Most classes that a pod's affinity names.
pub const MOST_CLASSES: usize = 100;

/// The classes on which any of `environments` does not fit, at most [`MOST_CLASSES`]: those with the most nodes. In the
/// order of their names.
///
/// Nodes without driver and GPU are always among them, of either system, so that a pod does not land on the first such node
/// of a cluster before its agent has reported.
pub fn unfit(environments: &[Granted], classes: &[NodeClass], known: &KnownContents) -> BTreeSet<String> {
    let mut reported: Vec<_> = classes
        .iter()
        .filter(|class| {
            !environments
                .iter()
                .all(|environment| fits(environment, &class.facts, known))
        })
        .collect();
    reported.sort_by_key(|class| (Reverse(class.nodes), class.name.as_str()));
    let reported = reported.into_iter().map(|class| class.name.clone());
    let mut names = BTreeSet::new();
    for name in driverless().chain(reported) {
        if names.len() < MOST_CLASSES {
            names.insert(name);
        }
    }
    names
}

fn driverless() -> impl Iterator<Item = String> {
    [System::X86_64Linux, System::Aarch64Linux].into_iter().map(|system| {
        let facts = NodeFacts {
            driver: DriverState::Missing,
            gpus: Vec::new(),
            system,
        };
        facts.class()
    })
}

fn fits(environment: &Granted, facts: &NodeFacts, known: &KnownContents) -> bool {
    let environment = &environment.environment;
    select(environment, facts, known).covers(environment)
}

/// What a person should know where an environment fits no node that has reported; nothing where it does, or none has.
pub fn nowhere(environment: &Granted, classes: &[NodeClass], known: &KnownContents) -> Option<String> {
    if classes.is_empty() || classes.iter().any(|class| fits(environment, &class.facts, known)) {
        return None;
    }
    // What a node with a driver says is of more use than that others have none.
    let told = classes
        .iter()
        .max_by_key(|class| (matches!(class.facts.driver, DriverState::Ready { .. }), class.nodes))?;
    let selection = select(&environment.environment, &told.facts, known);
    let why = selection.rejected.first()?;
    let nodes: usize = classes.iter().map(|class| class.nodes).sum();
    let text = format!(
        "{} fits none of the {nodes} nodes that have reported; the pod waits for one that it fits. {}/{}: {}",
        environment.key, why.package, why.variant, why.detail
    );
    Some(warning(&text))
}
