//! Building views and mounting them: whole, in part, privately or for a pod.
//! Never mounts anything writable, and never follows a link at a mount target.

mod build;
mod overlay;
mod plain;
mod publish;
mod self_test;
mod target;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crds::domain::store_path::StorePath;
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags},
};

pub use publish::{Published, publish, unpublish};
pub use self_test::{SelfTestError, self_test};
pub use target::{Target, TargetError};

use crate::{
    plan::view::ViewPlan,
    snapshot::view::{BridgeId, ViewDigest, ViewKind},
    store::{NodeStore, StoreError, mounts, touch},
};

/// A step on the way to a mounted view failed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} is not in the node store")]
    MissingPath { path: StorePath },
    #[error("the driver bridge {id} is not in the node store")]
    MissingBridge { id: BridgeId },
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot read {} to link its files", path.display())]
    ReadTree { path: PathBuf, source: io::Error },
    #[error("cannot link {} into the view", path.display())]
    Link { path: PathBuf, source: io::Error },
    #[error("{} is on another file system than the view: hard links cannot reach it", path.display())]
    OtherFileSystem { path: PathBuf },
    #[error("cannot open layer {}", path.display())]
    OpenLayer { path: PathBuf, source: io::Error },
    #[error(
        "view {digest} has {layers} layers, which takes an overlay of overlays, but the node store is on an overlay \
         itself and Linux stacks no deeper: put the state folder on a disk"
    )]
    TooDeep { digest: ViewDigest, layers: usize },
    #[error("cannot mount view {digest}")]
    Mount { digest: ViewDigest, source: io::Error },
    #[error("cannot make the mount at {} read-only", at.display())]
    ReadOnly { at: PathBuf, source: io::Error },
    #[error("view {digest} is not mounted")]
    NotMounted { digest: ViewDigest },
    #[error("cannot open `{}` of a mounted view", part.display())]
    Part { part: PathBuf, source: io::Error },
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("cannot open mount target {}", target.display())]
    OpenTarget { target: PathBuf, source: io::Error },
    #[error("something else is mounted at {}", target.display())]
    TargetBusy { target: PathBuf },
    #[error("cannot attach a mount at {}", target.display())]
    Attach { target: PathBuf, source: io::Error },
    #[error("cannot unmount {}", target.display())]
    Unmount { target: PathBuf, source: io::Error },
}

/// How the layers of an overlay are told to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Descriptor by descriptor (Linux 6.13; groups 6.15): no limit on names, and the mount is nowhere until attached.
    Descriptors,
    /// As the options of `mount(2)`: every Linux that has overlays. Shows for a moment at the view's own mount point.
    Options,
}

/// Makes the files of a view, unless they are there. Marks the view and its layers as used at `now`.
///
/// Hold a lease on the view and its paths, or garbage collection may take them away again.
pub fn build(plan: &ViewPlan, store: &NodeStore, now: SystemTime) -> Result<(), ViewError> {
    build::build(plan, store)?;
    used(plan, store, now)?;
    store.touch(&plan.paths, now)?;
    Ok(())
}

/// Marks a view as used at `now`, and with it, as garbage collection sees it, its layers.
pub fn used(plan: &ViewPlan, store: &NodeStore, now: SystemTime) -> Result<(), ViewError> {
    Ok(touch(&store.layout().view_record(&plan.digest), now)?)
}

/// Whether the view is mounted at its own mount point.
pub fn is_mounted(plan: &ViewPlan, store: &NodeStore) -> Result<bool, ViewError> {
    is_mounted_read_only(&store.layout().view_mount(&plan.digest, plan.kind))
}

/// Mounts a built view where nobody sees it: `ro,nosuid,nodev`. It lives as long as the descriptor or what is attached.
///
/// Clones the view's own mount where there is one. Otherwise mounts it, where the kernel is old or the view plain for a
/// moment at the view's own mount point: meant for a private mount namespace.
pub fn mount_detached(plan: &ViewPlan, store: &NodeStore) -> Result<OwnedFd, ViewError> {
    let at = store.layout().view_mount(&plan.digest, plan.kind);
    if is_mounted_read_only(&at)? {
        return clone_mount(CWD, &at);
    }
    if plan.kind == ViewKind::Overlay
        && let Some(tree) = overlay::mount_by_descriptors(plan, store)?
    {
        return Ok(tree);
    }
    mount_at_home(plan, store)?;
    let tree = clone_mount(CWD, &at)?;
    unmount(&at)?;
    Ok(tree)
}

