//! What holds for every NAR: an accepted one is dumped to the same bytes, so no two NARs make one tree; and nothing,
//! however broken, makes a decoder panic, hang, or leave something behind.
//! Never random without a seed: failures come back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "support/nar_text.rs"]
mod nar_text;
#[path = "support/signed.rs"]
mod signed;

use std::{collections::BTreeMap, ffi::OsStr, fs, io::Write, os::fd::AsFd};

use binary_cache::{
    compression::{Compression, Encoder, MAX_WINDOW, decoder},
    key::KeyRing,
    nar::{self, Limits, NarError, Restored},
    narinfo::NarInfo,
};
use nar_text::{token, words};
use proptest::prelude::*;
use signed::{asked, key, signed_text};

/// A tree as the format sees it.
#[derive(Debug, Clone)]
enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Link(Vec<u8>),
    Folder(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    /// Its NAR, without the magic.
    fn node(&self) -> Vec<u8> {
        match self {
            Self::File { executable, contents } => {
                let marker = if *executable { "executable ''" } else { "" };
                [
                    words(&format!("( type regular {marker} contents")),
                    token(contents),
                    words(")"),
                ]
                .concat()
            }
            Self::Link(target) => [words("( type symlink target"), token(target), words(")")].concat(),
            Self::Folder(entries) => {
                let entries = entries.iter().flat_map(|(name, tree)| {
                    [
                        words("entry ( name"),
                        token(name),
                        words("node"),
                        tree.node(),
                        words(")"),
                    ]
                    .concat()
                });
                words("( type directory")
                    .into_iter()
                    .chain(entries)
                    .chain(words(")"))
                    .collect()
            }
        }
    }

    fn nar(&self) -> Vec<u8> {
        [words("nix-archive-1"), self.node()].concat()
    }

    /// Files, folders, links.
    fn count(&self) -> (u64, u64, u64) {
        match self {
            Self::File { .. } => (1, 0, 0),
            Self::Link(_) => (0, 0, 1),
            Self::Folder(entries) => entries
                .values()
                .map(Self::count)
                .fold((0, 1, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1, sum.2 + part.2)),
        }
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("not in names", |byte| !matches!(byte, 0 | b'/'));
    prop::collection::vec(byte, 1..20).prop_filter("not a place", |name| name != b"." && name != b"..")
}

fn tree() -> impl Strategy<Value = Tree> {
    let contents = prop::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        (any::<bool>(), contents).prop_map(|(executable, contents)| Tree::File { executable, contents }),
        prop::collection::vec(1..=u8::MAX, 1..40).prop_map(Tree::Link),
        Just(Tree::Folder(BTreeMap::new())),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop::collection::btree_map(name(), inner, 0..6).prop_map(Tree::Folder)
    })
}

/// Restores `bytes`; where that is accepted, they must be what is dumped. Nothing stays.
fn round_trip(folder: &tempfile::TempDir, bytes: &[u8]) -> Result<Restored, NarError> {
    let parent = fs::File::open(folder.path()).unwrap();
    let name = OsStr::new("out");
    let result = nar::restore(bytes, parent.as_fd(), name, &Limits::at_most(1 << 20));
    if let Ok(restored) = &result {
        let mut dumped = Vec::new();
        let (hash, size) = nar::dump(parent.as_fd(), name, &mut dumped).unwrap();
        assert!(dumped == bytes, "{bytes:?} is dumped to other bytes");
        assert_eq!((hash, size), (restored.nar_hash, restored.nar_size));
        nar::remove_tree(parent.as_fd(), name).unwrap();
    }
    assert!(
        fs::read_dir(folder.path()).unwrap().next().is_none(),
        "something stays behind"
    );
    result
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_tree_is_restored_as_it_was(tree in tree()) {
        let folder = tempfile::tempdir().unwrap();
        let restored = round_trip(&folder, &tree.nar()).unwrap();
        prop_assert_eq!((restored.regular_files, restored.directories, restored.symlinks), tree.count());
    }

    #[test]
    fn no_change_of_a_nar_makes_another_nar_of_the_same_tree(
        tree in tree(),
        at in any::<prop::sample::Index>(),
        change in 1..=u8::MAX,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = tree.nar();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        // Whether it is still a NAR depends on the byte; if so, `round_trip` has seen that its tree is another.
        let _ = round_trip(&folder, &bytes);
    }
}

