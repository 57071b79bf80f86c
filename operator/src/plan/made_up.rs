//! Worlds for tests of the plan: a few lines each.
//! Never more than a test says: what it does not name is as small as it can be.

use std::{collections::BTreeSet, sync::Arc};

use crds::{
    catalogue::{CacheEntry, EnvironmentEntry, EnvironmentKey},
    domain::{
        node::{DriverState, NodeFacts},
        store_path::{StorePath, System},
    },
    v1alpha1::{CUDABinaryCache, CUDAEnvironment, CUDANodeStatus, EnvironmentPhase, NodeEnvironment},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::resolve;
use crate::snapshot::{
    resolution::{Answer, Answers, Member, Question, Resolved, Unresolved},
    world::{KubeNode, Machine, World, Written},
};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A store path of its own for each name.
pub(super) fn path(name: &str) -> String {
    format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")
}

/// `team/<name>` with one package `torch` of these variants: name, CUDA release, machine code.
pub(super) fn environment(world: &mut World, name: &str, variants: &[(&str, &str)], more: &Value) -> EnvironmentKey {
    let variants: Vec<_> = variants
        .iter()
        .map(|(variant, cuda)| {
            json!({"name": variant, "cuda": cuda, "code": {"sass": ["8.0"]},
                   "storePaths": {"x86_64-linux": path(variant)}})
        })
        .collect();
    let mut spec = json!({"packages": [{"name": "torch", "variants": variants}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
        "metadata": {"namespace": "team", "name": name, "generation": 1}, "spec": spec});
    let object: CUDAEnvironment = serde_json::from_value(object).unwrap();
    let key = EnvironmentKey {
        namespace: Some("team".to_owned()),
        name: name.to_owned(),
    };
    let entry = EnvironmentEntry::from(&object);
    world.catalogue.environments.insert(key.clone(), Arc::new(entry));
    world.environment_statuses.insert(key.clone(), Arc::default());
    key
}

pub(super) fn cache(world: &mut World, name: &str) {
    let key = "cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=";
    let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache",
        "metadata": {"name": name, "generation": 1},
        "spec": {"url": "https://cache.example.org", "publicKeys": [key]}});
    let object: CUDABinaryCache = serde_json::from_value(object).unwrap();
    world
        .catalogue
        .caches
        .insert(name.to_owned(), Arc::new(CacheEntry::from(&object)));
    world
        .cache_statuses
        .insert(name.to_owned(), Arc::new(Written::default()));
}

/// A node with an agent; `driver` is its version and CUDA release, nothing for a node without one.
pub(super) fn node(world: &mut World, name: &str, driver: Option<(&str, &str)>) {
    let driver = driver.map_or(DriverState::Missing, |(version, cuda)| DriverState::Ready {
        version: version.parse().unwrap(),
        cuda: cuda.parse().unwrap(),
    });
    let gpu = (driver != DriverState::Missing).then(|| "8.0:tesla".parse().unwrap());
    let facts = NodeFacts {
        driver,
        gpus: gpu.into_iter().collect(),
        system: System::X86_64Linux,
    };
    let machine = Machine {
        class: Some(facts.class()),
        facts: Some(Ok(Arc::new(facts))),
        contents: Arc::default(),
        status: CUDANodeStatus::default(),
    };
    let labels = [("pool".to_owned(), name.to_owned())].into();
    let node = KubeNode {
        labels,
        ..KubeNode::default()
    };
    world.nodes.insert(name.to_owned(), Arc::new(node));
    world.machines.insert(name.to_owned(), Arc::new(machine));
}

/// A node with a driver that cannot be used yet.
pub(super) fn node_in(world: &mut World, name: &str, driver: DriverState) {
    node(world, name, Some(("570.124.06", "12.8")));
    let machine = Arc::make_mut(world.machines.get_mut(name).unwrap());
    let mut facts = NodeFacts::clone(machine.facts.as_ref().unwrap().as_ref().unwrap());
    facts.driver = driver;
    machine.class = Some(facts.class());
    machine.facts = Some(Ok(Arc::new(facts)));
}

/// What the agent of `node` says of `team/<name>`.
pub(super) fn report(world: &mut World, node: &str, name: &str, phase: EnvironmentPhase) {
    let machine = Arc::make_mut(world.machines.get_mut(node).unwrap());
    machine.status.environments.push(NodeEnvironment {
        namespace: Some("team".to_owned()),
        name: name.to_owned(),
        generation: 1,
        phase,
        pods: 3,
        reason: Some("Reason".to_owned()),
        message: Some("why".to_owned()),
        ..NodeEnvironment::default()
    });
}

/// A closure of paths that are called as the letters of `members`, of 100 bytes each, 10 to download.
pub(super) fn resolved(members: &str) -> Resolved {
    let members: Box<[Member]> = members
        .chars()
        .map(|name| Member {
            hash: name.to_string().into(),
            nar_bytes: 100,
            download_bytes: 10,
        })
        .collect();
    Resolved {
        closure_bytes: 100 * members.len() as u64,
        download_bytes: 10 * members.len() as u64,
        signed_by: BTreeSet::from(["cache-1".to_owned()]),
        members,
    }
}

/// Answers of the world's questions by the name of the variant; those that are not named are not answered.
pub(super) fn answers(world: &World, told: &[(&str, Result<Resolved, Unresolved>)]) -> Answers {
    let questions = resolve::questions(world);
    let answer = |question: &Question| -> Option<Answer> {
        let root = |name: &str| StorePath::parse(&path(name)).unwrap();
        let (_, outcome) = told.iter().find(|(name, _)| root(name) == question.path)?;
        Some(resolve::answered(question, None, outcome.clone(), at(0)))
    };
    questions
        .into_iter()
        .filter_map(|question| Some((question.clone(), Arc::new(answer(&question)?))))
        .collect()
}
