//! Statuses from small worlds: what every state of nodes and closures becomes.
//! Never the API server: that is what `e2e/tests/cluster_operator.rs` is for.

use crds::{
    domain::node::DriverState, selection::KnownContents, v1alpha1::EnvironmentPhase as Phase, v1alpha1::NodeCounts,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::made_up::{answers, at, cache, environment, node, node_in, report, resolved},
    snapshot::resolution::Unresolved,
};

const NEW: Option<(&str, &str)> = Some(("570.124.06", "12.8"));
const OLD: Option<(&str, &str)> = Some(("470.256.02", "11.4"));
const ANCIENT: Option<(&str, &str)> = Some(("390.157", "9.1"));

fn made(
    world: &World,
    answers: &Answers,
    key: &EnvironmentKey,
    written: &CUDAEnvironmentStatus,
) -> CUDAEnvironmentStatus {
    let nothing = KnownContents::new();
    let fleet = Fleet::new(world, &nothing);
    let inputs = Inputs {
        world,
        fleet: &fleet,
        choices: &Choices::default(),
        answers,
        now: at(100),
    };
    status(&inputs, key, &world.catalogue.environments[key], written)
}

fn fresh(world: &World, answers: &Answers, key: &EnvironmentKey) -> CUDAEnvironmentStatus {
    made(world, answers, key, &CUDAEnvironmentStatus::default())
}

/// `Type=Status Reason` of each condition.
fn said(status: &CUDAEnvironmentStatus) -> Vec<String> {
    let conditions = status.conditions.iter();
    conditions
        .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason))
        .collect()
}

fn lost() -> Unresolved {
    Unresolved {
        reason: Why::NotInAnyCache,
        message: "the path is in none of the caches".to_owned(),
    }
}

fn small() -> (World, EnvironmentKey) {
    let mut world = World::default();
    cache(&mut world, "good");
    let key = environment(&mut world, "torch", &[("cu12", "12.8"), ("cu11", "11.8")], &Value::Null);
    (world, key)
}

#[test]
fn closures_and_nodes_decide_the_conditions() {
    let (mut world, key) = small();
    let waiting = fresh(&world, &Answers::new(), &key);
    assert_eq!(
        said(&waiting),
        [
            "Ready=False Resolving",
            "Resolved=Unknown Resolving",
            "Compatible=Unknown NoNodes",
            "Prewarmed=False OnDemand",
            "Degraded=False AsExpected",
        ]
    );
    let all = answers(&world, &[("cu12", Ok(resolved("abc"))), ("cu11", Ok(resolved("cd")))]);
    let good = fresh(&world, &all, &key);
    assert_eq!(
        said(&good)[..3],
        [
            "Ready=True AsExpected",
            "Resolved=True AllSigned",
            "Compatible=Unknown NoNodes"
        ]
    );
    assert_eq!(good.size.as_deref(), Some("400 B"), "the shared path counts once");

    let partly = answers(&world, &[("cu12", Ok(resolved("abc"))), ("cu11", Err(lost()))]);
    let partly = fresh(&world, &partly, &key);
    assert_eq!(
        said(&partly)[..2],
        ["Ready=True AsExpected", "Resolved=False NotInAnyCache"]
    );
    assert_eq!(said(&partly)[4], "Degraded=True VariantsUnresolved");
    let variants = &partly.packages[0].variants;
    assert_eq!((variants[0].closure_bytes, &variants[0].error), (Some(300), &None));
    assert_eq!(
        (variants[1].closure_bytes, variants[1].error.as_deref()),
        (None, Some(lost().message.as_str()))
    );

    let none = answers(&world, &[("cu12", Err(lost())), ("cu11", Err(lost()))]);
    assert_eq!(said(&fresh(&world, &none, &key))[0], "Ready=False NotInAnyCache");

    node(&mut world, "ancient", ANCIENT);
    let misfit = fresh(&world, &all, &key);
    assert_eq!(said(&misfit)[0], "Ready=False NoVariantFits");
    assert_eq!(said(&misfit)[2], "Compatible=False NoVariantFits");
    node(&mut world, "old", OLD);
    assert_eq!(said(&fresh(&world, &all, &key))[2], "Compatible=True FitsNodes");
}

#[test]
fn a_cache_that_is_not_there_is_named() {
    let mut world = World::default();
    let key = environment(&mut world, "torch", &[("cu12", "12.8")], &json!({"caches": ["flox"]}));
    let status = fresh(&world, &Answers::new(), &key);
    assert_eq!(
        said(&status)[..2],
        ["Ready=False CacheNotFound", "Resolved=False CacheNotFound"]
    );
    let error = status.packages[0].variants[0].error.as_ref().unwrap();
    assert!(error.contains("spec.caches names `flox`"), "{error}");
}

