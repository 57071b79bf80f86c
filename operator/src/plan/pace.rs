//! How often one object is written.
//! Never holds back what a person waits for: only counts that go on changing.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::step::{HasConditions, Step};

/// Between two writes of one object where only numbers changed: a roll-out over thousands of nodes is a few writes.
const BETWEEN: Duration = Duration::from_secs(10);

/// When objects were written last, by [`Step::object`].
#[derive(Debug, Clone, Default)]
pub struct Pace {
    written: BTreeMap<String, Timestamp>,
}

impl Pace {
    /// The steps to take now, and when the others will be; they are to be planned anew then.
    pub fn sort(&self, steps: Vec<Step>, now: Timestamp) -> (Vec<Step>, Option<Timestamp>) {
        let mut next: Option<Timestamp> = None;
        let ready = steps.into_iter().filter(|step| {
            let due = self
                .written
                .get(&step.object())
                .and_then(|last| last.checked_add(BETWEEN).ok());
            match due {
                Some(due) if due > now && may_wait(step) => {
                    next = Some(next.map_or(due, |earliest| earliest.min(due)));
                    false
                }
                Some(_) | None => true,
            }
        });
        let ready = ready.collect();
        (ready, next)
    }

    /// Remembers that an object was written, and forgets what no longer matters.
    pub fn wrote(&mut self, object: String, now: Timestamp) {
        let recent = |last: &Timestamp| last.checked_add(BETWEEN).is_ok_and(|due| due > now);
        self.written.retain(|_, last| recent(last));
        self.written.insert(object, now);
    }
}

fn may_wait(step: &Step) -> bool {
    match step {
        Step::Environment(_, change) => same_words(&change.before.status, &change.after),
        Step::Cache(_, change) => same_words(&change.before.status, &change.after),
        Step::Preflight(_, change) => same_words(&change.before.status, &change.after),
        Step::Node(..) | Step::Credentials(..) => false,
    }
}

/// Whether both say the same about the same generation, but for messages and numbers.
fn same_words<S: HasConditions>(before: &S, after: &S) -> bool {
    let words = |condition: &Condition| {
        (
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
            condition.observed_generation,
        )
    };
    before
        .conditions()
        .iter()
        .map(words)
        .eq(after.conditions().iter().map(words))
}

#[cfg(test)]
mod tests {
    use crds::{
        condition::{ConditionReason, ConditionType},
        v1alpha1::{CUDAEnvironmentStatus, NodeCounts},
    };

    use super::*;
    use crate::{
        plan::{
            conditions::{Verdict, conditions},
            made_up::at,
            step::Change,
        },
        snapshot::world::Written,
    };

    fn status(ready: bool, nodes: i32) -> CUDAEnvironmentStatus {
        let verdict = Verdict::new(ConditionType::Ready, ready.into(), ConditionReason::AsExpected, "");
        CUDAEnvironmentStatus {
            conditions: conditions(vec![verdict], 1, &[], at(0)),
            nodes: Some(NodeCounts {
                ready: nodes,
                ..NodeCounts::default()
            }),
            ..CUDAEnvironmentStatus::default()
        }
    }

    fn step(before: CUDAEnvironmentStatus, after: CUDAEnvironmentStatus) -> Step {
        let key = crds::catalogue::EnvironmentKey {
            namespace: None,
            name: "torch".to_owned(),
        };
        let before = Written {
            status: before,
            ..Written::default()
        };
        Step::Environment(key, Change { before, after })
    }

    #[test]
    fn counts_wait_for_ten_seconds_and_conditions_do_not() {
        let mut pace = Pace::default();
        let counts = || vec![step(status(true, 1), status(true, 2))];
        assert_eq!(pace.sort(counts(), at(0)).0.len(), 1, "the first goes at once");
        pace.wrote(counts()[0].object(), at(0));
        assert_eq!(pace.sort(counts(), at(9)), (vec![], Some(at(10))));
        assert_eq!(pace.sort(counts(), at(10)).0.len(), 1);
        let condition = vec![step(status(true, 1), status(false, 2))];
        assert_eq!(pace.sort(condition, at(1)).0.len(), 1);
    }
}
