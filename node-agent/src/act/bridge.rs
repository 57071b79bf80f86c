//! Copies a planned driver bridge and gives the libraries that open siblings a RUNPATH of `$ORIGIN`.
//! Never executes or loads a library, never follows a link in the destination, holds nothing open when it returns.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crds::selection::CompatNote;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};

use crate::{
    elf::{Dynamic, Elf, ElfError},
    elf_note::{self, NoteError},
    plan::bridge::{BridgeFile, BridgePlan, Source},
    rooted::Root,
};

/// Where the bridge's libraries lie below its layer: the view shows `driver` at `/run/opengl-driver`.
const FOLDERS: [&str; 2] = ["driver", "lib"];
/// Libraries that are rewritten are read whole; the largest seen has 112 MB.
const REWRITE_LIMIT: u64 = 1 << 30;
const ORIGIN: &str = "$ORIGIN";

/// Open roots to copy from. Drop them as soon as the bridge is built: an open root blocks a driver's upgrade.
#[derive(Debug)]
pub struct Sources {
    /// The driver's own root.
    pub driver: Root,
    /// The folder of the compat store path's files.
    pub compat: Option<Root>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Built {
    pub files: usize,
    pub bytes: u64,
}

/// Why a bridge could not be built. What was written so far stays in the destination, which is the caller's to remove.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("opening the driver's folder {}", path.display())]
    OpenDriver { path: PathBuf, source: io::Error },
    #[error("opening the compat libraries' store path {}", path.display())]
    OpenCompat { path: PathBuf, source: io::Error },
    #[error("the plan takes {name} from a compat store path, and none was given")]
    NoCompatSource { name: String },
    #[error("cannot read the driver's {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {found} bytes, {planned} when it was looked at: the driver is being replaced", path.display())]
    Changed { path: PathBuf, planned: u64, found: u64 },
    #[error("{name} has {size} bytes, at most {REWRITE_LIMIT} can be rewritten")]
    TooLarge { name: String, size: u64 },
    #[error("cannot give {name} a RUNPATH")]
    Rewrite {
        name: String,
        source: object_rewrite::Error,
    },
    #[error("cannot write {name}")]
    Write { name: String, source: io::Error },
    #[error("cannot read {name} back")]
    ReadBack { name: String, source: ElfError },
    #[error("cannot read the compatibility note of {name}")]
    Note { name: String, source: NoteError },
    #[error("{name} is not what it was after rewriting: {what} differs")]
    Damaged { name: String, what: &'static str },
}

/// Builds the bridge as `driver/lib` inside the empty folder `destination`. Durable when it returns: every file, then its
/// folder, has been synced.
pub fn build(plan: &BridgePlan, sources: &Sources, destination: BorrowedFd<'_>) -> Result<Built, BuildError> {
    let driver = make_folder(destination, FOLDERS[0]).map_err(writing(FOLDERS[0]))?;
    let lib = make_folder(driver.as_fd(), FOLDERS[1]).map_err(writing(FOLDERS[1]))?;
    let mut built = Built::default();
    for file in &plan.files {
        let source = match (file.source, &sources.compat) {
            (Source::Driver, _) => &sources.driver,
            (Source::Compat, Some(compat)) => compat,
            (Source::Compat, None) => {
                return Err(BuildError::NoCompatSource {
                    name: file.name.clone(),
                });
            }
        };
        built.bytes += place(file, source, lib.as_fd())?;
        built.files += 1;
    }
    for link in &plan.links {
        let made = rustix::fs::symlinkat(&link.target, &lib, &link.name)
            .and_then(|()| rustix::fs::utimensat(&lib, &link.name, &canonical_times(), AtFlags::SYMLINK_NOFOLLOW));
        made.map_err(|error| writing(&link.name)(error.into()))?;
    }
    for (folder, name) in [(&lib, FOLDERS[1]), (&driver, FOLDERS[0])] {
        seal(folder, 0o555).map_err(writing(name))?;
    }
    Ok(built)
}

/// Where the libraries of the bridge in the folder `bridge` lie.
pub(super) fn libraries(bridge: &Path) -> PathBuf {
    FOLDERS.iter().fold(bridge.to_owned(), |path, folder| path.join(folder))
}

/// Copies one file, rewritten if it must find its siblings, and answers how many bytes it has now.
fn place(file: &BridgeFile, source: &Root, lib: BorrowedFd<'_>) -> Result<u64, BuildError> {
    let read = |source| BuildError::Read {
        path: file.path.clone(),
        source,
    };
    let mut original = source.open_file(&file.path).map_err(read)?;
    let found = original.metadata().map_err(read)?.len();
    if found != file.size {
        return Err(BuildError::Changed {
            path: file.path.clone(),
            planned: file.size,
            found,
        });
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = rustix::fs::openat(lib, &file.name, flags, Mode::RUSR | Mode::WUSR);
    let mut copy = File::from(copy.map_err(|error| writing(&file.name)(error.into()))?);
    if file.finds_siblings {
        let bytes = rewrite(file, &mut original, &copy)?;
        verify(&file.name, &bytes, &copy)?;
    } else {
        // The kernel copies where it can, without the bytes passing through this process.
        let copied = io::copy(&mut original, &mut copy).map_err(writing(&file.name))?;
        if copied != file.size {
            return Err(BuildError::Changed {
                path: file.path.clone(),
                planned: file.size,
                found: copied,
            });
        }
    }
    let size = copy.metadata().map_err(writing(&file.name))?.len();
    seal(&copy.into(), 0o444).map_err(writing(&file.name))?;
    Ok(size)
}

/// Writes the library with its RUNPATH set, and answers the original's bytes.
fn rewrite(file: &BridgeFile, original: &mut File, copy: &File) -> Result<Vec<u8>, BuildError> {
    if file.size > REWRITE_LIMIT {
        return Err(BuildError::TooLarge {
            name: file.name.clone(),
            size: file.size,
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or(0));
    let read = |source| BuildError::Read {
        path: file.path.clone(),
        source,
    };
    original.take(file.size).read_to_end(&mut bytes).map_err(read)?;
    let damaged = |source| BuildError::Rewrite {
        name: file.name.clone(),
        source,
    };
    let mut rewriter = object_rewrite::Rewriter::read(&bytes).map_err(damaged)?;
    rewriter.elf_set_runpath(ORIGIN.into()).map_err(damaged)?;
    let mut out = BufWriter::with_capacity(256 << 10, copy);
    rewriter.write(&mut out).map_err(damaged)?;
    out.flush().map_err(writing(&file.name))?;
    Ok(bytes)
}

/// Reads the rewritten library as the loader would, and holds it against the original.
fn verify(name: &str, original: &[u8], copy: &File) -> Result<(), BuildError> {
    let before = identity(name, io::Cursor::new(original))?;
    let after = identity(name, copy)?;
    let wanted = Dynamic {
        runpath: Some(ORIGIN.to_owned()),
        ..before.dynamic
    };
    let differs = [
        (
            "the RUNPATH",
            wanted.runpath != after.dynamic.runpath || after.dynamic.rpath.is_some(),
        ),
        ("the soname", wanted.soname != after.dynamic.soname),
        ("the list of needed libraries", wanted.needed != after.dynamic.needed),
        ("the compatibility note", before.note != after.note),
        ("the build id", before.build_id != after.build_id),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(BuildError::Damaged {
            name: name.to_owned(),
            what,
        }),
        None => Ok(()),
    }
}

struct Identity {
    dynamic: Dynamic,
    note: Option<CompatNote>,
    build_id: Option<String>,
}

fn identity(name: &str, file: impl Read + io::Seek) -> Result<Identity, BuildError> {
    let read_back = |source| BuildError::ReadBack {
        name: name.to_owned(),
        source,
    };
    let mut elf = Elf::open(file).map_err(read_back)?;
    let dynamic = elf.dynamic().map_err(read_back)?.unwrap_or_default();
    let build_id = elf_note::build_id(&mut elf).map_err(read_back)?;
    let note = elf_note::compat_note(&mut elf).map_err(|source| BuildError::Note {
        name: name.to_owned(),
        source,
    })?;
    Ok(Identity {
        dynamic,
        note,
        build_id,
    })
}

fn make_folder(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Mode, time stamp (mtime 1, as in a Nix store), then durable.
fn seal(fd: &OwnedFd, mode: u32) -> io::Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    rustix::fs::futimens(fd, &canonical_times())?;
    Ok(rustix::fs::fsync(fd)?)
}

fn canonical_times() -> Timestamps {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    Timestamps {
        last_access: second,
        last_modification: second,
    }
}

fn writing(name: &str) -> impl Fn(io::Error) -> BuildError + use<'_> {
    move |source| BuildError::Write {
        name: name.to_owned(),
        source,
    }
}

impl Sources {
    /// Opens the driver's root below the root that was searched, and the compat store path's files if there are any.
    pub fn open(searched: &Path, driver_root: &Path, compat: Option<&Path>) -> Result<Self, BuildError> {
        let driver = Root::open(searched).and_then(|root| root.chroot(driver_root));
        let driver = driver.map_err(|source| BuildError::OpenDriver {
            path: searched.join(driver_root.strip_prefix("/").unwrap_or(driver_root)),
            source,
        })?;
        // A store path may be a link itself, and lead anywhere.
        let compat = compat.map(|path| {
            Root::open_plain(path).map_err(|source| BuildError::OpenCompat {
                path: path.to_owned(),
                source,
            })
        });
        Ok(Self {
            driver,
            compat: compat.transpose()?,
        })
    }
}
