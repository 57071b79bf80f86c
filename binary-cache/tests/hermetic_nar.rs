//! Hostile and odd NARs, as they come, compressed, and byte by byte: each refused by name, with nothing left behind.
//! Never needs root, the network, or another program.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

#[path = "support/nar_text.rs"]
mod nar_text;

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use binary_cache::{
    compression::{Compression, Encoder, MAX_WINDOW, decoder},
    nar::{self, Limits, NarError, Restored},
};
use nar_text::{nar, token, words};
use sha2::Digest;

const NAME: &str = "out";

/// Yields one byte at a time, and an interruption before each.
struct Trickle<R>(R, bool);

impl<R: Read> Read for Trickle<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

/// How the bytes of a NAR reach the decoder.
#[derive(Debug, Clone, Copy)]
enum Way {
    Plain,
    ByteByByte,
    Through(Compression),
}

const WAYS: [Way; 4] = [
    Way::Plain,
    Way::ByteByByte,
    Way::Through(Compression::Xz),
    Way::Through(Compression::Zstd),
];

fn reader(bytes: &[u8], way: Way) -> Box<dyn Read> {
    let bytes = io::Cursor::new(bytes.to_vec());
    match way {
        Way::Plain => Box::new(bytes),
        Way::ByteByByte => Box::new(Trickle(bytes, false)),
        Way::Through(compression) => {
            let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
            encoder.write_all(bytes.get_ref()).unwrap();
            let compressed = io::Cursor::new(encoder.finish().unwrap());
            decoder(compression, Trickle(compressed, false), MAX_WINDOW).unwrap()
        }
    }
}

/// Restores into a new folder; what is in the folder afterwards.
fn restore(bytes: &[u8], way: Way, limits: &Limits) -> (Result<Restored, NarError>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    (
        nar::restore(reader(bytes, way), parent.as_fd(), OsStr::new(NAME), limits),
        folder,
    )
}

fn is_empty(folder: &tempfile::TempDir) -> bool {
    fs::read_dir(folder.path()).unwrap().next().is_none()
}

