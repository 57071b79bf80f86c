//! Preflights on small worlds: what breaks, switches, heals, and what it costs.
//! Never a driver that the tables do not know, except where that is the question.

use std::sync::Arc;

use crds::{
    domain::{code::GpuCode, store_path::StorePath},
    selection::Reason,
    v1alpha1::CUDADriverPreflightSpec,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::{
        choices::Choices,
        fleet::Fleet,
        made_up::{answers, at, cache, environment, node, report, resolved},
    },
    snapshot::{
        reading::Reading,
        resolution::{Answers, Resolved, Unresolved},
        settled::Settled,
        world::World,
    },
};

fn asked(world: &World, answers: &Answers, driver: &str, pool: Option<&str>) -> CUDADriverPreflightStatus {
    let settled = Settled::from(world.clone());
    let fleet = Fleet::new(world, settled.contents());
    let inputs = Inputs {
        world,
        fleet: &fleet,
        choices: &Choices::default(),
        answers,
        now: at(0),
    };
    status(&inputs, &preflight(driver, pool))
}

fn preflight(driver: &str, pool: Option<&str>) -> Preflight {
    let selector = pool.map(|pool| ("pool".to_owned(), pool.to_owned()));
    Preflight {
        generation: 1,
        spec: CUDADriverPreflightSpec {
            driver: driver.to_owned(),
            node_selector: selector.into_iter().collect(),
        },
        written: crate::snapshot::world::Written::default(),
    }
}

/// `outcome from to nodes/in use/pods`.
fn changes(status: &CUDADriverPreflightStatus) -> Vec<String> {
    let shown = |variant: &Option<String>| variant.clone().unwrap_or_else(|| "-".to_owned());
    let changes = status.changes.iter();
    changes
        .map(|change| {
            format!(
                "{:?} {} {} {}/{}/{}",
                change.outcome,
                shown(&change.from),
                shown(&change.to),
                change.nodes,
                change.nodes_in_use,
                change.pods
            )
        })
        .collect()
}

fn small() -> World {
    let mut world = World::default();
    cache(&mut world, "good");
    environment(&mut world, "torch", &[("cu12", "12.8"), ("cu11", "11.8")], &Value::Null);
    node(&mut world, "new-1", Some(("570.124.06", "12.8")));
    node(&mut world, "new-2", Some(("570.124.06", "12.8")));
    node(&mut world, "old", Some(("470.256.02", "11.4")));
    node(&mut world, "ancient", Some(("390.157", "9.1")));
    world
}

#[test]
fn what_breaks_switches_and_heals_is_told_worst_first() {
    let mut world = small();
    report(&mut world, "new-1", "torch", EnvironmentPhase::Ready);
    let up = asked(&world, &Answers::new(), "580.95.05", None);
    assert_eq!(changes(&up), ["Switches cu11 cu12 1/0/0", "Heals - cu12 1/0/0"]);
    assert_eq!((up.nodes, up.breaks, up.switches, up.keeps), (4, 0, 1, 0));
    let down = asked(&world, &Answers::new(), "470.256.02", None);
    assert_eq!(changes(&down), ["Switches cu12 cu11 2/1/3", "Heals - cu11 1/0/0"]);
    let far = asked(&world, &Answers::new(), "390.157", None);
    assert_eq!(changes(&far), ["Breaks cu12 - 2/1/3", "Breaks cu11 - 1/0/0"]);
    assert_eq!(far.breaks, 1, "one package, on two classes");
    assert_eq!(far.changes[0].reason, Some(Reason::DriverTooOld));
    let detail = far.changes[0].detail.as_ref().unwrap();
    assert!(detail.starts_with("cu12: ") && detail.contains("; cu11: "), "{detail}");
}

#[test]
fn only_the_nodes_that_would_get_the_driver_count() {
    let world = small();
    let some = asked(&world, &Answers::new(), "580.95.05", Some("old"));
    assert_eq!(
        (changes(&some), some.nodes),
        (vec!["Switches cu11 cu12 1/0/0".to_owned()], 1)
    );
    let mut bare = World::default();
    environment(&mut bare, "torch", &[("cu12", "12.8")], &Value::Null);
    node(&mut bare, "bare", None);
    let healed = asked(&bare, &Answers::new(), "580.95.05", Some("bare"));
    assert_eq!(
        changes(&healed),
        ["Heals - cu12 1/0/0"],
        "a node that gets its first driver"
    );
    assert_eq!(asked(&bare, &Answers::new(), "580.95.05", None).nodes, 0);
}

