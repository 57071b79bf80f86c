//! Enters a private mount namespace whose root is the host's files with a view laid over them.
//! Never changes a mount that another process sees, never writes to the host's folders; everything vanishes with the program.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
    process::{chdir, pivot_root},
    thread::UnshareFlags,
};

use crate::plan::root::{RootStep, VIEW_AT};

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// Which step of entering failed, and at which path.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("entering a private mount namespace (it takes root, or user namespaces allowed for this user)")]
    Unshare { source: io::Error },
    #[error("mapping this user into the namespace through {}", file.display())]
    MapUser { file: PathBuf, source: io::Error },
    #[error("detaching the namespace from the host's mount propagation")]
    Propagation { source: io::Error },
    #[error("taking along the host's /{}", path.display())]
    Clone { path: PathBuf, source: io::Error },
    #[error("making the file system of the new root")]
    NewRoot { source: io::Error },
    #[error("attaching the new root at {}", path.display())]
    AttachRoot { path: PathBuf, source: io::Error },
    #[error("making /{} in the new root", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("mounting at /{} in the new root", path.display())]
    Mount { path: PathBuf, source: io::Error },
    #[error("changing to the new root")]
    Pivot { source: io::Error },
    #[error("returning to the working folder {}", path.display())]
    WorkingFolder { path: PathBuf, source: io::Error },
}

/// Puts the calling thread into a mount namespace of its own. Without root, into a user namespace too, in which this user keeps its id.
///
/// The process must have only this thread: namespaces are a thread's.
pub fn private_namespace() -> Result<(), EnterError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut flags = UnshareFlags::NEWNS;
    if !uid.is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    unshare(flags).map_err(|source| EnterError::Unshare { source })?;
    if !uid.is_root() {
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        write_map("/proc/self/setgroups", "deny")?;
        write_map("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
        write_map("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    }
    // Downstream: a file system that the host unmounts goes away here too, so that nothing of the host's is pinned.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
        .map_err(|source| EnterError::Propagation { source: source.into() })
}

#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe for FILES alone, which is not asked for"
)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the flags are NEWNS and NEWUSER; the table of open files stays shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

fn write_map(file: &str, line: &str) -> Result<(), EnterError> {
    std::fs::write(file, line).map_err(|source| EnterError::MapUser {
        file: file.into(),
        source,
    })
}

/// Builds the root that `steps` describe and makes it this thread's root, with the working folder where it was.
///
/// `view` is a detached mount of the view, which is attached here; `scratch` an existing folder of ours, over which the new root is mounted
/// for a moment, seen by this namespace alone.
pub fn enter(steps: &[RootStep], view: BorrowedFd<'_>, scratch: &Path) -> Result<(), EnterError> {
    let working_folder = std::env::current_dir().map_err(|source| EnterError::WorkingFolder {
        path: ".".into(),
        source,
    })?;
    let sources = steps.iter().map(source_of).collect::<Result<Vec<_>, _>>()?;
    let root = new_root(scratch)?;
    for (step, source) in steps.iter().zip(sources) {
        apply(step, source, view, &root)?;
    }
    drop(root);
    let pivot = |source: rustix::io::Errno| EnterError::Pivot { source: source.into() };
    chdir(scratch).map_err(pivot)?;
    pivot_root(".", ".").map_err(pivot)?;
    unmount(".", UnmountFlags::DETACH).map_err(pivot)?;
    chdir("/").map_err(pivot)?;
    chdir(&working_folder).map_err(|source| EnterError::WorkingFolder {
        path: working_folder,
        source: source.into(),
    })
}

/// Takes hold of what a step shows of the host, before the new root covers anything. What has gone since it was listed, as files
/// in `/run` come and go, is nothing.
fn source_of(step: &RootStep) -> Result<Option<OwnedFd>, EnterError> {
    let (RootStep::BindHostDirectory { at } | RootStep::BindHostFile { at }) = step else {
        return Ok(None);
    };
    let flags = CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    match open_tree(CWD, Path::new("/").join(at), flags) {
        Ok(tree) => Ok(Some(tree)),
        Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(EnterError::Clone {
            path: at.clone(),
            source: source.into(),
        }),
    }
}

/// A small file system in memory, mounted over `scratch`; gives its root folder.
fn new_root(scratch: &Path) -> Result<OwnedFd, EnterError> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "mode", "0755")?;
        fsconfig_set_string(&context, "size", "1m")?;
        fsconfig_create(&context)?;
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
        )
    };
    let mount = make().map_err(|source| EnterError::NewRoot { source: source.into() })?;
    let attach = |source: rustix::io::Errno| EnterError::AttachRoot {
        path: scratch.into(),
        source: source.into(),
    };
    move_mount(&mount, "", CWD, scratch, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(attach)?;
    Ok(mount)
}

fn apply(step: &RootStep, source: Option<OwnedFd>, view: BorrowedFd<'_>, root: &OwnedFd) -> Result<(), EnterError> {
    match step {
        RootStep::MakeDirectory { at } => make_directory(root, at),
        RootStep::MakeSymlink { at, target } => made(at, rustix::fs::symlinkat(target, root, at)),
        RootStep::BindHostDirectory { at } => {
            let Some(tree) = source else { return Ok(()) };
            make_directory(root, at)?;
            show(&tree, root, at, AtFlags::REMOVEDIR)
        }
        RootStep::BindHostFile { at } => {
            let Some(tree) = source else { return Ok(()) };
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY;
            made(
                at,
                rustix::fs::openat(root, at, flags, Mode::from_raw_mode(0o600)).map(drop),
            )?;
            show(&tree, root, at, AtFlags::empty())
        }
        RootStep::AttachView { at } => mounted(Path::new(at), attach(view, root, Path::new(at))),
        RootStep::BindPart { part, at } => {
            let tree = open_tree(root, Path::new(VIEW_AT).join(part), CLONE);
            let shown = tree.and_then(|tree| attach(tree.as_fd(), root, Path::new(at)));
            mounted(Path::new(at), shown)
        }
    }
}

/// With a mode that the caller's umask does not narrow: programs that give up root still look through it.
fn make_directory(root: &OwnedFd, at: &Path) -> Result<(), EnterError> {
    let mode = Mode::from_raw_mode(0o755);
    let result = rustix::fs::mkdirat(root, at, mode);
    made(
        at,
        result.and_then(|()| rustix::fs::chmodat(root, at, mode, AtFlags::empty())),
    )
}

/// Shows something of the host; what has gone meanwhile leaves no empty place behind.
fn show(tree: &OwnedFd, root: &OwnedFd, at: &Path, kind: AtFlags) -> Result<(), EnterError> {
    match attach(tree.as_fd(), root, at) {
        Err(Errno::NOENT) => made(at, rustix::fs::unlinkat(root, at, kind)),
        result => mounted(at, result),
    }
}

fn attach(tree: BorrowedFd<'_>, root: &OwnedFd, at: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", root, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn made(path: &Path, result: rustix::io::Result<()>) -> Result<(), EnterError> {
    result.map_err(|source| EnterError::Make {
        path: path.to_owned(),
        source: source.into(),
    })
}

fn mounted(path: &Path, result: rustix::io::Result<()>) -> Result<(), EnterError> {
    result.map_err(|source| EnterError::Mount {
        path: path.to_owned(),
        source: source.into(),
    })
}
