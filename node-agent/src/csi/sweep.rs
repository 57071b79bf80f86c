//! The sweep: at the start, every minute, and when something else is asked of the node, what kubelet or a reboot left behind
//! is put right, and garbage collected.
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
        view::{self, Target, TargetError, ViewError},
    },
    plan::{
        collect::{self, Room},
        sweep::{self, Found, Sweep, SweepPlan},
    },
    report::failure::chain,
    snapshot::happening::{Happening, What},
    store::{NodeStore, StoreError, mounts},
};

/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(60);

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
    let mut spec = volumes.parts.spec.clone();
    loop {
        let (store, pods) = (volumes.store().clone(), volumes.parts.pods.clone());
        let most = spec.borrow_and_update().max_bytes;
        // The schema takes no negative number.
        let most = most.map(|bytes| u64::try_from(bytes).unwrap_or_default());
        match spawn_blocking(move || sweep(&store, &pods, most, wall_clock())).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(freed_bytes))) => volumes.tell(Happening {
                pod: None,
                environment: None,
                what: What::Collected {
                    freed_bytes,
                    at: wall_clock(),
                },
            }),
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "a sweep failed; the next one tries again"),
            Err(error) => tracing::warn!(%error, "the task that sweeps died"),
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            Ok(()) = spec.changed() => {}
        }
    }
}

/// One sweep, and garbage collection where the disk is short or the store has more than `most` bytes: the bytes that went, or
/// nothing where none may go.
pub fn sweep(store: &NodeStore, pods: &Path, most: Option<u64>, now: SystemTime) -> Result<Option<u64>, SweepError> {
    let plan = look(store, pods, now)?;
    let mut failed = None;
    for step in &plan.steps {
        if let Err(error) = take(step, store, pods) {
            failed.get_or_insert(error);
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    for target in &plan.unexplained {
        tracing::warn!(volume.path = %target.display(), "a pod's volume has no record: no garbage is collected while it is there");
    }
    let may_go = plan.unexplained.is_empty();
    may_go.then(|| make_room(store, most, now)).transpose()
}

fn look(store: &NodeStore, pods: &Path, now: SystemTime) -> Result<SweepPlan, SweepError> {
    let of_store = |source| SweepError::Store { source };
    // The pods are listed after the records: a volume that is published in between has its pod on the list.
    let records = store.volume_records().map_err(of_store)?;
    let state = store.peek().map_err(of_store)?;
    let mounts = mounts::read().map_err(of_store)?;
    let named = pods;
    let pods = &fs::canonicalize(pods).unwrap_or_else(|_| pods.to_owned());
    let pod_uids = uids(pods)?;
    let found = Found {
        records: &records,
        mounts: &mounts,
        pods,
        named,
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

fn take(step: &Sweep, store: &NodeStore, pods: &Path) -> Result<(), SweepError> {
    let unmount = |pods: &Path, target: &Path| {
        tracing::info!(volume.path = %target.display(), "taking away the volume of a pod that is gone");
        let done = match Target::below(pods, target) {
            // With its folder went whatever was mounted there.
            Err(TargetError::NoParent { .. }) => Ok(()),
            found => found
                .map_err(ViewError::from)
                .and_then(|target| view::unpublish(&target)),
        };
        done.map_err(|source| SweepError::Unmount {
            target: target.to_owned(),
            source,
        })
    };
    match step {
        Sweep::Forget { volume, target } => {
            unmount(pods, target)?;
            store
                .forget_volume(volume, target)
                .map_err(|source| SweepError::Store { source })
        }
        // As the mount table names it, which knows no links.
        Sweep::Unmount { target } => unmount(Path::new("/"), target),
        Sweep::UnmountView { view } => view::unmount_view(view, store).map_err(|source| SweepError::View { source }),
    }
}

/// Removes what nothing uses, least recently used first, until there is room: the bytes that went.
fn make_room(store: &NodeStore, most: Option<u64>, now: SystemTime) -> Result<u64, SweepError> {
    let of_store = |source| SweepError::Store { source };
    let numbers = store.numbers().map_err(of_store)?;
    let room = Room {
        capacity: numbers.capacity_bytes,
        free: store.free_bytes().map_err(of_store)?,
        used: numbers.used_bytes,
        most,
    };
    let Some(policy) = collect::policy(&room) else {
        return Ok(0);
    };
    let gone = act::collect::collect(store, |state| collect::plan(state, &policy, now));
    let gone = gone.map_err(|source| SweepError::Collect { source })?;
    if gone.freed_bytes > 0 {
        tracing::info!(paths = gone.remove.len(), bytes = gone.freed_bytes, "collected garbage");
    }
    if gone.short_by > 0 {
        tracing::debug!(bytes = gone.short_by, "the rest is in use or was used just now");
    }
    Ok(gone.freed_bytes)
}
