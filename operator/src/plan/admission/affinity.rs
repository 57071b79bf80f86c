//! The node affinity of a pod: not on classes of nodes where its environment does not fit, and not where no agent runs.
//! Never makes a node eligible that was not: a term that matches nothing goes on matching nothing.

use std::{collections::BTreeSet, str::FromStr};

use crds::pod::CLASS_LABEL;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

const NOT_IN: &str = "NotIn";

/// The nodes that agents are placed on, as terms of a node affinity; none: every node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentNodes(Vec<NodeSelectorTerm>);

impl FromStr for AgentNodes {
    type Err = serde_json::Error;

    /// Reads `nodeSelector` and `affinity` of the agents' pods, as JSON.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let spec: PodSpec = serde_json::from_str(text)?;
        let labels = spec.node_selector.unwrap_or_default().into_iter();
        let labels = labels.map(|(key, value)| NodeSelectorRequirement {
            key,
            operator: "In".to_owned(),
            values: Some(vec![value]),
        });
        let labels: Vec<_> = labels.collect();
        let required = spec
            .affinity
            .and_then(|affinity| affinity.node_affinity)
            .and_then(|node| node.required_during_scheduling_ignored_during_execution);
        let alternatives = required
            .map(|required| required.node_selector_terms)
            .unwrap_or_default();
        let mut alternatives: Vec<_> = alternatives.into_iter().filter(|term| !matches_nothing(term)).collect();
        if alternatives.is_empty() && !labels.is_empty() {
            alternatives.push(NodeSelectorTerm::default());
        }
        for term in &mut alternatives {
            term.match_expressions.get_or_insert_default().extend(labels.clone());
        }
        Ok(Self(alternatives))
    }
}

/// Keeps the pod on nodes that have an agent. Both sides' terms are alternatives, so that each meets each.
pub fn follow(spec: &mut PodSpec, agents: &AgentNodes) {
    if agents.0.is_empty() {
        return;
    }
    let affinity = spec.affinity.get_or_insert_default();
    let node = affinity.node_affinity.get_or_insert_default();
    let required = &mut node.required_during_scheduling_ignored_during_execution;
    let Some(selector) = required else {
        *required = Some(NodeSelector {
            node_selector_terms: agents.0.clone(),
        });
        return;
    };
    // What the user wrote stays where it is; more alternatives come after it.
    let mut more = Vec::new();
    for term in &mut selector.node_selector_terms {
        if matches_nothing(term) || agents.0.iter().any(|agent| includes(term, agent)) {
            continue;
        }
        let mut narrowed = agents
            .0
            .iter()
            .map(|agent| narrowed(term, agent))
            .collect::<Vec<_>>()
            .into_iter();
        if let Some(first) = narrowed.next() {
            *term = first;
        }
        more.extend(narrowed);
    }
    selector.node_selector_terms.extend(more);
}

fn narrowed(term: &NodeSelectorTerm, agent: &NodeSelectorTerm) -> NodeSelectorTerm {
    let mut term = term.clone();
    for (own, more) in [
        (&mut term.match_expressions, &agent.match_expressions),
        (&mut term.match_fields, &agent.match_fields),
    ] {
        if let Some(more) = more {
            own.get_or_insert_default().extend(more.iter().cloned());
        }
    }
    term
}

fn includes(term: &NodeSelectorTerm, other: &NodeSelectorTerm) -> bool {
    let all = |had: &Option<Vec<_>>, wanted: &Option<Vec<NodeSelectorRequirement>>| {
        let had = had.as_deref().unwrap_or_default();
        wanted.iter().flatten().all(|one| had.contains(one))
    };
    all(&term.match_expressions, &other.match_expressions) && all(&term.match_fields, &other.match_fields)
}

/// To Kubernetes an empty term matches no node; with a requirement of ours it would match some.
fn matches_nothing(term: &NodeSelectorTerm) -> bool {
    let empty = |list: &Option<Vec<_>>| list.as_deref().unwrap_or_default().is_empty();
    empty(&term.match_expressions) && empty(&term.match_fields)
}

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
        if matches_nothing(term) || avoids(expressions, classes) {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The required terms, each as its expressions and fields, `key operator values`.
    fn terms(spec: &PodSpec) -> Vec<String> {
        let node = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = node.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
        let shown = |one: &NodeSelectorRequirement| {
            let values = one.values.as_deref().unwrap_or_default().join(",");
            format!("{} {} {values}", one.key, one.operator)
        };
        let term = |term: &NodeSelectorTerm| {
            let all = [&term.match_expressions, &term.match_fields]
                .into_iter()
                .flatten()
                .flatten();
            all.map(shown).collect::<Vec<_>>().join(" & ")
        };
        let all = required.into_iter().flat_map(|required| &required.node_selector_terms);
        all.map(term).collect()
    }

    fn required(terms: &Value) -> Value {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
    }

    #[test]
    fn a_pod_is_kept_to_the_nodes_that_agents_run_on() {
        let is_in =
            |key: &str, value: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
        let pool = json!({"nodeSelector": {"pool": "gpu"}});
        let either = required(&json!([is_in("arch", "a"), {}, is_in("arch", "b")]));
        let either = json!({"nodeSelector": {"pool": "gpu"}, "affinity": either});
        let node1 = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]});
        let own = required(&json!([is_in("zone", "x"), {}, node1]));
        let cases: [(Value, &Value, &[&str]); 6] = [
            (json!({}), &Value::Null, &[]),
            (json!({"nodeSelector": {}, "affinity": {}}), &Value::Null, &[]),
            (pool.clone(), &Value::Null, &["pool In gpu"]),
            (
                either.clone(),
                &Value::Null,
                &["arch In a & pool In gpu", "arch In b & pool In gpu"],
            ),
            (
                pool,
                &own,
                &["zone In x & pool In gpu", "", "pool In gpu & metadata.name In node1"],
            ),
            (
                either,
                &own,
                &[
                    "zone In x & arch In a & pool In gpu",
                    "",
                    "arch In a & pool In gpu & metadata.name In node1",
                    "zone In x & arch In b & pool In gpu",
                    "arch In b & pool In gpu & metadata.name In node1",
                ],
            ),
        ];
        for (agents, affinity, expected) in cases {
            let agents: AgentNodes = agents.to_string().parse().unwrap();
            let mut spec: PodSpec = serde_json::from_value(json!({"containers": [], "affinity": affinity})).unwrap();
            follow(&mut spec, &agents);
            assert_eq!(terms(&spec), expected, "{agents:?}");
            let once = spec.clone();
            follow(&mut spec, &agents);
            assert_eq!(spec, once, "twice");
        }
        "pool=gpu".parse::<AgentNodes>().unwrap_err();
    }
}
