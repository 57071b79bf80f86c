//! The private root of `run`, entered for real: what the program sees, and what the host does not.
//! Each test uses up its thread, which stays in the namespace; nothing outlives it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{fs, path::Path, process::Command};

use node_agent::{act::enter, observe::host_root::host_root, plan::root};
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

fn mount_table() -> String {
    fs::read_to_string("/proc/1/mountinfo").unwrap()
}

fn shell(script: &str) -> (i32, String) {
    let output = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

/// A folder shaped like a view.
fn view(folder: &Path) {
    fs::create_dir_all(folder.join("nix/store/x-hello")).unwrap();
    fs::create_dir_all(folder.join("driver/lib")).unwrap();
    fs::write(folder.join("cudaenv.json"), "{}").unwrap();
    fs::write(folder.join("driver/lib/libcuda.so.1"), "driver").unwrap();
}

#[test]
fn a_program_sees_the_host_with_the_view_over_it_and_the_host_sees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, scratch) = (folder.path().join("view"), folder.path().join("scratch"));
    view(&tree);
    fs::create_dir(&scratch).unwrap();
    fs::write(folder.path().join("host-file"), "host").unwrap();
    let before = (mount_table(), names("/"), names("/run"));
    let here = folder.path().to_owned();
    std::thread::spawn(move || {
        enter::private_namespace().unwrap();
        let tree = open_tree(CWD, &tree, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).unwrap();
        use std::os::fd::AsFd;
        enter::enter(&root::plan(&host_root().unwrap()), tree.as_fd(), &scratch).unwrap();
        let inside = format!(
            "ls /nix/store; cat /run/opengl-driver/lib/libcuda.so.1 /run/cudaenv/cudaenv.json {}; test -c /dev/null && test -r /proc/self/status && pwd",
            here.join("host-file").display()
        );
        let (code, text) = shell(&inside);
        let working_folder = std::env::current_dir().unwrap();
        assert_eq!((code, text), (0, format!("x-hello\ndriver{{}}host{}\n", working_folder.display())));
    })
    .join()
    .unwrap();
    assert_eq!((mount_table(), names("/"), names("/run")), before, "the host noticed");
}

fn names(folder: &str) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}
