//! Walks a store path and collects what selection wants to know of it.
//! Never follows a link, never leaves the folder, never fails for one bad file: that file is named instead.

use std::{
    error::Error,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crds::{
    domain::cuda::CudaVersion,
    selection::{CompatLibrary, Contents, FileCode},
};
use rustix::fs::FileType;
use serde::Serialize;

use super::{FatbinError, read};
use crate::{
    elf::{Elf, ElfError},
    elf_note::{self, NoteError},
    rooted::Root,
};

/// Folders within folders that are walked.
const DEPTH_LIMIT: usize = 64;

/// Everything found in one store path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scan {
    /// For selection.
    pub contents: Contents,
    /// CUDA releases of the runtimes in it, by the file name `libcudart.so.<major>.<minor>.<build>`.
    pub runtimes: Vec<CudaVersion>,
    /// Files that look like libraries but could not be read to the end, and why.
    pub unreadable: Vec<Unreadable>,
    /// Something called libcuda that is only for linking: on a run-time path it answers 34 to everything.
    pub stubs: Vec<String>,
    /// ELF files looked into.
    pub elf_files: u64,
    #[serde(skip)]
    compats: Vec<CompatLibrary>,
    /// Whether it was the disk that failed, which may do better another time.
    #[serde(skip)]
    pub disk_failed: bool,
}

/// A file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    pub path: String,
    pub why: String,
}

/// Why a store path could not be walked at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("{} lies more than {DEPTH_LIMIT} folders deep", path.display())]
    TooDeep { path: PathBuf },
}

/// Why one file could not be read to the end.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot open it")]
    Open(#[source] io::Error),
    #[error("its ELF headers are broken")]
    Elf(#[source] ElfError),
    #[error("its GPU code is broken")]
    Fatbin(#[source] FatbinError),
    #[error("its compatibility note is broken")]
    Note(#[source] NoteError),
}

impl FileError {
    /// Whether the disk or the kernel refused, and not the file's own bytes.
    fn is_of_the_disk(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error().is_some();
            }
            cause = error.source();
        }
        false
    }
}

/// Scans the file or folder `path`; files are named in the result as if it stood at `shown` (its store path). A link carries
/// nothing: what it leads to is its own store path's.
pub fn scan_store_path(path: &Path, shown: &Path) -> Result<Scan, ScanError> {
    let open = |source| ScanError::Open {
        path: path.to_owned(),
        source,
    };
    let mut scan = Scan::default();
    let kind = path.symlink_metadata().map_err(open)?.file_type();
    if kind.is_symlink() {
        return Ok(scan.finish());
    }
    if !kind.is_dir() {
        // A store path that is a single file: its parent is opened in its place, and only that name looked at.
        let (parent, name) = (
            path.parent().unwrap_or(Path::new("/")),
            path.file_name().unwrap_or_default(),
        );
        let root = Root::open(parent).map_err(open)?;
        scan.take(&root, Path::new(name), shown);
        return Ok(scan.finish());
    }
    let root = Root::open(path).map_err(open)?;
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let list = |source| ScanError::List {
            path: path.join(&folder),
            source,
        };
        for (name, kind) in root.list_plain(&folder).map_err(list)? {
            let below = folder.join(name);
            // Some file systems do not say in a listing what they list.
            let is_folder = kind == FileType::Directory || kind == FileType::Unknown && root.list_plain(&below).is_ok();
            if !is_folder && (kind == FileType::RegularFile || kind == FileType::Unknown) {
                scan.take(&root, &below, &shown.join(&below));
            } else if is_folder {
                if below.components().count() > DEPTH_LIMIT {
                    return Err(ScanError::TooDeep { path: path.join(below) });
                }
                folders.push(below);
            }
        }
    }
    Ok(scan.finish())
}

/// What several store paths of one closure carry together.
pub fn merge<'a>(parts: impl IntoIterator<Item = &'a Contents>) -> Contents {
    let mut whole = Contents::default();
    let mut compats = Vec::new();
    for part in parts {
        whole.code.extend(&part.code);
        whole.files.extend(part.files.iter().cloned());
        compats.extend(part.compat.clone());
        whole.unreadable.extend(part.unreadable.iter().cloned());
    }
    whole.unreadable.sort();
    whole.files.sort_by(|a, b| a.path.cmp(&b.path));
    whole.compat = only(compats);
    whole
}

/// Two of them would make the choice depend on a search path; then neither is offered.
fn only(compats: Vec<CompatLibrary>) -> Option<CompatLibrary> {
    let (first, rest) = compats.split_first()?;
    rest.iter().all(|other| other == first).then(|| first.clone())
}

impl Scan {
    fn take(&mut self, root: &Root, below: &Path, shown: &Path) {
        if let Err(error) = self.try_take(root, below, shown) {
            let mut why = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                why.push_str(": ");
                why.push_str(&error.to_string());
                cause = error.source();
            }
            let path = shown.to_string_lossy().into_owned();
            self.disk_failed |= error.is_of_the_disk();
            self.contents.unreadable.push(path.clone());
            self.unreadable.push(Unreadable { path, why });
        }
    }

    fn try_take(&mut self, root: &Root, below: &Path, shown: &Path) -> Result<(), FileError> {
        let mut file = root.open_plain_file(below).map_err(FileError::Open)?;
        if !is_elf(&mut file).map_err(FileError::Open)? {
            return Ok(());
        }
        let mut elf = match Elf::open(file) {
            Ok(elf) => elf,
            // A 32-bit or big-endian library cannot carry CUDA code for the systems served here.
            Err(ElfError::OtherFormat { .. } | ElfError::NotElf) => return Ok(()),
            Err(error) => return Err(FileError::Elf(error)),
        };
        self.elf_files += 1;
        let name = shown.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.runtimes.extend(runtime(name));
        if name.starts_with("libcuda.so") {
            self.take_libcuda(&mut elf, name, shown)?;
        }
        let found = read(&mut elf).map_err(FileError::Fatbin)?;
        if found.entries > 0 {
            self.contents.code.extend(&found.code);
            let path = shown.to_string_lossy().into_owned();
            self.contents.files.push(FileCode {
                path,
                code: found.code,
                needed: found.needed,
            });
        }
        Ok(())
    }

    fn take_libcuda(&mut self, elf: &mut Elf<File>, name: &str, shown: &Path) -> Result<(), FileError> {
        let version = name
            .strip_prefix("libcuda.so.")
            .and_then(|version| version.parse().ok());
        let note = elf_note::compat_note(elf).map_err(FileError::Note)?;
        let in_stubs = shown.components().any(|part| part.as_os_str() == "stubs");
        if in_stubs || (version.is_none() && note.is_none()) {
            self.stubs.push(shown.to_string_lossy().into_owned());
        } else {
            self.compats.push(CompatLibrary { version, note });
        }
        Ok(())
    }

    fn finish(mut self) -> Self {
        self.contents.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.contents.unreadable.sort();
        self.contents.compat = only(std::mem::take(&mut self.compats));
        self.runtimes.sort();
        self.runtimes.dedup();
        self
    }
}

fn is_elf(file: &mut File) -> io::Result<bool> {
    let mut magic = [0; 4];
    let read = match file.read_exact(&mut magic) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(read && &magic == b"\x7fELF")
}

/// `libcudart.so.12.8.90` is of CUDA 12.8; `libcudart.so.12` says only the major and counts for nothing.
fn runtime(name: &str) -> Option<CudaVersion> {
    let version = name.strip_prefix("libcudart.so.")?;
    let (release, build) = version.rsplit_once('.')?;
    build.parse::<u32>().ok()?;
    release.parse().ok()
}
