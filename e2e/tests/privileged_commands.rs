//! The commands by hand: fetch, verify, gc, detect and scan, and what they print for programs.
//! Each runs as built, on real parts; a damaged or refused case stands beside a sound one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::programs::{Ended, ended, node_agent};
use e2e::stage::Stage;
use e2e::{node, parts, skip};
use serde_json::{Value, json};

fn stage(check: &str) -> Option<Stage> {
    skip::without(check, skip::root())?;
    let toolkits = skip::without(check, parts::toolkits())?;
    skip::without(check, Stage::new(&toolkits[..2], |_, _| Ok(())))
}

fn agent(arguments: &[&str]) -> Ended {
    ended(
        Command::new(node_agent().unwrap())
            .args(arguments)
            .args(["--output", "json"]),
    )
    .unwrap()
}

fn fetch(stage: &Stage, state: &str, store_path: &str) -> Ended {
    agent(&[
        "fetch",
        "--cache",
        &stage.server.url(),
        "--public-key",
        &stage.public_key,
        "--state",
        state,
        store_path,
    ])
}

fn layer(state: &str, store_path: &str) -> PathBuf {
    let base_name = &store_path["/nix/store/".len()..];
    Path::new(state)
        .join("store")
        .join(&base_name[..32])
        .join("nix/store")
        .join(base_name)
}

/// What lies at `place` in each item of a list.
fn texts<'v>(list: &'v Value, place: &str) -> Vec<&'v str> {
    let items = list.as_array().unwrap().iter();
    items
        .map(|item| item.pointer(place).unwrap().as_str().unwrap())
        .collect()
}

#[test]
fn a_fetched_closure_verifies_and_a_changed_byte_is_found() {
    let Some(stage) = stage("verify finds a changed byte") else {
        return;
    };
    let state = stage.state("one").display().to_string();
    let closure = &stage.closures[0];
    let fetched = fetch(&stage, &state, &closure.environment);
    assert_eq!(fetched.code, 0, "{fetched:?}");
    assert!(fetched.json().is_ok(), "{fetched:?}");
    for path in [&closure.environment, &closure.programs, &closure.runtime] {
        assert!(layer(&state, path).is_dir(), "{path}");
    }
    assert_eq!(agent(&["verify", "--state", &state]).code, 0);

    let library = layer(&state, &closure.runtime)
        .join("lib")
        .join(&closure.toolkit.soname);
    let mut bytes = fs::read(&library).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&library, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&library, bytes).unwrap();
    let verified = agent(&["verify", "--state", &state]);
    assert_ne!(verified.code, 0, "{verified:?}");
    let said = verified.json().unwrap();
    assert_eq!(
        texts(&said["corrupt"], "/storePath"),
        [closure.runtime.as_str()],
        "{said}"
    );
    for none in ["missing", "badRecords", "extra", "removed"] {
        assert_eq!(said[none], json!([]), "{none}: {said}");
    }

    let repaired = agent(&["verify", "--repair", "--state", &state]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert!(!layer(&state, &closure.runtime).exists(), "the damaged path stays");
    assert_eq!(fetch(&stage, &state, &closure.environment).code, 0);
    assert_eq!(agent(&["verify", "--state", &state]).code, 0);
    assert!(layer(&state, &closure.runtime).is_dir());
}

#[test]
fn a_second_fetch_downloads_nothing_and_a_shared_path_is_not_fetched_again() {
    let Some(stage) = stage("nothing is fetched twice") else {
        return;
    };
    let state = stage.state("one").display().to_string();
    assert_eq!(fetch(&stage, &state, &stage.closures[0].programs).code, 0);
    stage.server.clear_log();
    let again = fetch(&stage, &state, &stage.closures[0].environment);
    assert_eq!(again.code, 0, "{again:?}");
    let nars = stage
        .server
        .log()
        .iter()
        .filter(|access| access.path.starts_with("/nar/"))
        .count();
    assert_eq!(nars, 1, "the environment alone was missing: {:?}", stage.server.log());
    stage.server.clear_log();
    assert_eq!(fetch(&stage, &state, &stage.closures[0].environment).code, 0);
    assert!(
        stage
            .server
            .log()
            .iter()
            .all(|access| !access.path.starts_with("/nar/")),
        "{:?}",
        stage.server.log()
    );
}

