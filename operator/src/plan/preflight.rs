//! What another driver would change: the same selection as everywhere, asked twice.
//! Never asks about pods: which nodes hold an environment, and for how many pods, is in what their agents report.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crds::{
    catalogue::{EnvironmentEntry, EnvironmentKey},
    condition::{ConditionReason as Why, ConditionType},
    domain::{
        driver::DriverVersion,
        environment::Environment,
        node::{DriverState, NodeFacts},
    },
    selection::{Selection, cuda_of_branch, select},
    v1alpha1::{
        CUDADriverPreflightStatus, EnvironmentPhase, NodeEnvironment, PreflightChange, PreflightOutcome as Outcome,
    },
};

use self::{
    change::{Same, change, rank},
    download::Download,
};
use super::{
    conditions::{Holds, Verdict, conditions, shortened},
    fleet::Fleet,
    status::Inputs,
    step::{Change, Step},
};
use crate::snapshot::world::Preflight;

mod change;
mod download;

/// Most changes that an answer lists.
const MOST_CHANGES: usize = 256;
/// Most variants that an answer warns of.
const MOST_WARNINGS: usize = 64;
/// Longest warning.
const LONGEST_WARNING: usize = 512;

/// The answers to be written, where they differ.
pub fn steps(inputs: &Inputs<'_>) -> Vec<Step> {
    let answers = inputs.world.preflights.iter().filter_map(|(name, preflight)| {
        let after = status(inputs, preflight);
        let before = preflight.written.clone();
        (after != before.status).then(|| Step::Preflight(name.clone(), Change { before, after }))
    });
    answers.collect()
}

/// The answer to a preflight.
pub fn status(inputs: &Inputs<'_>, preflight: &Preflight) -> CUDADriverPreflightStatus {
    let said = |holds, why, message: String| {
        let verdict = Verdict::new(ConditionType::Complete, holds, why, message);
        let written = &preflight.written.status.conditions;
        conditions(vec![verdict], preflight.generation, written, inputs.now)
    };
    let unanswered = |why, message| CUDADriverPreflightStatus {
        conditions: said(Holds::False, why, message),
        observed_generation: Some(preflight.generation),
        ..CUDADriverPreflightStatus::default()
    };
    let driver: DriverVersion = match preflight.spec.driver.parse() {
        Ok(driver) => driver,
        Err(error) => return unanswered(Why::InvalidSpec, format!("spec.driver: {error}")),
    };
    let Some(cuda) = cuda_of_branch(driver.major()) else {
        let message = format!(
            "spec.driver: the CUDA release of branch {} is not known to this version of cudaenv; upgrade it, or name a driver \
             of a known branch",
            driver.major()
        );
        return unanswered(Why::UnknownDriver, message);
    };
    let state = DriverState::Ready { version: driver, cuda };
    let trial = Trial::new(inputs, preflight, &state);
    let (changes, count) = trial.changes();
    let packages = |outcome| {
        let of_outcome = changes.iter().filter(|change| change.outcome == outcome);
        let packages: BTreeSet<_> = of_outcome
            .map(|change| (&change.namespace, &change.environment, &change.package))
            .collect();
        number(packages.len())
    };
    let (breaks, switches) = (packages(Outcome::Breaks), packages(Outcome::Switches));
    let download = download::bytes(&trial);
    let (holds, why, mut message) = completeness(&trial, count, &download);
    let warnings = trial.unread();
    if !warnings.is_empty() {
        let count = warnings.len();
        message += &format!("; {count} of the variants count as fitting unread: see status.warnings");
    }
    CUDADriverPreflightStatus {
        conditions: said(holds, why, message),
        observed_generation: Some(preflight.generation),
        nodes: number(trial.members.len() + trial.silent),
        breaks,
        switches,
        keeps: number(trial.keeps(&changes)),
        download_bytes: match download {
            Download::Bytes(bytes) => Some(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Download::Waiting | Download::Failed { .. } => None,
        },
        changes: changes.into_iter().take(MOST_CHANGES).collect(),
        warnings: warnings.into_iter().take(MOST_WARNINGS).collect(),
    }
}

fn completeness(trial: &Trial<'_>, changes: usize, download: &Download) -> (Holds, Why, String) {
    if changes > MOST_CHANGES {
        let message = format!("the first {MOST_CHANGES} of {changes} changes are listed: narrow spec.nodeSelector");
        return (Holds::False, Why::Truncated, message);
    }
    if trial.silent > 0 {
        let message = format!(
            "{} of the nodes have not reported their driver and GPUs and are left out: check that the node agent runs there",
            trial.silent
        );
        return (Holds::False, Why::NoNodes, message);
    }
    match download {
        Download::Bytes(_) => {
            let message = "every node and environment is in the answer".to_owned();
            (Holds::True, Why::Answered, message)
        }
        Download::Waiting => {
            let message = "the caches are being asked for the closures that would have to be fetched".to_owned();
            (Holds::Unknown, Why::Resolving, message)
        }
        Download::Failed { environment, failed } => {
            let message = format!(
                "all but status.downloadBytes is answered: {} {environment} needs a closure that cannot be had; correct that, or \
                 remove the environment: {}",
                environment.kind(),
                failed.message
            );
            (Holds::False, failed.reason, message)
        }
    }
}

/// The nodes that would get the driver, and what selection says before and after.
struct Trial<'a> {
    inputs: &'a Inputs<'a>,
    /// Indices of members that have reported, with their class.
    members: Vec<(usize, usize)>,
    /// Members that have not.
    silent: usize,
    /// Environments that make sense.
    environments: Vec<Candidate<'a>>,
}

