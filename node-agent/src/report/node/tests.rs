//! What is told of a node in each of its states, that it can be read back, and that silence is kept.
//! Never needs a cluster.

use std::collections::BTreeSet;

use crds::{
    catalogue::EnvironmentKey,
    domain::{
        code::GpuCode,
        node::NodeFacts,
        store_path::{StorePath, System},
    },
    failure::Reason,
};

use super::*;
use crate::snapshot::status::{DriverPlace, SelfTest};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(namespace: Option<&str>, name: &str) -> EnvironmentKey {
    EnvironmentKey {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    }
}

fn report() -> NodeReport {
    NodeReport {
        facts: NodeFacts {
            driver: DriverState::Ready {
                version: "550.54.14".parse().unwrap(),
                cuda: "12.4".parse().unwrap(),
            },
            gpus: vec!["9.0:tesla".parse().unwrap()],
            system: System::X86_64Linux,
        },
        driver_place: Some(DriverPlace {
            root: "/run/nvidia/driver".into(),
            source: "GPU Operator".to_owned(),
        }),
        store: Ok(StoreNumbers {
            capacity_bytes: 1 << 40,
            used_bytes: 3 << 30,
            pinned_bytes: 1 << 30,
            paths: 120,
        }),
        self_test: SelfTest::Passed,
        registered: Some(true),
        environments: Vec::new(),
        undeclared: BTreeSet::new(),
        contents: BTreeMap::new(),
        outdated_pods: Vec::new(),
        drain: false,
    }
}

fn environment(name: &str, standing: Standing) -> EnvironmentReport {
    EnvironmentReport {
        key: key(Some("a"), name),
        generation: 1,
        packages: vec![("pytorch".to_owned(), "cu128".to_owned())],
        standing,
        pods: 0,
    }
}

fn first(report: &NodeReport) -> CUDANodeStatus {
    told(report, &CUDANodeStatus::default(), 0)
}

fn told(report: &NodeReport, before: &CUDANodeStatus, second: i64) -> CUDANodeStatus {
    let before = Before {
        status: before,
        generation: Some(1),
    };
    status(report, before, at(second))
}

/// `Type=Status Reason` of each condition.
fn conditions(status: &CUDANodeStatus) -> Vec<String> {
    let said = status.conditions.iter();
    said.map(|one| format!("{}={} {}", one.type_, one.status, one.reason))
        .collect()
}

#[test]
fn a_node_that_can_mount_environments_says_so_and_what_it_has() {
    let status = first(&report());
    assert_eq!(
        conditions(&status),
        [
            "Ready=True Ready",
            "DriverReady=True DriverReady",
            "StoreReady=True SelfTestPassed",
            "Registered=True Registered",
            "DriverCurrent=True NoOldVolumes",
        ]
    );
    assert_eq!(status.gpu_summary.as_deref(), Some("1 × 9.0"));
    assert_eq!(status.class.as_deref(), Some(report().facts.class().as_str()));
    let store = status.store.unwrap();
    assert_eq!(
        (store.paths, store.summary.as_deref()),
        (120, Some("3.00 GiB of 1.00 TiB"))
    );
    let driver = status.driver.unwrap();
    assert_eq!(driver.root.as_deref(), Some("/run/nvidia/driver"));
    assert_eq!(driver.source.as_deref(), Some("GPU Operator"));
}

#[test]
fn what_stands_in_the_way_is_the_reason_of_not_being_ready() {
    let changed = |change: &dyn Fn(&mut NodeReport)| {
        let mut report = report();
        change(&mut report);
        conditions(&first(&report))
    };
    let not_ready = |why: &str| DriverState::NotReady { why: why.to_owned() };
    for (ready, other, said) in [
        (
            "Ready=False DriverMissing",
            1,
            changed(&|report| report.facts.driver = DriverState::Missing),
        ),
        (
            "Ready=False DriverNotReady",
            1,
            changed(&|report| report.facts.driver = not_ready("x")),
        ),
        (
            "Ready=False StoreFailed",
            2,
            changed(&|report| report.store = Err("gone".to_owned())),
        ),
        (
            "Ready=False SelfTestFailed",
            2,
            changed(&|report| {
                report.self_test = SelfTest::Failed {
                    why: "EPERM".to_owned(),
                }
            }),
        ),
        (
            "Ready=Unknown SelfTestPending",
            2,
            changed(&|report| report.self_test = SelfTest::Pending),
        ),
        (
            "Ready=False NotRegistered",
            3,
            changed(&|report| report.registered = Some(false)),
        ),
        (
            "Ready=Unknown NotObserved",
            3,
            changed(&|report| report.registered = None),
        ),
    ] {
        assert_eq!(said[0], ready);
        let (_, reason) = ready.split_once(' ').unwrap();
        assert!(said[other].ends_with(reason), "{said:?}");
    }
    assert_eq!(changed(&|report| report.drain = true)[0], "Ready=False Draining");
}

