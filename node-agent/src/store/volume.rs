//! The records of volumes: what is published where. One small file each, durable before it counts.
//! Never lists more than the names of files where one volume is asked for: a node has a thousand.

use std::{fs, io, path::Path};

use super::{NodeStore, StoreError, list, state::read_json, sync_folder};
use crate::snapshot::{
    view::ViewDigest,
    volume::{VolumeId, VolumeRecord, file_name},
};

impl NodeStore {
    /// Writes a record, in place of the one for the same volume and target.
    pub fn keep_volume(&self, record: &VolumeRecord) -> Result<(), StoreError> {
        let folder = self.layout().volumes();
        let path = folder.join(record.file_name());
        let text = serde_json::to_vec(record).map_err(|source| StoreError::BadList {
            path: path.clone(),
            source,
        })?;
        let work = self.workspace()?;
        let staged = work.path().join("record");
        let writing = |source| StoreError::Write {
            path: staged.clone(),
            source,
        };
        fs::write(&staged, text).map_err(writing)?;
        fs::File::open(&staged)
            .and_then(|file| file.sync_all())
            .map_err(writing)?;
        fs::rename(&staged, &path).map_err(|source| StoreError::Move {
            from: staged.clone(),
            to: path,
            source,
        })?;
        sync_folder(&folder)?;
        work.finish()
    }

    /// The records of one volume, one for each target.
    pub fn volume(&self, id: &VolumeId) -> Result<Vec<VolumeRecord>, StoreError> {
        let names = list(&self.layout().volumes())?;
        let own = names.iter().filter(|name| name.starts_with(id.as_str()));
        self.read_volumes(own)
    }

    /// Every record. Those that cannot be read are told of in the log and left out.
    pub fn volume_records(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let names = list(&self.layout().volumes())?;
        self.read_volumes(names.iter().filter(|name| name.ends_with(".json")))
    }

    fn read_volumes<'a>(&self, names: impl Iterator<Item = &'a String>) -> Result<Vec<VolumeRecord>, StoreError> {
        let mut records = Vec::new();
        for name in names {
            match read_json(&self.layout().volumes().join(name)) {
                Ok(record) => records.extend(record),
                Err(StoreError::BadList { path, source }) => {
                    tracing::warn!(path = %path.display(), error = %source, "a volume's record cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// Forgets a volume at a target. Nothing there is as good.
    pub fn forget_volume(&self, id: &VolumeId, target: &Path) -> Result<(), StoreError> {
        let folder = self.layout().volumes();
        let path = folder.join(file_name(id, target));
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::Write { path, source }),
        }
    }

    /// What a built view holds; nothing where it is not there.
    pub(crate) fn view_record(&self, digest: &ViewDigest) -> Result<Option<super::ViewRecord>, StoreError> {
        read_json(&self.layout().view_record(digest))
    }
}
