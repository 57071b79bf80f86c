//! What the folders of the host that `run` takes apart hold.
//! Never read here; plain data.

use std::{ffi::OsString, path::PathBuf};

/// One entry of a folder of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    pub name: OsString,
    pub kind: HostEntryKind,
}

/// What an entry is, as far as mounting cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEntryKind {
    Directory,
    Symlink {
        target: PathBuf,
    },
    /// A file, socket, device or pipe: it can be bound over an empty file.
    Other,
}

/// The folders of the host that have to be taken apart, since a mount point of ours lies directly inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRoot {
    pub root: Vec<HostEntry>,
    pub nix: Vec<HostEntry>,
    pub run: Vec<HostEntry>,
}
