//! Which GPU code store paths carry: read from their files once, remembered beside their records.
//! Never trusts what it remembered without understanding all of it; what cannot be read back is scanned again.

use std::{fs, io, path::PathBuf};

use crds::{domain::store_path::StorePath, selection::Contents};
use serde::{Deserialize, Serialize};

use crate::{
    fatbin::scan::{self, ScanError},
    store::{NodeStore, StoreError},
};

/// The form of what is remembered; another number is scanned again.
const FORMAT: u32 = 2;

/// Why the contents of a store path are not known.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    #[error("reading which GPU code {path} carries")]
    Scan { path: StorePath, source: ScanError },
    #[error("remembering which GPU code {path} carries")]
    Workspace { path: StorePath, source: StoreError },
    #[error("writing {}", file.display())]
    Write { file: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    format: u32,
    contents: Contents,
}

/// What all of `closure`, which must be in the store, carries together.
pub fn of_closure<'a>(
    store: &NodeStore,
    closure: impl IntoIterator<Item = &'a StorePath>,
) -> Result<Contents, ContentsError> {
    let parts = closure
        .into_iter()
        .map(|path| of_path(store, path))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(scan::merge(&parts))
}

/// What one store path carries.
pub fn of_path(store: &NodeStore, path: &StorePath) -> Result<Contents, ContentsError> {
    let file = store.layout().scan(path);
    if let Ok(bytes) = fs::read(&file)
        && let Ok(remembered) = serde_json::from_slice::<Remembered>(&bytes)
        && remembered.format == FORMAT
    {
        return Ok(remembered.contents);
    }
    let shown = PathBuf::from(path.to_string());
    let scan = scan::scan_store_path(&store.layout().files(path), &shown).map_err(|source| ContentsError::Scan {
        path: path.clone(),
        source,
    })?;
    for unreadable in &scan.unreadable {
        tracing::warn!(store.path = %path, file = unreadable.path, why = unreadable.why, "a file's GPU code could not be read");
    }
    // What the disk did not give may be read the next time; a broken library stays as it is.
    if !scan.disk_failed {
        remember(store, path, &file, &scan.contents)?;
    }
    Ok(scan.contents)
}

/// Written whole or not at all; not made durable, as it can be read from the files again.
fn remember(store: &NodeStore, path: &StorePath, file: &PathBuf, contents: &Contents) -> Result<(), ContentsError> {
    let failed = |source| ContentsError::Workspace {
        path: path.clone(),
        source,
    };
    let write = |source| ContentsError::Write {
        file: file.clone(),
        source,
    };
    let text = serde_json::to_vec(&Remembered {
        format: FORMAT,
        contents: contents.clone(),
    })
    .map_err(|error| write(error.into()))?;
    let workspace = store.workspace().map_err(failed)?;
    let staged = workspace.path().join("scan.json");
    fs::write(&staged, text)
        .and_then(|()| fs::rename(&staged, file))
        .map_err(write)?;
    workspace.finish().map_err(failed)
}
