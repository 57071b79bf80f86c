//! Takes cudaenv off a node, step by step.
//! Never decides what goes: the plan did.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::mount::UnmountFlags;

use crate::plan::uninstall::Step;

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// A file or folder could not be removed.
    #[error("removing {path}")]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount could not be undone.
    #[error("unmounting {path}")]
    Unmount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Does one step.
///
/// # Errors
/// The step that failed; what is gone already counts as done.
pub fn execute(step: &Step) -> Result<(), UninstallError> {
    match step {
        // Not the folder that it is in: one is kubelet's own, which watches it for the sockets of others.
        Step::RemoveSocket(path) => removed(path, fs::remove_file(path)),
        Step::Unmount(path) => {
            rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|errno| {
                UninstallError::Unmount {
                    path: path.clone(),
                    source: errno.into(),
                }
            })
        }
        Step::RemoveFolder(path) => remove_folder(path),
    }
}

/// A folder on which a file system is mounted is emptied, and stays.
fn remove_folder(path: &Path) -> Result<(), UninstallError> {
    let failed = |source| UninstallError::Remove {
        path: path.to_owned(),
        source,
    };
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (inner, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        let gone = if kind.is_dir() {
            fs::remove_dir_all(&inner)
        } else {
            fs::remove_file(&inner)
        };
        removed(&inner, gone)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        other => removed(path, other),
    }
}

fn removed(path: &Path, outcome: io::Result<()>) -> Result<(), UninstallError> {
    match outcome {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(UninstallError::Remove {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
