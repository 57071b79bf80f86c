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
