//! The one set of metadata that everything in a store has.
//! Never lets the umask, the parent directory or the clock show.

use std::{ffi::OsStr, os::fd::BorrowedFd, path::PathBuf};

use rustix::{
    fs::{
        AtFlags, Gid, Mode, Timespec, Timestamps, Uid, chownat, fchmod, fchown, flistxattr, fremovexattr, futimens,
        utimensat,
    },
    io::Errno,
    process::geteuid,
};

use super::NarError;

pub(super) const PLAIN: Mode = Mode::from_raw_mode(0o444);
pub(super) const EXECUTABLE: Mode = Mode::from_raw_mode(0o555);
pub(super) const DIRECTORY: Mode = Mode::from_raw_mode(0o555);

/// Kept where they appear: labels that the kernel or the file system gives to every file and takes from none.
const KEPT_ATTRIBUTES: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];

/// One second after the epoch, as Nix sets it: 0 means "no time" to some programs.
const TIMES: Timestamps = {
    let time = Timespec { tv_sec: 1, tv_nsec: 0 };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
};

/// Gives a file or directory its owner, mode and times, and takes what it inherited: access control lists, attributes,
/// a group or a set-group bit.
pub(super) fn settle(fd: BorrowedFd<'_>, mode: Mode, path: impl Fn() -> PathBuf) -> Result<(), NarError> {
    if geteuid().is_root() {
        fchown(fd, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(|errno| NarError::SetOwner {
            path: path(),
            source: errno.into(),
        })?;
    }
    strip_attributes(fd, &path)?;
    fchmod(fd, mode).map_err(|errno| NarError::SetMode {
        path: path(),
        source: errno.into(),
    })?;
    futimens(fd, &TIMES).map_err(|errno| NarError::SetTime {
        path: path(),
        source: errno.into(),
    })
}

/// Gives a symbolic link its owner and times. It has no mode of its own, inherits no access control list, and cannot
/// carry user attributes.
pub(super) fn settle_symlink(parent: BorrowedFd<'_>, name: &OsStr, path: impl Fn() -> PathBuf) -> Result<(), NarError> {
    if geteuid().is_root() {
        chownat(
            parent,
            name,
            Some(Uid::ROOT),
            Some(Gid::ROOT),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| NarError::SetOwner {
            path: path(),
            source: errno.into(),
        })?;
    }
    utimensat(parent, name, &TIMES, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| NarError::SetTime {
        path: path(),
        source: errno.into(),
    })
}

fn strip_attributes(fd: BorrowedFd<'_>, path: &impl Fn() -> PathBuf) -> Result<(), NarError> {
    // A new file comes with a few inherited names, if any; the list has to be read whole or not at all.
    let mut names = [0; 4096];
    let length = match flistxattr(fd, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other.map_err(|errno| NarError::ListAttributes {
            path: path(),
            source: errno.into(),
        })?,
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for name in names.filter(|name| !KEPT_ATTRIBUTES.contains(name)) {
        fremovexattr(fd, name).map_err(|errno| NarError::RemoveAttribute {
            path: path(),
            source: errno.into(),
        })?;
    }
    Ok(())
}
