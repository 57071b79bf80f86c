//! Writes the files that are made from the types: `crdgen CRD-FOLDER [REFERENCE-FOLDER]`.
//! Never touches a file that it did not write: those that no type stands behind any more go only when they carry its header.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crds::generate::{CRD_FOLDER, Generated, HEADER, REFERENCE_FOLDER, crd_files, reference_files};

fn main() -> io::Result<()> {
    let mut folders = std::env::args_os().skip(1).map(PathBuf::from);
    let crd_folder = folders.next().unwrap_or_else(|| CRD_FOLDER.into());
    let reference_folder = folders.next().unwrap_or_else(|| REFERENCE_FOLDER.into());
    replace(&crd_folder, &crd_files().map_err(io::Error::other)?)?;
    write(&reference_folder, &reference_files())
}

/// Writes the files, and takes away what an earlier run wrote and no type stands behind any more.
fn replace(folder: &Path, files: &[Generated]) -> io::Result<()> {
    if folder.exists() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if fs::read(&path).is_ok_and(|text| text.starts_with(HEADER.as_bytes())) {
                fs::remove_file(path)?;
            }
        }
    }
    write(folder, files)
}

fn write(folder: &Path, files: &[Generated]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    files
        .iter()
        .try_for_each(|file| fs::write(folder.join(&file.name), &file.text))
}
