//! Labels and the startup taint of nodes.
//! Never touches another's label or taint, and never a node that has no agent, except to leave its taint where it is.
//!
//! The taint keeps pods away until the node can mount their volumes. A node pool may put it on its new nodes itself. It is put
//! (back) on nodes that matter here: those whose agent reports an NVIDIA driver or a GPU. An agent on a node without either
//! takes nothing from anybody when it is not ready. It is taken off any node whose agent is ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crds::{
    catalogue::Labels,
    condition::NodeCondition,
    domain::node::{DriverState, NodeFacts},
    pod::CLASS_LABEL,
    v1alpha1::CUDANodeStatus,
};
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation, jsonptr};
use k8s_openapi::{api::core::v1::Taint, jiff::Timestamp};
use serde_json::{Value, json};

use super::step::Step;
use crate::snapshot::world::{KubeNode, Machine, World};

/// The branch of its driver.
pub const DRIVER_MAJOR: &str = "cudaenv.dev/driver-major";
/// The CUDA release of its driver.
pub const CUDA: &str = "cudaenv.dev/cuda";
/// The startup taint, with the effect `NoSchedule`.
pub const TAINT: &str = "cudaenv.dev/agent-not-ready";

const EFFECT: &str = "NoSchedule";

/// The conditions of a `CUDANode` that say that its agent can mount. `StoreReady` comes with a mount that was tried out.
const AGENT_READY: [NodeCondition; 2] = [NodeCondition::StoreReady, NodeCondition::Registered];

/// How long an agent must have been ready before the taint goes: a few seconds, for one that starts again and again.
const READY_FOR: Duration = Duration::from_secs(2);
/// How long an agent may be away before the taint comes: an upgrade of it takes less.
const AWAY_FOR: Duration = Duration::from_secs(30);

/// Since when each agent has been ready or not, as this process has seen it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    agents: BTreeMap<String, (bool, Timestamp)>,
}

impl Seen {
    /// Looks at the world at `now`; nodes that are gone are forgotten.
    pub fn look(&mut self, world: &World, now: Timestamp) {
        self.agents.retain(|name, _| world.nodes.contains_key(name));
        let heard = heard(world);
        for name in world.nodes.keys() {
            let speaks = heard.as_ref().is_none_or(|heard| heard.contains(&**name));
            let ready = speaks && is_ready(world, name);
            match self.agents.get_mut(name) {
                Some((was, _)) if *was == ready => {}
                Some(agent) => *agent = (ready, now),
                None => {
                    self.agents.insert(name.clone(), (ready, now));
                }
            }
        }
    }

    fn of(&self, name: &str) -> Option<(bool, Timestamp)> {
        self.agents.get(name).copied()
    }
}

/// Whether kubelet knows the driver and the agent says that it can mount.
fn is_ready(world: &World, name: &str) -> bool {
    let machine = world.machines.get(name);
    world.registered.contains(name) && machine.is_some_and(|machine| says_ready(&machine.status))
}

/// Nodes with a pod of the agent that is ready: what an agent without one said last is not taken for true any more. Nothing
/// where there is no such pod in the whole cluster: then agents run in some other way, and their word is taken.
fn heard(world: &World) -> Option<BTreeSet<&str>> {
    let ready = world.agents.values().filter(|pod| pod.ready);
    (!world.agents.is_empty()).then(|| ready.map(|pod| &*pod.node).collect())
}

fn says_ready(status: &CUDANodeStatus) -> bool {
    AGENT_READY.iter().all(|wanted| {
        let mut found = status.conditions.iter();
        found.any(|condition| condition.type_ == wanted.as_str() && condition.status == "True")
    })
}

/// The patches that nodes need, and when to look again.
pub fn steps(world: &World, seen: &Seen, now: Timestamp) -> (Vec<Step>, Option<Timestamp>) {
    let mut steps = Vec::new();
    let mut next: Option<Timestamp> = None;
    for (name, node) in &world.nodes {
        let machine = world.machines.get(name).map(|machine| &**machine);
        let mut operations = labels(&node.labels, machine);
        match taint(node, machine, seen.of(name), now) {
            Tainting::Stays => {}
            Tainting::Later(at) => next = Some(next.map_or(at, |earliest| earliest.min(at))),
            Tainting::Put => operations.extend(put(&node.taints)),
            Tainting::Remove(index) => operations.extend(remove(&node.taints, index)),
        }
        if !operations.is_empty() {
            steps.push(Step::Node(name.clone(), Patch(operations)));
        }
    }
    (steps, next)
}

