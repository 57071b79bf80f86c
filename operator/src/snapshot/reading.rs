//! What agents have read of store paths: each reading and each set of them once in memory, however many nodes tell of it.
//! Never an unparsed word: what made no sense was left out before.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crds::domain::{code::GpuCode, store_path::StorePath};

/// What an agent has read of one store path.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// The root of the closure.
    pub path: StorePath,
    /// What its files carry together.
    pub code: GpuCode,
}

/// What one agent has read, in the order of the paths.
pub type Readings = Arc<[Arc<Reading>]>;

/// Entries of which a shelf does not look whether they are still used.
const FEW: usize = 1024;

/// Where readings are kept for all nodes. Clones share it.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    readings: HashMap<StorePath, Vec<Arc<Reading>>>,
    /// By the addresses of their readings, which stay while the set does.
    sets: HashMap<Box<[usize]>, Readings>,
    /// How many sets there were after unused ones went.
    used: usize,
}

impl Shelf {
    /// What an agent has read; the very same as another's where it is equal.
    pub fn shared(&self, read: BTreeMap<StorePath, GpuCode>) -> Readings {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let readings: Vec<_> = read.into_iter().map(|(path, code)| kept.reading(path, code)).collect();
        let addresses = readings.iter().map(|reading| Arc::as_ptr(reading).addr()).collect();
        let set = Arc::clone(kept.sets.entry(addresses).or_insert_with(|| readings.into()));
        if kept.sets.len() > FEW.max(2 * kept.used) {
            kept.sweep();
        }
        set
    }
}

impl Kept {
    fn reading(&mut self, path: StorePath, code: GpuCode) -> Arc<Reading> {
        let known = self.readings.entry(path.clone()).or_default();
        if let Some(same) = known.iter().find(|reading| reading.code == code) {
            return Arc::clone(same);
        }
        let reading = Arc::new(Reading { path, code });
        known.push(Arc::clone(&reading));
        reading
    }

    /// Drops what no node has any more.
    fn sweep(&mut self) {
        self.sets.retain(|_, set| Arc::strong_count(set) > 1);
        self.readings.retain(|_, readings| {
            readings.retain(|reading| Arc::strong_count(reading) > 1);
            !readings.is_empty()
        });
        self.used = self.sets.len();
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

/// Where something is kept makes no two worlds differ.
impl PartialEq for Shelf {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: impl IntoIterator<Item = usize>, sass: &str) -> BTreeMap<StorePath, GpuCode> {
        let one = |name: usize| {
            let path = format!("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-{name}");
            let mut code = GpuCode::default();
            code.sass.insert(sass.parse().unwrap());
            (StorePath::parse(&path).unwrap(), code)
        };
        names.into_iter().map(one).collect()
    }

    fn counted(shelf: &Shelf) -> (usize, usize) {
        let kept = shelf.0.lock().unwrap();
        (kept.readings.values().map(Vec::len).sum(), kept.sets.len())
    }

    #[test]
    fn however_many_nodes_have_read_the_same_it_is_kept_once() {
        let shelf = Shelf::default();
        let first = shelf.shared(read(0..256, "9.0"));
        for _ in 0..5000 {
            assert!(Arc::ptr_eq(&first, &shelf.shared(read(0..256, "9.0"))));
        }
        assert_eq!(counted(&shelf), (256, 1));
        // Of another set, only what differs is new.
        let other = shelf.shared(read(0..257, "9.0"));
        let is_there = |one: &Arc<Reading>| other.iter().any(|other| Arc::ptr_eq(one, other));
        assert!(first.iter().all(is_there));
        assert_eq!(counted(&shelf), (257, 2));
        let contrary = shelf.shared(read(0..1, "8.0"));
        assert_ne!(first[0], contrary[0]);
    }

    #[test]
    fn what_no_node_has_any_more_goes() {
        let shelf = Shelf::default();
        let kept = shelf.shared(read(0..2, "9.0"));
        for name in 10..10 + 3 * FEW {
            shelf.shared(read([name], "9.0"));
        }
        let (readings, sets) = counted(&shelf);
        assert!(readings <= FEW + 2 && sets <= FEW, "{readings} readings, {sets} sets");
        assert!(Arc::ptr_eq(&kept, &shelf.shared(read(0..2, "9.0"))));
    }
}
