//! What selection predicts is what the real runtime answers in the view: six real drivers by five real runtimes.
//! The forced twin puts every runtime on every driver, so that the refused pairs are answered too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use e2e::parts::{Driver, Toolkit};
use e2e::programs::{self, ended};
use e2e::stage::Stage;
use e2e::{documents, parts, skip};
use serde_json::{Value, json};

/// Codes of cudaGetDeviceCount without a GPU: the driver fits, or is too old.
const NO_DEVICE: i32 = 100;
const INSUFFICIENT_DRIVER: i32 = 35;

fn stage(check: &str) -> Option<(Vec<Driver>, Vec<Toolkit>, Stage)> {
    skip::without(check, skip::root())?;
    let (drivers, toolkits) = (
        skip::without(check, parts::drivers())?,
        skip::without(check, parts::toolkits())?,
    );
    let stage = skip::without(check, Stage::new(&toolkits, |_, _| Ok(())))?;
    Some((drivers, toolkits, stage))
}

/// One package for each runtime, so that one environment asks about all of them: `rt-12-8` with the one variant `only`.
fn packages(stage: &Stage, declared: impl Fn(&Toolkit) -> String, wanted: impl Fn(&Toolkit) -> bool) -> Vec<Value> {
    let wanted = stage.closures.iter().filter(|closure| wanted(&closure.toolkit));
    let package = |closure: &e2e::closure::Closure| {
        let variant = documents::variant("only", &declared(&closure.toolkit), &closure.environment);
        documents::package(&package_name(&closure.toolkit), &[variant])
    };
    wanted.map(package).collect()
}

fn package_name(toolkit: &Toolkit) -> String {
    format!("rt-{}", toolkit.cuda.replace('.', "-"))
}

/// Runs every package's program in one view: package → code.
fn answers(stage: &Stage, environment: &Path, driver: &Driver) -> BTreeMap<String, i32> {
    let script = "for p in /run/cudaenv/packages/*; do echo \"${p##*/} $($p/bin/count)\"; done";
    let mut run = stage
        .run(environment, &stage.node(driver).unwrap(), &stage.state("shared"))
        .unwrap();
    let ran = ended(run.args(["sh", "-c", script])).unwrap();
    assert_eq!(ran.code, 0, "driver {}: {ran:?}", driver.version);
    let words = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let codes = words.filter(|words| words.len() == 3 && words[1].starts_with("libcudart"));
    codes
        .map(|words| (words[0].to_owned(), words[2].parse().unwrap()))
        .collect()
}

#[test]
fn what_selection_predicts_is_what_the_real_runtime_answers() {
    let Some((drivers, toolkits, stage)) = stage("30 pairs of real drivers and runtimes") else {
        return;
    };
    let honest = stage
        .environment("honest", &packages(&stage, |t| t.cuda.clone(), |_| true))
        .unwrap();
    // Declared far too low: selection then accepts every runtime on every driver.
    let forced = stage
        .environment("forced", &packages(&stage, |_| "11.0".into(), |_| true))
        .unwrap();
    for driver in &drivers {
        let mut explain = Command::new(programs::kubectl_cudaenv().unwrap());
        explain
            .arg("explain")
            .arg("-f")
            .arg(&honest)
            .args(["--driver", &driver.version, "--driver-cuda", driver.cuda]);
        let explained = ended(explain.args(["--gpu", "8.0:tesla", "--output", "json"])).unwrap();
        let answer = explained.json().unwrap();
        let answered = answers(&stage, &forced, driver);
        assert_eq!(
            answered.len(),
            toolkits.len(),
            "driver {}: {answered:?}",
            driver.version
        );
        for toolkit in &toolkits {
            let pair = format!("driver {}, runtime {}", driver.version, toolkit.version);
            let name = package_name(toolkit);
            let chosen = answer["selected"].get(&name);
            let expected = if chosen.is_some() {
                NO_DEVICE
            } else {
                INSUFFICIENT_DRIVER
            };
            assert_eq!(answered[&name], expected, "{pair}: selection says {answer}");
            assert_eq!(chosen.is_some(), driver.runs(toolkit), "{pair}: known from measurement");
            let why = answer["rejected"]
                .as_array()
                .unwrap()
                .iter()
                .find(|r| r["package"] == json!(name));
            let reason = why.map(|rejected| rejected["reason"].clone());
            assert_eq!(reason, chosen.is_none().then(|| json!("driver-too-old")), "{pair}");
            if let Some(selected) = chosen {
                assert_eq!(selected["mode"], json!(mode(driver, toolkit)), "{pair}");
            }
        }
        let refused = toolkits.iter().any(|toolkit| !driver.runs(toolkit));
        assert_eq!(explained.code, if refused { 3 } else { 0 }, "driver {}", driver.version);
    }
}

/// Native where the driver's CUDA is at least the runtime's.
fn mode(driver: &Driver, toolkit: &Toolkit) -> &'static str {
    let number = |text: &str| {
        text.split('.')
            .map(|part| part.parse::<u32>().unwrap())
            .collect::<Vec<_>>()
    };
    if number(driver.cuda) >= number(&toolkit.cuda) {
        "native"
    } else {
        "minor-version-compat"
    }
}

#[test]
fn the_node_runs_what_fits_and_refuses_the_rest_by_name() {
    let Some((drivers, toolkits, stage)) = stage("real runtimes run where they fit, and are refused elsewhere") else {
        return;
    };
    for driver in &drivers {
        let fitting = packages(&stage, |t| t.cuda.clone(), |t| driver.runs(t));
        let count = fitting.len();
        let environment = stage
            .environment(&format!("fits-{}", driver.version), &fitting)
            .unwrap();
        let answered = answers(&stage, &environment, driver);
        assert!(
            answered.len() == count && answered.values().all(|code| *code == NO_DEVICE),
            "{answered:?}"
        );
        for toolkit in toolkits.iter().filter(|toolkit| !driver.runs(toolkit)) {
            let misfit = packages(&stage, |t| t.cuda.clone(), |t| t.version == toolkit.version);
            let environment = stage.environment("misfit", &misfit).unwrap();
            let mut run = stage
                .run(&environment, &stage.node(driver).unwrap(), &stage.state("shared"))
                .unwrap();
            let ran = ended(run.arg("true")).unwrap();
            let (reason, message) = ran.error().unwrap();
            assert_eq!(
                reason, "DriverTooOld",
                "driver {}, runtime {}: {message}",
                driver.version, toolkit.version
            );
            for named in [package_name(toolkit).as_str(), "only", &driver.version] {
                assert!(message.contains(named), "{named:?} is not in {message:?}");
            }
        }
    }
}
