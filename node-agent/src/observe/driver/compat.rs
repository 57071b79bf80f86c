//! The forward-compatibility libraries of a store path.
//! Never follows a link out of that store path; whether they may be used is selection's to say.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{library, library::LibraryError, places};
use crate::{
    rooted::Root,
    snapshot::driver::{CompatFiles, Found},
};

/// Folders of a store path in which compat libraries lie.
const COMPAT_FOLDERS: [&str; 2] = ["/compat", "/lib"];

/// Why the compat libraries of a store path cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum CompatError {
    #[error("cannot look below {}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("no libcuda of a driver in `compat` or `lib` of {}", path.display())]
    NoLibcuda { path: PathBuf },
    #[error("cannot read the compat libraries of {}", path.display())]
    Library { path: PathBuf, source: LibraryError },
}

/// Lists the forward-compatibility libraries among the files of a store path, which lie at `path`.
pub fn compat_files(path: &Path) -> Result<CompatFiles, CompatError> {
    let own = || path.to_owned();
    // A store path may be a link itself, and lead anywhere.
    let root = Root::open_plain(path).map_err(|source| CompatError::Root { path: own(), source })?;
    let found = COMPAT_FOLDERS
        .iter()
        .find_map(|folder| match places::libcuda_in(&root, Path::new(folder)) {
            Ok(Found::Library { file, version }) => Some((file, version)),
            Ok(Found::Absent | Found::Nothing | Found::Stub { .. } | Found::Unreadable { .. }) | Err(_) => None,
        });
    let (file, version) = found.ok_or_else(|| CompatError::NoLibcuda { path: own() })?;
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let listing = library::list(&root, &directory).map_err(|source| CompatError::Library { path: own(), source })?;
    if let Some(source) = listing.broken.into_iter().next() {
        return Err(CompatError::Library { path: own(), source });
    }
    Ok(CompatFiles {
        directory,
        version,
        files: listing.files,
    })
}
