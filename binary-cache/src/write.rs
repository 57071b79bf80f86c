//! Writing a binary cache into a folder, as real Nix reads it: nix-cache-info, NARs, signed narinfos.
//! Never shows a half-written file: everything appears by rename, a narinfo only after its NAR.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crds::domain::store_path::{STORE_DIR, StorePath, StorePathError};
use sha2::{Digest, Sha256};

use crate::{
    cache_info::MAX_PRIORITY,
    compression::{Compression, Encoder},
    hash::{FileHash, NarHash},
    key::SecretKey,
    nar::{self, DumpError},
    narinfo::{Download, DownloadUrl, Fields, NarInfo, content_address},
    nix32,
};

/// A cache folder that is being filled. Several writers may fill one folder at the same time, in one process or many, on
/// one machine or several that share the folder.
#[derive(Debug)]
pub struct CacheWriter {
    folder: PathBuf,
    temporary: AtomicU64,
}

/// What signs a path besides its contents: what the writer must be told.
#[derive(Debug, Clone)]
pub struct Entry {
    pub store_path: StorePath,
    /// The paths it needs; any order; may contain itself.
    pub references: Vec<StorePath>,
    pub deriver: Option<StorePath>,
    pub compression: Compression,
}

/// Why a cache could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    #[error("the priority {0} is above {MAX_PRIORITY}")]
    Priority(u32),
    #[error("{path:?} cannot be created")]
    Create { path: PathBuf, source: io::Error },
    #[error("{path:?} cannot be written")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path:?} cannot be renamed to its place")]
    Rename { path: PathBuf, source: io::Error },
    #[error("the tree of {store_path} cannot be dumped")]
    Dump { store_path: StorePath, source: DumpError },
    #[error("the NAR of {store_path} cannot be read")]
    ReadNar { store_path: StorePath, source: io::Error },
    #[error("{folder:?}, the folder of {store_path}, cannot be opened")]
    OpenParent {
        store_path: StorePath,
        folder: PathBuf,
        source: io::Error,
    },
    #[error("the NAR of {store_path} is empty")]
    EmptyNar { store_path: StorePath },
    #[error("no key to sign {store_path} with")]
    NoKey { store_path: StorePath },
    #[error("{store_path} already has the NAR hash {has}, not {new}: a store path has one content")]
    OtherContent {
        store_path: StorePath,
        has: NarHash,
        new: NarHash,
    },
}

impl CacheWriter {
    /// Opens or makes the cache `folder` and writes its nix-cache-info.
    pub fn create(folder: &Path, priority: u32) -> Result<Self, WriteError> {
        if priority > MAX_PRIORITY {
            return Err(WriteError::Priority(priority));
        }
        let nars = folder.join("nar");
        fs::create_dir_all(&nars).map_err(|source| WriteError::Create { path: nars, source })?;
        let writer = Self {
            folder: folder.to_owned(),
            temporary: AtomicU64::new(0),
        };
        let text = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: {priority}\n");
        writer.place(&folder.join("nix-cache-info"), text.as_bytes())?;
        Ok(writer)
    }

    /// Adds the tree at `tree` as `entry.store_path`, signed by every one of `keys`.
    pub fn add_tree(&self, entry: &Entry, tree: &Path, keys: &[SecretKey]) -> Result<NarInfo, WriteError> {
        let store_path = || entry.store_path.clone();
        let (folder, name) = match (tree.parent(), tree.file_name()) {
            (Some(folder), Some(name)) if !folder.as_os_str().is_empty() => (folder, name),
            (Some(_), Some(name)) => (Path::new("."), name),
            _ => (tree, OsStr::new(".")),
        };
        let parent = File::open(folder).map_err(|source| WriteError::OpenParent {
            store_path: store_path(),
            folder: folder.to_owned(),
            source,
        })?;
        self.add(entry, keys, |mut writer| {
            let dumped = nar::dump(parent.as_fd(), name, &mut writer);
            dumped.map_err(|source| WriteError::Dump {
                store_path: store_path(),
                source,
            })
        })
    }

    /// Adds the NAR that `reader` yields as `entry.store_path`, signed by every one of `keys`. The NAR is taken as it is.
    pub fn add_nar(&self, entry: &Entry, mut reader: impl Read, keys: &[SecretKey]) -> Result<NarInfo, WriteError> {
        self.add(entry, keys, |writer| {
            let mut hashing = Hashing {
                inner: writer,
                hasher: Sha256::new(),
                bytes: 0,
            };
            io::copy(&mut reader, &mut hashing).map_err(|source| WriteError::ReadNar {
                store_path: entry.store_path.clone(),
                source,
            })?;
            Ok((NarHash::from(hashing.hasher.finalize()), hashing.bytes))
        })
    }

    /// Writes `narinfo` as it is; its NAR must be there already.
    pub fn publish(&self, narinfo: &NarInfo) -> Result<(), WriteError> {
        let store_path = &narinfo.fields().store_path;
        let place = self.folder.join(format!("{}.narinfo", store_path.hash()));
        let existing = fs::read(&place).ok().and_then(|bytes| NarInfo::parse(&bytes).ok());
        let (has, new) = (existing.map(|e| e.fields().nar_hash), narinfo.fields().nar_hash);
        if let Some(has) = has.filter(|has| *has != new) {
            return Err(WriteError::OtherContent {
                store_path: store_path.clone(),
                has,
                new,
            });
        }
        self.place(&place, narinfo.to_text().as_bytes())
    }