#[test]
fn collection_says_what_it_would_remove_then_removes_it() {
    let Some(stage) = stage("gc removes what nothing uses") else {
        return;
    };
    let state = stage.state("one").display().to_string();
    for closure in &stage.closures {
        assert_eq!(fetch(&stage, &state, &closure.environment).code, 0);
    }
    let layers = || fs::read_dir(Path::new(&state).join("store")).unwrap().count();
    assert_eq!(layers(), 6);
    let dry = agent(&["gc", "--dry-run", "--state", &state]);
    assert_eq!((dry.code, layers()), (0, 6), "{dry:?}");
    let said = dry.json().unwrap();
    let all = stage.closures.iter().flat_map(|closure| {
        let closure = [&closure.environment, &closure.programs, &closure.runtime];
        closure.map(String::as_str)
    });
    let removed: BTreeSet<_> = texts(&said["remove"], "").into_iter().collect();
    assert_eq!((removed, &said["dryRun"]), (all.collect(), &json!(true)), "{said}");
    let kept = agent(&["gc", "--younger-than", "3600", "--state", &state]);
    assert_eq!((kept.code, layers()), (0, 6), "{kept:?}");
    let done = agent(&["gc", "--state", &state]);
    assert_eq!((done.code, layers()), (0, 0), "{done:?}");
    assert_eq!(
        fetch(&stage, &state, &stage.closures[0].environment).code,
        0,
        "and it can be had again"
    );
}

#[test]
fn a_fetch_that_is_refused_leaves_nothing() {
    let Some(stage) = stage("a refused fetch leaves nothing") else {
        return;
    };
    let state = stage.state("refused").display().to_string();
    let other = e2e::our_writer::public_key("other-1").unwrap();
    let path = &stage.closures[0].environment;
    let refused = agent(&[
        "fetch",
        "--cache",
        &stage.server.url(),
        "--public-key",
        &other,
        "--state",
        &state,
        path,
    ]);
    let (reason, message) = refused.error().unwrap();
    assert_eq!(reason, "SignatureUntrusted", "{message}");
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let (reason, message) = fetch(&stage, &state, absent).error().unwrap();
    assert_eq!(reason, "NotInAnyCache", "{message}");
    assert!(message.contains(absent), "{message}");
    for folder in ["store", "staging"] {
        let left = fs::read_dir(Path::new(&state).join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "in {folder}");
    }
}

#[test]
fn real_drivers_are_detected_with_version_cuda_and_place() {
    let check = "real drivers are detected";
    let Some(drivers) = skip::without(check, parts::drivers()) else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    for driver in &drivers {
        let root = node::lay_out(driver, &work.path().join(&driver.version)).unwrap();
        let detected = agent(&["detect", "--root", root.to_str().unwrap(), "--gpu", "8.0:tesla"]);
        assert_eq!(detected.code, 0, "{detected:?}");
        let said = detected.json().unwrap();
        let state = ["state", "version", "cuda"].map(|field| said[field].as_str());
        let wanted = ["ready", driver.version.as_str(), driver.cuda].map(Some);
        assert_eq!(state, wanted, "{said}");
        assert_eq!(texts(&said["gpus"], "/computeCapability"), ["8.0"], "{said}");
    }
    // A machine without a driver is an answer too, with every place that was looked at.
    let empty = work.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let missing = agent(&["detect", "--root", empty.to_str().unwrap()]);
    let answer = missing.json().unwrap();
    assert_eq!(
        (missing.code, answer["state"].as_str()),
        (0, Some("missing")),
        "{answer}"
    );
    assert!(
        answer["places"].as_array().is_some_and(|places| places.len() >= 8),
        "{answer}"
    );
}

#[test]
fn a_scan_names_the_code_of_a_real_library() {
    let check = "a real library is scanned";
    let Some(nvjpeg) = skip::without(check, parts::toolkit_folder("cuda-nvjpeg-12.4.0.76")) else {
        return;
    };
    let scanned = agent(&["scan", nvjpeg.to_str().unwrap()]);
    assert_eq!(scanned.code, 0, "{scanned:?}");
    let said = scanned.json().unwrap();
    let library = nvjpeg.join("lib/libnvjpeg.so.12").display().to_string();
    assert_eq!(texts(&said["contents"]["files"], "/path"), [library.as_str()], "{said}");
    for code in [&said["contents"]["code"], &said["contents"]["files"][0]["code"]] {
        let sass = texts(&code["sass"], "");
        assert!(sass.contains(&"8.0") && sass.contains(&"9.0"), "{said}");
    }
    assert_eq!(
        (&said["unreadable"], &said["elfFiles"]),
        (&json!([]), &json!(1)),
        "{said}"
    );
    assert!(agent(&["scan", "/nowhere/at-all"]).error().is_ok());
}
