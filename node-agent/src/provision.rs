//! Provisioning: from an environment and a node to a built view in the store. What `run` and the daemon have in common.
//! Never mounts, never prints: progress is there to be read, and whoever asked decides what to show.

mod bridge;
pub mod caches;
mod patience;
pub(crate) mod reasons;
mod room;
pub mod service;
mod settle;
pub mod supply;
mod warm;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::SystemTime};

use crds::{
    domain::{cuda::CudaVersion, driver::DriverVersion, environment::Environment, store_path::StorePath},
    selection::Selection,
};
use tokio::task::{JoinError, spawn_blocking};

use self::{
    bridge::Bridge,
    caches::CacheError,
    supply::{Obtained, Supply, SupplyError},
};
use crate::{
    act::{
        contents::ContentsError,
        fetch::Fetched,
        install::InstallError,
        view::{self, ViewError},
    },
    observe::driver::CompatError,
    plan::{
        bridge::{BridgePlan, BridgeRefusal},
        document,
        view::{ViewPlan, ViewRefusal},
    },
    report::selection as report,
    snapshot::{
        node::Node,
        view::{ViewKind, ViewRequest},
    },
    store::{Lease, StoreError},
};

/// Which step from an environment to a view failed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error(transparent)]
    Supply(#[from] SupplyError),
    #[error(transparent)]
    Caches(#[from] CacheError),
    #[error("{}", report::refusal(selection))]
    Rejected { selection: Box<Selection> },
    #[error("looking for GPU code")]
    Contents { source: ContentsError },
    #[error("the driver's libraries in {}", path.display())]
    Bridge { path: PathBuf, source: BridgeRefusal },
    #[error("the forward-compatibility libraries of {path}")]
    Compat { path: StorePath, source: CompatError },
    #[error("installing the driver's libraries")]
    Install { source: InstallError },
    #[error("describing the view")]
    Document { source: serde_json::Error },
    #[error("planning the view")]
    View { source: ViewRefusal },
    #[error("leasing the view")]
    Lease { source: StoreError },
    #[error("making the view's files")]
    Build { source: ViewError },
    #[error("a task of this process died")]
    TaskDied { source: JoinError },
    #[error("the work was given up")]
    Abandoned,
}

/// Which view is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The packages.
    pub environment: &'a Environment,
    /// Where they must run.
    pub node: &'a Node,
    /// How the view is to be mounted.
    pub kind: ViewKind,
    /// The SELinux label of an overlay's files, where SELinux is active.
    pub selinux_label: Option<&'a str>,
}

/// A view whose files are complete and which nothing takes away while the lease is held.
#[derive(Debug)]
pub struct Provisioned {
    /// How to mount it.
    pub view: Arc<ViewPlan>,
    /// What was chosen.
    pub selection: Arc<Selection>,
    /// What had to be fetched.
    pub fetched: Fetched,
    /// Compressed bytes that came over the network.
    pub downloaded: u64,
    /// Keeps the view and all it is made of.
    pub lease: Lease,
}

/// Selects, fetches, and makes the view's files. `now` is when what it is made of counts as used.
///
/// Safe to give up at any point: what was complete stays, the rest is swept.
pub async fn provision(supply: &Supply, wanted: Wanted<'_>, now: SystemTime) -> Result<Provisioned, ProvisionError> {
    let (selection, obtained) = settle::settle(supply, wanted.environment, &wanted.node.facts, now).await?;
    let Some((files, version, cuda)) = wanted.node.detection.ready() else {
        return Err(ProvisionError::Rejected {
            selection: Box::new(selection),
        });
    };
    let (store, searched, files) = (
        supply.store().clone(),
        wanted.node.searched.clone(),
        (files.clone(), version.clone()),
    );
    let (bridge, obtained, selection) = blocking(move || {
        let bridge = Bridge::plan(&store, (&files.0, &files.1), &selection)?;
        Ok((bridge, obtained, selection))
    })
    .await?;
    let view = plan_view(wanted, &selection, &obtained, (version, cuda), &bridge.plan)?;
    let store = supply.store().clone();
    let driver_root = wanted.node.detection.driver.as_ref().map(|driver| driver.root.clone());
    blocking(move || {
        let leasing = |source| ProvisionError::Lease { source };
        let lease = store.lease(&warm::lease_of(&view)).map_err(leasing)?;
        obtained.lease.end().map_err(leasing)?;
        bridge.install(&store, &searched, &driver_root.unwrap_or_default())?;
        view::build(&view, &store, now).map_err(|source| ProvisionError::Build { source })?;
        Ok(Provisioned {
            view: Arc::new(view),
            selection: Arc::new(selection),
            fetched: obtained.fetched,
            downloaded: obtained.downloaded,
            lease,
        })
    })
    .await
}

fn plan_view(
    wanted: Wanted<'_>,
    selection: &Selection,
    obtained: &Obtained,
    driver: (&DriverVersion, CudaVersion),
    bridge: &BridgePlan,
) -> Result<ViewPlan, ProvisionError> {
    let paths = &obtained.closure.paths;
    let signed_by: BTreeMap<_, _> = paths
        .iter()
        .map(|narinfo| (narinfo.store_path().clone(), narinfo.signed_by().to_vec()))
        .collect();
    let facts = document::Facts {
        environment: wanted.environment,
        selection,
        driver,
        bridge: &bridge.id,
        signed_by,
    };
    let request = ViewRequest {
        kind: wanted.kind,
        paths: paths.iter().map(|narinfo| narinfo.store_path().clone()).collect(),
        packages: selection
            .selected
            .iter()
            .map(|(name, selected)| (name.clone(), selected.store_path.clone()))
            .collect(),
        bridge: Some(bridge.id.clone()),
        cudaenv_json: document::cudaenv_json(facts).map_err(|source| ProvisionError::Document { source })?,
        selinux_label: wanted.selinux_label.map(str::to_owned),
    };
    crate::plan::view::plan(request).map_err(|source| ProvisionError::View { source })
}

/// Runs what waits for a disk where it keeps nobody else waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProvisionError> + Send + 'static,
) -> Result<T, ProvisionError> {
    spawn_blocking(work)
        .await
        .map_err(|source| ProvisionError::TaskDied { source })?
}
