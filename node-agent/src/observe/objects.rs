//! Environments, caches and namespaces from files: a catalogue without an API server.
//! Never serves half of them: one file that cannot be read stops all.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crds::{
    catalogue::{Catalogue, Collision},
    manifest::{self, ManifestError},
};

/// Why the files make no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Manifest { path: PathBuf, source: Box<ManifestError> },
    #[error("{}", path.display())]
    Collision { path: PathBuf, source: Collision },
}

/// Reads all files into one catalogue. An object whose fields make no sense is in it, with what is wrong.
///
/// # Errors
/// A file that cannot be read or understood, or an object that is there twice; the file is named.
pub fn read(files: &[PathBuf]) -> Result<Catalogue, ObjectsError> {
    let mut catalogue = Catalogue::default();
    for path in files {
        let text = text(path).map_err(|source| ObjectsError::Read {
            path: path.clone(),
            source,
        })?;
        let manifests = manifest::parse(&text).map_err(|source| ObjectsError::Manifest {
            path: path.clone(),
            source: Box::new(source),
        })?;
        let added = manifests.iter().try_for_each(|manifest| catalogue.add(manifest));
        added.map_err(|source| ObjectsError::Collision {
            path: path.clone(),
            source,
        })?;
    }
    Ok(catalogue)
}

/// One byte more than is allowed shows that there is more; a device that never ends is not read to the end.
fn text(path: &Path) -> io::Result<String> {
    let longest = u64::try_from(manifest::LONGEST).unwrap_or(u64::MAX);
    let mut text = String::new();
    File::open(path)?.take(longest + 1).read_to_string(&mut text)?;
    Ok(text)
}
