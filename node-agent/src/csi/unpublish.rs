//! Taking a volume away, and its figures. Needs no network, no API server, no catalogue and no record.
//! Never removes what is not ours: a folder with something in it, or a mount of somebody else, stays.

use std::path::{Path, PathBuf};

use tokio::{task::spawn_blocking, time::Instant};

use super::{Parts, Volumes, failure::CallError};
use crate::{
    act::view::{self, Target, TargetError, ViewError},
    plan::volume::{self, is_ours},
    snapshot::{
        happening::{Happening, What},
        volume::{VolumeId, VolumeRecord},
    },
    store::{NodeStore, StoreError, mounts},
};

impl Volumes {
    /// Unpublishes: afterwards nothing is mounted at the target, and the folder is gone.
    pub async fn unpublish(&self, volume_id: &str, target: &str) -> Result<(), CallError> {
        let started = Instant::now();
        let id = volume::volume_id(volume_id)?;
        let target = volume::target_path(target, &self.parts.pods)?;
        let flight = self.flights.displace(&id).await.ok_or(CallError::UnderWay)?;
        let (volumes, store) = (self.clone(), self.store().clone());
        let record = spawn_blocking(move || {
            let _flight = flight;
            let Parts { pods, node_name, .. } = &*volumes.parts;
            take_away(&store, &id, (pods, &target), node_name)
        });
        let record = record.await.map_err(|source| CallError::TaskDied { source })??;
        self.tell(Happening {
            pod: record.as_ref().map(|record| record.pod.clone()),
            environment: record.map(|record| record.environment),
            what: What::Unpublished {
                took: started.elapsed(),
            },
        });
        Ok(())
    }

    /// Bytes of what a volume shows. A view is full by nature: nothing can be added to it.
    pub async fn stats(&self, volume_id: &str, path: &str) -> Result<u64, CallError> {
        let id = volume::volume_id(volume_id)?;
        if path.is_empty() {
            return Err(CallError::BadRequest(volume::BadRequest {
                field: "volume_path",
                problem: volume::Problem::Missing,
            }));
        }
        let path = PathBuf::from(path);
        let store = self.store().clone();
        let wanted = path.clone();
        let bytes = self.blocking(move || bytes_of(&store, &id, &wanted)).await?;
        bytes.ok_or(CallError::NotPublished { path })
    }
}

/// The mount goes first and the record last: a crash in between leaves a record that explains what is there.
fn take_away(
    store: &NodeStore,
    id: &VolumeId,
    (pods, target): (&Path, &Path),
    node: &str,
) -> Result<Option<VolumeRecord>, CallError> {
    let of_store = |source| CallError::Store {
        node: node.to_owned(),
        source,
    };
    // A record that cannot be read must not keep a pod from going.
    let records = store.volume(id).unwrap_or_else(|error| {
        tracing::warn!(volume.id = %id, error = %error, "the volume's record cannot be read");
        Vec::new()
    });
    match unmounted(pods, target) {
        // The folder that it was in is gone, and with it anything that could be mounted there.
        Ok(()) | Err(ViewError::Target(TargetError::NoParent { .. })) => {}
        Err(ViewError::TargetBusy { target }) => {
            let node = node.to_owned();
            return Err(CallError::Foreign { target, node });
        }
        Err(ViewError::Target(source)) => {
            let node = node.to_owned();
            return Err(CallError::Target { node, source });
        }
        Err(source) => {
            let node = node.to_owned();
            return Err(CallError::TakeAway { node, source });
        }
    }
    store.forget_volume(id, target).map_err(of_store)?;
    Ok(records.into_iter().find(|record| record.target == target))
}

fn unmounted(pods: &Path, target: &Path) -> Result<(), ViewError> {
    let target = Target::below(pods, target)?;
    let at = target.at()?;
    if mounts::at(&at)?.is_some_and(|mount| !is_ours(&mount)) {
        return Err(ViewError::TargetBusy { target: at });
    }
    view::unpublish(&target)
}

fn bytes_of(store: &NodeStore, id: &VolumeId, path: &Path) -> Result<Option<u64>, StoreError> {
    let records = store.volume(id)?;
    let Some(record) = records.into_iter().find(|record| record.target == path) else {
        return Ok(None);
    };
    let Some(view) = store.view_record(&record.view)? else {
        return Ok(None);
    };
    let sizes = view.paths.iter().filter_map(|path| store.record(path).ok().flatten());
    Ok(Some(sizes.map(|record| record.nar_size()).sum()))
}
