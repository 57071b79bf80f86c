//! Reading every layer again and holding it against its record.
//! Never repairs, never removes, never trusts a record without reading what it is about.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use binary_cache::{
    hash::NarHash,
    nar::{self, DumpError},
};
use crds::domain::store_path::{STORE_DIR, StorePath, is_hash};

use crate::store::{NodeStore, Record, StoreError, list};

/// What verification found. Everything but `good` is in the order of the hashes.
#[derive(Debug, Default)]
pub struct Verified {
    /// Store paths whose files are what their record says.
    pub good: usize,
    /// Bytes read (sum of NarSizes of the good ones).
    pub bytes: u64,
    /// Recorded, but their files are gone.
    pub missing: Vec<StorePath>,
    /// Recorded, but their files are not what was signed.
    pub corrupt: Vec<Corrupt>,
    /// Records that cannot be believed.
    pub bad_records: Vec<StoreError>,
    /// Hashes of layers that no record accounts for.
    pub extra: Vec<String>,
}

/// A layer that is not what its record says.
#[derive(Debug)]
pub struct Corrupt {
    /// Which.
    pub path: StorePath,
    /// How it differs.
    pub fault: Fault,
}

/// How a layer differs from its record.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("its hash is {found}, {expected} was signed")]
    Hash { expected: NarHash, found: NarHash },
    #[error("its NAR has {found} bytes, {expected} were signed")]
    Size { expected: u64, found: u64 },
    #[error("it cannot be read as a store path")]
    Dump(#[source] DumpError),
    #[error("its layer cannot be read")]
    Layer(#[source] io::Error),
    #[error("its layer holds `{name}`, which would show in every view")]
    Stranger { name: String },
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.corrupt.is_empty() && self.bad_records.is_empty() && self.extra.is_empty()
    }
}

/// Verifies every layer of `store` with so many `threads`; `progress` is told the bytes of each layer as it is done.
///
/// # Errors
/// Only where the store's own folders cannot be listed; what is wrong inside is part of the answer.
pub fn verify(store: &NodeStore, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let mut records = Vec::new();
    let mut accounted = BTreeSet::new();
    // Records and layers are listed as of one moment: between two, somebody may commit or collect.
    let still = store.exclusively()?;
    for (hash, claim) in store.claims()? {
        match claim {
            Ok(record) if store.has_files(record.path()) => records.push(record),
            Ok(record) => verified.missing.push(record.path().clone()),
            Err(error) => verified.bad_records.push(error),
        }
        accounted.insert(hash);
    }
    for name in list(&store.layout().store())? {
        if is_hash(name.as_bytes()) && !accounted.contains(&name) {
            verified.extra.push(name);
        }
    }
    drop(still);
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(record) = records.get(next.fetch_add(1, Relaxed)) {
                    // What was collected or replaced while it was read is nobody's fault.
                    let is_same = |found: Record| found.nar_hash() == record.nar_hash();
                    let still_here = || store.record(record.path()).ok().flatten().is_some_and(is_same);
                    if let Err(fault) = check(store, record)
                        && still_here()
                    {
                        faults
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((record.path().clone(), fault));
                    }
                    progress(record.nar_size());
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    verified.corrupt = faults
        .into_iter()
        .map(|(path, fault)| Corrupt { path, fault })
        .collect();
    verified.corrupt.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let corrupt: BTreeSet<&StorePath> = verified.corrupt.iter().map(|corrupt| &corrupt.path).collect();
    let good = records.iter().filter(|record| !corrupt.contains(record.path()));
    (verified.good, verified.bytes) = good.fold((0, 0), |(n, bytes), record| (n + 1, bytes + record.nar_size()));
    Ok(verified)
}

fn check(store: &NodeStore, record: &Record) -> Result<(), Fault> {
    let path = record.path();
    // Whatever else lies in a layer would show in every view that has it.
    let mut folder = store.layout().layer(path);
    for name in STORE_DIR
        .split('/')
        .filter(|name| !name.is_empty())
        .chain([path.base_name()])
    {
        only_entry(&folder, name)?;
        if name != path.base_name() {
            folder.push(name);
        }
    }
    let parent = File::open(&folder).map_err(Fault::Layer)?;
    let (found, size) =
        nar::dump(parent.as_fd(), OsStr::new(path.base_name()), &mut io::sink()).map_err(Fault::Dump)?;
    if found != record.nar_hash() {
        return Err(Fault::Hash {
            expected: record.nar_hash(),
            found,
        });
    }
    if size != record.nar_size() {
        return Err(Fault::Size {
            expected: record.nar_size(),
            found: size,
        });
    }
    Ok(())
}

fn only_entry(folder: &Path, name: &str) -> Result<(), Fault> {
    for entry in fs::read_dir(folder).map_err(Fault::Layer)? {
        let found = entry.map_err(Fault::Layer)?.file_name();
        if found != name {
            return Err(Fault::Stranger {
                name: found.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}
