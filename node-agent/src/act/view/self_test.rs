//! Whether this machine lets the agent show something to pods: a small view of two folders, mounted, read, and taken away.
//! Never touches a view that a pod may see.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{ViewError, attach, is_mounted_read_only, mounts, overlay, unmount};
use crate::store::{NodeStore, StoreError};

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    #[error("making the self-test's folders")]
    Store(#[from] StoreError),
    #[error("making the self-test's {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("mounting an overlay in the state folder: {hint}")]
    Mount { hint: &'static str, source: io::Error },
    #[error("mounting in the state folder")]
    Attach { source: ViewError },
    #[error("{} is not mounted read-only after mounting it", at.display())]
    NotReadOnly { at: PathBuf },
    #[error("reading {} through the mount", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} shows other contents through the mount", path.display())]
    Contents { path: PathBuf },
    #[error("a file could be made in the mount at {}", at.display())]
    Writable { at: PathBuf },
    #[error("unmounting")]
    Unmount { source: ViewError },
}

const LAYERS: [(&str, &str); 2] = [("0", "first"), ("1", "second")];

/// Mounts, reads through, finds read-only, and unmounts. Leaves nothing behind, also where a step fails.
pub fn self_test(store: &NodeStore) -> Result<(), SelfTestError> {
    let work = store.workspace()?;
    let folder = work.path().join("self-test");
    let at = folder.join("mnt");
    make(&folder, &at)?;
    let tested = mount(&folder, &at).and_then(|()| look(&at));
    let ended = unmounted(&at);
    tested.and(ended)?;
    work.finish()?;
    Ok(())
}

fn make(folder: &Path, at: &Path) -> Result<(), SelfTestError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SelfTestError::Make { path, source }
    };
    fs::create_dir_all(at).map_err(failed(at))?;
    for (layer, content) in LAYERS {
        let layer = folder.join(layer);
        fs::create_dir(&layer).map_err(failed(&layer))?;
        let file = layer.join(content);
        fs::write(&file, content).map_err(failed(&file))?;
    }
    Ok(())
}

fn mount(folder: &Path, at: &Path) -> Result<(), SelfTestError> {
    let layers = LAYERS.iter().map(|(layer, _)| {
        let path = folder.join(layer);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| ViewError::OpenLayer {
            path,
            source: errno.into(),
        })
    });
    let mounted = overlay::overlay(layers, None).map_err(|source| SelfTestError::Attach { source })?;
    match mounted {
        Ok(tree) => attach(tree.as_fd(), at).map_err(|source| SelfTestError::Attach { source }),
        // The same fallback as for a pod's view.
        Err(Errno::NOSYS | Errno::INVAL) => {
            let names = LAYERS.map(|(layer, _)| layer.to_owned());
            overlay::mount_in(folder, &names, at, None).map_err(not_mounted)
        }
        Err(errno) => Err(not_mounted(errno.into())),
    }
}

fn not_mounted(source: io::Error) -> SelfTestError {
    let kind = source.kind();
    let hint = if kind == io::ErrorKind::PermissionDenied {
        "the agent must be root with CAP_SYS_ADMIN, and no seccomp or LSM rule may forbid mounts"
    } else if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::Unsupported) {
        "this kernel has no overlay file system"
    } else {
        "the state folder must lie on a file system that overlays can be stacked on"
    };
    SelfTestError::Mount { hint, source }
}

fn look(at: &Path) -> Result<(), SelfTestError> {
    if !is_mounted_read_only(at).map_err(|source| SelfTestError::Attach { source })? {
        return Err(SelfTestError::NotReadOnly { at: at.to_owned() });
    }
    for (_, content) in LAYERS {
        let path = at.join(content);
        let read = fs::read(&path).map_err(|source| SelfTestError::Read {
            path: path.clone(),
            source,
        })?;
        if read != content.as_bytes() {
            return Err(SelfTestError::Contents { path });
        }
    }
    match fs::File::create(at.join("written")) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(_) | Ok(_) => Err(SelfTestError::Writable { at: at.to_owned() }),
    }
}

fn unmounted(at: &Path) -> Result<(), SelfTestError> {
    let failed = |source| SelfTestError::Unmount { source };
    while mounts::is_mounted(at)? {
        unmount(at).map_err(failed)?;
    }
    Ok(())
}
