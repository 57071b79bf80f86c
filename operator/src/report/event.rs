//! Events: one for each condition that changed, no others.
//! Never more than 1,000 bytes, never twice for one change.

use crds::{
    condition::{ConditionReason, ConditionType},
    v1alpha1::API_VERSION,
};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::runtime::events::{Event, EventType};

use crate::plan::{
    conditions::shortened,
    step::{Change, HasConditions, Step},
};

/// The API server takes 1,024.
const LONGEST_NOTE: usize = 1000;

/// What a written step tells, and about which object; nothing where it is not about conditions.
pub fn of_step(step: &Step) -> Option<(Vec<Event>, ObjectReference)> {
    let (namespace, name, uid, events) = match step {
        Step::Environment(key, change) => (key.namespace.clone(), &key.name, &change.before.uid, of(change)),
        Step::Cache(name, change) => (None, name, &change.before.uid, of(change)),
        Step::Preflight(name, change) => (None, name, &change.before.uid, of(change)),
        Step::Node(..) | Step::Credentials(..) => return None,
    };
    let reference = ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(step.kind().to_owned()),
        namespace,
        name: Some(name.clone()),
        uid: Some(uid.clone()),
        ..ObjectReference::default()
    };
    Some((events, reference))
}

fn of<S: HasConditions>(change: &Change<S>) -> Vec<Event> {
    transitions(change.before.status.conditions(), change.after.conditions())
}

/// What happened between two statuses of one object.
pub fn transitions(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let mut told: Vec<Event> = Vec::new();
    for condition in after {
        let was = before.iter().find(|old| old.type_ == condition.type_);
        let changed = was.is_none_or(|old| old.status != condition.status);
        let Some(type_) = weight(condition).filter(|_| changed) else {
            continue;
        };
        // Good news are called what they are about, bad ones why they are so.
        let reason = match type_ {
            EventType::Normal => condition.type_.clone(),
            EventType::Warning => condition.reason.clone(),
        };
        let note = shortened(&condition.message, LONGEST_NOTE);
        let told_already = told.iter().any(|event| event.note.as_deref() == Some(&note));
        // That a new object is not degraded is no news.
        let born_well =
            was.is_none() && condition.type_ == ConditionType::Degraded.as_str() && type_ == EventType::Normal;
        if told_already || born_well {
            continue;
        }
        told.push(Event {
            type_,
            reason,
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        });
    }
    told
}

/// How much a condition weighs; nothing where it is nobody's news.
fn weight(condition: &Condition) -> Option<EventType> {
    let holds = match condition.status.as_str() {
        "True" => true,
        "False" => false,
        _ => return None,
    };
    let good = holds != (condition.type_ == ConditionType::Degraded.as_str());
    let waiting = condition.reason == ConditionReason::Resolving.as_str();
    let prewarmed = condition.type_ == ConditionType::Prewarmed.as_str();
    match good {
        true => Some(EventType::Normal),
        // That it is not fetched ahead, or not yet, is as it should be.
        false if waiting || prewarmed => None,
        false => Some(EventType::Warning),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    fn told(before: &[Condition], after: &[Condition]) -> Vec<(bool, String)> {
        let events = transitions(before, after).into_iter();
        events
            .map(|event| (event.type_ == EventType::Warning, event.reason))
            .collect()
    }

    #[test]
    fn only_what_changed_is_told_and_one_cause_is_told_once() {
        let waiting = [
            condition("Ready", "False", "Resolving", "waiting"),
            condition("Resolved", "Unknown", "Resolving", "waiting"),
            condition("Prewarmed", "False", "OnDemand", "on demand"),
            condition("Degraded", "False", "AsExpected", "nothing is wrong"),
        ];
        assert_eq!(told(&[], &waiting), []);
        let good = [
            condition("Ready", "True", "AsExpected", "pods can use it"),
            condition("Resolved", "True", "AllSigned", "signed"),
            condition("Prewarmed", "False", "OnDemand", "on demand"),
            condition("Degraded", "False", "AsExpected", "nothing is wrong"),
        ];
        let news = [(false, "Ready".to_owned()), (false, "Resolved".to_owned())];
        assert_eq!(told(&waiting, &good), news);
        assert_eq!(told(&good, &good), []);
        let bad = [
            condition("Ready", "True", "AsExpected", "pods can use it"),
            condition("Resolved", "False", "NotInAnyCache", "gone"),
            condition("Degraded", "True", "VariantsUnresolved", "gone"),
        ];
        assert_eq!(told(&good, &bad), [(true, "NotInAnyCache".to_owned())]);
        let healed = told(&bad, &good);
        assert_eq!(
            healed,
            [(false, "Resolved".to_owned()), (false, "Degraded".to_owned())],
            "that it is well again is news"
        );
    }

    #[test]
    fn a_note_fits_into_an_event() {
        let bad = [condition("Ready", "False", "NotInAnyCache", &"é".repeat(1000))];
        let note = transitions(&[], &bad).remove(0).note.unwrap();
        assert!(note.len() <= 1000 && note.ends_with('…'), "{} bytes", note.len());
    }
}
