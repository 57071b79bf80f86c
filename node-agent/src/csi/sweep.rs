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
    snapshot::{
        happening::{Happening, What},
        volume::VolumeRecord,
    },
    store::{NodeStore, StoreError, mounts},
};

/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(60);
/// More looks at what a first one could not explain.
const LOOKS: usize = 2;

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
            Ok(swept) => volumes.tell_of_sweep(swept),
            Err(error) => tracing::warn!(%error, "the task that sweeps died"),
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            Ok(()) = spec.changed() => {}
        }
    }
}

/// What came of a sweep.
#[derive(Debug)]
pub struct Swept {
    /// Volumes whose pods are gone, whatever else came of it.
    pub forgotten: Vec<VolumeRecord>,
    /// Bytes of garbage that went; nothing where none may go.
    pub freed: Result<Option<u64>, SweepError>,
}

impl Volumes {
    fn tell_of_sweep(&self, swept: Swept) {
        for record in swept.forgotten {
            self.tell(Happening {
                pod: Some(record.pod),
                environment: Some(record.environment),
                what: What::Forgotten,
            });
        }
        match swept.freed {
            Ok(None) => {}
            Ok(Some(freed_bytes)) => self.tell(Happening {
                pod: None,
                environment: None,
                what: What::Collected {
                    freed_bytes,
                    at: wall_clock(),
                },
            }),
            Err(error) => tracing::warn!(error = %chain(&error), "a sweep failed; the next one tries again"),
        }
    }
}

/// One sweep, and garbage collection where the disk is short or the store has more than `most` bytes.
pub fn sweep(store: &NodeStore, pods: &Path, most: Option<u64>, now: SystemTime) -> Swept {
    let mut forgotten = Vec::new();
    let freed = sweep_into(&mut forgotten, (store, pods), most, now);
    Swept { forgotten, freed }
}

fn sweep_into(
    forgotten: &mut Vec<VolumeRecord>,
    (store, pods): (&NodeStore, &Path),
    most: Option<u64>,
    now: SystemTime,
) -> Result<Option<u64>, SweepError> {
    let (plan, mut records) = look(store, pods, now)?;
    let mut failed = None;
    for step in &plan.steps {
        match (take(step, store, pods), step) {
            (Err(error), _) => {
                failed.get_or_insert(error);
            }
            (Ok(()), Sweep::Forget { volume, target }) => {
                let gone = |record: &mut VolumeRecord| record.volume == *volume && record.target == *target;
                forgotten.extend(records.extract_if(.., gone));
            }
            (Ok(()), Sweep::Unmount { .. } | Sweep::UnmountView { .. }) => {}
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

/// The plan, and the records that it is about. A volume that comes while it is being looked has a mount that no record
/// explained yet: looked at again, it has one.
fn look(store: &NodeStore, pods: &Path, now: SystemTime) -> Result<(SweepPlan, Vec<VolumeRecord>), SweepError> {
    let mut found = look_once(store, pods, now)?;
    for _ in 0..LOOKS {
        if found.0.unexplained.is_empty() {
            break;
        }
        found = look_once(store, pods, now)?;
    }
    Ok(found)
}

fn look_once(store: &NodeStore, pods: &Path, now: SystemTime) -> Result<(SweepPlan, Vec<VolumeRecord>), SweepError> {
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
    let plan = sweep::plan(&found, now);
    Ok((plan, records))
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
        Sweep::UnmountView { view } => view::unmount_unused(view, store).map_err(|source| SweepError::View { source }),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crds::catalogue::EnvironmentKey;

    use super::*;
    use crate::snapshot::{happening::Pod, view::ViewKind, volume::VolumeId};

    #[test]
    fn a_sweep_names_the_volumes_of_pods_that_are_gone_even_where_another_step_fails() {
        let folder = tempfile::tempdir().unwrap();
        let (store, pods) = (
            NodeStore::open(&folder.path().join("state")).unwrap(),
            folder.path().join("pods"),
        );
        let record = |uid: &str| VolumeRecord {
            volume: VolumeId::new(uid),
            target: pods.join(uid).join("volumes/kubernetes.io~csi/cuda/mount"),
            fingerprint: "same".to_owned(),
            view: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            kind: ViewKind::Overlay,
            bridge: None,
            pod: Pod {
                namespace: "team-a".to_owned(),
                name: uid.to_owned(),
                uid: uid.to_owned(),
            },
            environment: EnvironmentKey {
                namespace: Some("team-a".to_owned()),
                name: "pytorch".to_owned(),
            },
            variants: BTreeMap::new(),
        };
        let [stays, gone] = ["stays", "gone"].map(record);
        for record in [&stays, &gone] {
            store.keep_volume(record).unwrap();
        }
        fs::create_dir_all(pods.join("stays")).unwrap();
        let swept = sweep(&store, &pods, None, wall_clock());
        assert!(matches!(swept.freed, Ok(Some(0))), "{:?}", swept.freed);
        assert_eq!(swept.forgotten, std::slice::from_ref(&gone));
        assert_eq!(store.volume_records().unwrap(), std::slice::from_ref(&stays));
        assert_eq!(sweep(&store, &pods, None, wall_clock()).forgotten, []);

        // A record that names a place outside kubelet's folder: nothing is taken away there.
        let other = VolumeRecord {
            target: folder.path().join("elsewhere/mount"),
            ..record("other")
        };
        for record in [&other, &gone] {
            store.keep_volume(record).unwrap();
        }
        let swept = sweep(&store, &pods, None, wall_clock());
        assert!(
            matches!(swept.freed, Err(SweepError::Unmount { .. })),
            "{:?}",
            swept.freed
        );
        assert_eq!(swept.forgotten, [gone]);
    }
}