/// One environment, asked for each class.
struct Candidate<'a> {
    key: &'a EnvironmentKey,
    entry: &'a EnvironmentEntry,
    environment: &'a Environment,
    /// By class; only classes of nodes that would get the driver.
    choices: BTreeMap<usize, Choice>,
}

struct Choice {
    before: Rc<Selection>,
    after: Rc<Selection>,
}

/// A class with the other driver.
struct Renewed {
    class: usize,
    facts: NodeFacts,
    /// The class of the fleet that it becomes, where there is one.
    same_as: Option<usize>,
}

impl Renewed {
    fn new(fleet: &Fleet<'_>, class: usize, driver: &DriverState) -> Self {
        let facts = NodeFacts {
            driver: driver.clone(),
            ..fleet.classes[class].facts.clone()
        };
        Self {
            same_as: fleet.classes.iter().position(|other| *other.facts == facts),
            class,
            facts,
        }
    }
}

impl<'a> Trial<'a> {
    fn new(inputs: &'a Inputs<'a>, preflight: &Preflight, driver: &DriverState) -> Self {
        let fleet = inputs.fleet;
        let mut members = Vec::new();
        let mut silent = 0;
        for (index, member) in fleet.members.iter().enumerate() {
            if fleet.matches(&preflight.spec.node_selector, member) {
                match member.class {
                    Some(class) => members.push((index, class)),
                    None => silent += 1,
                }
            }
        }
        let classes: BTreeSet<usize> = members.iter().map(|(_, class)| *class).collect();
        let classes: Vec<_> = classes
            .into_iter()
            .map(|class| Renewed::new(fleet, class, driver))
            .collect();
        let all = inputs.world.catalogue.environments.iter();
        let environments = all.filter_map(|(key, entry)| {
            let environment = &**entry.environment.as_ref().ok()?;
            let choices = classes.iter().map(|renewed| {
                let of = |class| inputs.choices.of(fleet, environment, class);
                let after = || Rc::new(select(environment, &renewed.facts, fleet.contents));
                let choice = Choice {
                    before: of(renewed.class),
                    after: renewed.same_as.map_or_else(after, of),
                };
                (renewed.class, choice)
            });
            Some(Candidate {
                key,
                entry,
                environment,
                choices: choices.collect(),
            })
        });
        Self {
            inputs,
            members,
            silent,
            environments: environments.collect(),
        }
    }

    /// Whether an environment is meant for a member once it has the driver.
    fn is_meant_for(&self, candidate: &Candidate<'_>, member: usize) -> bool {
        let fleet = self.inputs.fleet;
        let everywhere = candidate.entry.node_selector.is_empty();
        everywhere || fleet.is_meant_for(candidate.entry, &fleet.members[member])
    }

