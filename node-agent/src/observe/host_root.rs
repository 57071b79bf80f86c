//! What the host's root shows: the folders that `run` takes apart, and whether SELinux is active. Never writes, never follows what it lists.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::snapshot::host_root::{HostEntry, HostEntryKind, HostRoot};

/// A folder of the host that could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("listing {}", path.display())]
pub struct ListError {
    path: PathBuf,
    source: io::Error,
}

/// Lists `/`, `/nix` and `/run`; a folder that does not exist is empty.
pub fn host_root() -> Result<HostRoot, ListError> {
    Ok(HostRoot {
        root: list("/")?,
        nix: list("/nix")?,
        run: list("/run")?,
    })
}

/// Whether SELinux is active in the running kernel: its file system is mounted where everybody mounts it.
pub fn selinux(root: &Path) -> bool {
    root.join("sys/fs/selinux/enforce").exists()
}

fn list(folder: &str) -> Result<Vec<HostEntry>, ListError> {
    let error = |path: &Path, source| ListError {
        path: path.to_owned(),
        source,
    };
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(Path::new(folder), source)),
    };
    let mut entries = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|source| error(Path::new(folder), source))?;
        let file_type = entry.file_type().map_err(|source| error(&entry.path(), source))?;
        let kind = if file_type.is_dir() {
            HostEntryKind::Directory
        } else if file_type.is_symlink() {
            HostEntryKind::Symlink {
                target: fs::read_link(entry.path()).map_err(|source| error(&entry.path(), source))?,
            }
        } else {
            HostEntryKind::Other
        };
        entries.push(HostEntry {
            name: entry.file_name(),
            kind,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
