//! Bombs and lies about lengths against the peak memory of this process.
//! Never shares its process: one test, so that nobody else's memory is measured.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

#[path = "support/fixture.rs"]
mod fixture;
#[path = "support/nar_text.rs"]
mod nar_text;
#[path = "support/server.rs"]
mod server;
#[path = "support/signed.rs"]
mod signed;

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::fd::AsFd,
};

use binary_cache::{
    compression::{Compression, DecodeError, Encoder, MAX_WINDOW, decoder},
    key::KeyRing,
    nar::{self, Limits, NarError},
    narinfo::{Download, Fields, NarInfo, NarInfoError, TrustError},
    options::Options,
    substitute::Substituter,
    write::source_store_path,
};
use crds::domain::store_path::StorePath;
use fixture::{Bench, Files, cache, nar_of, secret_key, sha256};
use futures_util::future::join_all;
use server::Server;
use signed::{asked, fields, key, signed_text};

const MIB: u64 = 1 << 20;
/// What a decoder may take: its window, twice over, and the buffers around it (bad-inputs S8).
const COMPRESSED: u64 = 160 * MIB;
/// What reading without a decoder may take.
const PLAIN: u64 = 64 * MIB;
const GIB: u64 = 1 << 30;
const SIGNED: u64 = MIB;
/// What eight downloads may take together: all windows, and for each what is around it.
const TOGETHER: u64 = 256 * MIB + 8 * 12 * MIB;

/// A field of `/proc/self/status` that is in KiB, in bytes.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Runs `act` and holds its peak against `limit`. What this process kept from earlier steps counts as `act`'s, but for
/// `base`: nothing can hide in memory that was freed and kept.
fn within(case: &str, limit: u64, base: u64, act: impl FnOnce()) {
    // Forgets the peak of whatever prepared the input; where that is forbidden, that counts too.
    let _forbidden = fs::write("/proc/self/clear_refs", "5").is_err();
    act();
    let grown = status("VmHWM:").saturating_sub(base);
    assert!(grown <= limit, "{case}: {} of {} MiB", grown / MIB, limit / MIB);
}

fn restore(reader: impl Read, nar_size: u64) -> NarError {
    let folder = tempfile::tempdir().unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    let error = nar::restore(reader, parent.as_fd(), OsStr::new("out"), &Limits::at_most(nar_size)).unwrap_err();
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "{error:?}");
    error
}

/// A NAR's head that promises contents of `length` bytes.
fn promise(length: u64) -> Vec<u8> {
    [nar_text::nar("( type regular contents"), length.to_le_bytes().to_vec()].concat()
}

