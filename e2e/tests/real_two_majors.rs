//! Two packages of conflicting CUDA majors live in one view, and one process loads both.

use e2e::programs::ended;
use e2e::stage::Stage;
use e2e::{documents, parts, skip};

#[test]
fn one_process_loads_two_conflicting_majors_from_one_view() {
    let check = "two CUDA majors in one process";
    let Some(()) = skip::without(check, skip::root()) else {
        return;
    };
    let (Some(drivers), Some(toolkits)) = (
        skip::without(check, parts::drivers()),
        skip::without(check, parts::toolkits()),
    ) else {
        return;
    };
    let wanted: Vec<_> = toolkits
        .into_iter()
        .filter(|t| ["11.8", "12.4"].contains(&t.cuda.as_str()))
        .collect();
    let Some(stage) = skip::without(check, Stage::new(&wanted, |_, _| Ok(()))) else {
        return;
    };
    let package = |name: &str, cuda: &str| {
        let closure = stage.closure(cuda).unwrap();
        documents::package(name, &[documents::variant("only", cuda, &closure.environment)])
    };
    let environment = stage
        .environment("both", &[package("old", "11.8"), package("new", "12.4")])
        .unwrap();
    let (old, new) = (
        "/run/cudaenv/packages/old/lib/libcudart.so.11.0",
        "/run/cudaenv/packages/new/lib/libcudart.so.12",
    );
    let loads_both = |driver: &parts::Driver| {
        let mut run = stage
            .run(&environment, &stage.node(driver).unwrap(), &stage.state("shared"))
            .unwrap();
        ended(run.args(["/run/cudaenv/packages/new/bin/count", old, new])).unwrap()
    };
    for driver in drivers.iter().filter(|driver| !driver.cuda.starts_with("11.")) {
        let ran = loads_both(driver);
        assert_eq!(
            (ran.code, ran.stdout),
            (0, format!("{old} 100\n{new} 100\n")),
            "driver {}",
            driver.version
        );
    }
    // On a driver that only the old major fits, nothing runs: an environment is all of its packages.
    let (reason, message) = loads_both(&drivers[0]).error().unwrap();
    assert_eq!(reason, "DriverTooOld");
    assert!(message.contains("new") && message.contains("12.4"), "{message}");
}
