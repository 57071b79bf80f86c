//! The conditions of a node: whether environments can be mounted there, and what stands in the way.
//! Never moves `lastTransitionTime` unless the status changed.

use crds::{
    condition::{NodeCondition, NodeReason},
    domain::node::DriverState,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{Before, cut, driver_words};
use crate::snapshot::status::{NodeReport, SelfTest};

/// Pods that a message names; of the others it says how many.
const NAMED_PODS: usize = 10;
/// What the API server takes is 32,768; people read less.
const LONGEST: usize = 2048;

/// A condition without its times.
struct Said {
    kind: NodeCondition,
    /// Nothing: unknown.
    holds: Option<bool>,
    reason: NodeReason,
    message: String,
}

pub(super) fn conditions(report: &NodeReport, before: Before<'_>, now: Timestamp) -> Vec<Condition> {
    let parts = [driver(report), store(report), registered(report)];
    let current = current(report);
    let all = std::iter::once(ready(report, &parts)).chain(parts).chain([current]);
    all.map(|said| dated(said, before, now)).collect()
}

/// All of the parts, or the first that does not hold.
fn ready(report: &NodeReport, parts: &[Said]) -> Said {
    let kind = NodeCondition::Ready;
    let said = |holds, reason, message: &str| Said {
        kind,
        holds,
        reason,
        message: message.to_owned(),
    };
    if let Some(part) = parts.iter().find(|part| part.holds == Some(false)) {
        return said(Some(false), part.reason, &part.message);
    }
    if let Some(part) = parts.iter().find(|part| part.holds.is_none()) {
        return said(None, part.reason, &part.message);
    }
    if report.drain {
        return said(
            Some(false),
            NodeReason::Draining,
            "spec.drain is set: mounted volumes stay, new ones are refused",
        );
    }
    said(Some(true), NodeReason::Ready, "environments can be mounted")
}

fn driver(report: &NodeReport) -> Said {
    let reason = match &report.facts.driver {
        DriverState::Missing => NodeReason::DriverMissing,
        DriverState::NotReady { .. } => NodeReason::DriverNotReady,
        DriverState::Mismatch { .. } => NodeReason::DriverMismatch,
        DriverState::Ready { .. } => NodeReason::DriverReady,
    };
    Said {
        kind: NodeCondition::DriverReady,
        holds: Some(matches!(report.facts.driver, DriverState::Ready { .. })),
        reason,
        message: driver_words(&report.facts.driver),
    }
}

fn store(report: &NodeReport) -> Said {
    let (holds, reason, message) = match (&report.store, &report.self_test) {
        (Err(why), _) => (Some(false), NodeReason::StoreFailed, why.clone()),
        (Ok(_), SelfTest::Failed { why }) => (Some(false), NodeReason::SelfTestFailed, why.clone()),
        (Ok(_), SelfTest::Pending) => (None, NodeReason::SelfTestPending, "no mount was tried yet".to_owned()),
        (Ok(_), SelfTest::Passed) => {
            let message = "a mount was made, read, and found read-only".to_owned();
            (Some(true), NodeReason::SelfTestPassed, message)
        }
    };
    Said {
        kind: NodeCondition::StoreReady,
        holds,
        reason,
        message,
    }
}

fn registered(report: &NodeReport) -> Said {
    let (reason, message) = match report.registered {
        Some(true) => (
            NodeReason::Registered,
            "kubelet knows the driver: it is in the node's CSINode",
        ),
        Some(false) => (
            NodeReason::NotRegistered,
            "the driver is not in the node's CSINode: kubelet did not register it, or lost it",
        ),
        None => (NodeReason::NotObserved, "the node's CSINode was not seen yet"),
    };
    Said {
        kind: NodeCondition::Registered,
        holds: report.registered,
        reason,
        message: message.to_owned(),
    }
}

/// Whether every mounted volume shows the driver that the node has.
fn current(report: &NodeReport) -> Said {
    let pods = &report.outdated_pods;
    let kind = NodeCondition::DriverCurrent;
    if pods.is_empty() {
        return Said {
            kind,
            holds: Some(true),
            reason: NodeReason::NoOldVolumes,
            message: "every mounted volume shows the driver that the node has".to_owned(),
        };
    }
    let named = pods
        .iter()
        .take(NAMED_PODS)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let more = match pods.len().saturating_sub(NAMED_PODS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Said {
        kind,
        holds: Some(false),
        reason: NodeReason::PodsMustRestart,
        message: format!(
            "the driver changed under running pods, whose volumes keep the old driver's files: restart {named}{more}"
        ),
    }
}

fn dated(said: Said, before: Before<'_>, now: Timestamp) -> Condition {
    let status = match said.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let same = |old: &&Condition| old.type_ == said.kind.as_str() && old.status == status;
    let since = before.status.conditions.iter().find(same);
    Condition {
        type_: said.kind.to_string(),
        status: status.to_owned(),
        reason: said.reason.to_string(),
        message: cut(&said.message, LONGEST),
        last_transition_time: since.map_or(Time(now), |old| old.last_transition_time.clone()),
        observed_generation: before.generation,
    }
}
