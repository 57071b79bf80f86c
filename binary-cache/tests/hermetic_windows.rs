//! The memory that all decoders share: ordinary downloads run at once, greedy ones wait their turn or are refused by name.
//! Never measures memory: that is `hermetic_memory`'s, which needs a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "support/fixture.rs"]
mod fixture;
#[path = "support/server.rs"]
mod server;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use binary_cache::{
    compression::{Compression, DecodeError, MAX_WINDOW},
    fault::Fault,
    nar::NarError,
    options::Options,
    substitute::{Progress, SubstituteError, Substituter},
};
use fixture::{Bench, Files, Fixture, cache, nar_of, noise, quick};
use futures_util::future::join_all;
use server::{Server, Then};

const MIB: u64 = 1 << 20;

/// A zstd frame of this window.
fn frame(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A store path of 300,000 bytes whose NAR is packed in frames of these windows.
fn packed(name: &str, window_logs: &[u32]) -> Fixture {
    let fixture = Fixture::new(name, 300_000, Compression::None);
    let nar = nar_of(&fixture.contents);
    let parts = nar.chunks(nar.len().div_ceil(window_logs.len()));
    let frames: Vec<_> = parts.zip(window_logs).map(|(part, log)| frame(part, *log)).collect();
    fixture.packed_as(Compression::Zstd, frames.concat())
}

fn within(decoder_windows: u64) -> Options {
    Options {
        decoder_windows,
        ..Options::default()
    }
}

fn all(fixtures: &[Fixture]) -> Files {
    let mut files = Files::default();
    for fixture in fixtures {
        files.0.extend(fixture.files.0.clone());
    }
    files
}

/// Counts the downloads of which something has been unpacked.
struct Seen(Arc<AtomicUsize>, AtomicBool);

impl Progress for Seen {
    fn unpacked(&self, _: u64) {
        let first = !self.1.swap(true, Ordering::SeqCst);
        self.0.fetch_add(usize::from(first), Ordering::SeqCst);
    }
}

/// Fetches all of them at once; `begun` counts those that are being unpacked.
async fn fetch_all(from: &Substituter, fixtures: &[Fixture], begun: &Arc<AtomicUsize>) {
    join_all(fixtures.iter().map(async |fixture| {
        let bench = Bench::new();
        let found = from.lookup(&fixture.path).await.unwrap();
        let progress = Arc::new(Seen(begun.clone(), AtomicBool::new(false)));
        from.substitute(&found.narinfo, &bench.target, progress).await.unwrap();
        assert_eq!(bench.unpacked().as_ref(), Some(&fixture.contents));
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_with_ordinary_windows_are_unpacked_at_once() {
    let fixtures: Vec<_> = (0..16).map(|n| packed(&format!("ordinary-{n}"), &[23])).collect();
    let (files, begun) = (all(&fixtures), Arc::new(AtomicUsize::new(0)));
    let seen = begun.clone();
    // Nobody gets the end of a file before all have begun to unpack theirs.
    let server = Server::start(move |asked, conn| {
        let Some(body) = files.0.get(&asked.path).filter(|_| asked.path.starts_with("/nar/")) else {
            return files.serve(asked, conn);
        };
        let (first, rest) = body.split_at(body.len() - 20);
        conn.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        conn.raw(first);
        while seen.load(Ordering::SeqCst) < 16 && conn.raw(b"") {
            conn.pause(2);
        }
        conn.raw(rest);
        Then::Keep
    });
    let from = Substituter::new(vec![cache("c", &server.url(), None)], Options::default()).unwrap();
    fetch_all(&from, &fixtures, &begun).await;
    assert_eq!(begun.load(Ordering::SeqCst), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_whose_windows_do_not_fit_together_take_turns_and_lose_nothing() {
    let fixtures: Vec<_> = (0..8).map(|n| packed(&format!("large-{n}"), &[25])).collect();
    for (windows, waiting) in [(256 * MIB, 0), (64 * MIB, 6), (40 * MIB, 7)] {
        let (files, first, resumed) = (all(&fixtures), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let later = resumed.clone();
        // Nobody gets the end of a file before all have asked for theirs; who waits then lets go, and asks for the rest.
        let server = Server::start(move |asked, conn| {
            let is_nar = asked.path.starts_with("/nar/");
            if !is_nar || asked.from().is_some() {
                later.fetch_add(usize::from(is_nar), Ordering::SeqCst);
                return files.serve(asked, conn);
            }
            let body = &files.0[&asked.path];
            conn.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
            conn.raw(&body[..100_000]);
            first.fetch_add(1, Ordering::SeqCst);
            while first.load(Ordering::SeqCst) < 8 && conn.raw(b"") {
                conn.pause(2);
            }
            conn.raw(&body[100_000..]);
            Then::Keep
        });
        let from = Substituter::new(vec![cache("c", &server.url(), None)], within(windows)).unwrap();
        fetch_all(&from, &fixtures, &Arc::default()).await;
        assert_eq!(resumed.load(Ordering::SeqCst), waiting, "{windows} bytes of windows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_gives_up_while_it_waits_leaves_the_next_one_its_turn() {
    let (first, second, third) = (packed("first", &[25]), packed("second", &[25]), packed("third", &[25]));
    let files = all(&[first.clone(), second.clone(), third.clone()]);
    let held = first.nar_path.clone();
    let may_end = Arc::new(AtomicUsize::new(0));
    let gate = may_end.clone();
    let server = Server::start(move |asked, conn| {
        if asked.path != held {
            return files.serve(asked, conn);
        }
        let body = &files.0[&asked.path];
        conn.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        conn.raw(&body[..body.len() / 2]);
        while gate.load(Ordering::SeqCst) == 0 && conn.raw(b"") {
            conn.pause(2);
        }
        conn.raw(&body[body.len() / 2..]);
        Then::Keep
    });
    let from = Substituter::new(vec![cache("c", &server.url(), None)], within(32 * MIB)).unwrap();
    let get = |fixture: Fixture| {
        let from = from.clone();
        async move {
            let bench = Bench::new();
            bench.get(&from, &fixture.path).await.unwrap();
            bench.unpacked()
        }
    };
    let mut one = Box::pin(get(first.clone()));
    while server.count(&first.nar_path) == 0 || server.count(&second.nar_path) == 0 {
        let mut two = Box::pin(get(second.clone()));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(300), async {
            tokio::select! { _ = &mut one => panic!("it cannot end"), _ = &mut two => panic!("it must wait") }
        });
        assert!(waited.await.is_err());
    }
    let rest = async { tokio::join!(&mut one, get(third.clone())) };
    may_end.store(1, Ordering::SeqCst);
    let (one, three) = rest.await;
    assert!(one == Some(first.contents) && three == Some(third.contents));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_above_the_bound_is_refused_by_name_and_one_below_it_is_not() {
    let source = |error: SubstituteError| {
        let Fault::Nar(NarError::Decode { source, .. }) = &*error.asked()[0].fault else {
            panic!("{error:?}")
        };
        source.clone()
    };
    let compression = Compression::Zstd;
    let (too_large, grows) = (
        |limit| Some(DecodeError::WindowTooLarge { compression, limit }),
        |taken| Some(DecodeError::WindowGrows { compression, taken }),
    );
    for (case, logs, windows, wanted) in [
        ("above all", &[28][..], 256 * MIB, too_large(MAX_WINDOW)),
        ("the largest", &[27], 256 * MIB, None),
        ("above what there is", &[25], 31 * MIB, too_large(16 * MIB)),
        ("all that there is", &[24], 31 * MIB, None),
        ("later frames may have an ordinary one", &[12, 23, 20], 256 * MIB, None),
        ("a later frame wants more", &[12, 24], 256 * MIB, grows(8 * MIB)),
        ("not more than the first", &[24, 24], 256 * MIB, None),
        ("a later one above all", &[27, 28], 256 * MIB, too_large(MAX_WINDOW)),
    ] {
        let fixture = packed("one", logs);
        let files = fixture.files.clone();
        let server = Server::start(move |asked, conn| files.serve(asked, conn));
        let options = Options {
            decoder_windows: windows,
            ..quick()
        };
        let from = Substituter::new(vec![cache("c", &server.url(), None)], options).unwrap();
        let bench = Bench::new();
        let error = bench.get(&from, &fixture.path).await.err().map(source);
        assert_eq!(error, wanted, "{case}");
        assert_eq!(bench.is_empty(), wanted.is_some(), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_says_nothing_of_its_window_is_judged_by_its_decoder() {
    for (case, bytes) in [
        ("nothing", Vec::new()),
        ("noise", noise(20_000, 3)),
        ("a page", b"<html>".repeat(9)),
    ] {
        let fixture = Fixture::new("odd", 1000, Compression::None).packed_as(Compression::Xz, bytes);
        let files = fixture.files.clone();
        let server = Server::start(move |asked, conn| files.serve(asked, conn));
        let from = Substituter::new(vec![cache("c", &server.url(), None)], quick()).unwrap();
        let bench = Bench::new();
        let error = bench.get(&from, &fixture.path).await.unwrap_err();
        let corrupt = matches!(error, SubstituteError::CacheCorrupt { .. });
        assert!(corrupt && bench.is_empty(), "{case}: {error:?}");
    }
}
