//! A damaged node store, as the commands report and repair it, and mistyped ones, which they refuse.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{fs, path::Path, process::Command};

use e2e::{
    made_up::Closure,
    programs::{self, Ended, ended},
    skip,
};
use node_agent::store::NodeStore;

fn agent(arguments: &[&str], state: &Path) -> Ended {
    let mut agent = Command::new(programs::node_agent().unwrap());
    agent
        .args(["--output", "json"])
        .args(arguments)
        .arg("--state")
        .arg(state);
    ended(&mut agent).unwrap()
}

/// The names in one of the store's folders.
fn names(state: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(state.join(folder)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_kind_of_damage_is_reported_before_anything_is_removed() {
    if skip::without("damage is reported", skip::root()).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let closure = Closure::new("damaged", 4, 10).unwrap();
    closure.commit(&NodeStore::open(&state).unwrap()).unwrap();
    let good = agent(&["verify"], &state);
    assert_eq!(
        (good.code, good.json().unwrap()["good"].as_u64()),
        (0, Some(4)),
        "{good:?}"
    );

    let records: Vec<_> = names(&state, "meta")
        .into_iter()
        .filter(|name| name.ends_with(".narinfo"))
        .collect();
    fs::write(state.join("meta").join(&records[0]), "garbage").unwrap();
    let missing = records[1].trim_end_matches(".narinfo").to_owned();
    fs::rename(state.join("store").join(&missing), folder.path().join("elsewhere")).unwrap();
    let stranger = "0".repeat(32);
    fs::create_dir(state.join("store").join(&stranger)).unwrap();

    let before = (names(&state, "meta"), names(&state, "store"));
    let bad = agent(&["verify"], &state);
    let said = bad.json().unwrap();
    assert_eq!(
        (bad.code, said["error"]["reason"].as_str()),
        (1, Some("StoreCorrupt")),
        "{bad:?}"
    );
    assert_eq!(said["badRecords"].as_array().unwrap().len(), 1, "{said}");
    assert!(said["missing"][0].as_str().unwrap().contains(&missing), "{said}");
    assert_eq!(said["extra"][0], stranger.as_str(), "{said}");
    assert_eq!(
        (names(&state, "meta"), names(&state, "store")),
        before,
        "looking changed something"
    );

    let repaired = agent(&["verify", "--repair"], &state);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    let after = agent(&["verify"], &state);
    assert_eq!(
        (after.code, after.json().unwrap()["good"].as_u64()),
        (0, Some(2)),
        "{after:?}"
    );
}

#[test]
fn a_mistyped_state_folder_is_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let typo = folder.path().join("typo");
    for command in ["verify", "gc"] {
        let refused = agent(&[command], &typo);
        assert_eq!(refused.error().unwrap().0, "StoreFailed", "{refused:?}");
        assert!(!typo.exists());
        fs::create_dir(&typo).unwrap();
        let refused = agent(&[command], &typo);
        assert!(refused.error().unwrap().1.contains("is no node store"), "{refused:?}");
        fs::remove_dir(&typo).unwrap();
    }
    let state = folder.path().join("state");
    NodeStore::open(&state).unwrap();
    for command in ["verify", "gc"] {
        assert_eq!(agent(&[command], &state).code, 0);
    }
}

#[test]
fn one_unreadable_file_of_a_view_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let store = NodeStore::open(&state).unwrap();
    Closure::new("views", 2, 10).unwrap().commit(&store).unwrap();
    let view = state.join("views").join("0123456789abcdef0123456789abcdef");
    fs::create_dir_all(view.join("mnt")).unwrap();
    fs::write(view.join("view.json"), "").unwrap();
    for command in ["verify", "gc"] {
        let done = agent(&[command], &state);
        assert_eq!(done.code, 0, "{done:?}");
    }
    assert!(
        !view.exists(),
        "a view that cannot say what it holds goes, as nobody uses it"
    );
}
