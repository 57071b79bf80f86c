//! Labels and taints of nodes, as patches that are really applied.
//! Never looks at a patch's words alone: what it makes of a node counts.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::*;
use crate::{
    plan::made_up::{at, node},
    snapshot::world::AgentPod,
};

const DRIVER: Option<(&str, &str)> = Some(("570.124.06", "12.8"));

fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    }
}

fn agent(world: &mut World, name: &str, says: &[(&str, &str)]) {
    let condition = |(type_, status): &(&str, &str)| Condition {
        type_: (*type_).to_owned(),
        status: (*status).to_owned(),
        reason: "x".to_owned(),
        message: String::new(),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        observed_generation: None,
    };
    let machine = Arc::make_mut(world.machines.get_mut(name).unwrap());
    machine.status.conditions = says.iter().map(condition).collect();
}

fn with_taints(world: &mut World, name: &str, taints: &[Taint]) {
    Arc::make_mut(world.nodes.get_mut(name).unwrap()).taints = taints.to_vec();
}

const READY: [(&str, &str); 2] = [("StoreReady", "True"), ("Registered", "True")];

/// The node after the patches of a plan at `second`, for an agent that was first seen at second 0.
fn after(world: &World, name: &str, second: i64) -> (Labels, Vec<Taint>, Option<i64>) {
    let mut seen = Seen::default();
    seen.look(world, at(0));
    let (steps, next) = steps(world, &seen, at(second));
    let node = &world.nodes[name];
    let mut object = json!({"metadata": {}, "spec": {}});
    if !node.labels.is_empty() {
        object["metadata"]["labels"] = json!(node.labels);
    }
    if !node.taints.is_empty() {
        object["spec"]["taints"] = json!(node.taints);
    }
    for step in steps {
        let Step::Node(of, patch) = step else {
            panic!("{step:?}")
        };
        if of != name {
            continue;
        }
        // As the API server has it, a test for null passes where nothing is; the crate needs something there.
        let operations = patch.0.into_iter();
        let kept =
            operations.filter(|operation| !matches!(operation, PatchOperation::Test(test) if test.value.is_null()));
        json_patch::patch(&mut object, &kept.collect::<Vec<_>>()).unwrap();
    }
    let labels = serde_json::from_value(object["metadata"]["labels"].take()).unwrap_or_default();
    let taints = serde_json::from_value(object["spec"]["taints"].take()).unwrap_or_default();
    (labels, taints, next.map(|next: Timestamp| next.as_second()))
}

#[test]
fn labels_say_what_the_agent_found_and_go_when_it_is_not_known() {
    let mut world = World::default();
    node(&mut world, "a", DRIVER);
    let (labels, ..) = after(&world, "a", 0);
    let class = world.machines["a"].class.clone().unwrap();
    let expected = [
        (CLASS_LABEL, class.as_str()),
        (CUDA, "12.8"),
        (DRIVER_MAJOR, "570"),
        ("pool", "a"),
    ];
    let expected: Labels = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(labels, expected);
    // Once they are there, nothing is done.
    Arc::make_mut(world.nodes.get_mut("a").unwrap()).labels = expected.clone();
    let (steps, _) = steps(&world, &Seen::default(), at(0));
    assert_eq!(steps, []);
    // A driver that is gone takes its labels along, but the class stays: what is known is that there is none.
    let labelled = world.nodes["a"].clone();
    node(&mut world, "a", None);
    world.nodes.insert("a".to_owned(), Arc::clone(&labelled));
    let (labels, ..) = after(&world, "a", 0);
    assert_eq!(labels.keys().collect::<Vec<_>>(), [CLASS_LABEL, "pool"]);
    assert_ne!(labels[CLASS_LABEL], class);
    // Without an agent, nothing is known.
    world.machines.clear();
    let (labels, ..) = after(&world, "a", 0);
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["pool"]);
    // A node without any label gets its first ones.
    let mut bare = World::default();
    node(&mut bare, "b", DRIVER);
    Arc::make_mut(bare.nodes.get_mut("b").unwrap()).labels.clear();
    assert_eq!(after(&bare, "b", 0).0.len(), 3);
}