#[test]
fn what_is_fetched_is_what_nodes_that_hold_it_do_not_have() {
    let mut world = small();
    let all = answers(
        &world,
        &[("cu12", Ok(resolved("abcde"))), ("cu11", Ok(resolved("cdx")))],
    );
    let nothing = asked(&world, &all, "580.95.05", None);
    assert_eq!(nothing.download_bytes, Some(0), "no node holds it");
    report(&mut world, "old", "torch", EnvironmentPhase::Ready);
    let some = asked(&world, &all, "580.95.05", None);
    assert_eq!(some.download_bytes, Some(30), "a, b and e");
    assert_eq!(some.conditions[0].reason, "Answered");
    // What is fetched ahead comes to every node.
    environment(
        &mut world,
        "ahead",
        &[("cu12", "12.8"), ("cu11", "11.8")],
        &json!({"prewarm": "Always"}),
    );
    let ahead = asked(&world, &all, "580.95.05", None);
    assert_eq!(ahead.download_bytes, Some(30 + 50), "all of it on `ancient`, too");
    let unknown = asked(&world, &Answers::new(), "580.95.05", None);
    assert_eq!(
        (unknown.download_bytes, unknown.conditions[0].reason.as_str()),
        (None, "Resolving")
    );
}

/// An environment that is fetched ahead comes to every node; `old` needs another variant of it.
fn ahead(caches: &Value) -> World {
    let mut world = small();
    let more = json!({"prewarm": "Always", "caches": caches});
    environment(&mut world, "ahead", &[("cu12", "12.8"), ("cu11", "11.8")], &more);
    world
}

#[test]
fn a_closure_that_cannot_be_had_is_told_and_one_that_is_not_fetched_is_not_asked_for() {
    let lost = || Unresolved {
        reason: Why::NotInAnyCache,
        message: "the path is in none of the caches; copy it there".to_owned(),
    };
    let complete = |world: &World, told: &[(&str, Result<Resolved, Unresolved>)], driver| {
        let status = asked(world, &answers(world, told), driver, None);
        let condition = &status.conditions[0];
        let said = format!("{} {}", condition.status, condition.reason);
        (said, status.download_bytes, condition.message.clone())
    };
    let world = ahead(&json!(["good"]));
    let both = [("cu12", Ok(resolved("abcde"))), ("cu11", Ok(resolved("cdx")))];
    let (said, bytes, _) = complete(&world, &both, "580.95.05");
    assert_eq!((said.as_str(), bytes), ("True Answered", Some(30 + 50)));
    let (said, bytes, message) = complete(&world, &[("cu12", Err(lost())), both[1].clone()], "580.95.05");
    assert_eq!((said.as_str(), bytes), ("False NotInAnyCache", None));
    assert!(
        message.contains("CUDAEnvironment team/ahead needs a closure that cannot be had"),
        "{message}"
    );
    assert!(
        message.ends_with("the path is in none of the caches; copy it there"),
        "{message}"
    );
    // That a variant cannot be had matters only to those who would fetch it; what nodes have already counts as nothing then.
    let (said, bytes, _) = complete(&world, &[both[0].clone(), ("cu11", Err(lost()))], "580.95.05");
    assert_eq!((said.as_str(), bytes), ("True Answered", Some(50 + 50)));
    let (said, ..) = complete(&world, &both[..1], "470.256.02");
    assert_eq!(said, "Unknown Resolving");
    // Nobody fetches anything for a driver on which nothing runs.
    let denied = ahead(&json!(["nobody-made-it"]));
    let (said, bytes, message) = complete(&denied, &both, "580.95.05");
    assert_eq!((said.as_str(), bytes), ("False CacheNotFound", None), "{message}");
    let (said, bytes, _) = complete(&denied, &both, "390.157");
    assert_eq!((said.as_str(), bytes), ("True Answered", Some(0)));
}

#[test]
fn statuses_and_all_preflights_of_a_pass_ask_selection_once() {
    let mut world = small();
    environment(&mut world, "other", &[("cu12", "12.8"), ("cu11", "11.8")], &Value::Null);
    let unasked = Choices::new(&world);
    for (name, driver) in [("up", "580.95.05"), ("same", "570.124.06"), ("down", "390.157")] {
        world
            .preflights
            .insert(name.to_owned(), Arc::new(preflight(driver, None)));
    }
    let settled = Settled::from(world);
    let fleet = Fleet::new(&settled, settled.contents());
    let choices = Choices::new(&settled);
    let inputs = Inputs {
        world: &settled,
        fleet: &fleet,
        choices: &choices,
        answers: &Answers::new(),
        now: at(0),
    };
    let alone: Vec<_> = settled
        .preflights
        .values()
        .map(|preflight| {
            let choices = &unasked;
            status(&Inputs { choices, ..inputs }, preflight)
        })
        .collect();
    let together: Vec<_> = steps(&inputs)
        .into_iter()
        .map(|step| {
            let Step::Preflight(_, change) = step else {
                panic!("{step:?}")
            };
            change.after
        })
        .collect();
    // By name: down, same, up.
    assert_eq!(together, alone);
    assert_eq!(
        (choices.kept(), unasked.kept()),
        (2 * 3, 0),
        "two environments on three classes"
    );
}