#[test]
fn nodes_are_counted_by_what_their_agents_say_and_before_that_by_selection() {
    let (mut world, key) = small();
    let all = answers(&world, &[("cu12", Ok(resolved("a"))), ("cu11", Ok(resolved("b")))]);
    for (name, driver) in [
        ("ready", NEW),
        ("fetching", NEW),
        ("failed", OLD),
        ("pending", OLD),
        ("misfit", ANCIENT),
        ("bare", None),
    ] {
        node(&mut world, name, driver);
    }
    report(&mut world, "ready", "torch", Phase::Ready);
    report(&mut world, "fetching", "torch", Phase::Fetching);
    report(&mut world, "failed", "torch", Phase::Failed);
    let status = fresh(&world, &all, &key);
    let expected = NodeCounts {
        selected: 5,
        ready: 1,
        fetching: 1,
        incompatible: 1,
        failed: 1,
        summary: Some("1/5".to_owned()),
    };
    assert_eq!(status.nodes, Some(expected), "a node without a driver is not meant");
    let variants = &status.packages[0].variants;
    assert_eq!((variants[0].nodes, variants[1].nodes), (2, 2));
    let failures: Vec<_> = status
        .failures
        .iter()
        .map(|failure| (failure.node.as_str(), failure.reason.as_str(), failure.time.as_str()))
        .collect();
    let now = at(100).to_string();
    assert_eq!(
        failures,
        [("failed", "Reason", now.as_str()), ("misfit", "DriverTooOld", &now)]
    );
    // An agent that says something twice counts once.
    report(&mut world, "ready", "torch", Phase::Failed);
    assert_eq!(fresh(&world, &all, &key).nodes, status.nodes);
    // What an agent says of an older spec does not count.
    let entry = std::sync::Arc::make_mut(world.catalogue.environments.get_mut(&key).unwrap());
    entry.generation = 2;
    let counts = fresh(&world, &all, &key).nodes.unwrap();
    assert_eq!(
        (counts.ready, counts.fetching, counts.failed, counts.incompatible),
        (0, 0, 0, 1)
    );
}

#[test]
fn a_node_selector_is_asked_where_there_is_one() {
    let mut world = World::default();
    cache(&mut world, "good");
    let key = environment(
        &mut world,
        "torch",
        &[("cu12", "12.8")],
        &json!({"nodeSelector": {"pool": "bare"}}),
    );
    node(&mut world, "bare", None);
    node(&mut world, "new", NEW);
    let counts = fresh(&world, &Answers::new(), &key).nodes.unwrap();
    assert_eq!((counts.selected, counts.incompatible), (1, 1));
}

#[test]
fn prewarming_ends_when_every_node_that_fits_is_ready() {
    let mut world = World::default();
    cache(&mut world, "good");
    let key = environment(&mut world, "torch", &[("cu12", "12.8")], &json!({"prewarm": "Always"}));
    let prewarmed = |world: &World| said(&fresh(world, &Answers::new(), &key))[3].clone();
    assert_eq!(prewarmed(&world), "Prewarmed=Unknown NoNodes");
    for (name, driver) in [("one", NEW), ("two", NEW), ("ancient", ANCIENT)] {
        node(&mut world, name, driver);
    }
    report(&mut world, "one", "torch", Phase::Ready);
    assert_eq!(prewarmed(&world), "Prewarmed=False Fetching");
    let mut failing = world.clone();
    report(&mut failing, "two", "torch", Phase::Failed);
    assert_eq!(prewarmed(&failing), "Prewarmed=False NodesFailing");
    report(&mut world, "two", "torch", Phase::Ready);
    assert_eq!(prewarmed(&world), "Prewarmed=True OnEveryNode");
}

/// What drivers are between two usable states.
fn unsettled() -> [DriverState; 2] {
    [
        DriverState::NotReady {
            why: "it is being revalidated".to_owned(),
        },
        DriverState::Mismatch {
            kernel: "570.124.06".parse().unwrap(),
            library: "580.95.05".parse().unwrap(),
        },
    ]
}

