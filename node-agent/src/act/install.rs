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
    store::{NodeStore, StoreError, Workspace, sync_folder},
};

/// Which step of installing a bridge failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("making room for the driver's libraries")]
    Workspace { source: StoreError },
    #[error("copying the driver's libraries")]
    Build { source: BuildError },
    #[error("opening {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("making the driver's libraries durable")]
    Sync { source: StoreError },
    #[error("moving the driver's libraries to {}", path.display())]
    Move { path: PathBuf, source: io::Error },
    #[error("moving {} aside, which lacks some of the driver's libraries", path.display())]
    MoveAside { path: PathBuf, source: io::Error },
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

/// Makes sure that the bridge is there with every file of the plan; `true` where it was built now.
pub fn bridge(store: &NodeStore, plan: &BridgePlan, origin: Origin<'_>) -> Result<bool, InstallError> {
    let home = store.layout().bridge(&plan.id);
    if is_whole(&home, plan) {
        return Ok(false);
    }
    let workspace = store.workspace().map_err(|source| InstallError::Workspace { source })?;
    let staged = workspace.path().join("bridge");
    stage(&staged, plan, origin)?;
    let made = show(store, &workspace, plan)?;
    workspace
        .finish()
        .map_err(|source| InstallError::Workspace { source })?;
    Ok(made)
}

/// Builds the bridge in `staged`, durably: as soon as it has its name, it is used without being built again.
fn stage(staged: &Path, plan: &BridgePlan, origin: Origin<'_>) -> Result<(), InstallError> {
    let open = |source| InstallError::Open {
        path: staged.to_owned(),
        source,
    };
    fs::create_dir(staged).map_err(open)?;
    let folder = File::open(staged).map_err(open)?;
    let built = Sources::open(origin.searched, origin.driver_root, origin.compat)
        .and_then(|sources| bridge::build(plan, &sources, folder.as_fd()))
        .map_err(|source| InstallError::Build { source })?;
    tracing::info!(driver.bridge = %plan.id, files = built.files, bytes = built.bytes, "copied the driver's libraries");
    sync_folder(staged).map_err(|source| InstallError::Sync { source })
}

/// Moves the staged bridge to its name; `false` where somebody else was faster with the same files.
fn show(store: &NodeStore, workspace: &Workspace, plan: &BridgePlan) -> Result<bool, InstallError> {
    let home = store.layout().bridge(&plan.id);
    let moving = |source| InstallError::Move {
        path: home.clone(),
        source,
    };
    // Alone, so that nobody takes what another has just put here for what was damaged before.
    let _alone = store
        .exclusively()
        .map_err(|source| InstallError::Workspace { source })?;
    if is_whole(&home, plan) {
        return Ok(false);
    }
    match fs::rename(&home, workspace.path().join("damaged")) {
        Ok(()) => {
            tracing::warn!(driver.bridge = %plan.id, "a copy of the driver's libraries lacked files and is replaced")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(InstallError::MoveAside { path: home, source }),
    }
    fs::rename(workspace.path().join("bridge"), &home).map_err(moving)?;
    sync_folder(&store.layout().drivers()).map_err(|source| InstallError::Sync { source })?;
    Ok(true)
}

/// Whether every file and link of the plan is there. A power cut may leave a folder with less than was written to it.
fn is_whole(home: &Path, plan: &BridgePlan) -> bool {
    let lib = bridge::libraries(home);
    let file = |name: &str| fs::symlink_metadata(lib.join(name)).is_ok_and(|found| found.is_file() && found.len() > 0);
    let link = |name: &str| fs::symlink_metadata(lib.join(name)).is_ok_and(|found| found.is_symlink());
    plan.files.iter().all(|planned| file(&planned.name)) && plan.links.iter().all(|planned| link(&planned.name))
}
