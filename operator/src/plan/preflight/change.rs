//! What becomes of one package where a driver changes, and which changes are one entry of an answer.
//! Never counts nodes: the entry is filled by whoever knows them.

use crds::{
    catalogue::EnvironmentKey,
    selection::{Reason, Selection},
    v1alpha1::{PreflightChange, PreflightOutcome as Outcome},
};

use super::Choice;
use crate::plan::conditions::shortened;

/// Longest detail of a change.
const LONGEST_DETAIL: usize = 1024;

/// What makes two changes one entry of the answer.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Same {
    namespace: Option<String>,
    environment: String,
    package: String,
    outcome: u8,
    from: Option<String>,
    to: Option<String>,
    reason: Option<Reason>,
}

impl Same {
    pub(super) fn of(change: &PreflightChange) -> Self {
        Self {
            namespace: change.namespace.clone(),
            environment: change.environment.clone(),
            package: change.package.clone(),
            outcome: rank(change.outcome),
            from: change.from.clone(),
            to: change.to.clone(),
            reason: change.reason,
        }
    }
}

/// Worst first.
pub(super) const fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Breaks => 0,
        Outcome::Switches => 1,
        Outcome::Heals => 2,
    }
}

/// What becomes of a package on one node; nothing where it stays as it is.
pub(super) fn change(key: &EnvironmentKey, package: &str, choice: &Choice) -> Option<PreflightChange> {
    let variant = |selection: &Selection| {
        let selected = selection.selected.get(package);
        selected.map(|selected| selected.variant.clone())
    };
    let (from, to) = (variant(&choice.before), variant(&choice.after));
    let outcome = match (&from, &to) {
        (Some(_), None) => Outcome::Breaks,
        (None, Some(_)) => Outcome::Heals,
        (Some(from), Some(to)) if from != to => Outcome::Switches,
        (Some(_), Some(_)) | (None, None) => return None,
    };
    let rejected = || {
        let all = choice.after.rejected.iter();
        all.filter(|rejected| outcome == Outcome::Breaks && rejected.package == package)
    };
    let details: Vec<_> = rejected()
        .map(|rejected| format!("{}: {}", rejected.variant, rejected.detail))
        .collect();
    Some(PreflightChange {
        namespace: key.namespace.clone(),
        environment: key.name.clone(),
        package: package.to_owned(),
        outcome,
        from,
        to,
        reason: rejected().map(|rejected| rejected.reason).next(),
        detail: (!details.is_empty()).then(|| shortened(&details.join("; "), LONGEST_DETAIL)),
        nodes: 0,
        nodes_in_use: 0,
        pods: 0,
    })
}
