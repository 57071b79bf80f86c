//! A view as a tree of hard links, for those who must id-map it, which an overlay cannot be.
//! Never copies a file, never follows a link, never recurses.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
    mount::MountFlags,
};

use super::{ViewError, is_mounted_read_only};
use crate::{
    plan::view::{ViewLayer, ViewPlan},
    snapshot::view::ViewKind,
    store::NodeStore,
};

/// One folder that is being linked.
struct Level {
    /// What this folder is called in its parent; empty for the first.
    name: CString,
    from: OwnedFd,
    to: OwnedFd,
    /// What mode and time the folder gets when it is finished: those of the topmost layer that has it.
    finally: (Mode, Timespec),
    entries: Dir,
}

/// Links the files of every layer of `plan` below `tree`, which is created.
pub(super) fn link_layers(plan: &ViewPlan, store: &NodeStore, tree: &Path) -> Result<(), ViewError> {
    let created = |errno: Errno| ViewError::Create {
        path: tree.to_owned(),
        source: errno.into(),
    };
    rustix::fs::mkdir(tree, Mode::from_raw_mode(0o755)).map_err(created)?;
    for (index, layer) in plan.layers().enumerate() {
        let root = match layer {
            ViewLayer::Face => store.layout().face(&plan.digest),
            ViewLayer::Bridge(id) => store.layout().bridge(id),
            ViewLayer::Path(path) => store.layout().layer(path),
        };
        link_tree(&root, tree, index == 0)?;
    }
    // Only root moves a folder that it may not write to; `close` comes after the move.
    rustix::fs::chmod(tree, Mode::from_raw_mode(0o755)).map_err(created)?;
    Ok(())
}

/// Gives the finished tree, in its place, the mode that an overlay's root has.
pub(super) fn close(tree: &Path) -> Result<(), ViewError> {
    rustix::fs::chmod(tree, Mode::from_raw_mode(0o555)).map_err(|errno| ViewError::Create {
        path: tree.to_owned(),
        source: errno.into(),
    })
}

/// Merges the tree below `from` into `to`. Folders that several layers have are made once.
fn link_tree(from: &Path, to: &Path, new: bool) -> Result<(), ViewError> {
    let top = open_level(c"".to_owned(), (CWD, from), (CWD, to), new).map_err(|e| read_error(from, &[], e))?;
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        match next_step(level) {
            Ok(Step::Deeper(deeper)) => levels.push(deeper),
            Ok(Step::Linked) => {}
            Ok(Step::Finished) => {
                levels.pop();
            }
            Err(Failed::Reading(errno)) => return Err(read_error(from, &levels, errno)),
            Err(Failed::Linking(name, errno)) => return Err(link_error(from, &levels, &name, errno)),
        }
    }
    Ok(())
}

enum Step {
    Deeper(Level),
    Linked,
    Finished,
}

enum Failed {
    Reading(Errno),
    Linking(CString, Errno),
}

/// Deals with the next entry of a folder.
fn next_step(level: &mut Level) -> Result<Step, Failed> {
    let Some(entry) = level.entries.next() else {
        return settle(level)
            .map(|()| Step::Finished)
            .map_err(|errno| Failed::Linking(c"".to_owned(), errno));
    };
    let entry = entry.map_err(Failed::Reading)?;
    let name = entry.file_name();
    if name == c"." || name == c".." {
        return Ok(Step::Linked);
    }
    link_entry(level, name, entry.file_type()).map_err(|errno| Failed::Linking(name.to_owned(), errno))
}

/// Links one file, or makes one folder and opens it to be descended into.
fn link_entry(level: &Level, name: &std::ffi::CStr, kind: FileType) -> Result<Step, Errno> {
    let is_folder = match kind {
        FileType::Directory => true,
        FileType::Unknown => {
            let found = rustix::fs::statat(&level.from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(found.st_mode) == FileType::Directory
        }
        FileType::RegularFile
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice => false,
    };
    if !is_folder {
        // Without AT_SYMLINK_FOLLOW the link itself gets a second name.
        rustix::fs::linkat(&level.from, name, &level.to, name, AtFlags::empty())?;
        return Ok(Step::Linked);
    }
    let new = match rustix::fs::mkdirat(&level.to, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    let (from, to) = ((level.from.as_fd(), name), (level.to.as_fd(), name));
    open_level(name.to_owned(), from, to, new).map(Step::Deeper)
}

/// Opens a folder on both sides. One that a layer above finished is made writable again for as long as this one adds to it: the
/// owner may be anybody, and only root writes where the mode forbids it.
fn open_level<P: rustix::path::Arg>(
    name: CString,
    from: (impl AsFd, P),
    to: (impl AsFd, P),
    new: bool,
) -> Result<Level, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from.0, from.1, flags, Mode::empty())?;
    let to = rustix::fs::openat(to.0, to.1, flags, Mode::empty())?;
    let found = rustix::fs::fstat(if new { &from } else { &to })?;
    let time = Timespec {
        tv_sec: found.st_mtime,
        tv_nsec: found.st_mtime_nsec.try_into().unwrap_or_default(),
    };
    let finally = (Mode::from_raw_mode(found.st_mode & 0o7777), time);
    rustix::fs::fchmod(&to, Mode::from_raw_mode(0o755))?;
    let entries = Dir::read_from(&from)?;
    Ok(Level {
        name,
        from,
        to,
        finally,
        entries,
    })
}

/// Gives a finished folder its mode and its time.
fn settle(level: &Level) -> Result<(), Errno> {
    let (mode, time) = level.finally;
    rustix::fs::fchmod(&level.to, mode)?;
    rustix::fs::futimens(
        &level.to,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
    )
}

fn read_error(from: &Path, levels: &[Level], errno: Errno) -> ViewError {
    ViewError::ReadTree {
        path: path_of(from, levels),
        source: errno.into(),
    }
}

fn link_error(from: &Path, levels: &[Level], name: &std::ffi::CStr, errno: Errno) -> ViewError {
    let path = path_of(from, levels).join(std::ffi::OsStr::from_bytes(name.to_bytes()));
    match errno {
        Errno::XDEV => ViewError::OtherFileSystem { path },
        errno => ViewError::Link {
            path,
            source: errno.into(),
        },
    }
}

fn path_of(from: &Path, levels: &[Level]) -> PathBuf {
    levels.iter().fold(from.to_owned(), |path, level| {
        path.join(std::ffi::OsStr::from_bytes(level.name.to_bytes()))
    })
}

/// Mounts the built tree at its own mount point: a bind, then read-only, which Linux does not do in one step.
pub(super) fn mount(plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    let tree = store.layout().plain_tree(&plan.digest);
    let at = store.layout().view_mount(&plan.digest, ViewKind::Plain);
    // A crash may have come between the two steps: a mount that is there but writable needs the second one only.
    if !crate::store::mounts::is_mounted(&at)? {
        rustix::mount::mount_bind(&tree, &at).map_err(|errno| ViewError::Mount {
            digest: plan.digest.clone(),
            source: errno.into(),
        })?;
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount(&at, flags, "").map_err(|errno| ViewError::ReadOnly {
        at: at.clone(),
        source: errno.into(),
    })?;
    // Some kernels took MS_BIND|MS_RDONLY without a word and left the mount writable: look.
    if is_mounted_read_only(&at)? {
        Ok(())
    } else {
        Err(ViewError::ReadOnly {
            at,
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }
}
