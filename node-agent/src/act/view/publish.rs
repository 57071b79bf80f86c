//! Publishing a mounted view at a path that somebody else named, and taking it away again.
//! Never removes a folder with something in it, never mounts over a mount that is not ours.

use std::{os::fd::AsFd, path::Path};

use rustix::fs::CWD;

use super::{Target, ViewError, attach_to, clone_mount};
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
/// there is none. Again does nothing.
///
/// Keep a lease, or a list under `volumes/`, that names the view: once the view's own mount is gone, nothing else tells
/// garbage collection that somebody reads its layers.
pub fn publish(
    digest: &ViewDigest,
    kind: ViewKind,
    store: &NodeStore,
    target: &Target,
) -> Result<Published, ViewError> {
    let home = store.layout().view_mount(digest, kind);
    let at = target.at()?;
    if !mounts::is_mounted(&home)? {
        return Err(ViewError::NotMounted { digest: digest.clone() });
    }
    if mounts::is_mounted(&at)? {
        return if is_view(&home, &at)? {
            Ok(Published::Before)
        } else {
            Err(ViewError::TargetBusy { target: at })
        };
    }
    let point = target.make()?;
    // The clone has the flags of the view's own mount from the start: no moment is writable.
    let tree = clone_mount(CWD, &home)?;
    attach_to(tree.as_fd(), point.as_fd(), &at)?;
    Ok(Published::Now)
}

/// Takes away everything mounted at `target`, then the empty folder itself. Again does nothing.
///
/// # Errors
/// A folder with something in it stays and is an error: the contents are not ours.
pub fn unpublish(target: &Target) -> Result<(), ViewError> {
    let at = target.at()?;
    while mounts::is_mounted(&at)? {
        target.unmount()?;
    }
    Ok(target.remove()?)
}

fn is_view(home: &Path, at: &Path) -> Result<bool, ViewError> {
    let files = |mount: Mount| (mount.device, mount.root);
    let (home, at) = (mounts::at(home)?.map(files), mounts::at(at)?.map(files));
    Ok(home.is_some() && home == at)
}
