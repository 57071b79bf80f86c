//! How an environment does on the nodes: counted, with the first failures.
//! Never asks selection twice for one class, never visits every node for every environment.

use std::{collections::BTreeMap, rc::Rc};

use crds::{
    catalogue::{EnvironmentEntry, EnvironmentKey},
    domain::{
        environment::Environment,
        node::{DriverState, NodeFacts},
    },
    failure,
    selection::{Reason, Selection},
    v1alpha1::{CUDAEnvironmentStatus, EnvironmentPhase, NodeCounts, NodeEnvironment, NodeFailure},
};

use super::Inputs;
use crate::plan::conditions::shortened;

/// Most failures that a status lists.
const MOST_FAILURES: usize = 10;
/// Longest message of a failure.
const LONGEST_MESSAGE: usize = 1024;

/// How an environment does on the nodes that it is meant for.
#[derive(Debug, Default)]
pub(super) struct Tally {
    selected: usize,
    ready: usize,
    fetching: usize,
    incompatible: usize,
    failed: usize,
    /// Nodes whose driver is there and not to be used yet: nobody knows what fits them.
    pub(super) unsettled: usize,
    /// Nodes by the variant that is selected on them.
    variants: BTreeMap<(String, String), usize>,
    /// Whether every package has a variant for at least one class.
    pub(super) fits: bool,
    /// Why it does not fit the first class that it does not fit.
    pub(super) misfit: Option<String>,
    /// The first failures: nodes where it failed, then one node of each class that it does not fit.
    pub(super) failures: Vec<NodeFailure>,
}

/// What selection says for a class.
struct Choice {
    selection: Rc<Selection>,
    covers: bool,
}

/// Counts the nodes that an environment is meant for: classes as a whole, and one by one only those whose agents say
/// something of it.
pub(super) fn tally(
    inputs: &Inputs<'_>,
    (key, entry): (&EnvironmentKey, &EnvironmentEntry),
    environment: &Environment,
    written: &CUDAEnvironmentStatus,
) -> Tally {
    let fleet = inputs.fleet;
    let mut tally = Tally::default();
    let mut choices: BTreeMap<usize, Choice> = BTreeMap::new();
    let mut misfits = Vec::new();
    // Nodes of a class of which nothing has been said yet.
    let mut silent: BTreeMap<Option<usize>, usize> = BTreeMap::new();
    for (class, members) in fleet.meant_for(entry).into_iter().flatten() {
        tally.selected += members.len();
        silent.insert(*class, members.len());
        let Some(class) = class else { continue };
        if !is_settled(fleet.classes[*class].facts) {
            tally.unsettled += members.len();
            continue;
        }
        let selection = inputs.choices.of(fleet, environment, *class);
        let choice = Choice {
            covers: selection.covers(environment),
            selection,
        };
        tally.fits |= choice.covers;
        if !choice.covers {
            let node = members.first().map_or("", |member| fleet.members[*member].name);
            misfits.push(misfit(node, environment, &choice.selection));
        }
        choices.insert(*class, choice);
    }
    let time = |failure: NodeFailure| dated(failure, written, &inputs.now.to_string());
    for (index, report) in fleet.reports(key) {
        let member = &fleet.members[*index];
        let current = report.generation == entry.generation && report.phase != EnvironmentPhase::Pending;
        if !current || !fleet.is_meant_for(entry, member) {
            continue;
        }
        *silent.entry(member.class).or_default() -= 1;
        let choice = member.class.and_then(|class| choices.get(&class));
        // While its driver is reloaded, an agent may call everything unfit.
        let unsettled = choice.is_none() && member.class.is_some();
        if unsettled && report.phase == EnvironmentPhase::Incompatible {
            continue;
        }
        tally.count_report(report, choice);
        if report.phase == EnvironmentPhase::Failed && tally.failures.len() < MOST_FAILURES {
            tally.failures.push(time(failed(member.name, report)));
        }
    }
    for (class, nodes) in silent {
        if let Some(choice) = class.and_then(|class| choices.get(&class)) {
            tally.count_silent(nodes, choice);
        }
    }
    misfits.sort_by(|a, b| a.node.cmp(&b.node));
    tally.misfit = misfits.first().map(|misfit| misfit.message.clone());
    let room = MOST_FAILURES.saturating_sub(tally.failures.len());
    tally.failures.extend(misfits.into_iter().take(room).map(time));
    tally
}

/// Whether a driver that is reloaded or upgraded has come to rest. Before that, its class is a passing one.
const fn is_settled(facts: &NodeFacts) -> bool {
    match facts.driver {
        DriverState::NotReady { .. } | DriverState::Mismatch { .. } => false,
        DriverState::Ready { .. } | DriverState::Missing => true,
    }
}

