//! N24 on a real file system that folds case: NTFS through FUSE, which needs no support of the kernel's own.
//! Never leaves a mount or its daemon behind: both go with the mount namespace of the test's thread.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{ffi::OsStr, fs, os::fd::AsFd, path::Path, process::Command};

use binary_cache::nar::{self, Limits, NarError};
use e2e::{programs::finished, skip};
use node_agent::act::enter;

/// The archive of a folder with these files, packed where case is not folded.
fn packed(names: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tree")).unwrap();
    for name in names {
        fs::write(folder.path().join("tree").join(name), name).unwrap();
    }
    let mut bytes = Vec::new();
    let parent = fs::File::open(folder.path()).unwrap();
    nar::dump(parent.as_fd(), OsStr::new("tree"), &mut bytes).unwrap();
    bytes
}

fn restored(bytes: &[u8], to: &Path) -> Result<(), NarError> {
    let parent = fs::File::open(to).unwrap();
    let limits = Limits::at_most(1 << 20);
    nar::restore(bytes, parent.as_fd(), OsStr::new("out"), &limits).map(|_| ())
}

/// A small NTFS that folds case, mounted in this thread's mount namespace.
fn folding(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let (image, at) = (folder.join("image"), folder.join("disk"));
    fs::File::create(&image)?.set_len(16 << 20)?;
    fs::create_dir(&at)?;
    finished(Command::new("mkntfs").args(["-q", "-Q", "-F"]).arg(&image))?;
    let options = "ignore_case,permissions,streams_interface=none";
    finished(Command::new("lowntfs-3g").args(["-o", options]).args([&image, &at]))?;
    Ok(at)
}

#[test]
fn two_names_that_a_file_system_takes_for_one_are_a_collision() {
    let check = "names that differ in case only";
    if skip::without(check, skip::root()).is_none() {
        return;
    }
    let inside = || {
        enter::private_namespace().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = skip::without(check, folding(folder.path())) else {
            return;
        };
        fs::write(disk.join("Probe"), "").unwrap();
        assert!(disk.join("pROBE").exists(), "this file system folds no case");
        fs::remove_file(disk.join("Probe")).unwrap();

        let error = restored(&packed(&["A", "a"]), &disk).unwrap_err();
        assert!(
            matches!(&error, NarError::Collision { path } if path == Path::new("a")),
            "{error:?}"
        );
        assert_eq!(fs::read_dir(&disk).unwrap().count(), 0, "what was unpacked stays");

        restored(&packed(&["A", "b"]), &disk).unwrap();
        assert_eq!(fs::read(disk.join("out/A")).unwrap(), b"A");
        restored(&packed(&["A", "a"]), folder.path()).unwrap();
        nar::remove_tree(fs::File::open(folder.path()).unwrap().as_fd(), OsStr::new("out")).unwrap();
        finished(Command::new("umount").arg(&disk)).unwrap();
    };
    std::thread::spawn(inside).join().unwrap();
}