#[test]
fn the_facts_are_read_back_as_they_were() {
    for driver in [
        DriverState::Missing,
        DriverState::NotReady {
            why: "a driver lies in /run/nvidia/driver, but it is being validated".to_owned(),
        },
        DriverState::Mismatch {
            kernel: "535.1.1".parse().unwrap(),
            library: "550.54.14".parse().unwrap(),
        },
        report().facts.driver,
    ] {
        let mut report = report();
        report.facts.driver = driver;
        assert_eq!(NodeFacts::try_from(&first(&report)).unwrap(), report.facts);
    }
}

#[test]
fn nothing_changes_while_nothing_happens_and_times_move_with_what_they_date() {
    let mut report = report();
    let fetching = |done| Standing::Fetching {
        bytes_done: done,
        bytes_total: 1000,
    };
    report.environments = vec![environment("x", fetching(10))];
    let one = first(&report);
    assert_eq!(told(&report, &one, 60), one, "an hour later it is the same status");
    report.environments = vec![environment("x", fetching(49))];
    assert_eq!(told(&report, &one, 60), one, "a few bytes more are not worth a write");
    report.environments = vec![environment("x", fetching(51))];
    let two = told(&report, &one, 60);
    assert_eq!(two.environments[0].bytes_done, Some(50));
    assert_eq!(two.environments[0].started_at, one.environments[0].started_at);

    report.environments = vec![environment("x", Standing::Ready)];
    report.registered = Some(false);
    let three = told(&report, &two, 90);
    let done = &three.environments[0];
    assert_eq!((done.bytes_done, done.bytes_total), (Some(1000), Some(1000)));
    assert_eq!(done.started_at.as_deref(), Some(at(0).to_string().as_str()));
    assert_eq!(done.completed_at.as_deref(), Some(at(90).to_string().as_str()));
    let since = |status: &CUDANodeStatus, index: usize| status.conditions[index].last_transition_time.0;
    assert_eq!((since(&three, 1), since(&three, 3)), (at(0), at(90)));
    assert_eq!(told(&report, &three, 120), three);

    // Another generation is another thing: its times begin anew.
    report.environments[0].generation = 2;
    let four = told(&report, &three, 150);
    assert_eq!(
        four.environments[0].completed_at.as_deref(),
        Some(at(150).to_string().as_str())
    );
    assert_eq!(four.environments[0].started_at, None);
}

#[test]
fn pods_with_another_drivers_files_are_named_but_not_all_of_them() {
    let mut report = report();
    report.outdated_pods = (0..300).map(|number| format!("team/pod-{number}")).collect();
    let status = first(&report);
    let said = status
        .conditions
        .iter()
        .find(|one| one.type_ == "DriverCurrent")
        .unwrap();
    assert_eq!(
        (said.status.as_str(), said.reason.as_str()),
        ("False", "PodsMustRestart")
    );
    assert!(
        said.message.contains("restart team/pod-0, team/pod-1, "),
        "{}",
        said.message
    );
    assert!(said.message.ends_with("team/pod-9 and 290 more"), "{}", said.message);
    // They still run: it is no reason to send no others.
    assert_eq!(status.conditions[0].status, "True");
}

#[test]
fn a_status_stays_within_its_schema_and_keeps_what_pods_use() {
    let mut report = report();
    report.environments = (0..400)
        .map(|number| environment(&format!("e{number:03}"), Standing::Ready))
        .collect();
    report.environments[399].pods = 1;
    report.environments[398].standing = Standing::Failed {
        reason: Reason::CacheUnreachable,
        message: "é".repeat(5000),
    };
    let status = first(&report);
    assert_eq!(status.environments.len(), 256);
    let names: Vec<_> = status.environments.iter().map(|one| one.name.as_str()).collect();
    assert!(names.is_sorted());
    assert_eq!(names[254..], ["e398", "e399"]);
    let failed = &status.environments[254];
    assert_eq!(failed.reason.as_deref(), Some("CacheUnreachable"));
    assert_eq!(failed.message.as_ref().unwrap().chars().count(), 1024);
}

#[test]
fn what_was_read_is_told_for_as_long_as_somebody_wants_it() {
    let path = |name: &str| StorePath::from_base_name(&format!("{}-{name}", "a".repeat(32))).unwrap();
    let mut report = report();
    report.undeclared = [path("torch"), path("unread")].into();
    report.contents = BTreeMap::from([
        (path("torch"), GpuCode::default()),
        (path("declared-since"), GpuCode::default()),
    ]);
    let before = first(&report);
    assert_eq!(before.contents().into_keys().collect::<Vec<_>>(), [path("torch")]);
    // An agent that was started again has read nothing yet, and tells it all the same.
    report.contents.clear();
    assert_eq!(told(&report, &before, 60).contents, before.contents);
    report.undeclared.clear();
    assert_eq!(told(&report, &before, 60).contents, []);
    // What the schema has no room for is left out.
    let number = |number: u32| format!("{}.{}", 9 + number / 10, number % 10).parse().unwrap();
    let code = GpuCode {
        sass: (0..65).map(number).collect(),
        ..GpuCode::default()
    };
    report.undeclared = [path("torch")].into();
    report.contents = [(path("torch"), code)].into();
    assert_eq!(first(&report).contents, []);
}