/// What becomes of the taint.
enum Tainting {
    Stays,
    Later(Timestamp),
    Put,
    /// The one at this index.
    Remove(usize),
}

fn taint(node: &KubeNode, machine: Option<&Machine>, agent: Option<(bool, Timestamp)>, now: Timestamp) -> Tainting {
    let ours = |taint: &Taint| taint.key == TAINT && taint.effect == EFFECT;
    let found = node.taints.iter().position(ours);
    let Some((ready, since)) = agent else {
        return Tainting::Stays;
    };
    let (wait, done) = match (ready, found) {
        (true, Some(index)) => (READY_FOR, Tainting::Remove(index)),
        (false, None) if machine.is_some_and(is_for_gpus) => (AWAY_FOR, Tainting::Put),
        (true, None) | (false, _) => return Tainting::Stays,
    };
    match since.checked_add(wait) {
        Ok(at) if at > now => Tainting::Later(at),
        Ok(_) | Err(_) => done,
    }
}

/// Whether the agent has reported an NVIDIA driver or a GPU.
fn is_for_gpus(machine: &Machine) -> bool {
    match &machine.facts {
        Some(Ok(facts)) => facts.driver != DriverState::Missing || !facts.gpus.is_empty(),
        Some(Err(_)) => machine.status.driver.is_some() || !machine.status.gpus.is_empty(),
        None => false,
    }
}

/// Operations that are refused as a whole where the list is no longer the one that was seen.
fn put(taints: &[Taint]) -> Vec<PatchOperation> {
    let taint = json!({"key": TAINT, "effect": EFFECT});
    let path = "/spec/taints";
    match taints {
        [] => vec![test(path, Value::Null), add(path, json!([taint]))],
        _ => vec![test(path, json!(taints)), add("/spec/taints/-", taint)],
    }
}

fn remove(taints: &[Taint], index: usize) -> Vec<PatchOperation> {
    let path = format!("/spec/taints/{index}");
    vec![
        test("/spec/taints", json!(taints)),
        PatchOperation::Remove(RemoveOperation { path: pointer(&path) }),
    ]
}

/// The labels that a node should have; absent where nothing is known.
fn wanted(machine: Option<&Machine>) -> [(&'static str, Option<String>); 3] {
    let facts = machine.and_then(|machine| machine.facts.as_ref()?.as_ref().ok());
    let driver = facts.and_then(|facts| ready(facts));
    [
        (
            CLASS_LABEL,
            facts.and(machine).and_then(|machine| machine.class.clone()),
        ),
        (DRIVER_MAJOR, driver.as_ref().map(|(major, _)| major.clone())),
        (CUDA, driver.map(|(_, cuda)| cuda)),
    ]
}

fn ready(facts: &NodeFacts) -> Option<(String, String)> {
    match &facts.driver {
        DriverState::Ready { version, cuda } => Some((version.major().to_string(), cuda.to_string())),
        DriverState::Missing | DriverState::NotReady { .. } | DriverState::Mismatch { .. } => None,
    }
}

fn labels(labels: &Labels, machine: Option<&Machine>) -> Vec<PatchOperation> {
    let wanted = wanted(machine);
    if labels.is_empty() {
        let new: BTreeMap<_, _> = wanted
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        if new.is_empty() {
            return Vec::new();
        }
        let path = "/metadata/labels";
        return vec![test(path, Value::Null), add(path, json!(new))];
    }
    let mut operations = Vec::new();
    for (key, value) in wanted {
        let path = format!("/metadata/labels/{}", key.replace('~', "~0").replace('/', "~1"));
        match (labels.get(key), value) {
            (None, Some(new)) => operations.extend([test(&path, Value::Null), add(&path, json!(new))]),
            (Some(old), Some(new)) if *old != new => operations.extend([
                test(&path, json!(old)),
                PatchOperation::Replace(ReplaceOperation {
                    path: pointer(&path),
                    value: json!(new),
                }),
            ]),
            (Some(old), None) => operations.extend([
                test(&path, json!(old)),
                PatchOperation::Remove(RemoveOperation { path: pointer(&path) }),
            ]),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    operations
}

fn test(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation {
        path: pointer(path),
        value,
    })
}

fn add(path: &str, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: pointer(path),
        value,
    })
}

/// Every path here is a constant, an index or an escaped key: it always parses.
fn pointer(path: &str) -> jsonptr::PointerBuf {
    jsonptr::PointerBuf::parse(path).unwrap_or_default()
}

#[cfg(test)]
mod tests;
