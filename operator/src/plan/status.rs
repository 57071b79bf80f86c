//! The status of an environment: conditions, variants, counts of nodes.
//! Never per-node truth: counts and the first failures only, so that it does not grow with the cluster.

use std::collections::BTreeSet;

use crds::{
    catalogue::{EnvironmentEntry, EnvironmentKey},
    condition::{ConditionReason as Why, ConditionType},
    domain::environment::Environment,
    v1alpha1::{CUDAEnvironmentStatus, Prewarm, VariantStatus},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use self::{
    nodes::{Tally, tally},
    variants::{Closures, closures},
};
use super::{
    choices::Choices,
    conditions::{Holds, Verdict, conditions, shortened},
    fleet::Fleet,
};
use crate::snapshot::{resolution::Answers, world::World};

mod nodes;
mod variants;

/// What statuses are made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The cluster.
    pub world: &'a World,
    /// Its nodes.
    pub fleet: &'a Fleet<'a>,
    /// What selection says, asked once.
    pub choices: &'a Choices,
    /// What is known of closures.
    pub answers: &'a Answers,
    /// When; whole seconds.
    pub now: Timestamp,
}

/// The status that an environment should have, in place of `written`. Equal to it where nothing has changed.
pub fn status(
    inputs: &Inputs<'_>,
    key: &EnvironmentKey,
    entry: &EnvironmentEntry,
    written: &CUDAEnvironmentStatus,
) -> CUDAEnvironmentStatus {
    let said = |verdicts| conditions(verdicts, entry.generation, &written.conditions, inputs.now);
    let environment = match &entry.environment {
        Ok(environment) => environment,
        Err(invalid) => {
            return CUDAEnvironmentStatus {
                conditions: said(invalid_verdicts(&invalid.to_string())),
                observed_generation: Some(entry.generation),
                ..CUDAEnvironmentStatus::default()
            };
        }
    };
    let closures = closures(inputs, key, environment);
    let tally = tally(inputs, (key, entry), environment, written);
    let mut status = CUDAEnvironmentStatus {
        conditions: said(verdicts(entry, environment, &closures, &tally)),
        observed_generation: Some(entry.generation),
        packages: variants::packages(environment, &closures, &tally),
        size: closures.bytes().map(size),
        nodes: Some(tally.counts()),
        failures: tally.failures,
    };
    if closures.any_waiting() {
        keep_known(&mut status, written);
    }
    status
}

/// What was written about the closures of the same spec stays until the caches have answered: a replica that takes over, or
/// a cache whose secret changed, must not make every environment look new.
fn keep_known(status: &mut CUDAEnvironmentStatus, written: &CUDAEnvironmentStatus) {
    let of = |conditions: &[Condition], about: ConditionType| {
        let mut found = conditions.iter();
        found.find(|condition| condition.type_ == about.as_str()).cloned()
    };
    let resolved = of(&written.conditions, ConditionType::Resolved);
    let known = resolved.is_some_and(|resolved| resolved.status != Holds::Unknown.as_str());
    if !known || written.observed_generation != status.observed_generation {
        return;
    }
    for about in [ConditionType::Ready, ConditionType::Resolved, ConditionType::Degraded] {
        let place = status
            .conditions
            .iter_mut()
            .find(|condition| condition.type_ == about.as_str());
        if let (Some(place), Some(old)) = (place, of(&written.conditions, about)) {
            *place = old;
        }
    }
    status.size.clone_from(&written.size);
    let old = written.packages.iter().flat_map(|package| &package.variants);
    let new = status.packages.iter_mut().flat_map(|package| &mut package.variants);
    // Of one generation: the same packages and variants in the same order.
    for (new, old) in new.zip(old) {
        *new = VariantStatus {
            nodes: new.nodes,
            ..old.clone()
        };
    }
}

fn invalid_verdicts(message: &str) -> Vec<Verdict> {
    let not = |about| Verdict::new(about, Holds::False, Why::InvalidSpec, message);
    vec![
        not(ConditionType::Ready),
        not(ConditionType::Resolved),
        not(ConditionType::Compatible),
        not(ConditionType::Prewarmed),
        Verdict::new(ConditionType::Degraded, Holds::False, Why::InvalidSpec, message),
    ]
}

fn verdicts(
    entry: &EnvironmentEntry,
    environment: &Environment,
    closures: &Closures<'_>,
    tally: &Tally,
) -> Vec<Verdict> {
    let resolved = resolved(closures);
    let compatible = compatible(tally);
    vec![
        ready(environment, closures, &resolved, &compatible),
        resolved,
        compatible,
        prewarmed(entry, tally),
        degraded(closures, tally),
    ]
}