/// A small generator: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// One change, of a kind that files suffer or that someone would try.
    fn damage(&mut self, bytes: &mut Vec<u8>, unit: usize) {
        let units = bytes.len() / unit;
        let (a, b) = (self.below(units) * unit, self.below(units) * unit);
        let (from, to) = (a.min(b), a.max(b));
        match self.below(7) {
            0 => bytes.iter_mut().skip(a).take(1).for_each(|byte| *byte ^= 1 << (b % 8)),
            1 => bytes.truncate(a),
            2 => drop(bytes.drain(from..to)),
            3 => {
                let piece = bytes[from..to].to_vec();
                bytes.splice(a..a, piece);
            }
            4 => bytes.splice(a..a, [0; 8]).for_each(drop),
            5 => bytes[from..to].reverse(),
            _ => bytes
                .iter_mut()
                .skip(a)
                .take(8)
                .for_each(|byte| *byte = [0, 0xff, 0x7f, 0x80][b % 4]),
        }
    }
}

const SEED: &str = "( type directory \
    entry ( name a node ( type regular contents well-over-forty-characters-of-contents-to-change ) ) \
    entry ( name b node ( type directory entry ( name c node ( type symlink target ../a ) ) ) ) \
    entry ( name d node ( type regular executable '' contents '' ) ) )";

#[test]
fn damaged_nars_are_refused_or_are_other_trees() {
    let folder = tempfile::tempdir().unwrap();
    let seed = nar_text::nar(SEED);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = seed.clone();
        for _ in 0..=numbers.below(3) {
            let unit = [1, 8][numbers.below(2)];
            numbers.damage(&mut bytes, unit);
        }
        match round_trip(&folder, &bytes) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(
        accepted > 10 && refused > 1500,
        "{accepted} accepted, {refused} refused: the damage has the wrong strength"
    );
}

#[test]
fn damaged_streams_are_refused_or_decode_to_a_nar() {
    let folder = tempfile::tempdir().unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    let seed = nar_text::nar(SEED);
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for compression in Compression::ALL {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        encoder.write_all(&seed).unwrap();
        let stream = encoder.finish().unwrap();
        let mut refused = 0;
        for _ in 0..250 {
            let mut bytes = stream.clone();
            numbers.damage(&mut bytes, 1);
            let reader = decoder(compression, &bytes[..], MAX_WINDOW).unwrap();
            match nar::restore(reader, parent.as_fd(), OsStr::new("out"), &Limits::at_most(1 << 20)) {
                Ok(_) => nar::remove_tree(parent.as_fd(), OsStr::new("out")).unwrap(),
                Err(_) => refused += 1,
            }
            assert!(
                fs::read_dir(folder.path()).unwrap().next().is_none(),
                "{compression}: {bytes:?}"
            );
        }
        assert!(refused > 120, "{compression}: {refused}");
    }
}

#[test]
fn damaged_narinfos_are_refused_or_say_the_same() {
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    let text = signed_text(&key("cache-1", 1));
    let original = NarInfo::parse(text.as_bytes()).unwrap();
    let mut numbers = Numbers(0xd6e8_feb8_6659_fd93);
    let mut trusted = 0;
    for _ in 0..8000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=numbers.below(2) {
            numbers.damage(&mut bytes, 1);
        }
        let Ok(info) = NarInfo::parse(&bytes) else { continue };
        let Ok(info) = info.verify(&asked(), &ring) else {
            continue;
        };
        trusted += 1;
        let wanted = original.fields();
        assert_eq!(
            (info.nar_hash(), info.nar_size(), info.references()),
            (wanted.nar_hash, wanted.nar_size, &wanted.references[..])
        );
    }
    assert!(trusted > 20, "{trusted}: hints may change, so some stay trusted");
}
