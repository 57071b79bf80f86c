//! One pass over everything: all steps that the cluster needs now.
//! Never more than the difference: where all is as it should be, there is no step.

use k8s_openapi::jiff::Timestamp;

use super::{
    caches,
    choices::Choices,
    credentials::{self, Copying},
    fleet::Fleet,
    nodes::{self, Seen},
    preflight,
    status::{self, Inputs},
    step::{Change, Step},
};
use crate::snapshot::{probe::Probes, resolution::Answers, settled::Settled};

/// What a pass looks at.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The cluster.
    pub world: &'a Settled,
    /// What is known of closures.
    pub answers: &'a Answers,
    /// What is known of caches.
    pub probes: &'a Probes,
    /// Since when agents have been ready or not.
    pub seen: &'a Seen,
    /// The name of the secret with copies of credentials.
    pub credentials_secret: &'a str,
    /// When; whole seconds.
    pub now: Timestamp,
}

/// What a pass found.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What is to be written.
    pub steps: Vec<Step>,
    /// When to look again, if nothing happens before.
    pub next: Option<Timestamp>,
    /// Whether the secret's name is taken by somebody else's.
    pub secret_not_ours: bool,
}

/// Plans.
pub fn pass(pass: &Pass<'_>) -> Planned {
    let fleet = Fleet::new(pass.world, pass.world.contents());
    let choices = Choices::new(pass.world);
    let inputs = Inputs {
        world: pass.world,
        fleet: &fleet,
        choices: &choices,
        answers: pass.answers,
        now: pass.now,
    };
    let mut statuses = Vec::new();
    let copying = credentials::copying(pass.world, pass.credentials_secret);
    let secret_not_ours = copying == Copying::NotOurs;
    if let Copying::Write(copies) = copying {
        statuses.push(Step::Credentials(copies));
    }
    statuses.extend(caches::steps(pass.world, pass.probes, pass.now));
    statuses.extend(environments(&inputs));
    statuses.extend(preflight::steps(&inputs));
    let (nodes, next) = nodes::steps(pass.world, pass.seen, pass.now);
    Planned {
        steps: in_turns(statuses, nodes),
        next,
        secret_not_ours,
    }
}

/// One of each in turns, so that thousands of the one kind do not keep the other waiting.
fn in_turns(one: Vec<Step>, other: Vec<Step>) -> Vec<Step> {
    let mut steps = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    loop {
        let before = steps.len();
        steps.extend(one.next());
        steps.extend(other.next());
        if steps.len() == before {
            return steps;
        }
    }
}

fn environments(inputs: &Inputs<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, entry) in &inputs.world.catalogue.environments {
        let Some(before) = inputs.world.environment_statuses.get(key) else {
            continue;
        };
        let after = status::status(inputs, key, entry, &before.status);
        if after != before.status {
            let change = Change {
                before: (**before).clone(),
                after,
            };
            steps.push(Step::Environment(key.clone(), change));
        }
    }
    steps
}