impl Tally {
    /// What a node's agent says counts; which variants it has, where it does not say, is what selection says.
    fn count_report(&mut self, report: &NodeEnvironment, choice: Option<&Choice>) {
        match report.phase {
            EnvironmentPhase::Ready => self.ready += 1,
            EnvironmentPhase::Fetching => self.fetching += 1,
            EnvironmentPhase::Incompatible => self.incompatible += 1,
            EnvironmentPhase::Failed => self.failed += 1,
            EnvironmentPhase::Pending => {}
        }
        if report.packages.is_empty() {
            self.count_variants(1, choice);
        } else {
            for package in &report.packages {
                self.count_variant(1, &package.name, &package.variant);
            }
        }
    }

    /// Nodes of one class whose agents have said nothing yet.
    fn count_silent(&mut self, nodes: usize, choice: &Choice) {
        if !choice.covers {
            self.incompatible += nodes;
        }
        self.count_variants(nodes, Some(choice));
    }

    fn count_variants(&mut self, nodes: usize, choice: Option<&Choice>) {
        let selected = choice.into_iter().flat_map(|choice| &choice.selection.selected);
        for (package, selected) in selected {
            self.count_variant(nodes, package, &selected.variant);
        }
    }

    fn count_variant(&mut self, nodes: usize, package: &str, variant: &str) {
        let key = (package.to_owned(), variant.to_owned());
        *self.variants.entry(key).or_default() += nodes;
    }

    /// Nodes on which a variant is the selected one.
    pub(super) fn nodes_with(&self, package: &str, variant: &str) -> i32 {
        let count = self.variants.get(&(package.to_owned(), variant.to_owned()));
        number(count.copied().unwrap_or_default())
    }

    /// As a status has it.
    pub(super) fn counts(&self) -> NodeCounts {
        NodeCounts {
            selected: number(self.selected),
            ready: number(self.ready),
            fetching: number(self.fetching),
            incompatible: number(self.incompatible),
            failed: number(self.failed),
            summary: Some(format!("{}/{}", self.ready, self.selected)),
        }
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn failed(node: &str, report: &NodeEnvironment) -> NodeFailure {
    let time = report.completed_at.clone().or_else(|| report.started_at.clone());
    NodeFailure {
        node: node.to_owned(),
        reason: report.reason.clone().unwrap_or_else(|| "Failed".to_owned()),
        selection: None,
        message: shortened(report.message.as_deref().unwrap_or_default(), LONGEST_MESSAGE),
        time: time.unwrap_or_default(),
    }
}

fn misfit(node: &str, environment: &Environment, selection: &Selection) -> NodeFailure {
    let without = environment
        .packages
        .iter()
        .find(|package| !selection.selected.contains_key(&package.name));
    let package = without.map_or("", |package| &package.name);
    let rejected: Vec<_> = selection
        .rejected
        .iter()
        .filter(|rejected| rejected.package == package)
        .collect();
    let first = rejected.first().map(|rejected| rejected.reason);
    let message = match selection.shared_rejection() {
        Some(shared) => shared.detail.clone(),
        None => {
            let each = rejected
                .iter()
                .map(|rejected| format!("{}: {}", rejected.variant, rejected.detail));
            format!("package {package}: {}", each.collect::<Vec<_>>().join("; "))
        }
    };
    NodeFailure {
        node: node.to_owned(),
        reason: first.map_or("Incompatible".to_owned(), |reason| format!("{:?}", word(reason))),
        selection: first,
        message: shortened(&message, LONGEST_MESSAGE),
        time: String::new(),
    }
}

/// The coarser word that every program of the project shares.
pub(super) fn word(reason: Reason) -> failure::Reason {
    match reason {
        Reason::DriverTooOld => failure::Reason::DriverTooOld,
        Reason::PtxTooNew => failure::Reason::PtxTooNew,
        Reason::NoCodeForGpu => failure::Reason::NoCodeForGPU,
        Reason::NoVariantForSystem => failure::Reason::NoVariantForSystem,
        Reason::DriverMismatch => failure::Reason::DriverMismatch,
        Reason::DriverMissing => failure::Reason::DriverNotReady,
        Reason::OutsideDeclaredRange => failure::Reason::OutsideDeclaredRange,
    }
}

/// A failure that is written already keeps its time; one that brings none gets `now`.
fn dated(failure: NodeFailure, written: &CUDAEnvironmentStatus, now: &str) -> NodeFailure {
    let same = written
        .failures
        .iter()
        .find(|old| (&old.node, &old.reason) == (&failure.node, &failure.reason));
    let time = match same {
        _ if !failure.time.is_empty() => failure.time.clone(),
        Some(old) => old.time.clone(),
        None => now.to_owned(),
    };
    NodeFailure { time, ..failure }
}