    fn add(
        &self,
        entry: &Entry,
        keys: &[SecretKey],
        fill: impl FnOnce(&mut dyn Write) -> Result<(NarHash, u64), WriteError>,
    ) -> Result<NarInfo, WriteError> {
        if keys.is_empty() {
            return Err(WriteError::NoKey {
                store_path: entry.store_path.clone(),
            });
        }
        let nars = self.folder.join("nar");
        let temporary = self.temporary_in(&nars)?;
        let packed = pack(&temporary, entry.compression, fill)?;
        if packed.nar_size == 0 {
            return Err(WriteError::EmptyNar {
                store_path: entry.store_path.clone(),
            });
        }
        let name = format!(
            "{}.nar{}",
            nix32::encode(packed.file_hash.as_bytes()),
            entry.compression.extension()
        );
        let url: Result<DownloadUrl, _> = format!("nar/{name}").parse();
        let url = url.map_err(|e| WriteError::Write {
            path: nars.join(&name),
            source: io::Error::other(e),
        })?;
        temporary.rename(&nars.join(name))?;
        let Packed {
            nar_hash,
            nar_size,
            file_hash,
            file_size,
        } = packed;
        let mut narinfo = NarInfo::new(Fields {
            store_path: entry.store_path.clone(),
            nar_hash,
            nar_size,
            references: entry.references.clone(),
            deriver: entry.deriver.clone(),
            ca: None,
            download: Download {
                url,
                compression: entry.compression,
                file_hash: Some(file_hash),
                file_size: Some(file_size),
            },
        });
        keys.iter().for_each(|key| narinfo.sign(key));
        self.publish(&narinfo)?;
        Ok(narinfo)
    }

    /// Puts a small file in its place, whole or not at all.
    fn place(&self, place: &Path, text: &[u8]) -> Result<(), WriteError> {
        let temporary = self.temporary_in(&self.folder)?;
        (&temporary.file).write_all(text).map_err(|source| WriteError::Write {
            path: temporary.path.clone(),
            source,
        })?;
        temporary.rename(place)
    }

    /// A file of a name that nobody has. Another writer may count with the same process number as we, from another
    /// container: only making the file decides whose a name is.
    fn temporary_in(&self, folder: &Path) -> Result<Temporary, WriteError> {
        loop {
            let count = self.temporary.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".tmp-{}-{count}", std::process::id()));
            match File::create_new(&path) {
                Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(WriteError::Create { path, source }),
                Ok(file) => {
                    return Ok(Temporary {
                        path,
                        file,
                        placed: false,
                    });
                }
            }
        }
    }
}

/// A NAR and the file it was compressed to.
struct Packed {
    nar_hash: NarHash,
    nar_size: u64,
    file_hash: FileHash,
    file_size: u64,
}

/// Compresses what `fill` writes into the temporary file.
fn pack(
    temporary: &Temporary,
    compression: Compression,
    fill: impl FnOnce(&mut dyn Write) -> Result<(NarHash, u64), WriteError>,
) -> Result<Packed, WriteError> {
    let failed = |source| WriteError::Write {
        path: temporary.path.clone(),
        source,
    };
    let inner = BufWriter::with_capacity(256 << 10, &temporary.file);
    let mut encoder = Encoder::new(
        compression,
        Hashing {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        },
    )
    .map_err(failed)?;
    let (nar_hash, nar_size) = fill(&mut encoder)?;
    let mut file = encoder.finish().map_err(failed)?;
    file.flush().map_err(failed)?;
    Ok(Packed {
        nar_hash,
        nar_size,
        file_hash: FileHash::from(file.hasher.finalize()),
        file_size: file.bytes,
    })
}

/// A file that disappears unless it is renamed.
struct Temporary {
    path: PathBuf,
    file: File,
    placed: bool,
}

impl Temporary {
    fn rename(mut self, place: &Path) -> Result<(), WriteError> {
        fs::rename(&self.path, place).map_err(|source| WriteError::Rename {
            path: place.to_owned(),
            source,
        })?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed && fs::remove_file(&self.path).is_err() {
            tracing::warn!(path = %self.path.display(), "a temporary file of a cache stays behind");
        }
    }
}

/// Hashes and counts what passes.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The store path that Nix gives a source tree called `name` with the NAR hash `nar_hash` and these references
/// (`nix-store --add` without references; Nix manual, "Complete Store Path Calculation": type `source`).
pub fn source_store_path(
    name: &str,
    nar_hash: &NarHash,
    references: &[StorePath],
) -> Result<StorePath, StorePathError> {
    let mut sorted = references.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let kind = content_address::kind("source", None, &sorted);
    let hash = content_address::hash_part(&kind, &content_address::hexadecimal(nar_hash.as_bytes()), name);
    StorePath::from_base_name(&format!("{hash}-{name}"))
}
