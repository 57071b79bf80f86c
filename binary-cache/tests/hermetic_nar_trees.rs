//! Trees on disk: dumping refuses what a NAR cannot hold, removing follows no link.
//! Never needs root, the network, or another program.

#[path = "support/nar_text.rs"]
mod nar_text;

use std::{
    ffi::OsStr,
    fs, io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use binary_cache::nar::{self, Limits};
use nar_text::nar;

const NAME: &str = "out";

#[test]
fn dumping_refuses_what_a_nar_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    fs::create_dir(folder.path().join(NAME)).unwrap();
    fs::write(folder.path().join(NAME).join("a"), "x").unwrap();
    let dump = || nar::dump(parent.as_fd(), OsStr::new(NAME), &mut io::sink());
    dump().unwrap();
    let socket = folder.path().join(NAME).join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let message = dump().unwrap_err().to_string();
    assert!(message.starts_with("\"s\": is a socket"), "{message}");
    fs::remove_file(&socket).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        folder.path().join(NAME).join("p"),
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    let message = dump().unwrap_err().to_string();
    assert!(message.starts_with("\"p\": is a FIFO"), "{message}");
}

#[test]
fn removing_a_tree_follows_no_link_and_leaves_what_is_beside_it() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "x").unwrap();
    let text = format!(
        "( type directory entry ( name a node ( type symlink target {} ) ) entry ( name b node ( type directory ) ) )",
        outside.path().display()
    );
    let folder = tempfile::tempdir().unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    nar::restore(
        &nar(&text)[..],
        parent.as_fd(),
        OsStr::new(NAME),
        &Limits::at_most(1 << 20),
    )
    .unwrap();
    fs::write(folder.path().join("beside"), "x").unwrap();
    nar::remove_tree(parent.as_fd(), OsStr::new(NAME)).unwrap();
    nar::remove_tree(parent.as_fd(), OsStr::new(NAME)).expect("absent is fine");
    nar::remove_tree(parent.as_fd(), OsStr::from_bytes(b"beside")).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(outside.path().join("kept").exists());
}