#[test]
fn the_taint_goes_only_while_kubelet_and_the_agent_both_say_so() {
    let ours = taint(TAINT, "NoSchedule");
    let others = [taint("theirs", "NoSchedule"), taint(TAINT, "NoExecute")];
    let tainted = [others[0].clone(), ours, others[1].clone()];
    for (registered, says, gone) in [
        (true, &READY[..], true),
        (false, &READY[..], false),
        (true, &READY[..1], false),
        (true, &[("StoreReady", "True"), ("Registered", "False")][..], false),
        (true, &[("StoreReady", "Unknown"), ("Registered", "True")][..], false),
        (true, &[][..], false),
    ] {
        let mut world = World::default();
        node(&mut world, "a", DRIVER);
        with_taints(&mut world, "a", &tainted);
        agent(&mut world, "a", says);
        if registered {
            world.registered.insert("a".to_owned());
        }
        assert_eq!(after(&world, "a", 1).1, tainted, "not at once");
        let (_, taints, _) = after(&world, "a", 60);
        let expected = if gone { &others[..] } else { &tainted };
        assert_eq!(taints, expected, "registered: {registered}, {says:?}");
    }
}

#[test]
fn the_taint_comes_back_after_a_while_and_only_where_gpus_are() {
    let mut world = World::default();
    node(&mut world, "gpu", DRIVER);
    node(&mut world, "bare", None);
    let theirs = taint("theirs", "NoExecute");
    with_taints(&mut world, "gpu", std::slice::from_ref(&theirs));
    let (_, taints, next) = after(&world, "gpu", 29);
    assert_eq!((taints, next), (vec![theirs.clone()], Some(30)));
    assert_eq!(after(&world, "gpu", 30).1, [theirs, taint(TAINT, "NoSchedule")]);
    assert_eq!(after(&world, "bare", 30).1, []);
    world.machines.remove("gpu");
    assert_eq!(
        after(&world, "gpu", 30).1.len(),
        1,
        "a node that has no agent is not ours"
    );
}

#[test]
fn an_agent_that_died_without_a_word_is_as_good_as_none() {
    let mut world = World::default();
    node(&mut world, "a", DRIVER);
    agent(&mut world, "a", &READY);
    world.registered.insert("a".to_owned());
    let mut pod = |name: &str, node: &str, ready| {
        let node = node.to_owned();
        world.agents.insert(name.to_owned(), Arc::new(AgentPod { node, ready }));
        after(&world, "a", 30).1
    };
    assert_eq!(
        pod("elsewhere", "b", true),
        [taint(TAINT, "NoSchedule")],
        "agents are pods, and it has none"
    );
    assert_eq!(pod("crashing", "a", false), [taint(TAINT, "NoSchedule")]);
    assert_eq!(pod("next", "a", true), []);
    // Where no agent is a pod, their word is taken.
    world.agents.clear();
    assert_eq!(after(&world, "a", 30).1, []);
}

#[test]
fn an_agent_that_comes_and_goes_starts_the_wait_anew() {
    let mut world = World::default();
    node(&mut world, "a", DRIVER);
    let mut seen = Seen::default();
    let mut look = |world: &World, second| {
        seen.look(world, at(second));
        steps(world, &seen, at(second))
            .0
            .iter()
            .any(|step| format!("{step:?}").contains(TAINT))
    };
    assert!(!look(&world, 0));
    assert!(!look(&world, 25));
    agent(&mut world, "a", &READY);
    world.registered.insert("a".to_owned());
    assert!(!look(&world, 26));
    world.registered.clear();
    assert!(!look(&world, 28));
    assert!(!look(&world, 57));
    assert!(look(&world, 58));
}
