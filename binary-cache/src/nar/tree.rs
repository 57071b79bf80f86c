//! Removing a tree by descriptors.
//! Never follows a link, never crosses into another mount, never leaves the directory it was given.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, openat2, unlinkat},
    io::Errno,
};

/// Why a tree was not removed. `path` is relative to the parent given.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("{path:?}: cannot open directory")]
    OpenDirectory { path: PathBuf, source: io::Error },
    #[error("{path:?}: something is mounted there")]
    MountPoint { path: PathBuf },
    #[error("{path:?}: cannot make directory writable")]
    MakeWritable { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot list directory")]
    List { path: PathBuf, source: io::Error },
    #[error("{path:?}: cannot remove")]
    Unlink { path: PathBuf, source: io::Error },
}

/// A directory that is being emptied.
struct Level {
    fd: OwnedFd,
    name: OsString,
    /// What is still in it, as far as known; `true`: probably a directory.
    entries: Vec<(CString, bool)>,
}

/// Removes `name` in `parent` with all below it, also where directories are read-only; absent is fine.
///
/// `name` must be one path component. A descriptor is kept per level of depth.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), RemoveError> {
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some((name.to_owned(), false));
    loop {
        let place = levels.last().map_or(parent, |level| level.fd.as_fd());
        if let Some((name, probably_directory)) = next.take() {
            let path = || path_of(&levels, &name);
            if probably_directory || !unlink(place, &name, path)? {
                let level = open(place, name.clone(), path)?;
                levels.extend(level);
            }
        } else if let Some(level) = levels.pop() {
            let place = levels.last().map_or(parent, |level| level.fd.as_fd());
            match unlinkat(place, &level.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(unlink_error(errno, path_of(&levels, &level.name))),
            }
        }
        match levels.last_mut() {
            Some(level) => {
                next = level
                    .entries
                    .pop()
                    .map(|(name, dir)| (OsString::from_vec(name.into_bytes()), dir))
            }
            None => return Ok(()),
        }
    }
}

/// Removes anything but a directory; `false` where it is one.
fn unlink(place: BorrowedFd<'_>, name: &OsStr, path: impl Fn() -> PathBuf) -> Result<bool, RemoveError> {
    match unlinkat(place, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        Err(errno) => Err(unlink_error(errno, path())),
    }
}

fn unlink_error(errno: Errno, path: PathBuf) -> RemoveError {
    match errno {
        Errno::BUSY => RemoveError::MountPoint { path },
        _ => RemoveError::Unlink {
            path,
            source: errno.into(),
        },
    }
}

/// Opens a directory to empty it, and lists it; `None` where it has gone.
fn open(place: BorrowedFd<'_>, name: OsString, path: impl Fn() -> PathBuf) -> Result<Option<Level>, RemoveError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let fd = match openat2(place, &name, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        // No directory after all: what kept it from being unlinked was not that.
        Err(Errno::NOTDIR) => {
            return Err(RemoveError::Unlink {
                path: path(),
                source: Errno::PERM.into(),
            });
        }
        Err(Errno::XDEV) => return Err(RemoveError::MountPoint { path: path() }),
        Err(errno) => {
            return Err(RemoveError::OpenDirectory {
                path: path(),
                source: errno.into(),
            });
        }
    };
    fchmod(&fd, Mode::RWXU).map_err(|errno| RemoveError::MakeWritable {
        path: path(),
        source: errno.into(),
    })?;
    let list_error = |errno: Errno| RemoveError::List {
        path: path(),
        source: errno.into(),
    };
    let mut entries = Vec::new();
    for entry in Dir::read_from(&fd).map_err(list_error)? {
        let entry = entry.map_err(list_error)?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            entries.push((name.to_owned(), entry.file_type() == FileType::Directory));
        }
    }
    Ok(Some(Level { fd, name, entries }))
}

fn path_of(levels: &[Level], name: &OsStr) -> PathBuf {
    levels
        .iter()
        .map(|level| level.name.as_os_str())
        .chain([OsStr::from_bytes(name.as_bytes())])
        .collect()
}