#[test]
fn a_driver_that_cannot_be_used_yet_makes_nothing_unfit_and_nothing_complete() {
    for driver in unsettled() {
        let mut world = World::default();
        cache(&mut world, "good");
        let key = environment(&mut world, "torch", &[("cu12", "12.8")], &json!({"prewarm": "Always"}));
        let all = answers(&world, &[("cu12", Ok(resolved("abc")))]);
        node_in(&mut world, "reloading", driver.clone());
        let status = fresh(&world, &all, &key);
        assert_eq!(
            said(&status),
            [
                "Ready=True AsExpected",
                "Resolved=True AllSigned",
                "Compatible=Unknown NoNodes",
                "Prewarmed=False Fetching",
                "Degraded=False AsExpected",
            ],
            "{driver:?}"
        );
        assert!(
            status.conditions[2]
                .message
                .starts_with("the drivers of 1 of the nodes"),
            "{status:?}"
        );
        assert_eq!(
            (status.nodes.as_ref().unwrap().incompatible, status.failures.len()),
            (0, 0)
        );
        // Nor does what its agent says of it meanwhile.
        report(&mut world, "reloading", "torch", Phase::Incompatible);
        assert_eq!(said(&fresh(&world, &all, &key)), said(&status));
        assert_eq!(fresh(&world, &all, &key).nodes.unwrap().incompatible, 0);
        // Others are judged as ever.
        node(&mut world, "ancient", ANCIENT);
        let beside = fresh(&world, &all, &key);
        assert_eq!(
            said(&beside)[2..4],
            ["Compatible=False NoVariantFits", "Prewarmed=False Fetching"]
        );
        assert_eq!(beside.nodes.unwrap().incompatible, 1);
        node(&mut world, "new", NEW);
        report(&mut world, "new", "torch", Phase::Ready);
        let beside = fresh(&world, &all, &key);
        assert_eq!(
            said(&beside)[2..4],
            ["Compatible=True FitsNodes", "Prewarmed=False Fetching"]
        );
        assert!(
            beside.conditions[3]
                .message
                .ends_with("the drivers of 1 nodes cannot be used yet"),
            "{beside:?}"
        );
    }
}

#[test]
fn what_fits_nowhere_is_not_prewarmed() {
    let mut world = World::default();
    cache(&mut world, "good");
    let key = environment(&mut world, "torch", &[("cu12", "12.8")], &json!({"prewarm": "Always"}));
    node(&mut world, "ancient", ANCIENT);
    let prewarmed = |world: &World| said(&fresh(world, &Answers::new(), &key))[3].clone();
    assert_eq!(prewarmed(&world), "Prewarmed=False NoVariantFits");
    node(&mut world, "new", NEW);
    report(&mut world, "new", "torch", Phase::Ready);
    assert_eq!(prewarmed(&world), "Prewarmed=True OnEveryNode");
}

#[test]
fn a_status_made_again_is_the_same_and_failures_keep_their_time() {
    let (mut world, key) = small();
    let all = answers(&world, &[("cu12", Ok(resolved("a"))), ("cu11", Ok(resolved("b")))]);
    node(&mut world, "misfit", ANCIENT);
    node(&mut world, "failed", NEW);
    report(&mut world, "failed", "torch", Phase::Failed);
    let first = fresh(&world, &all, &key);
    let nothing = KnownContents::new();
    let fleet = Fleet::new(&world, &nothing);
    let later = Inputs {
        world: &world,
        fleet: &fleet,
        choices: &Choices::default(),
        answers: &all,
        now: at(9000),
    };
    assert_eq!(status(&later, &key, &world.catalogue.environments[&key], &first), first);
}

#[test]
fn a_replica_that_takes_over_says_what_was_said_until_caches_have_answered() {
    let (mut world, key) = small();
    let all = answers(&world, &[("cu12", Ok(resolved("abc"))), ("cu11", Err(lost()))]);
    let written = fresh(&world, &all, &key);
    assert_eq!(made(&world, &Answers::new(), &key, &written), written);
    // Of nodes, it knows at once.
    node(&mut world, "new", NEW);
    let status = made(&world, &Answers::new(), &key, &written);
    assert_eq!(status.packages[0].variants[0].closure_bytes, Some(300));
    assert_eq!(status.packages[0].variants[0].nodes, 1);
    assert_eq!(said(&status)[1], "Resolved=False NotInAnyCache");
    // A new spec is a new question.
    let entry = std::sync::Arc::make_mut(world.catalogue.environments.get_mut(&key).unwrap());
    entry.generation = 2;
    let status = made(&world, &Answers::new(), &key, &written);
    assert_eq!(said(&status)[1], "Resolved=Unknown Resolving");
}

#[test]
fn an_invalid_environment_names_its_field() {
    let mut world = World::default();
    let key = environment(&mut world, "torch", &[("cu12", "twelve")], &Value::Null);
    let status = fresh(&world, &Answers::new(), &key);
    assert_eq!(said(&status)[0], "Ready=False InvalidSpec");
    let message = &status.conditions[0].message;
    assert!(message.starts_with("spec.packages[0].variants[0].cuda: "), "{message}");
}

#[test]
fn sizes_are_for_people() {
    for (bytes, expected) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (13_314_398_618, "12.4 GiB"),
        (u64::MAX, "16777215.9 TiB"),
    ] {
        assert_eq!(size(bytes), expected);
    }
}