    /// What changes, worst first, and how many changes there are.
    fn changes(&self) -> (Vec<PreflightChange>, usize) {
        let mut by_class: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (member, class) in &self.members {
            by_class.entry(*class).or_default().insert(*member);
        }
        let mut changes: BTreeMap<Same, PreflightChange> = BTreeMap::new();
        for candidate in &self.environments {
            let held = self.held(candidate.key);
            for (class, choice) in &candidate.choices {
                let members = &by_class[class];
                let found: Vec<_> = candidate
                    .environment
                    .packages
                    .iter()
                    .filter_map(|package| change(candidate.key, &package.name, choice))
                    .collect();
                if found.is_empty() {
                    continue;
                }
                let meant = members.iter().filter(|member| self.is_meant_for(candidate, **member));
                let nodes = number(meant.count());
                let here = |member: &usize| members.contains(member) && self.is_meant_for(candidate, *member);
                let in_use: Vec<_> = held.iter().filter(|(member, _)| here(member)).collect();
                let pods = in_use
                    .iter()
                    .map(|(_, report)| report.pods)
                    .fold(0_i32, i32::saturating_add);
                let in_use = number(in_use.len());
                for change in found.into_iter().filter(|_| nodes > 0) {
                    let entry = changes.entry(Same::of(&change)).or_insert(change);
                    entry.nodes += nodes;
                    entry.nodes_in_use += in_use;
                    entry.pods = entry.pods.saturating_add(pods);
                }
            }
        }
        let mut changes: Vec<_> = changes.into_values().collect();
        let count = changes.len();
        changes.sort_by_key(|change| (rank(change.outcome), -change.nodes_in_use, -change.nodes));
        (changes, count)
    }

    /// Whether any node of a class is meant for an environment.
    fn has_nodes(&self, candidate: &Candidate<'_>, class: usize) -> bool {
        let mut of_class = self.members.iter().filter(|(_, of)| *of == class);
        of_class.any(|(member, _)| self.is_meant_for(candidate, *member))
    }

    /// How many packages run now and are in none of `changes` for the worse.
    fn keeps(&self, changes: &[PreflightChange]) -> usize {
        let moved: BTreeSet<_> = changes
            .iter()
            .filter(|change| change.outcome != Outcome::Heals)
            .map(|change| (change.namespace.as_deref(), &*change.environment, &*change.package))
            .collect();
        let running = self.environments.iter().flat_map(|candidate| {
            let here = candidate
                .choices
                .iter()
                .filter(|(class, _)| self.has_nodes(candidate, **class));
            let packages = here.flat_map(|(_, choice)| choice.before.selected.keys());
            packages.map(|package| (candidate.key.namespace.as_deref(), &*candidate.key.name, &**package))
        });
        running.collect::<BTreeSet<_>>().difference(&moved).count()
    }

    /// The variants in the answer that count as fitting only because nobody read their files.
    fn unread(&self) -> Vec<String> {
        let variants = self.environments.iter().flat_map(|candidate| {
            let here = candidate
                .choices
                .iter()
                .filter(|(class, _)| self.has_nodes(candidate, **class));
            let chosen = here.flat_map(|(_, choice)| choice.before.selected.iter().chain(&choice.after.selected));
            let unread = chosen.filter(|(_, selected)| !selected.unknown.is_empty());
            unread.map(|(package, selected)| (candidate.key, package, &selected.variant))
        });
        let told = variants
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|(key, package, variant)| {
                let text = format!("{key}: {package}/{variant} counts as fitting unread: its files may say otherwise; declare its `code`");
                shortened(&text, LONGEST_WARNING)
            });
        told.collect()
    }

    /// What agents say of an environment that they hold or fetch, by member.
    fn held(&self, key: &EnvironmentKey) -> BTreeMap<usize, &'a NodeEnvironment> {
        let reports = self.inputs.fleet.reports(key).iter().copied();
        reports.filter(|(_, report)| is_held(report)).collect()
    }
}

fn is_held(report: &NodeEnvironment) -> bool {
    match report.phase {
        EnvironmentPhase::Ready | EnvironmentPhase::Fetching => true,
        EnvironmentPhase::Pending | EnvironmentPhase::Incompatible | EnvironmentPhase::Failed => false,
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
