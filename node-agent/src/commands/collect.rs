//! `gc`: removes from a node store what nothing uses.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::answer;
use crate::{
    act::collect,
    args::{GcArgs, Output},
    plan::collect::{self as planning, CollectPlan, CollectPolicy},
    provision::supply,
    report::failure::{Failure, Reason},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    dry_run: bool,
    #[serde(flatten)]
    plan: CollectPlan,
}

#[expect(clippy::disallowed_methods, reason = "a command's shell reads the clock, for ages")]
pub(super) fn run(args: &GcArgs, output: Output) -> Result<u8, Failure> {
    let store = supply::existing_store(&args.state.state)?;
    let policy = CollectPolicy {
        high: args.keep,
        low: args.keep,
        grace: Duration::from_secs(args.younger_than),
        pinned: BTreeSet::new(),
    };
    let now = SystemTime::now();
    let mut thought = None;
    let carried_out = collect::collect(&store, |state| {
        let plan = planning::plan(state, &policy, now);
        if args.dry_run {
            thought = Some(plan);
            return CollectPlan::default();
        }
        plan
    });
    let carried_out = carried_out.map_err(|error| Failure::new(Reason::StoreFailed, 1, error))?;
    let value = Answer {
        dry_run: args.dry_run,
        plan: thought.unwrap_or(carried_out),
    };
    answer(output, &value, text)?;
    Ok(0)
}

fn text(answer: &Answer) -> String {
    let verb = if answer.dry_run { "would remove" } else { "removed" };
    let mut text: String = answer
        .plan
        .remove
        .iter()
        .map(|path| format!("{verb} {path}\n"))
        .collect();
    let plan = &answer.plan;
    text.extend(
        plan.remove_bridges
            .iter()
            .map(|id| format!("{verb} the copied libraries of driver {id}\n")),
    );
    text += &format!(
        "{verb} {} store paths, {} bytes; {} stay\n",
        plan.remove.len(),
        plan.freed_bytes,
        plan.kept.values().sum::<usize>()
    );
    text
}
