//! Which store paths of a closure are fetched, in which order, and whether the disk has room.
//! Never looks at a disk or a cache itself.

use std::{cmp::Reverse, collections::BTreeMap};

use binary_cache::{hash::NarHash, narinfo::VerifiedNarInfo};
use crds::domain::store_path::StorePath;

/// Bytes that a layer's own folders and inodes may take beyond its contents.
const PER_PATH: u64 = 64 << 10;
/// Contents end in half-empty blocks, and small files take a block each: one part in so many of NarSize is added.
const SLACK_DIVISOR: u64 = 16;

/// What a closure says about one of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub path: StorePath,
    /// The signed hash.
    pub nar_hash: NarHash,
    /// The signed size, in bytes.
    pub nar_size: u64,
}

impl From<&VerifiedNarInfo> for Wanted {
    fn from(narinfo: &VerifiedNarInfo) -> Self {
        Self {
            path: narinfo.store_path().clone(),
            nar_hash: narinfo.nar_hash(),
            nar_size: narinfo.nar_size(),
        }
    }
}

/// Room on the file system of the state folder, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free now.
    pub free: u64,
    /// What garbage collection could free beyond that.
    pub freeable: u64,
}

/// What to fetch. The order is the one to begin in: the largest first, since they decide when all is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchPlan {
    /// What is missing.
    pub fetch: Vec<Wanted>,
    /// Sum of their NarSizes: the bytes that progress counts up to.
    pub bytes: u64,
    /// Bytes to reserve on disk before the first one comes.
    pub disk: u64,
    /// How many store paths of the closure are here already.
    pub present: usize,
}

/// Why a closure is not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchRefusal {
    /// Not enough room.
    #[error("the closure needs {needed} bytes of disk, {free} are free and {freeable} more can be freed")]
    InsufficientDisk { needed: u64, free: u64, freeable: u64 },
    /// Two signers vouch for different contents under one name. Which one is right cannot be told here, and mounting
    /// what the other environment's signer vouched for would hand it to those who do not trust that signer.
    #[error("{path} is here with {here}, but the caches of this environment vouch for {wanted}")]
    DifferentContents {
        path: StorePath,
        here: NarHash,
        wanted: NarHash,
    },
    /// Its files may be the signed ones or not; whoever reads them now must not find others in their place.
    #[error(
        "the record of {path} is damaged, and a view in use has its files: once the programs with it have ended, \
         `node-agent verify --repair` removes it, or the next fetch replaces it"
    )]
    InUse { path: StorePath },
}

/// Plans the fetch of `closure`, given the hashes of what is `present` and the room on disk.
///
/// # Errors
/// [`FetchRefusal::DifferentContents`] before [`FetchRefusal::InsufficientDisk`]: more room would not help the former.
pub fn plan(
    closure: impl IntoIterator<Item = Wanted>,
    present: &BTreeMap<StorePath, NarHash>,
    space: Space,
) -> Result<FetchPlan, FetchRefusal> {
    let mut plan = FetchPlan::default();
    for wanted in closure {
        match present.get(&wanted.path) {
            Some(here) if *here == wanted.nar_hash => plan.present += 1,
            Some(here) => {
                let Wanted { path, nar_hash, .. } = wanted;
                return Err(FetchRefusal::DifferentContents {
                    path,
                    here: *here,
                    wanted: nar_hash,
                });
            }
            None => {
                plan.bytes = plan.bytes.saturating_add(wanted.nar_size);
                plan.disk = plan.disk.saturating_add(disk_need(wanted.nar_size));
                plan.fetch.push(wanted);
            }
        }
    }
    if plan.disk > space.free {
        let Space { free, freeable } = space;
        return Err(FetchRefusal::InsufficientDisk {
            needed: plan.disk,
            free,
            freeable,
        });
    }
    plan.fetch
        .sort_unstable_by(|a, b| (Reverse(a.nar_size), &a.path).cmp(&(Reverse(b.nar_size), &b.path)));
    Ok(plan)
}

/// Bytes that a store path of this NarSize is expected to take on disk.
pub fn disk_need(nar_size: u64) -> u64 {
    nar_size
        .saturating_add(nar_size / SLACK_DIVISOR)
        .saturating_add(PER_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Space = Space {
        free: 1 << 30,
        freeable: 0,
    };

    fn wanted(letter: char, nar_size: u64) -> Wanted {
        let hash: String = std::iter::repeat_n(letter, 32).collect();
        let path = StorePath::from_base_name(&format!("{hash}-x")).unwrap();
        Wanted {
            path,
            nar_hash: NarHash::from_bytes([letter as u8; 32]),
            nar_size,
        }
    }

    #[test]
    fn what_is_missing_is_fetched_largest_first() {
        let here = wanted('b', 5_000);
        let present = BTreeMap::from([(here.path.clone(), here.nar_hash)]);
        let closure = [wanted('a', 10), here, wanted('d', 900), wanted('c', 900)];
        let plan = plan(closure, &present, ROOM).unwrap();
        assert_eq!(plan.fetch, [wanted('c', 900), wanted('d', 900), wanted('a', 10)]);
        assert_eq!((plan.bytes, plan.present), (1810, 1));
        assert_eq!(plan.disk, 2 * disk_need(900) + disk_need(10));
    }

    #[test]
    fn a_full_disk_is_refused_with_the_three_figures_and_one_byte_more_is_enough() {
        let need = disk_need(4 << 20);
        let space = |free| Space { free, freeable: 77 };
        let plan = |free| plan([wanted('a', 4 << 20)], &BTreeMap::new(), space(free));
        let want = FetchRefusal::InsufficientDisk {
            needed: need,
            free: need - 1,
            freeable: 77,
        };
        assert_eq!(plan(need - 1), Err(want));
        assert_eq!(plan(need).unwrap().disk, need);
    }

    #[test]
    fn other_contents_under_a_present_name_are_refused_even_on_a_full_disk() {
        let asked = wanted('a', 10);
        let other = BTreeMap::from([(asked.path.clone(), NarHash::from_bytes([0; 32]))]);
        let same = BTreeMap::from([(asked.path.clone(), asked.nar_hash)]);
        let full = Space { free: 0, freeable: 0 };
        let refusal = plan([wanted('b', 10), asked.clone()], &other, full).unwrap_err();
        assert!(matches!(refusal, FetchRefusal::DifferentContents { path, .. } if path == asked.path));
        assert_eq!(plan([asked], &same, full).unwrap().present, 1);
    }
}
