//! The last catalogue that the API server gave, in `<state>/catalogue.json`: what an agent that starts while the API server
//! is away goes by. Never believed where a byte of it changed, or where another version of this file's form wrote it.

use std::{fs, io, io::Read as _, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use sha2::{Digest, Sha256};

use super::{NodeStore, StoreError, sync_folder};
use crate::snapshot::cluster::ObjectsDocument;

/// The first line: form and version, then the hash of what follows.
const HEAD: &str = "cudaenv-catalogue 1 sha256:";
/// Larger than the objects of any cluster that an API server serves well.
const LARGEST: u64 = 64 << 20;

/// What stood in the file cannot be used. The agent then waits for the API server.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has more than {LARGEST} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} was written by another version, or cut short, or changed", path.display())]
    NotSealed { path: PathBuf },
    #[error("{} holds no objects", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NodeStore {
    /// Keeps the objects of a cluster, durably, in place of those kept before.
    ///
    /// # Errors
    /// The step that failed; what was kept before is then still there.
    pub fn keep_objects(&self, document: &ObjectsDocument) -> Result<(), KeptError> {
        let path = self.layout().catalogue();
        let body = serde_json::to_vec(document).map_err(|source| KeptError::Form {
            path: path.clone(),
            source,
        })?;
        if body.len() as u64 > LARGEST {
            return Err(KeptError::TooLarge { path });
        }
        let work = self.workspace()?;
        let staged = work.path().join("catalogue");
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)
            .and_then(|mut file| {
                file.write_all(format!("{HEAD}{}\n", hexadecimal(&body)).as_bytes())?;
                file.write_all(&body)?;
                file.sync_all()
            });
        written.map_err(|source| StoreError::Write {
            path: staged.clone(),
            source,
        })?;
        fs::rename(&staged, &path).map_err(|source| StoreError::Move {
            from: staged,
            to: path,
            source,
        })?;
        sync_folder(self.layout().state())?;
        work.finish()?;
        Ok(())
    }

    /// The objects that were kept last; nothing where none were.
    ///
    /// # Errors
    /// A file that cannot be read or believed.
    pub fn kept_objects(&self) -> Result<Option<ObjectsDocument>, KeptError> {
        let path = self.layout().catalogue();
        let mut bytes = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(LARGEST + 200).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeptError::Read { path, source }),
        }
        let Some(body) = unsealed(&bytes) else {
            return Err(KeptError::NotSealed { path });
        };
        serde_json::from_slice(body)
            .map(Some)
            .map_err(|source| KeptError::Form { path, source })
    }
}

fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let written = bytes[..line].strip_prefix(HEAD.as_bytes())?;
    let body = &bytes[line + 1..];
    (written == hexadecimal(body).as_bytes()).then_some(body)
}

fn hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_one_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = NodeStore::open(folder.path()).unwrap();
        assert_eq!(store.kept_objects().unwrap(), None);
        let document: ObjectsDocument = serde_json::from_str(
            r#"{"environments": [], "clusterEnvironments": [], "caches": [], "namespaces": {"a": {"tier": "gold"}}}"#,
        )
        .unwrap();
        store.keep_objects(&document).unwrap();
        store.keep_objects(&document).unwrap();
        assert_eq!(store.kept_objects().unwrap(), Some(document));
        assert_eq!(fs::read_dir(store.layout().staging()).unwrap().count(), 0);
        let path = store.layout().catalogue();
        let good = fs::read(&path).unwrap();
        for place in [0, 20, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(store.kept_objects(), Err(KeptError::NotSealed { .. })),
                "{place}"
            );
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        store.kept_objects().unwrap_err();
        fs::write(&path, &good).unwrap();
        store.kept_objects().unwrap();
    }
}
