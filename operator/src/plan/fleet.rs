//! The nodes that have an agent, by class, with what they hold.
//! Never copies an object: it is an index over a world, made anew for each.

use std::collections::BTreeMap;

use crds::{
    catalogue::{EnvironmentEntry, EnvironmentKey, Labels, selector},
    domain::node::{DriverState, NodeFacts},
    selection::KnownContents,
    v1alpha1::NodeEnvironment,
};

use crate::snapshot::world::{Machine, World};

/// All nodes that have an agent.
#[derive(Debug)]
pub struct Fleet<'a> {
    /// In the order of their names.
    pub members: Vec<Member<'a>>,
    /// One set of facts for each class; members name it by its index.
    pub classes: Vec<Class<'a>>,
    /// What agents have read of store paths.
    pub contents: &'a KnownContents,
    /// What agents say about an environment: the member's index, and its words.
    reports: BTreeMap<EnvironmentKey, Vec<(usize, &'a NodeEnvironment)>>,
    /// The members that each node selector of an environment matches, by class.
    matched: BTreeMap<&'a Labels, Groups>,
}

/// Members by class; those without one stand under `None`. Their indices, in order.
pub type Groups = BTreeMap<Option<usize>, Vec<usize>>;

/// A node that has an agent.
#[derive(Debug)]
pub struct Member<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The labels of its `Node`.
    pub labels: &'a Labels,
    /// What its agent reported.
    pub machine: &'a Machine,
    /// Its class; `None` where its agent has not reported anything usable.
    pub class: Option<usize>,
}

/// What nodes of one class have in common.
#[derive(Debug)]
pub struct Class<'a> {
    /// Its name.
    pub name: &'a str,
    /// All that selection looks at.
    pub facts: &'a NodeFacts,
}

impl<'a> Fleet<'a> {
    /// The fleet of a world in which agents have read `contents`. A `CUDANode` whose node is gone is about to go, too.
    pub fn new(world: &'a World, contents: &'a KnownContents) -> Self {
        let mut fleet = Self {
            members: Vec::with_capacity(world.machines.len()),
            classes: Vec::new(),
            contents,
            reports: BTreeMap::new(),
            matched: BTreeMap::new(),
        };
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, machine) in &world.machines {
            let Some(node) = world.nodes.get(name) else { continue };
            let (index, class) = (fleet.members.len(), fleet.class(&mut known, machine));
            fleet.members.push(Member {
                name,
                labels: &node.labels,
                machine,
                class,
            });
            for report in &machine.status.environments {
                let key = EnvironmentKey {
                    namespace: report.namespace.clone(),
                    name: report.name.clone(),
                };
                let reports = fleet.reports.entry(key).or_default();
                // An agent that says two things of one environment is heard once.
                if reports.last().is_none_or(|(last, _)| *last != index) {
                    reports.push((index, report));
                }
            }
        }
        // Environments share few selectors: thousands of both need not be compared one by one.
        for entry in world.catalogue.environments.values() {
            if !fleet.matched.contains_key(&entry.node_selector) {
                let groups = fleet.groups(&entry.node_selector);
                fleet.matched.insert(&entry.node_selector, groups);
            }
        }
        fleet
    }

    /// The members that a node selector matches.
    pub fn groups(&self, selector: &Labels) -> Groups {
        let mut groups = Groups::new();
        for (index, member) in self.members.iter().enumerate() {
            if self.matches(selector, member) {
                groups.entry(member.class).or_default().push(index);
            }
        }
        groups
    }

    /// The members that an environment of the world is meant for.
    pub fn meant_for(&self, entry: &EnvironmentEntry) -> Option<&Groups> {
        self.matched.get(&entry.node_selector)
    }

    fn class(&mut self, known: &mut BTreeMap<&'a str, usize>, machine: &'a Machine) -> Option<usize> {
        let name = machine.class.as_deref()?;
        let facts = machine.facts.as_ref()?.as_ref().ok()?;
        let classes = &mut self.classes;
        Some(*known.entry(name).or_insert_with(|| {
            classes.push(Class { name, facts });
            classes.len() - 1
        }))
    }

    /// What agents say about an environment: the member's index, and its words.
    pub fn reports(&self, key: &EnvironmentKey) -> &[(usize, &'a NodeEnvironment)] {
        self.reports.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether an environment is meant for a member.
    pub fn is_meant_for(&self, entry: &EnvironmentEntry, member: &Member<'_>) -> bool {
        self.matches(&entry.node_selector, member)
    }

    /// Whether a member has the labels of a node selector; without one, whether it has an NVIDIA driver.
    pub fn matches(&self, selector: &Labels, member: &Member<'_>) -> bool {
        if selector.is_empty() {
            let facts = member.class.map(|class| self.classes[class].facts);
            return facts.is_some_and(|facts| facts.driver != DriverState::Missing);
        }
        selector::contains(member.labels, selector)
    }
}
