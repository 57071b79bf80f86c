//! The library files of a driver: names, versions, and what their ELF headers say.
//! Never loads one, never reads more than headers.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use crds::{domain::driver::DriverVersion, selection::CompatNote};

use crate::{
    elf::{Elf, ElfError},
    elf_note::{self, NoteError},
    rooted::Root,
    snapshot::driver::LibraryFile,
};

/// Library files of one directory that are looked at; a driver with graphics has about 60.
const FILES_LIMIT: usize = 512;

/// Why a library file could not be described.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("cannot open {}", file.display())]
    Open { file: PathBuf, source: io::Error },
    #[error("cannot list {}", directory.display())]
    List { directory: PathBuf, source: io::Error },
    #[error("cannot read {}", file.display())]
    Elf { file: PathBuf, source: ElfError },
    #[error("cannot read the compatibility note of {}", file.display())]
    Note { file: PathBuf, source: NoteError },
    #[error("{} has more than {FILES_LIMIT} driver libraries", directory.display())]
    TooMany { directory: PathBuf },
}

/// The driver version in a file name `<stem>.so.<version>`.
pub(super) fn version_of(name: &str) -> Option<DriverVersion> {
    name.split_once(".so.").and_then(|(_, version)| version.parse().ok())
}

/// The compatibility note of one library.
pub(super) fn note(root: &Root, file: &Path) -> Result<Option<CompatNote>, LibraryError> {
    let open = |source| LibraryError::Open {
        file: file.to_owned(),
        source,
    };
    let elf = |source| LibraryError::Elf {
        file: file.to_owned(),
        source,
    };
    let mut library = Elf::open(root.open_file(file).map_err(open)?).map_err(elf)?;
    elf_note::compat_note(&mut library).map_err(|source| LibraryError::Note {
        file: file.to_owned(),
        source,
    })
}

/// The driver libraries of one directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Sorted by name.
    pub(super) files: Vec<LibraryFile>,
    /// Files that are called like a library and cannot be read as one.
    pub(super) broken: Vec<LibraryError>,
}

/// Lists the driver libraries in a directory: regular files after links, each once.
pub(super) fn list(root: &Root, directory: &Path) -> Result<Listing, LibraryError> {
    let entries = (root.list(directory)).map_err(|source| LibraryError::List {
        directory: directory.to_owned(),
        source,
    })?;
    let mut listing = Listing::default();
    for (name, _) in entries {
        if !name.to_str().is_some_and(is_driver_library) {
            continue;
        }
        // A link to nowhere, or to what is no file, is no library.
        let Ok(path) = root.resolve(&directory.join(&name)) else {
            continue;
        };
        if listing.files.iter().any(|file| file.path == path) || root.open_file(&path).is_err() {
            continue;
        }
        if listing.files.len() + listing.broken.len() == FILES_LIMIT {
            return Err(LibraryError::TooMany {
                directory: directory.to_owned(),
            });
        }
        match describe(root, path) {
            Ok(file) => listing.files.push(file),
            Err(error) => listing.broken.push(error),
        }
    }
    listing.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

/// Driver libraries for compute are called so; whether a pod needs one is not decided here.
fn is_driver_library(name: &str) -> bool {
    let prefixes = ["libcuda.so", "libcudadebugger.so", "libnvidia-"];
    name.contains(".so") && prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn describe(root: &Root, path: PathBuf) -> Result<LibraryFile, LibraryError> {
    let elf_error = |source| LibraryError::Elf {
        file: path.clone(),
        source,
    };
    let file = root.open_file(&path).map_err(|source| LibraryError::Open {
        file: path.clone(),
        source,
    })?;
    let size = file
        .metadata()
        .map_err(|source| LibraryError::Open {
            file: path.clone(),
            source,
        })?
        .len();
    let mut elf = Elf::open(file).map_err(elf_error)?;
    let dynamic = elf.dynamic().map_err(elf_error)?.unwrap_or_default();
    let build_id = elf_note::build_id(&mut elf).map_err(elf_error)?;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    Ok(LibraryFile {
        name,
        size,
        soname: dynamic.soname,
        needed: dynamic.needed,
        build_id,
        path,
    })
}