#[test]
fn a_driver_that_is_not_known_is_not_guessed_at() {
    let status = asked(&small(), &Answers::new(), "999.10.01", None);
    assert_eq!(status.conditions[0].reason, "UnknownDriver");
    assert!(status.conditions[0].message.contains("branch 999"), "{status:?}");
    assert!(status.changes.is_empty());
    let wrong = asked(&small(), &Answers::new(), "580", None);
    assert_eq!(wrong.conditions[0].reason, "InvalidSpec");
}

#[test]
fn an_answer_given_again_is_the_same() {
    let world = small();
    let first = asked(&world, &Answers::new(), "580.95.05", None);
    assert_eq!(asked(&world, &Answers::new(), "580.95.05", None), first);
}

#[test]
fn what_keeps_its_variant_everywhere_is_counted_once_and_what_moves_somewhere_is_not() {
    let mut world = small();
    environment(&mut world, "old-only", &[("cu11", "11.8")], &Value::Null);
    environment(&mut world, "new-only", &[("cu13", "13.0")], &Value::Null);
    let elsewhere = json!({"nodeSelector": {"pool": "nowhere"}});
    environment(&mut world, "elsewhere", &[("cu11", "11.8")], &elsewhere);
    let counted = |driver: &str, pool| {
        let status = asked(&world, &Answers::new(), driver, pool);
        (status.keeps, status.switches, status.breaks)
    };
    // `torch` switches on the old node; `old-only` runs on three of the four and stays; nothing runs that needs 13.0.
    assert_eq!(counted("580.95.05", None), (1, 1, 0));
    assert_eq!(counted("580.95.05", Some("new-1")), (2, 0, 0));
    assert_eq!(counted("390.157", None), (0, 0, 2));
    assert_eq!(counted("390.157", Some("ancient")), (0, 0, 0));
}

#[test]
fn variants_that_count_as_fitting_unread_are_named_and_declared_ones_are_not() {
    let mut world = small();
    let all = answers(
        &world,
        &[("cu12", Ok(resolved("abcde"))), ("cu11", Ok(resolved("cdx")))],
    );
    let declared = asked(&world, &all, "580.95.05", None);
    assert_eq!(declared.warnings, [""; 0]);
    assert_eq!(
        declared.conditions[0].message,
        "every node and environment is in the answer"
    );
    let undeclared = json!({"packages": [{"name": "torch", "variants": [
        {"name": "cu12", "cuda": "12.8", "storePaths": {"x86_64-linux": crate::plan::made_up::path("cu12")}},
        {"name": "cu11", "cuda": "11.8", "code": {"sass": ["8.0"]},
         "storePaths": {"x86_64-linux": crate::plan::made_up::path("cu11")}}]}]});
    environment(&mut world, "unread", &[], &undeclared);
    let told = asked(&world, &all, "580.95.05", None);
    assert_eq!(
        told.warnings,
        [
            "CUDAEnvironment team/unread: torch/cu12 counts as fitting unread: its files may say otherwise; declare its `code`"
        ]
    );
    let message = &told.conditions[0].message;
    assert!(message.ends_with("; 1 of the variants count as fitting unread: see status.warnings"));
    // Where the driver rules the variant out, its code is not asked for.
    assert_eq!(asked(&world, &all, "470.256.02", Some("old")).warnings, [""; 0]);
}

#[test]
fn what_an_agent_has_read_is_known_of_all_nodes_unless_another_says_otherwise() {
    let mut world = small();
    let undeclared = json!({"packages": [{"name": "torch", "variants": [
        {"name": "cu12", "cuda": "12.8", "storePaths": {"x86_64-linux": crate::plan::made_up::path("unread")}},
        {"name": "cu11", "cuda": "11.8", "code": {"sass": ["8.0"]},
         "storePaths": {"x86_64-linux": crate::plan::made_up::path("cu11")}}]}]});
    environment(&mut world, "torch", &[], &undeclared);
    let asked = |world: &World| asked(world, &Answers::new(), "580.95.05", Some("old"));
    assert_eq!(changes(&asked(&world)), ["Switches cu11 cu12 1/0/0"]);
    assert_eq!(asked(&world).warnings.len(), 1);
    let read = |world: &mut World, node: &str, sass: &str| {
        let machine = Arc::make_mut(world.machines.get_mut(node).unwrap());
        let mut code = GpuCode::default();
        code.sass.insert(sass.parse().unwrap());
        let path = StorePath::parse(&crate::plan::made_up::path("unread")).unwrap();
        machine.contents = [Arc::new(Reading { path, code })].into();
    };
    // Another node's agent found code for newer GPUs only: what would be selected stays what it is.
    read(&mut world, "new-1", "9.0");
    assert_eq!(changes(&asked(&world)), [""; 0]);
    assert_eq!(asked(&world).warnings, [""; 0]);
    read(&mut world, "new-2", "9.0");
    assert_eq!(changes(&asked(&world)), [""; 0]);
    // One of the two is wrong, and nobody knows which.
    read(&mut world, "new-2", "8.0");
    assert_eq!(changes(&asked(&world)), ["Switches cu11 cu12 1/0/0"]);
    assert_eq!(asked(&world).warnings.len(), 1);
}
