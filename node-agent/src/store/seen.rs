//! What records said when they were read last: thousands of them are looked at again and again, and few of them change.
//! Never believes what was read before a file was written, replaced or touched.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, Metadata},
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    sync::{Mutex, PoisonError},
    thread,
    time::UNIX_EPOCH,
};

use crds::domain::store_path::{StorePath, is_hash};

use super::{NodeStore, StoreError, layout::RECORD_SUFFIX, list};
use crate::snapshot::store::Layer;

/// Threads that read records, whatever cores there are: they wait for the disk. Fewer than so many records are read by one.
const THREADS: usize = 8;
const EACH: usize = 1000;

/// By hash.
#[derive(Debug, Default)]
pub(super) struct SeenRecords(Mutex<BTreeMap<Box<str>, Seen>>);

/// What a record said.
#[derive(Debug)]
struct Seen {
    version: Version,
    path: StorePath,
    bytes: u64,
}

/// What tells a record file from what it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for Version {
    fn from(found: &Metadata) -> Self {
        Self {
            inode: found.ino(),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl NodeStore {
    /// Every recorded store path that has a layer, in the order of their hashes. Damaged records are left out. Whether a layer
    /// has its files in it is not looked at: after a reboot that is a minute's work where there are many.
    pub(super) fn layers(&self) -> Result<Vec<Layer>, StoreError> {
        let present: HashSet<String> = list(&self.layout().store())?.into_iter().collect();
        let mut hashes = self.recorded()?;
        // Where the disk has to be read, in the order in which it lies there.
        hashes.sort_unstable();
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |hashes: &[(u64, Box<str>)]| -> Vec<_> {
            let there = hashes.iter().filter(|(_, hash)| present.contains(&**hash));
            there.filter_map(|(_, hash)| self.look(hash, &seen)).collect()
        };
        let each = hashes.len().div_ceil(THREADS).max(EACH);
        let mut found: Vec<(Box<str>, Seen, Layer)> = thread::scope(|scope| {
            let chunks = hashes.chunks(each);
            let looking: Vec<_> = chunks.map(|chunk| scope.spawn(|| look(chunk))).collect();
            let looked = looking.into_iter().map(thread::ScopedJoinHandle::join);
            looked
                .flat_map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut layers = Vec::with_capacity(found.len());
        seen.clear();
        seen.extend(found.into_iter().map(|(hash, record, layer)| {
            layers.push(layer);
            (hash, record)
        }));
        Ok(layers)
    }

    /// The hashes that there are records of, each with the number of its file on the disk.
    fn recorded(&self) -> Result<Vec<(u64, Box<str>)>, StoreError> {
        let folder = self.layout().meta();
        let unreadable = |source| StoreError::Read {
            path: folder.clone(),
            source,
        };
        let mut hashes = Vec::new();
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let hash = name.to_str().and_then(|name| name.strip_suffix(RECORD_SUFFIX));
            if let Some(hash) = hash.filter(|hash| is_hash(hash.as_bytes())) {
                hashes.push((entry.ino(), hash.into()));
            }
        }
        Ok(hashes)
    }

    /// One of them; read only where it is not the file that it was.
    fn look(&self, hash: &str, seen: &BTreeMap<Box<str>, Seen>) -> Option<(Box<str>, Seen, Layer)> {
        let file = self.layout().meta().join(format!("{hash}{RECORD_SUFFIX}"));
        let found = fs::symlink_metadata(file).ok()?;
        // It may be written meanwhile: then it is another one the next time.
        let version = Version::from(&found);
        let (path, bytes) = match seen.get(hash).filter(|seen| seen.version == version) {
            Some(seen) => (seen.path.clone(), seen.bytes),
            None => {
                let record = self.read_record(hash).ok()??;
                (record.path().clone(), record.nar_size())
            }
        };
        let layer = Layer {
            path: path.clone(),
            bytes,
            last_used: found.modified().unwrap_or(UNIX_EPOCH),
        };
        Some((hash.into(), Seen { version, path, bytes }, layer))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use binary_cache::{
        compression::Compression,
        hash::NarHash,
        key::{KeyRing, SecretKey},
        narinfo::{Download, Fields, NarInfo},
    };
    use crds::domain::store_path::NIX_BASE32;

    use super::*;
    use crate::store::Record;

    /// More than one thread reads.
    const PATHS: usize = 2 * EACH + 1;

    fn path(number: usize) -> StorePath {
        let digits = (0..32).map(|digit| char::from(NIX_BASE32[(number >> (5 * digit.min(12))) % 32]));
        StorePath::from_base_name(&format!("{}-tool", digits.collect::<String>())).unwrap()
    }

    fn record(path: &StorePath, nar_size: u64) -> Vec<u8> {
        let key = SecretKey::from_seed("test-1", &[7; 32]).unwrap();
        let mut narinfo = NarInfo::new(Fields {
            store_path: path.clone(),
            nar_hash: NarHash::from_bytes([3; 32]),
            nar_size,
            references: Vec::new(),
            deriver: None,
            ca: None,
            download: Download {
                url: "nar/x.nar".parse().unwrap(),
                compression: Compression::None,
                file_hash: None,
                file_size: None,
            },
        });
        narinfo.sign(&key);
        let keys = KeyRing::new(vec![key.public_key()]).unwrap();
        Record::seal(&narinfo.verify(path, &keys).unwrap())
    }

    #[test]
    fn what_changed_since_it_was_read_is_read_again_and_what_did_not_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = NodeStore::open(folder.path()).unwrap();
        let layout = store.layout();
        let mut paths: Vec<_> = (0..PATHS).map(path).collect();
        paths.sort_by(|a, b| a.hash().cmp(b.hash()));
        for path in &paths {
            fs::create_dir_all(layout.files(path)).unwrap();
            fs::write(layout.record(path), record(path, 120)).unwrap();
        }
        let shown = || store.layers().unwrap();
        let names = |layers: &[Layer]| layers.iter().map(|layer| layer.path.clone()).collect::<Vec<_>>();
        let first = shown();
        assert_eq!(names(&first), paths, "in the order of their hashes");
        let told = |number: usize, bytes| {
            let mut seen = store.seen.0.lock().unwrap();
            seen.get_mut(paths[number].hash()).unwrap().bytes = bytes;
        };
        told(9, 999);
        assert_eq!(shown()[9].bytes, 999, "it is not read again");
        told(9, 120);
        assert_eq!(shown(), first);

        fs::write(layout.record(&paths[0]), "damaged").unwrap();
        fs::remove_dir_all(layout.layer(&paths[1])).unwrap();
        fs::remove_file(layout.record(&paths[2])).unwrap();
        fs::write(layout.record(&paths[3]), record(&paths[3], 240)).unwrap();
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        store.touch([&paths[4]], later).unwrap();
        let now = shown();
        assert_eq!(names(&now), paths[3..]);
        assert_eq!((now[0].bytes, now[1].bytes), (240, 120));
        assert_eq!((now[1].last_used, &now[2..]), (later, &first[5..]));
        assert_eq!(
            store.seen.0.lock().unwrap().len(),
            PATHS - 3,
            "nothing is kept of what is gone"
        );

        fs::write(layout.record(&paths[0]), record(&paths[0], 120)).unwrap();
        assert_eq!(names(&shown())[0], paths[0], "it was mended");
    }
}
