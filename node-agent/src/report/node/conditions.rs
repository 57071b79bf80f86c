//! The conditions of a node: whether environments can be mounted there, and what stands in the way.
//! Never moves `lastTransitionTime` unless the status changed.

use crds::{convert::node::DRIVER_READY, domain::node::DriverState};
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
    kind: &'static str,
    /// Nothing: unknown.
    holds: Option<bool>,
    reason: &'static str,
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
    let kind = "Ready";
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
            "Draining",
            "spec.drain is set: mounted volumes stay, new ones are refused",
        );
    }
    said(Some(true), "Ready", "environments can be mounted")
}

fn driver(report: &NodeReport) -> Said {
    let reason = match &report.facts.driver {
        DriverState::Missing => "DriverMissing",
        DriverState::NotReady { .. } => "DriverNotReady",
        DriverState::Mismatch { .. } => "DriverMismatch",
        DriverState::Ready { .. } => "DriverReady",
    };
    Said {
        kind: DRIVER_READY,
        holds: Some(matches!(report.facts.driver, DriverState::Ready { .. })),
        reason,
        message: driver_words(&report.facts.driver),
    }
}

fn store(report: &NodeReport) -> Said {
    let (holds, reason, message) = match (&report.store, &report.self_test) {
        (Err(why), _) => (Some(false), "StoreFailed", why.clone()),
        (Ok(_), SelfTest::Failed { why }) => (Some(false), "SelfTestFailed", why.clone()),
        (Ok(_), SelfTest::Pending) => (None, "SelfTestPending", "no mount was tried yet".to_owned()),
        (Ok(_), SelfTest::Passed) => {
            let message = "a mount was made, read, and found read-only".to_owned();
            (Some(true), "SelfTestPassed", message)
        }
    };
    Said {
        kind: "StoreReady",
        holds,
        reason,
        message,
    }
}

fn registered(report: &NodeReport) -> Said {
    let (reason, message) = match report.registered {
        Some(true) => ("Registered", "kubelet knows the driver: it is in the node's CSINode"),
        Some(false) => (
            "NotRegistered",
            "the driver is not in the node's CSINode: kubelet did not register it, or lost it",
        ),
        None => ("NotObserved", "the node's CSINode was not seen yet"),
    };
    Said {
        kind: "Registered",
        holds: report.registered,
        reason,
        message: message.to_owned(),
    }
}

/// Whether every mounted volume shows the driver that the node has.
fn current(report: &NodeReport) -> Said {
    let pods = &report.outdated_pods;
    let kind = "DriverCurrent";
    if pods.is_empty() {
        return Said {
            kind,
            holds: Some(true),
            reason: "NoOldVolumes",
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
        reason: "PodsMustRestart",
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
    let same = |old: &&Condition| old.type_ == said.kind && old.status == status;
    let since = before.status.conditions.iter().find(same);
    Condition {
        type_: said.kind.to_owned(),
        status: status.to_owned(),
        reason: said.reason.to_owned(),
        message: cut(&said.message, LONGEST),
        last_transition_time: since.map_or(Time(now), |old| old.last_transition_time.clone()),
        observed_generation: before.generation,
    }
}
