//! Metadata of what a NAR is restored to: the same under every umask and in every parent directory.
//! One test in this file: it changes the process's umask, which all threads share.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "support/nar_text.rs"]
mod nar_text;

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use binary_cache::nar::{self, Limits};
use rustix::{
    fs::{Gid, Mode, XattrFlags, chown, llistxattr, lsetxattr},
    process::{geteuid, umask},
};

const FOLDER: &str = "( type directory entry ( name a node ( type regular contents x ) ) \
    entry ( name b node ( type directory entry ( name c node ( type symlink target ../a ) ) ) ) \
    entry ( name d node ( type regular executable '' contents '' ) ) )";

/// A default access control list: owner, group and others as usual, and user 65534 may read, write and execute.
fn default_acl() -> Vec<u8> {
    const ENTRIES: [(u16, u16, u32); 5] = [
        (0x01, 7, u32::MAX),
        (0x02, 7, 65534),
        (0x04, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 5, u32::MAX),
    ];
    let entries = ENTRIES.iter().flat_map(|(tag, permissions, id)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    2_u32.to_le_bytes().into_iter().chain(entries).collect()
}

/// Every path below `root`, itself included.
fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    if fs::symlink_metadata(root).unwrap().is_dir() {
        for entry in fs::read_dir(root).unwrap() {
            found.extend(walk(&entry.unwrap().path()));
        }
    }
    found
}

fn check(case: &str, path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let wanted = match path.file_name().unwrap().to_str().unwrap() {
        "a" => Some(0o100_444),
        "c" => None,
        "d" => Some(0o100_555),
        _ => Some(0o040_555),
    };
    let path = path.display();
    if let Some(mode) = wanted {
        assert_eq!(metadata.mode(), mode, "{case}: {path} has mode {:o}", metadata.mode());
    }
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 0), "{case}: {path}");
    if geteuid().is_root() {
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{case}: {path}");
    }
    let mut names = [0; 4096];
    let length = llistxattr(path.to_string(), &mut names[..]).unwrap();
    let names: Vec<&[u8]> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    let kept: Vec<&&[u8]> = names.iter().filter(|name| **name != b"security.selinux").collect();
    assert!(kept.is_empty(), "{case}: {path} has attributes {kept:?}");
}

/// A new folder where folders can have access control lists: the usual place for temporary ones may have none.
fn folder_with_acl() -> tempfile::TempDir {
    let places = [
        std::env::temp_dir(),
        env!("CARGO_TARGET_TMPDIR").into(),
        "/var/tmp".into(),
        "/dev/shm".into(),
    ];
    let with_acl = places.iter().find_map(|place| {
        let folder = tempfile::tempdir_in(place).ok()?;
        let name = "system.posix_acl_default";
        lsetxattr(folder.path(), name, &default_acl(), XattrFlags::empty()).ok()?;
        Some(folder)
    });
    let folder = with_acl.unwrap_or_else(|| unreachable!("access control lists in none of {places:?}"));
    fs::write(folder.path().join("twin"), "x").unwrap();
    let mut names = [0; 4096];
    let inherited = llistxattr(folder.path().join("twin"), &mut names[..]).unwrap();
    assert!(inherited > 0, "other files do inherit it");
    folder
}

#[test]
fn metadata_is_canonical_under_every_umask_and_in_every_parent() {
    let bytes = nar_text::nar(FOLDER);
    for mask in [0o000, 0o022, 0o077] {
        for parent_kind in ["plain", "set-group", "access control list", "other attributes"] {
            let case = format!("umask {mask:03o}, {parent_kind}");
            let folder = match parent_kind {
                "access control list" => folder_with_acl(),
                _ => tempfile::tempdir().unwrap(),
            };
            match parent_kind {
                "set-group" => {
                    if geteuid().is_root() {
                        chown(folder.path(), None, Some(Gid::from_raw(65534))).unwrap();
                    }
                    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o2777)).unwrap();
                }
                // Which file systems hand such a one on differs; where none can be set there is none to inherit.
                "other attributes" => {
                    let _unsupported = lsetxattr(folder.path(), "user.cudaenv", b"x", XattrFlags::empty()).is_err();
                    let _not_root = lsetxattr(folder.path(), "trusted.cudaenv", b"x", XattrFlags::empty()).is_err();
                }
                _ => {}
            }
            let before = umask(Mode::from_raw_mode(mask));
            let parent = fs::File::open(folder.path()).unwrap();
            let result = nar::restore(&bytes[..], parent.as_fd(), OsStr::new("out"), &Limits::at_most(1 << 20));
            umask(before);
            result.unwrap();
            let paths = walk(&folder.path().join("out"));
            assert_eq!(paths.len(), 5);
            paths.iter().for_each(|path| check(&case, path));
            nar::remove_tree(parent.as_fd(), OsStr::new("out")).unwrap();
        }
    }
}