/// Mounts a built view at its own mount point, `views/<digest>/mnt`, from where it is published. Does nothing where that
/// was done, also by another thread or process at the same moment.
pub fn mount(plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    let at = store.layout().view_mount(&plan.digest, plan.kind);
    let _one_at_a_time = store.lock_view(&plan.digest)?;
    if is_mounted_read_only(&at)? {
        // Of an overlay that is all; a plain view's files are on a disk, which may be read-only itself at the moment.
        return match plan.kind {
            ViewKind::Overlay => Ok(()),
            ViewKind::Plain => mount_at_home(plan, store),
        };
    }
    if plan.kind == ViewKind::Overlay
        && let Some(tree) = overlay::mount_by_descriptors(plan, store)?
    {
        return attach(tree.as_fd(), &at);
    }
    mount_at_home(plan, store)
}

/// Like [`mount`] on a kernel of one's choice: shows that both methods make the same view.
pub fn mount_with(method: Method, plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    match method {
        Method::Descriptors => mount(plan, store),
        Method::Options => mount_at_home(plan, store),
    }
}

/// As [`unmount_view`], unless a lease or a volume's record names the view by now. Nobody can lease it meanwhile, so whoever
/// does finds it mounted and kept so, or not mounted.
pub fn unmount_unused(digest: &ViewDigest, store: &NodeStore) -> Result<(), ViewError> {
    let _exclusive = store.exclusively()?;
    if store.is_view_wanted(digest)? {
        return Ok(());
    }
    unmount_view(digest, store)
}

/// Takes the view's own mount away; what was published from it stays. Does nothing where there is none.
pub fn unmount_view(digest: &ViewDigest, store: &NodeStore) -> Result<(), ViewError> {
    let _one_at_a_time = store.lock_view(digest)?;
    for kind in [ViewKind::Overlay, ViewKind::Plain] {
        let at = store.layout().view_mount(digest, kind);
        while mounts::is_mounted(&at)? {
            unmount(&at)?;
        }
    }
    Ok(())
}

/// A mount of a part of a mounted view, such as `nix/store` or `driver`; an empty `part` is the whole of it.
pub fn part(tree: BorrowedFd<'_>, part: &Path) -> Result<OwnedFd, ViewError> {
    clone_mount(tree, part)
}

/// Attaches a detached mount at `target`, which exists already. A link at `target` is not followed.
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> Result<(), ViewError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let point = rustix::fs::open(target, flags, Mode::empty()).map_err(|errno| ViewError::OpenTarget {
        target: target.to_owned(),
        source: errno.into(),
    })?;
    attach_to(tree, point.as_fd(), target)
}

/// As [`attach`], at a folder that is open. `target` is its name for people.
fn attach_to(tree: BorrowedFd<'_>, point: BorrowedFd<'_>, target: &Path) -> Result<(), ViewError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", point, "", flags).map_err(|errno| ViewError::Attach {
        target: target.to_owned(),
        source: errno.into(),
    })
}

fn mount_at_home(plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    match plan.kind {
        ViewKind::Overlay => overlay::mount_by_options(plan, store),
        ViewKind::Plain => plain::mount(plan, store),
    }
}

/// A detached copy of one mount, or of a part of it, with the flags of the original.
fn clone_mount(parent: impl AsFd, path: &Path) -> Result<OwnedFd, ViewError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(parent, path, flags).map_err(|errno| ViewError::Part {
        part: path.to_owned(),
        source: errno.into(),
    })
}

fn is_mounted_read_only(at: &Path) -> Result<bool, ViewError> {
    Ok(mounts::is_read_only(at)?)
}

fn unmount(at: &Path) -> Result<(), ViewError> {
    rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|errno| ViewError::Unmount {
        target: at.to_owned(),
        source: errno.into(),
    })
}
