//! How an environment does on the nodes: counted, with the first failures.
//! Never asks selection twice for one class.

use std::collections::BTreeMap;

use crds::{
    catalogue::{EnvironmentEntry, EnvironmentKey},
    domain::environment::Environment,
    failure,
    selection::{KnownContents, Reason, Selection, select},
    v1alpha1::{CUDAEnvironmentStatus, EnvironmentPhase, NodeCounts, NodeEnvironment, NodeFailure},
};

use super::Inputs;
use crate::plan::{
    conditions::shortened,
    fleet::{Fleet, Member},
};

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
    selection: Selection,
    covers: bool,
}

/// Counts the nodes that an environment is meant for.
pub(super) fn tally(
    inputs: &Inputs<'_>,
    (key, entry): (&EnvironmentKey, &EnvironmentEntry),
    environment: &Environment,
    written: &CUDAEnvironmentStatus,
) -> Tally {
    let fleet = inputs.fleet;
    let current = |report: &NodeEnvironment| report.generation == entry.generation;
    let reports: BTreeMap<usize, &NodeEnvironment> = fleet
        .reports(key)
        .iter()
        .filter(|(_, report)| current(report))
        .copied()
        .collect();
    let mut choices: Vec<Option<Choice>> = fleet.classes.iter().map(|_| None).collect();
    let mut tally = Tally::default();
    let mut misfits = Vec::new();
    let time = |failure: NodeFailure| dated(failure, written, &inputs.now.to_string());
    for (index, member) in fleet.members.iter().enumerate() {
        if !fleet.is_meant_for(entry, member) {
            continue;
        }
        tally.selected += 1;
        let (choice, first) = choice(fleet, member, environment, &mut choices);
        let report = reports.get(&index).copied();
        tally.count_variants(report, choice);
        if let Some(choice) = choice.filter(|_| first) {
            tally.fits |= choice.covers;
            if !choice.covers {
                let failure = misfit(member.name, environment, &choice.selection);
                tally.misfit.get_or_insert_with(|| failure.message.clone());
                misfits.push(failure);
            }
        }
        let phase = report.map_or(EnvironmentPhase::Pending, |report| report.phase);
        match phase {
            EnvironmentPhase::Ready => tally.ready += 1,
            EnvironmentPhase::Fetching => tally.fetching += 1,
            EnvironmentPhase::Incompatible => tally.incompatible += 1,
            EnvironmentPhase::Pending if choice.is_some_and(|choice| !choice.covers) => tally.incompatible += 1,
            EnvironmentPhase::Pending => {}
            EnvironmentPhase::Failed => {
                tally.failed += 1;
                if tally.failures.len() < MOST_FAILURES {
                    tally
                        .failures
                        .extend(report.map(|report| time(failed(member.name, report))));
                }
            }
        }
    }
    let room = MOST_FAILURES.saturating_sub(tally.failures.len());
    tally.failures.extend(misfits.into_iter().take(room).map(time));
    tally
}

/// What selection says for the member's class, and whether this is the first member of it.
fn choice<'c>(
    fleet: &Fleet<'_>,
    member: &Member<'_>,
    environment: &Environment,
    choices: &'c mut [Option<Choice>],
) -> (Option<&'c Choice>, bool) {
    let Some(class) = member.class else {
        return (None, false);
    };
    let first = choices[class].is_none();
    let choice = choices[class].get_or_insert_with(|| {
        let selection = select(environment, fleet.classes[class].facts, &KnownContents::default());
        Choice {
            covers: selection.covers(environment),
            selection,
        }
    });
    (Some(choice), first)
}

impl Tally {
    /// By what the node's agent says; before it has said anything, by what selection says for its class.
    fn count_variants(&mut self, report: Option<&NodeEnvironment>, choice: Option<&Choice>) {
        let mut count = |package: &str, variant: &str| {
            *self
                .variants
                .entry((package.to_owned(), variant.to_owned()))
                .or_default() += 1;
        };
        match (report, choice) {
            (Some(report), _) if !report.packages.is_empty() => {
                for package in &report.packages {
                    count(&package.name, &package.variant);
                }
            }
            (_, Some(choice)) => {
                for (package, selected) in &choice.selection.selected {
                    count(package, &selected.variant);
                }
            }
            (_, None) => {}
        }
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