/// 1 GiB of zeros behind `head`, compressed in members, which is one stream, and quickly made.
fn zeros(compression: Compression, head: &[u8]) -> Vec<u8> {
    const MEMBER: u64 = 64 * MIB;
    let pack = |reader: &mut dyn Read| {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        io::copy(reader, &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let member = pack(&mut io::repeat(0).take(MEMBER));
    [pack(&mut &*head), member.repeat((GIB / MEMBER) as usize)].concat()
}

/// An `.xz` stream that asks for a dictionary of 1.5 GiB, and says so with good checksums.
fn xz_dictionary() -> Vec<u8> {
    let block = [0x02, 0x00, 0x21, 0x01, 37, 0, 0, 0];
    // Both CRC-32 are spelled out: of the stream's flags, and of the block's head.
    let crc = |bytes: &[u8]| {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes
            .iter()
            .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    };
    let head = [&b"\xfd7zXZ\0\0\x04"[..], &crc(&[0, 4]).to_le_bytes()].concat();
    [&head[..], &block, &crc(&block).to_le_bytes(), &[0; 64]].concat()
}

fn check_plain(base: u64) {
    let ring = KeyRing::new(vec![key("cache-1", 1).public_key()]).unwrap();
    within("N42 contents of 2^64-1 bytes", PLAIN, base, || {
        let endless = promise(u64::MAX);
        let error = restore(endless.chain(io::repeat(0)), SIGNED);
        assert!(matches!(error, NarError::SizeOverNar { .. }), "{error:?}");
    });
    within("N42, where the signed size allows it", PLAIN, base, || {
        // The size is believed only as far as bytes come.
        let error = restore(promise(u64::MAX - 1024).chain(io::empty()), u64::MAX);
        assert!(matches!(error, NarError::Truncated { .. }), "{error:?}");
    });
    for (case, length) in [("N19", u64::MAX), ("N20", 1 << 40)] {
        within(case, PLAIN, base, || {
            let name = [
                nar_text::nar("( type directory entry ( name"),
                length.to_le_bytes().to_vec(),
            ]
            .concat();
            let error = restore(name.chain(io::repeat(b'a')), u64::MAX);
            assert!(matches!(error, NarError::NameTooLong { .. }), "{error:?}");
        });
    }
    let good = signed_text(&key("cache-1", 1));
    within("S12 a narinfo of 10 MB", PLAIN, base, || {
        let large = good.clone() + &format!("X: {}\n", "x".repeat(10_000_000));
        let error = NarInfo::parse(large.as_bytes()).unwrap_err();
        assert!(matches!(error, NarInfoError::TooLarge { .. }), "{error:?}");
    });
    within("G15 100,000 Sig lines", PLAIN, base, || {
        let many = NarInfo::new(fields()).to_text().to_owned() + &"Sig: a:b\n".repeat(100_000);
        let error = NarInfo::parse(many.as_bytes())
            .unwrap()
            .verify(&asked(), &ring)
            .unwrap_err();
        assert!(
            matches!(error, TrustError::TooManySignatures { found: 100_000, .. }),
            "{error:?}"
        );
    });
    within("the twin", PLAIN, base, || {
        NarInfo::parse(good.as_bytes())
            .unwrap()
            .verify(&asked(), &ring)
            .unwrap();
    });
}

fn check_refused_windows(base: u64) {
    for (compression, bytes) in [
        // Magic, no flags, a window of 2^31 bytes, an empty block.
        (Compression::Zstd, vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0]),
        (Compression::Xz, xz_dictionary()),
    ] {
        within("S8 a window above the limit", PLAIN, base, || {
            let error = restore(decoder(compression, &bytes[..], MAX_WINDOW).unwrap(), u64::MAX);
            let NarError::Decode { source, .. } = error else {
                panic!("{error:?}")
            };
            assert!(matches!(source, DecodeError::WindowTooLarge { .. }), "{source:?}");
        });
    }
}

fn check_bombs(base: u64) {
    for compression in [Compression::Zstd, Compression::Xz] {
        let bomb = zeros(compression, &promise(GIB));
        assert!((bomb.len() as u64) < GIB / 5000, "{compression}: {} bytes", bomb.len());
        within("S8 1 GiB of zeros, 1 MiB signed", COMPRESSED, base, || {
            let error = restore(decoder(compression, &bomb[..], MAX_WINDOW).unwrap(), SIGNED);
            assert!(matches!(error, NarError::SizeOverNar { .. }), "{error:?}");
        });
        within("S8 1 GiB of zeros, decoded to the end", COMPRESSED, base, || {
            let decoded = io::copy(
                &mut decoder(compression, &bomb[..], MAX_WINDOW).unwrap(),
                &mut io::sink(),
            )
            .unwrap();
            assert_eq!(decoded, GIB + promise(GIB).len() as u64);
        });
        let behind = zeros(compression, &nar_text::nar("( type regular contents x )"));
        within("S8 1 GiB of zeros behind a good NAR", COMPRESSED, base, || {
            let error = restore(decoder(compression, &behind[..], MAX_WINDOW).unwrap(), SIGNED);
            assert!(matches!(error, NarError::TrailingBytes { .. }), "{error:?}");
        });
    }
}

/// Eight store paths in a cache, each a good NAR whose decoder fills a window of 128 MiB.
fn greedy() -> (Files, Vec<StorePath>) {
    let nar = nar_of(&vec![0; (220 * MIB) as usize]);
    let hash = sha256(&nar);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&nar).unwrap();
    let mut files = Files::default();
    files.0.insert("/nar/x.nar.zst".to_owned(), encoder.finish().unwrap());
    let path = |number| source_store_path(&format!("greedy-{number}"), &hash, &[]).unwrap();
    let paths: Vec<StorePath> = (0..8).map(path).collect();
    for path in &paths {
        let mut narinfo = NarInfo::new(Fields {
            store_path: path.clone(),
            nar_hash: hash,
            nar_size: nar.len() as u64,
            references: Vec::new(),
            deriver: None,
            ca: None,
            download: Download {
                url: "nar/x.nar.zst".parse().unwrap(),
                compression: Compression::Zstd,
                file_hash: None,
                file_size: None,
            },
        });
        narinfo.sign(&secret_key());
        let place = format!("/{}.narinfo", path.hash());
        files.0.insert(place, narinfo.to_text().as_bytes().to_vec());
    }
    (files, paths)
}

fn check_downloads_together(base: u64) {
    let (files, paths) = greedy();
    let server = Server::start(move |asked, conn| files.serve(asked, conn));
    let fetch_all = |decoder_windows| {
        let options = Options {
            decoder_windows,
            ..Options::default()
        };
        let substituter = Substituter::new(vec![cache("greedy", &server.url(), None)], options).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(join_all(paths.iter().map(async |path| {
            let bench = Bench::new();
            bench.get(&substituter, path).await.unwrap();
        })));
    };
    within("S8 eight windows of 128 MiB at once", TOGETHER, base, || {
        fetch_all(Options::default().decoder_windows);
    });
    // The measure itself: without a bound over all of them, they take what they ask for.
    let _forbidden = fs::write("/proc/self/clear_refs", "5").is_err();
    fetch_all(1 << 31);
    let grown = status("VmHWM:").saturating_sub(base);
    assert!(grown > 2 * TOGETHER, "{} MiB", grown / MIB);
}

#[test]
fn no_bomb_and_no_lie_about_a_length_takes_more_memory_than_promised() {
    let base = status("VmRSS:");
    check_plain(base);
    check_refused_windows(base);
    check_bombs(base);
    check_downloads_together(base);
    // The measure itself: what is really taken is seen.
    let before = status("VmHWM:");
    let taken = vec![1_u8; usize::try_from(before + COMPRESSED).unwrap()];
    assert!(status("VmHWM:").saturating_sub(base) > COMPRESSED, "{}", taken.len());
}
