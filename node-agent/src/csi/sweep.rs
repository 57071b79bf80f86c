//! The sweep: at the start and every minute, what kubelet or a reboot left behind is put right, and garbage collected.
//! Never collects while a mount of ours that a pod may read cannot be explained.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{task::spawn_blocking, time::sleep};

use super::{Volumes, wall_clock};
use crate::{
    act::{
        self,
        view::{self, ViewError},
    },
    plan::{
        collect::{self, CollectPolicy},
        sweep::{self, Found, Sweep, SweepPlan},
    },
    report::failure::chain,
    store::{NodeStore, StoreError, mounts},
};

/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(60);
/// Garbage is collected when less of the disk than this is free …
const LOW_PERCENT: u64 = 15;
/// … until this much is.
const ENOUGH_PERCENT: u64 = 20;
/// What was used within this time stays even then.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// Which step of a sweep failed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("looking at the node store")]
    Store { source: StoreError },
    #[error("listing kubelet's pods in {}", path.display())]
    Pods { path: PathBuf, source: std::io::Error },
    #[error("unmounting {}", target.display())]
    Unmount { target: PathBuf, source: ViewError },
    #[error("unmounting a view that nothing shows")]
    View { source: ViewError },
    #[error("collecting garbage")]
    Collect { source: StoreError },
}

/// Sweeps for as long as it is let.
pub async fn keep(volumes: Volumes) {
    loop {
        let (store, pods) = (volumes.store().clone(), volumes.parts.pods.clone());
        match spawn_blocking(move || sweep(&store, &pods, wall_clock())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "a sweep failed; the next one tries again"),
            Err(error) => tracing::warn!(%error, "the task that sweeps died"),
        }
        sleep(EVERY).await;
    }
}

/// One sweep, and garbage collection where the disk is short.
pub fn sweep(store: &NodeStore, pods: &Path, now: SystemTime) -> Result<(), SweepError> {
    let plan = look(store, pods, now)?;
    let mut failed = None;
    for step in &plan.steps {
        if let Err(error) = take(step, store) {
            failed.get_or_insert(error);
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    for target in &plan.unexplained {
        tracing::warn!(volume.path = %target.display(), "a pod's volume has no record: no garbage is collected while it is there");
    }
    if plan.unexplained.is_empty() {
        make_room(store, now)?;
    }
    Ok(())
}

fn look(store: &NodeStore, pods: &Path, now: SystemTime) -> Result<SweepPlan, SweepError> {
    let of_store = |source| SweepError::Store { source };
    // The pods are listed after the records: a volume that is published in between has its pod on the list.
    let records = store.volume_records().map_err(of_store)?;
    let state = store.state().map_err(of_store)?;
    let mounts = mounts::read().map_err(of_store)?;
    let pods = &fs::canonicalize(pods).unwrap_or_else(|_| pods.to_owned());
    let pod_uids = uids(pods)?;
    let found = Found {
        records: &records,
        mounts: &mounts,
        pods,
        pod_uids: &pod_uids,
        store: &state,
        views: &store.layout().views(),
    };
    Ok(sweep::plan(&found, now))
}

fn uids(pods: &Path) -> Result<BTreeSet<String>, SweepError> {
    let failed = |source| SweepError::Pods {
        path: pods.to_owned(),
        source,
    };
    let mut uids = BTreeSet::new();
    for entry in fs::read_dir(pods).map_err(failed)? {
        uids.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(uids)
}

fn take(step: &Sweep, store: &NodeStore) -> Result<(), SweepError> {
    let unmount = |target: &Path| {
        tracing::info!(volume.path = %target.display(), "taking away the volume of a pod that is gone");
        view::unpublish(target).map_err(|source| SweepError::Unmount {
            target: target.to_owned(),
            source,
        })
    };
    match step {
        Sweep::Forget { volume, target } => {
            unmount(target)?;
            store
                .forget_volume(volume, target)
                .map_err(|source| SweepError::Store { source })
        }
        Sweep::Unmount { target } => unmount(target),
        Sweep::UnmountView { view } => view::unmount_view(view, store).map_err(|source| SweepError::View { source }),
    }
}

/// Removes what nothing uses, least recently used first, where the disk is short.
fn make_room(store: &NodeStore, now: SystemTime) -> Result<(), SweepError> {
    let of_store = |source| SweepError::Store { source };
    let numbers = store.numbers().map_err(of_store)?;
    let free = store.free_bytes().map_err(of_store)?;
    let share = |percent: u64| numbers.capacity_bytes / 100 * percent;
    if free >= share(LOW_PERCENT) {
        return Ok(());
    }
    let low = numbers.used_bytes.saturating_sub(share(ENOUGH_PERCENT) - free);
    let policy = CollectPolicy {
        high: low,
        low,
        grace: GRACE,
        pinned: BTreeSet::new(),
    };
    let gone = act::collect::collect(store, |state| collect::plan(state, &policy, now));
    let gone = gone.map_err(|source| SweepError::Collect { source })?;
    if gone.freed_bytes > 0 {
        tracing::info!(paths = gone.remove.len(), bytes = gone.freed_bytes, "collected garbage");
    }
    Ok(())
}
