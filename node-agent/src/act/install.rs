//! Puts the bridge of a driver into the node store, once for each driver version.
//! Never leaves a half-built bridge where views look for one; never keeps the driver's folder open.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::bridge::{self, BuildError, Sources};
use crate::{
    plan::bridge::BridgePlan,
    store::{NodeStore, StoreError},
};

/// Which step of installing a bridge failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("making room for the driver's libraries")]
    Workspace { source: StoreError },
    #[error("opening the driver's folder {}", path.display())]
    OpenDriver { path: PathBuf, source: io::Error },
    #[error("copying the driver's libraries")]
    Build { source: BuildError },
    #[error("opening {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("moving the driver's libraries to {}", path.display())]
    Move { path: PathBuf, source: io::Error },
}

/// Where a bridge's files come from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The folder that was searched for a driver.
    pub searched: &'a Path,
    /// The driver's own root below it.
    pub driver_root: &'a Path,
    /// The files of the forward-compatibility store path, where the plan takes some from it.
    pub compat: Option<&'a Path>,
}

/// Makes sure that the bridge is there; `true` where it was built now.
pub fn bridge(store: &NodeStore, plan: &BridgePlan, origin: Origin<'_>) -> Result<bool, InstallError> {
    let home = store.layout().bridge(&plan.id);
    if home.is_dir() {
        return Ok(false);
    }
    let workspace = store.workspace().map_err(|source| InstallError::Workspace { source })?;
    let staged = workspace.path().join("bridge");
    let open = |path: &Path| {
        File::open(path).map_err(|source| InstallError::Open {
            path: path.to_owned(),
            source,
        })
    };
    fs::create_dir(&staged).map_err(|source| InstallError::Open {
        path: staged.clone(),
        source,
    })?;
    {
        let sources = Sources::open(origin.searched, origin.driver_root, origin.compat).map_err(|source| {
            InstallError::OpenDriver {
                path: origin.searched.join(origin.driver_root),
                source,
            }
        })?;
        let built =
            bridge::build(plan, &sources, open(&staged)?.as_fd()).map_err(|source| InstallError::Build { source })?;
        tracing::info!(driver.bridge = %plan.id, files = built.files, bytes = built.bytes, "copied the driver's libraries");
    }
    let moved = fs::rename(&staged, &home).and_then(|()| File::open(store.layout().drivers())?.sync_all());
    let made = match moved {
        Ok(()) => true,
        // Somebody else was faster with the same files.
        Err(_) if home.is_dir() => false,
        Err(source) => return Err(InstallError::Move { path: home, source }),
    };
    workspace
        .finish()
        .map_err(|source| InstallError::Workspace { source })?;
    Ok(made)
}
