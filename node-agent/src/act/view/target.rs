//! A place to mount at that somebody else named: below a folder of ours to trust, reached without following a link.
//! Never a path again once it is open: what lies there is what was looked at.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
    mount::UnmountFlags,
};

use crate::rooted::Root;

/// Why nothing can be mounted at a place.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("{} is not below {}", target.display(), base.display())]
    Outside { target: PathBuf, base: PathBuf },
    #[error("the folder that {} is to be in is not there", target.display())]
    NoParent { target: PathBuf },
    #[error("a link is on the way to {} or in its place: nothing is mounted through links", target.display())]
    Link { target: PathBuf },
    #[error("{} or a part of the way to it is there already and is no folder", target.display())]
    NoFolder { target: PathBuf },
    #[error("{} holds something that is not ours: take it away", target.display())]
    Full { target: PathBuf },
    #[error("cannot reach {}", target.display())]
    Reach { target: PathBuf, source: io::Error },
    #[error("cannot make {}", target.display())]
    Make { target: PathBuf, source: io::Error },
    #[error("cannot unmount {}", target.display())]
    Unmount { target: PathBuf, source: io::Error },
    #[error("cannot remove {}", target.display())]
    Remove { target: PathBuf, source: io::Error },
}

/// The open folder that a target is in, and its name there.
#[derive(Debug)]
pub struct Target {
    parent: OwnedFd,
    name: OsString,
    named: PathBuf,
}

impl Target {
    /// Opens the way to `path` below `base`. Links within `base` are the machine's owner's and followed; none is below it.
    ///
    /// # Errors
    /// A link on the way, no folder to be in, or no way there.
    pub fn below(base: &Path, path: &Path) -> Result<Self, TargetError> {
        let target = || path.to_owned();
        let outside = || TargetError::Outside {
            target: target(),
            base: base.to_owned(),
        };
        let rest = path.strip_prefix(base).map_err(|_| outside())?;
        let (within, name) = rest.parent().zip(rest.file_name()).ok_or_else(outside)?;
        let opened = Root::open(base).and_then(|root| root.open_plain_folder(within));
        let parent = opened.map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::LOOP) => TargetError::Link { target: target() },
            Some(Errno::NOTDIR) => TargetError::NoFolder { target: target() },
            Some(Errno::NOENT) => TargetError::NoParent { target: target() },
            _ => TargetError::Reach {
                target: target(),
                source,
            },
        })?;
        Ok(Self {
            parent,
            name: name.to_owned(),
            named: target(),
        })
    }

    /// Where it is, as the mount table names it.
    pub fn at(&self) -> Result<PathBuf, TargetError> {
        let parent = std::fs::read_link(self.own_path()).map_err(|source| TargetError::Reach {
            target: self.named.clone(),
            source,
        })?;
        Ok(parent.join(&self.name))
    }

    /// That a folder is there, or nothing. Ask only where nothing is mounted: a file system that is dead would hang us.
    pub fn is_free(&self) -> Result<(), TargetError> {
        let target = self.named.clone();
        match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(TargetError::Reach {
                target,
                source: errno.into(),
            }),
            Ok(found) => {
                let kind = FileType::from_raw_mode(found.st_mode);
                if kind == FileType::Directory {
                    Ok(())
                } else if kind == FileType::Symlink {
                    Err(TargetError::Link { target })
                } else {
                    Err(TargetError::NoFolder { target })
                }
            }
        }
    }

    /// The folder itself, made where there is none.
    pub(super) fn make(&self) -> Result<OwnedFd, TargetError> {
        let failed = |errno: Errno| TargetError::Make {
            target: self.named.clone(),
            source: errno.into(),
        };
        match rustix::fs::mkdirat(&self.parent, &self.name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => self.is_free()?,
            made => made.map_err(failed)?,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty()).map_err(failed)
    }

    /// Takes away what is mounted on top.
    pub(super) fn unmount(&self) -> Result<(), TargetError> {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(self.own_path().join(&self.name), flags).map_err(|errno| TargetError::Unmount {
            target: self.named.clone(),
            source: errno.into(),
        })
    }

    /// Removes the folder, which must be empty; nothing there is as good.
    pub(super) fn remove(&self) -> Result<(), TargetError> {
        let target = || self.named.clone();
        match rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Err(TargetError::Full { target: target() }),
            Err(errno) => Err(TargetError::Remove {
                target: target(),
                source: errno.into(),
            }),
        }
    }

    /// The folder that it is in, by its descriptor.
    fn own_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/thread-self/fd/{}", self.parent.as_raw_fd()))
    }
}
