//! Publishing a mounted view at a path that somebody else named, and taking it away again.
//! Never removes a folder with something in it, never mounts over a mount that is not ours.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::CWD;

use super::{ViewError, attach, clone_mount, unmount};
use crate::{
    snapshot::view::{ViewDigest, ViewKind},
    store::{
        NodeStore,
        mounts::{self, Mount},
    },
};

/// What publishing had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Mounted now.
    Now,
    /// Was mounted already.
    Before,
}

/// Binds the view that is mounted at its own mount point to `target`, `ro,nosuid,nodev`; makes the folder `target` where
/// there is none (its parent must be there). Again does nothing.
///
/// Keep a lease, or a list under `volumes/`, that names the view: once the view's own mount is gone, nothing else tells
/// garbage collection that somebody reads its layers.
pub fn publish(digest: &ViewDigest, kind: ViewKind, store: &NodeStore, target: &Path) -> Result<Published, ViewError> {
    let home = store.layout().view_mount(digest, kind);
    let target = &real_place(target)?;
    let table = mounts::read()?;
    let view = mounts::mounted_at(&table, &home).ok_or_else(|| ViewError::NotMounted { digest: digest.clone() })?;
    if let Some(mount) = mounts::mounted_at(&table, target) {
        return if same_files(mount, view) {
            Ok(Published::Before)
        } else {
            Err(ViewError::TargetBusy {
                target: target.to_owned(),
            })
        };
    }
    match fs::create_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ViewError::OpenTarget {
                target: target.to_owned(),
                source: error,
            });
        }
        Ok(()) | Err(_) => {}
    }
    // The clone has the flags of the view's own mount from the start: no moment is writable.
    let tree = clone_mount(CWD, &home)?;
    attach(tree.as_fd(), target)?;
    Ok(Published::Now)
}

/// Takes away everything mounted at `target`, then the empty folder itself. Again does nothing.
///
/// # Errors
/// A folder with something in it stays and is an error: the contents are not ours.
pub fn unpublish(target: &Path) -> Result<(), ViewError> {
    let target = &match real_place(target) {
        Ok(target) => target,
        // Its parent is gone, and with it anything that could be mounted there.
        Err(ViewError::OpenTarget { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    while mounts::mounted_at(&mounts::read()?, target).is_some() {
        unmount(target)?;
    }
    match fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ViewError::RemoveTarget {
            target: target.to_owned(),
            source: error,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The target as the mount table names it: links on the way to it are resolved, it itself is never one to follow.
fn real_place(target: &Path) -> Result<PathBuf, ViewError> {
    let unusable = |source| ViewError::OpenTarget {
        target: target.to_owned(),
        source,
    };
    let (parent, name) = target
        .parent()
        .zip(target.file_name())
        .ok_or_else(|| unusable(io::ErrorKind::InvalidInput.into()))?;
    Ok(fs::canonicalize(parent).map_err(unusable)?.join(name))
}

fn same_files(one: &Mount, other: &Mount) -> bool {
    (&one.device, &one.root) == (&other.device, &other.root)
}