fn resolved(closures: &Closures<'_>) -> Verdict {
    let about = ConditionType::Resolved;
    if let Some(failed) = closures.first_failure() {
        return Verdict::new(about, Holds::False, failed.reason, failed.message.clone());
    }
    if closures.any_waiting() {
        return Verdict::new(about, Holds::Unknown, Why::Resolving, "the caches are being asked");
    }
    let keys: BTreeSet<&str> = closures.signed_by().collect();
    let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
    let message = format!("every closure is known, and every path in it is signed; keys: {keys}");
    Verdict::new(about, Holds::True, Why::AllSigned, message)
}

fn compatible(tally: &Tally) -> Verdict {
    let about = ConditionType::Compatible;
    if tally.fits {
        return Verdict::new(
            about,
            Holds::True,
            Why::FitsNodes,
            "at least one class of nodes has a variant of every package",
        );
    }
    match &tally.misfit {
        Some(misfit) => Verdict::new(about, Holds::False, Why::NoVariantFits, misfit.clone()),
        None if tally.unsettled > 0 => Verdict::new(
            about,
            Holds::Unknown,
            Why::NoNodes,
            format!(
                "the drivers of {} of the nodes that it is meant for cannot be used yet, and no other node has reported: what fits \
                 is known when they are ready",
                tally.unsettled
            ),
        ),
        None => Verdict::new(
            about,
            Holds::Unknown,
            Why::NoNodes,
            "no node that it is meant for has reported its driver yet: check spec.nodeSelector, and that the node agent runs",
        ),
    }
}

fn prewarmed(entry: &EnvironmentEntry, tally: &Tally) -> Verdict {
    let about = ConditionType::Prewarmed;
    let counts = tally.counts();
    match entry.prewarm {
        Prewarm::OnDemand => Verdict::new(
            about,
            Holds::False,
            Why::OnDemand,
            "spec.prewarm is OnDemand: closures are fetched when a pod asks for them",
        ),
        Prewarm::Always if counts.selected == 0 => {
            Verdict::new(about, Holds::Unknown, Why::NoNodes, "there is no node to fetch it to")
        }
        Prewarm::Always if counts.incompatible >= counts.selected => Verdict::new(
            about,
            Holds::False,
            Why::NoVariantFits,
            "it fits none of the nodes that it is meant for: there is nothing to fetch",
        ),
        Prewarm::Always if counts.ready + counts.incompatible >= counts.selected => Verdict::new(
            about,
            Holds::True,
            Why::OnEveryNode,
            "it is complete on every node that it fits",
        ),
        Prewarm::Always if counts.failed > 0 => Verdict::new(
            about,
            Holds::False,
            Why::NodesFailing,
            "it failed on some nodes: see status.failures",
        ),
        Prewarm::Always if tally.unsettled > 0 => Verdict::new(
            about,
            Holds::False,
            Why::Fetching,
            format!(
                "not every node is complete yet: see status.nodes; the drivers of {} nodes cannot be used yet",
                tally.unsettled
            ),
        ),
        Prewarm::Always => Verdict::new(
            about,
            Holds::False,
            Why::Fetching,
            "not every node is complete yet: see status.nodes",
        ),
    }
}

fn degraded(closures: &Closures<'_>, tally: &Tally) -> Verdict {
    let about = ConditionType::Degraded;
    if let Some(failed) = closures.first_failure() {
        return Verdict::new(about, Holds::True, Why::VariantsUnresolved, failed.message.clone());
    }
    if let Some(failure) = tally.failures.iter().find(|_| tally.counts().failed > 0) {
        let message = format!("node {}: {}: {}", failure.node, failure.reason, failure.message);
        return Verdict::new(about, Holds::True, Why::NodesFailing, message);
    }
    Verdict::new(about, Holds::False, Why::AsExpected, "nothing is wrong")
}

/// Pods can use it: every package has a variant whose closure is known, and nothing says that it fits no node.
fn ready(environment: &Environment, closures: &Closures<'_>, resolved: &Verdict, compatible: &Verdict) -> Verdict {
    let about = ConditionType::Ready;
    if let Some(package) = closures.package_without_variant(environment) {
        let message = format!("package {package} has no variant that can be had: {}", resolved.message);
        return Verdict::new(about, Holds::False, resolved.reason, shortened(&message, 1024));
    }
    if compatible.holds == Holds::False {
        return Verdict::new(about, Holds::False, compatible.reason, compatible.message.clone());
    }
    Verdict::new(about, Holds::True, Why::AsExpected, "pods can use it")
}

/// Bytes for people, in the units that `kubectl` users read.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests;
