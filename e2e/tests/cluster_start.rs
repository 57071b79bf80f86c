//! The clusters that the other tests stand on: several at once, and nothing of them is left however they end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::cluster::Cluster;
use rustix::process::{Pid, Signal, kill_process};

/// Names of the programs that work in the folder; a process that is gone but not yet waited for has no folder.
fn programs_in(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let inside =
        processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)));
    let mut names: Vec<_> = inside
        .filter_map(|process| Some(fs::read_to_string(process.join("comm")).ok()?.trim().to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn two_control_planes_run_at_once_and_leave_nothing() {
    let check = "two API servers at once";
    let Some(first) = Cluster::start(check).unwrap() else {
        return;
    };
    let second = Cluster::start(check).unwrap().unwrap();
    let folders = [first.folder().to_owned(), second.folder().to_owned()];
    first.printed(&["create", "namespace", "only-here"]).unwrap();
    assert_ne!(second.kubectl(&["get", "namespace", "only-here"]).unwrap().code, 0);
    for folder in &folders {
        assert_eq!(programs_in(folder), ["bash", "etcd", "kube-apiserver"]);
    }
    drop(first);
    assert_eq!(second.printed(&["get", "--raw", "/readyz"]).unwrap(), "ok");
    drop(second);
    for folder in &folders {
        assert_eq!(programs_in(folder), [""; 0]);
        assert!(!folder.exists(), "{} is left", folder.display());
    }
}

#[test]
fn a_killed_supervisor_takes_its_programs_along() {
    let Some(cluster) = Cluster::start("an API server whose supervisor is killed").unwrap() else {
        return;
    };
    let folder = cluster.folder().to_owned();
    assert_eq!(programs_in(&folder).len(), 3);
    let supervisor = Pid::from_raw(i32::try_from(cluster.supervisor()).unwrap()).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    drop(cluster);
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        programs_in(&folder).is_empty()
    });
    let left = programs_in(&folder);
    fs::remove_dir_all(&folder).unwrap();
    assert!(gone, "{left:?} are left");
}
