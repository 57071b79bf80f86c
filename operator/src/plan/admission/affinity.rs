//! The node affinity of a pod: not on classes of nodes where its environment does not fit.
//! Never makes a node eligible that was not: a term that matches nothing goes on matching nothing.

use std::collections::BTreeSet;

use crds::pod::CLASS_LABEL;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

const NOT_IN: &str = "NotIn";

/// Keeps the pod off nodes of these classes. Terms are alternatives, so that each of them gets the requirement; nodes without
/// the label stay eligible.
pub fn avoid(spec: &mut PodSpec, classes: &BTreeSet<String>) {
    if classes.is_empty() {
        return;
    }
    let affinity = spec.affinity.get_or_insert_default();
    let node = affinity.node_affinity.get_or_insert_default();
    let required = &mut node.required_during_scheduling_ignored_during_execution;
    let selector = required.get_or_insert_with(|| NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: Some(vec![not_in(classes)]),
            match_fields: None,
        }],
    });
    for term in &mut selector.node_selector_terms {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        // To Kubernetes an empty term matches no node; with our requirement it would match most.
        if (expressions.is_empty() && fields.is_empty()) || avoids(expressions, classes) {
            continue;
        }
        term.match_expressions.get_or_insert_default().push(not_in(classes));
    }
}

fn not_in(classes: &BTreeSet<String>) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: CLASS_LABEL.to_owned(),
        operator: NOT_IN.to_owned(),
        values: Some(classes.iter().cloned().collect()),
    }
}

/// Whether all the classes are already avoided, as after a first round of admission.
fn avoids(expressions: &[NodeSelectorRequirement], classes: &BTreeSet<String>) -> bool {
    let ours = expressions
        .iter()
        .filter(|expression| expression.key == CLASS_LABEL && expression.operator == NOT_IN);
    let avoided: BTreeSet<_> = ours.flat_map(|expression| expression.values.iter().flatten()).collect();
    classes.iter().all(|class| avoided.contains(class))
}