/// The name of an error's variant.
fn variant(error: &NarError) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(', '{']).next().unwrap().to_owned()
}

/// Refused with `wanted`, whichever way it comes, and nothing stays.
fn refused(case: &str, bytes: &[u8], wanted: &str) {
    for way in WAYS {
        let (result, folder) = restore(bytes, way, &Limits::at_most(1 << 20));
        let error = result.expect_err(case);
        assert_eq!(variant(&error), wanted, "{case}, {way:?}: {error}");
        assert!(is_empty(&folder), "{case}, {way:?}: something stays behind");
    }
}

/// Accepted whichever way it comes, with the right hash and size, and dumped again to the same bytes.
fn accepted(case: &str, bytes: &[u8]) {
    for way in WAYS {
        let (result, folder) = restore(bytes, way, &Limits::at_most(1 << 20));
        let restored = result.unwrap_or_else(|error| panic!("{case}, {way:?}: {error:?}"));
        assert_eq!(restored.nar_size, bytes.len() as u64, "{case}, {way:?}");
        assert_eq!(
            restored.nar_hash.as_bytes()[..],
            sha2::Sha256::digest(bytes)[..],
            "{case}, {way:?}"
        );
        let mut dumped = Vec::new();
        let parent = fs::File::open(folder.path()).unwrap();
        let (hash, size) = nar::dump(parent.as_fd(), OsStr::new(NAME), &mut dumped).unwrap();
        assert_eq!((hash, size), (restored.nar_hash, restored.nar_size), "{case}, {way:?}");
        assert!(dumped == bytes, "{case}, {way:?}: dumped to other bytes");
        nar::remove_tree(parent.as_fd(), OsStr::new(NAME)).unwrap();
        assert!(is_empty(&folder), "{case}, {way:?}");
    }
}

/// `bytes` with `from` replaced by `to`, once.
fn edit(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// A NAR of a directory with one entry of this name, a file.
fn entry_named(name: &[u8]) -> Vec<u8> {
    [
        nar("( type directory entry ( name"),
        token(name),
        words("node ( type regular contents x ) ) )"),
    ]
    .concat()
}

/// A NAR of a directory with these entries in this order, all files.
fn entries_named(names: &[&[u8]]) -> Vec<u8> {
    let entries = names.iter().flat_map(|name| {
        [
            words("entry ( name"),
            token(name),
            words("node ( type regular contents x ) )"),
        ]
        .concat()
    });
    nar("( type directory")
        .into_iter()
        .chain(entries)
        .chain(words(")"))
        .collect()
}

/// A NAR of a symbolic link.
fn link_to(target: &[u8]) -> Vec<u8> {
    [nar("( type symlink target"), token(target), words(")")].concat()
}

/// A NAR of `depth` directories inside each other, and a file in the innermost.
fn nested(depth: usize) -> Vec<u8> {
    let mut text = "( type directory entry ( name d node ".repeat(depth);
    text += "( type regular contents x )";
    text += &" ) )".repeat(depth);
    nar(&text)
}

const FILE: &str = "( type regular contents hello )";
const PROGRAM: &str = "( type regular executable '' contents hello )";
const LINK: &str = "( type symlink target elsewhere )";
const EMPTY_FOLDER: &str = "( type directory )";
const FOLDER: &str = "( type directory entry ( name a node ( type regular contents x ) ) \
    entry ( name b node ( type directory entry ( name c node ( type symlink target ../a ) ) ) ) \
    entry ( name c node ( type regular executable '' contents '' ) ) )";

#[test]
fn good_nars_of_every_kind_are_restored_and_dumped_to_the_same_bytes() {
    for text in [
        FILE,
        PROGRAM,
        LINK,
        EMPTY_FOLDER,
        FOLDER,
        "( type regular contents '' )",
    ] {
        accepted(text, &nar(text));
    }
    for length in [1, 7, 8, 9, 4095, 256 << 10, (256 << 10) + 1, 700_000] {
        let contents: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let bytes = [nar("( type regular contents"), token(&contents), words(")")].concat();
        accepted(&format!("a file of {length} bytes"), &bytes);
    }
}

#[test]
fn what_is_no_nar_is_named() {
    for (case, bytes, wanted) in [
        ("N01 nothing", Vec::new(), "Truncated"),
        (
            "N02 other magic",
            words("nix-archive-2 ( type regular contents x )"),
            "BadMagic",
        ),
        ("N03 half a magic", nar("")[..10].to_vec(), "Truncated"),
        ("N04 magic alone", nar(""), "Truncated"),
        (
            "N05 an HTML page",
            b"<!DOCTYPE html><title>parked</title>".to_vec(),
            "BadMagic",
        ),
        ("N06 zeros", vec![0; 4096], "BadMagic"),
        (
            "N07 xz bytes",
            b"\xfd7zXZ\0\0\x04rest of the stream, more or less".to_vec(),
            "BadMagic",
        ),
    ] {
        refused(case, &bytes, wanted);
    }
    for (head, hint) in [
        (&b"\xfd7zXZ\0\0\x04rest of the stream"[..], "looks like xz"),
        (b"\x28\xb5\x2f\xfd rest of the frame, more or less", "looks like zstd"),
        (b"\x1f\x8b\x08 rest of the member, more or less", "looks like gzip"),
        (b"BZh9 rest of the stream, more or less", "looks like bzip2"),
        (b"<html> parked by its registrar </html>", "looks like a web page"),
    ] {
        let (result, _folder) = restore(head, Way::Plain, &Limits::at_most(1 << 20));
        let message = result.unwrap_err().to_string();
        assert!(message.ends_with(hint), "{message}");
    }
    accepted("twin", &nar(FILE));
}

#[test]
fn bad_names_are_refused_and_odd_ones_kept() {
    for (case, name) in [
        ("N08", &b""[..]),
        ("N09", b"."),
        ("N10", b".."),
        ("N11", b"a/b"),
        ("N12", b"/abs"),
        ("N13 NUL inside", b"a\0b"),
        ("N14 only a slash", b"/"),
    ] {
        refused(case, &entry_named(name), "BadName");
    }
    accepted("N15 255 bytes", &entry_named(&[b'n'; 255]));
    refused("N16 256 bytes", &entry_named(&[b'n'; 256]), "NameTooLong");
    accepted("N17 not UTF-8", &entry_named(b"\xff\xfe"));
    for name in [
        &b"..."[..],
        b".a",
        b" ",
        b"a\nb",
        b"-rf",
        b"a\\b",
        b"*",
        "\u{202e}x".as_bytes(),
    ] {
        accepted(&format!("N18 {name:?}"), &entry_named(name));
    }
    let huge = [nar("( type directory entry ( name"), u64::MAX.to_le_bytes().to_vec()].concat();
    refused("N19 a name of 2^64-1 bytes", &huge, "NameTooLong");
    let terabyte = [
        nar("( type directory entry ( name"),
        (1_u64 << 40).to_le_bytes().to_vec(),
    ]
    .concat();
    refused("N20 a name of 1 TiB", &terabyte, "NameTooLong");
}

#[test]
fn entries_must_be_sorted_and_distinct() {
    let (composed, decomposed) = ("\u{e9}".as_bytes(), "e\u{301}".as_bytes());
    // The order is that of the bytes, as in Nix: NFD (`e` first) comes before NFC (0xc3), never behind it. They are two
    // names to us, whatever they look like; a file system that folds them makes the second a collision.
    accepted("N22 NFD, NFC: two names here", &entries_named(&[decomposed, composed]));
    refused(
        "N23 NFC, NFD: out of byte order",
        &entries_named(&[composed, decomposed]),
        "NotSorted",
    );
    accepted("N24 two cases", &entries_named(&[b"A", b"a"]));
    refused("N25 twice the same", &entries_named(&[b"a", b"a"]), "NotSorted");
    refused("N26 out of order", &entries_named(&[b"b", b"a"]), "NotSorted");
    refused("N27 prefix after", &entries_named(&[b"ab", b"a"]), "NotSorted");
    accepted("N27 prefix before", &entries_named(&[b"a", b"ab"]));
    accepted("N28 bytes are unsigned", &entries_named(&[b"z", b"\x80"]));
    refused("N28 bytes are unsigned", &entries_named(&[b"\x80", b"z"]), "NotSorted");
    refused(
        "N29 a link, then a folder of the same name",
        &nar("( type directory entry ( name a node ( type symlink target /tmp ) ) \
            entry ( name a node ( type directory entry ( name b node ( type regular contents x ) ) ) ) )"),
        "NotSorted",
    );
}

#[test]
fn every_token_is_exact() {
    for (case, text) in [
        ("N30 no type", "( contents x )"),
        ("N31 unknown type", "( type fifo )"),
        ("N32 no contents", "( type regular )"),
        (
            "N33 marker with a value",
            "( type regular executable x contents hello )",
        ),
        (
            "N34 marker behind the contents",
            "( type regular contents hello executable '' )",
        ),
        (
            "N35 marker twice",
            "( type regular executable '' executable '' contents hello )",
        ),
        ("N36 contents twice", "( type regular contents hello contents hello )"),
        ("N37 type twice", "( type regular type regular contents hello )"),
        ("N38 unknown field", "( type regular mode 4755 contents hello )"),
        ("N39 link without target", "( type symlink )"),
        ("N40 target twice", "( type symlink target a target b )"),
        (
            "N41 name behind the node",
            "( type directory entry ( node ( type regular contents x ) name a ) )",
        ),
        (
            "N41 entry without name",
            "( type directory entry ( node ( type regular contents x ) ) )",
        ),
        ("N41 entry without node", "( type directory entry ( name a ) )"),
        (
            "N41 two nodes",
            "( type directory entry ( name a node ( type directory ) node ( type directory ) ) )",
        ),
        ("N41 folder with contents", "( type directory contents x )"),
        ("N41 tag of other case", "( Type regular contents x )"),
        (
            "N41 longer tag",
            "( type regularcontentsofafilethatislongerthananytag contents x )",
        ),
        ("N41 no parenthesis", "type regular contents x )"),
    ] {
        refused(case, &nar(text), "BadTag");
    }
    let odd = edit(&nar(FILE), &token(b"type"), &token(b"type\0"));
    refused("a tag with a NUL", &odd, "BadTag");
    for text in [PROGRAM, FILE, LINK, FOLDER] {
        accepted(text, &nar(text));
    }
}

#[test]
fn lengths_are_checked_before_they_are_believed() {
    let contents_of = |length: u64| [nar("( type regular contents"), length.to_le_bytes().to_vec()].concat();
    refused("N42 contents of 2^64-1 bytes", &contents_of(u64::MAX), "SizeOverNar");
    refused("N43 contents larger than the NAR", &contents_of(1 << 20), "SizeOverNar");
    let folder_of = |length: u64| {
        [
            nar("( type directory entry ( name a node ( type regular contents"),
            length.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    refused("N44 in a folder", &folder_of(1 << 40), "SizeOverNar");
    refused(
        "N45 tag of 2^63 bytes",
        &[nar("("), (1_u64 << 63).to_le_bytes().to_vec()].concat(),
        "BadTag",
    );
    refused(
        "N46 target of 2^64-8 bytes",
        &[nar("( type symlink target"), (u64::MAX - 7).to_le_bytes().to_vec()].concat(),
        "TargetTooLong",
    );
    accepted("twin", &nar(FILE));
}

#[test]
fn a_nar_that_is_cut_anywhere_is_truncated() {
    for text in [FILE, PROGRAM, LINK, FOLDER] {
        let whole = nar(text);
        for length in (0..whole.len()).step_by(3) {
            let (result, folder) = restore(&whole[..length], Way::Plain, &Limits::at_most(1 << 20));
            assert_eq!(variant(&result.unwrap_err()), "Truncated", "{text} cut at {length}");
            assert!(is_empty(&folder), "{text} cut at {length}");
        }
        let length = whole.len();
        refused("N51 ten bytes short", &whole[..length - 10], "Truncated");
    }
    let file = nar(FILE);
    let contents = file.windows(5).position(|window| window == b"hello").unwrap();
    refused("N48 inside contents", &file[..contents + 2], "Truncated");
    refused("N49 inside padding", &file[..contents + 6], "Truncated");
    refused("N50 before the last parenthesis", &file[..file.len() - 16], "Truncated");
}

#[test]
fn bytes_behind_the_end_are_refused() {
    for text in [FILE, LINK, EMPTY_FOLDER] {
        refused("N52 one byte", &[nar(text), vec![0]].concat(), "TrailingBytes");
        refused("N53 a second NAR", &[nar(text), nar(text)].concat(), "TrailingBytes");
    }
    refused("N54 a second node", &[nar(FILE), words(FILE)].concat(), "TrailingBytes");
    accepted("twin", &nar(FILE));
}

#[test]
fn padding_must_be_zero() {
    for (case, from, to) in [
        ("N55 of contents", &b"hello\0\0\0"[..], &b"hello\0\0\x01"[..]),
        ("N55 of contents, first byte", b"hello\0\0\0", b"hello\x01\0\0"),
        ("N56 of a tag", b"type\0\0\0\0", b"type\0\0\0x"),
        (
            "N56 of the marker",
            b"executable\0\0\0\0\0\0",
            b"executable\0\0\0\0\0\xff",
        ),
    ] {
        refused(case, &edit(&nar(PROGRAM), from, to), "BadPadding");
    }
    refused(
        "N56 of a name",
        &edit(&entry_named(b"abc"), b"abc\0\0\0\0\0", b"abc\0\0\0\0d"),
        "BadPadding",
    );
    refused(
        "N56 of a target",
        &edit(&link_to(b"abc"), b"abc\0\0\0\0\0", b"abc\0\0\0\0d"),
        "BadPadding",
    );
    refused(
        "of the magic",
        &edit(&nar(FILE), b"nix-archive-1\0\0\0", b"nix-archive-1\0\0x"),
        "BadMagic",
    );
    accepted("twin", &nar(PROGRAM));
}

#[test]
fn targets_of_links_are_bounded_and_never_empty() {
    refused("N57 empty", &link_to(b""), "BadTarget");
    refused("N58 NUL", &link_to(b"a\0b"), "BadTarget");
    refused("N59 4,096 bytes", &link_to(&[b'x'; 4096]), "TargetTooLong");
    accepted("4,095 bytes", &link_to(&[b'x'; 4095]));
}

#[test]
fn links_to_anywhere_are_kept_and_never_followed() {
    for target in [
        "../../../../etc/shadow",
        "/etc/shadow",
        NAME,
        ".",
        "/",
        "/proc/self/root",
    ] {
        accepted(target, &link_to(target.as_bytes()));
    }
    // Everything else in the same folder as such links still lands where it should.
    let outside = tempfile::tempdir().unwrap();
    let text = format!(
        "( type directory entry ( name a node ( type symlink target {0} ) ) \
         entry ( name b node ( type directory entry ( name a node ( type symlink target {0}/x ) ) ) ) \
         entry ( name c node ( type regular contents x ) ) )",
        outside.path().display()
    );
    accepted("N60", &nar(&text));
    assert!(is_empty(&outside));
}

#[test]
fn nesting_is_bounded_without_recursion() {
    accepted("64 deep", &nested(63));
    refused("N61 65 deep", &nested(64), "TooDeep");
    refused("N61 1,500 deep", &nested(1500), "TooDeep");
    let (result, folder) = restore(
        &nested(3),
        Way::Plain,
        &Limits {
            depth: 2,
            ..Limits::at_most(1 << 20)
        },
    );
    assert_eq!(variant(&result.unwrap_err()), "TooDeep");
    assert!(is_empty(&folder));
}

#[test]
fn size_and_hash_must_be_those_that_are_signed() {
    let bytes = nar(FOLDER);
    let size = bytes.len() as u64;
    let (result, _folder) = restore(&bytes, Way::Plain, &Limits::at_most(size));
    let hash = result.unwrap().nar_hash;
    let other = restore(&nar(FILE), Way::Plain, &Limits::at_most(size))
        .0
        .unwrap()
        .nar_hash;
    for (case, nar_size, nar_hash, wanted) in [
        ("one byte more signed", size + 1, hash, "SizeMismatch"),
        ("one byte less signed", size - 1, hash, "OverNarSize"),
        ("half of it signed", size / 16 * 8, hash, "OverNarSize"),
        ("other hash signed", size, other, "HashMismatch"),
    ] {
        let (result, folder) = restore(
            &bytes,
            Way::Plain,
            &Limits {
                nar_size,
                nar_hash: Some(nar_hash),
                depth: 64,
            },
        );
        assert_eq!(variant(&result.unwrap_err()), wanted, "{case}");
        assert!(is_empty(&folder), "{case}");
    }
    let (result, _folder) = restore(
        &bytes,
        Way::Plain,
        &Limits {
            nar_size: size,
            nar_hash: Some(hash),
            depth: 64,
        },
    );
    assert_eq!(result.unwrap().regular_files, 2);
}

#[test]
fn what_is_already_there_is_neither_touched_nor_removed() {
    for text in [FILE, LINK, FOLDER] {
        for kind in ["file", "folder", "link", "dangling link"] {
            let folder = tempfile::tempdir().unwrap();
            let place = folder.path().join(NAME);
            match kind {
                "file" => fs::write(&place, "mine").unwrap(),
                "folder" => fs::create_dir(&place).unwrap(),
                "link" => std::os::unix::fs::symlink("/tmp", &place).unwrap(),
                _ => std::os::unix::fs::symlink("nowhere", &place).unwrap(),
            }
            let before = fs::symlink_metadata(&place).unwrap();
            let parent = fs::File::open(folder.path()).unwrap();
            let bytes = nar(text);
            let error = nar::restore(&bytes[..], parent.as_fd(), OsStr::new(NAME), &Limits::at_most(1 << 20));
            assert_eq!(variant(&error.unwrap_err()), "Collision", "{text} onto a {kind}");
            let after = fs::symlink_metadata(&place).unwrap();
            assert_eq!(
                (before.ino(), before.mtime(), before.mode()),
                (after.ino(), after.mtime(), after.mode())
            );
            assert!(fs::read_dir(folder.path()).unwrap().count() == 1);
        }
    }
}

/// Yields bytes one by one, and does something once, before the byte at `at`.
struct Meanwhile<'a, F> {
    bytes: &'a [u8],
    at: usize,
    taken: usize,
    act: Option<F>,
}

impl<F: FnOnce()> Read for Meanwhile<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken >= self.at
            && let Some(act) = self.act.take()
        {
            act();
        }
        let Some(byte) = self.bytes.get(self.taken) else {
            return Ok(0);
        };
        self.taken += 1;
        buffer[0] = *byte;
        Ok(1)
    }
}

/// Restores the NAR of `text`; `act` runs just before the token `word` has been read.
fn restore_meanwhile(
    folder: &tempfile::TempDir,
    text: &str,
    word: &str,
    act: impl FnOnce(),
) -> Result<Restored, NarError> {
    let (bytes, word) = (nar(text), token(word.as_bytes()));
    let at = bytes.windows(word.len()).position(|window| window == word).unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    let reader = Meanwhile {
        bytes: &bytes,
        at,
        taken: 0,
        act: Some(act),
    };
    nar::restore(reader, parent.as_fd(), OsStr::new(NAME), &Limits::at_most(1 << 20))
}

#[test]
fn a_name_that_the_file_system_already_holds_is_a_collision() {
    const TEXT: &str =
        "( type directory entry ( name A node ( type regular contents x ) ) entry ( name a node NODE ) )";
    for node in [
        "( type regular contents x )",
        "( type directory )",
        "( type symlink target x )",
    ] {
        let folder = tempfile::tempdir().unwrap();
        // As on a file system that folds case, there is an `a` as soon as there is an `A`.
        let result = restore_meanwhile(&folder, &TEXT.replace("NODE", node), "a", || {
            fs::write(folder.path().join(NAME).join("a"), "x").unwrap();
        });
        let NarError::Collision { path } = result.unwrap_err() else {
            panic!("{node}: another error")
        };
        assert_eq!(path, std::path::Path::new("a"), "N24 {node}");
        assert!(is_empty(&folder), "N24 {node}");
        restore_meanwhile(&folder, &TEXT.replace("NODE", node), "a", || {}).unwrap();
    }
}

#[test]
fn a_folder_swapped_for_a_link_leads_nowhere() {
    const TEXT: &str = "( type directory entry ( name d node ( type directory \
        entry ( name first node ( type regular contents x ) ) \
        entry ( name second node ( type directory entry ( name third node ( type symlink target x ) ) ) ) ) ) )";
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = folder.path().join(NAME);
    let _ = restore_meanwhile(&folder, TEXT, "second", || {
        fs::rename(place.join("d"), place.join("moved")).unwrap();
        std::os::unix::fs::symlink(outside.path(), place.join("d")).unwrap();
    });
    assert!(is_empty(&outside), "nothing was written through the link");
    let parent = fs::File::open(folder.path()).unwrap();
    nar::remove_tree(parent.as_fd(), OsStr::new(NAME)).unwrap();
    assert!(is_empty(&folder) && outside.path().exists());
}

#[test]
fn errors_of_the_source_keep_their_kind_and_leave_nothing() {
    struct Failing(io::Cursor<Vec<u8>>);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                read => Ok(read),
            }
        }
    }
    let bytes = nar(FOLDER);
    let cut = bytes[..bytes.len() / 2].to_vec();
    for compression in [Compression::None, Compression::Zstd, Compression::Xz] {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        encoder.write_all(&cut).unwrap();
        let source = Failing(io::Cursor::new(encoder.finish().unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let parent = fs::File::open(folder.path()).unwrap();
        let reader = decoder(compression, source, MAX_WINDOW).unwrap();
        let error = nar::restore(reader, parent.as_fd(), OsStr::new(NAME), &Limits::at_most(1 << 20)).unwrap_err();
        let NarError::Read { source, .. } = error else {
            panic!("{compression}: another error")
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
        assert!(is_empty(&folder));
    }
}
