//! Downloads that break and go on: ranges honoured, ignored and lied about, retries, decoders fed from the network.
//! Never leaves this machine.
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
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use binary_cache::{
    compression::{Compression, Encoder},
    fault::Class,
    narinfo::{self, Fields, NarInfo},
    options::Options,
    substitute::Substituter,
};
use crds::domain::store_path::StorePath;
use fixture::{Bench, Fixture, cache, noise, quick};
use server::{Asked, Conn, Server, Then};
use tokio::time::Instant;

const CUT: usize = 30_000;

/// Answers for the NAR as `body` and `header` say, from byte `from`, but cuts the connection after `CUT` bytes.
fn cut(conn: &mut Conn, status: u16, headers: &str, body: &[u8]) -> Then {
    conn.raw(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).as_bytes());
    conn.raw(&body[..body.len().min(CUT)]);
    Then::Close
}

fn server(fixture: &Arc<Fixture>, nar: impl Fn(&Fixture, &Asked, &mut Conn) -> Then + Send + Sync + 'static) -> Server {
    let fixture = fixture.clone();
    Server::start(move |asked, conn| {
        if asked.path == fixture.nar_path {
            nar(&fixture, asked, conn)
        } else {
            fixture.files.serve(asked, conn)
        }
    })
}

fn one(server: &Server) -> Substituter {
    Substituter::new(vec![cache("one", &server.url(), None)], quick()).unwrap()
}

/// H17, H27: ranges honoured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_every_30_kb_costs_no_byte_twice_where_ranges_are_honoured() {
    for compression in [Compression::None, Compression::Zstd, Compression::Xz] {
        let fixture = Arc::new(Fixture::new("resumed", 400_000, compression));
        let server = server(&fixture, |f, asked, conn| {
            let (from, etag) = (asked.from().unwrap_or(0), "\"v1\"");
            if from == 0 {
                return cut(conn, 200, &format!("ETag: {etag}\r\n"), f.nar());
            }
            assert_eq!(asked.header("if-range"), Some(etag));
            let range = format!(
                "Content-Range: bytes {from}-{}/{}\r\nETag: {etag}\r\n",
                f.nar().len() - 1,
                f.nar().len()
            );
            cut(conn, 206, &range, &f.nar()[from..])
        });
        let bench = Bench::new();
        bench.get(&one(&server), &fixture.path).await.unwrap();
        assert_eq!(bench.unpacked().unwrap(), fixture.contents);
        let downloaded = bench.counters.downloaded.load(Ordering::Relaxed);
        assert_eq!(downloaded, fixture.nar().len() as u64, "{compression}: nothing twice");
        assert_eq!(bench.counters.restarts.load(Ordering::Relaxed), 0);
        assert_eq!(
            server.count(&fixture.nar_path),
            fixture.nar().len().div_ceil(CUT),
            "{compression}"
        );
        assert_eq!(
            bench.counters.retries.load(Ordering::Relaxed) as usize,
            fixture.nar().len().div_ceil(CUT) - 1
        );
    }
}

/// H27: ranges ignored, another offset, another version, other bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ignores_ranges_is_read_over_and_one_that_lies_is_found_out() {
    let fixture = Arc::new(Fixture::new("ranged", 200_000, Compression::None));
    let tries = Arc::new(AtomicUsize::new(0));

    // Ignored: the second connection sends everything again, and lasts.
    let seen = tries.clone();
    let ignoring = server(&fixture, move |f, _, conn| match seen.fetch_add(1, Ordering::Relaxed) {
        0 => cut(conn, 200, "", f.nar()),
        _ => f.files.serve(
            &Asked {
                path: f.nar_path.clone(),
                headers: Vec::new(),
            },
            conn,
        ),
    });
    let bench = Bench::new();
    bench.get(&one(&ignoring), &fixture.path).await.unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);
    assert_eq!(ignoring.count(&fixture.nar_path), 2);

    // Ignored for ever, and cut for ever: no progress, so it ends.
    let hopeless = server(&fixture, |f, _, conn| cut(conn, 200, "", f.nar()));
    let error = Bench::new().get(&one(&hopeless), &fixture.path).await.unwrap_err();
    assert!(format!("{error:?}").contains("Cut"), "{error:?}");
    assert!(hopeless.count(&fixture.nar_path) <= 2 * quick().attempts as usize + 2);

    // Another offset than asked for; another size; another version; a lie that only the hash can find.
    for (name, fault, lie) in [
        ("offset", "WrongPart", "Content-Range: bytes 0-199999/200000\r\n"),
        ("none", "WrongPart", ""),
        (
            "tag",
            "Changed",
            "Content-Range: bytes 30000-200111/200112\r\nETag: \"v2\"\r\n",
        ),
        (
            "bytes",
            "Nar(",
            "Content-Range: bytes 30000-200111/200112\r\nETag: \"v1\"\r\n",
        ),
    ] {
        let lying = server(&fixture, move |f, asked, conn| match asked.from() {
            None => cut(conn, 200, "ETag: \"v1\"\r\n", f.nar()),
            Some(from) => {
                let body = vec![b'x'; f.nar().len() - from];
                conn.raw(format!("HTTP/1.1 206 X\r\nContent-Length: {}\r\n{lie}\r\n", body.len()).as_bytes());
                conn.raw(&body);
                Then::Close
            }
        });
        let bench = Bench::new();
        let error = bench.get(&one(&lying), &fixture.path).await.unwrap_err();
        assert!(
            error
                .asked()
                .iter()
                .any(|a| format!("{:?}", a.fault).starts_with(fault)),
            "{name}: {error:?}"
        );
        assert!(bench.is_empty(), "{name}");
    }
}

/// H27: another ETag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_half_way_is_read_anew() {
    let fixture = Arc::new(Fixture::new("changed", 200_000, Compression::None));
    let tries = Arc::new(AtomicUsize::new(0));
    let seen = tries.clone();
    let server = server(&fixture, move |f, _, conn| match seen.fetch_add(1, Ordering::Relaxed) {
        0 => cut(conn, 200, "ETag: \"old\"\r\n", f.nar()),
        _ => {
            conn.reply(200, &[("ETag", "\"new\"")], f.nar());
            Then::Keep
        }
    });
    let bench = Bench::new();
    bench.get(&one(&server), &fixture.path).await.unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);
    assert_eq!(bench.counters.restarts.load(Ordering::Relaxed), 1);
}

/// H06.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_pass_are_waited_out_within_a_bounded_number_of_tries() {
    let fixture = Arc::new(Fixture::new("h06", 50_000, Compression::Zstd));
    for (failures, good) in [(1, true), (2, true), (1000, false)] {
        let (count, files) = (Arc::new(AtomicUsize::new(0)), fixture.files.clone());
        let server = Server::start(move |asked, conn| {
            if count.fetch_add(1, Ordering::Relaxed) < failures {
                conn.reply(500, &[], b"sorry");
                return Then::Keep;
            }
            files.serve(asked, conn)
        });
        let bench = Bench::new();
        let result = bench.get(&one(&server), &fixture.path).await;
        assert_eq!(result.is_ok(), good, "{failures}: {result:?}");
        assert!(server.asked().len() <= 3 + quick().attempts as usize);
    }
}

/// H05.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_honoured_up_to_a_cap() {
    let fixture = Arc::new(Fixture::new("h05", 1000, Compression::None));
    let (count, files) = (Arc::new(AtomicUsize::new(0)), fixture.files.clone());
    let server = Server::start(move |asked, conn| {
        if asked.path.ends_with(".narinfo") && count.fetch_add(1, Ordering::Relaxed) == 0 {
            conn.reply(429, &[("Retry-After", "1000000000")], b"");
            return Then::Keep;
        }
        files.serve(asked, conn)
    });
    let options = Options {
        max_retry_after: Duration::from_millis(300),
        ..quick()
    };
    let from = Substituter::new(vec![cache("one", &server.url(), None)], options).unwrap();
    let start = Instant::now();
    Bench::new().get(&from, &fixture.path).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "it was asked to wait");
    assert!(start.elapsed() < Duration::from_secs(20), "but not for 30 years");
}

/// Compresses `bytes` as a whole file.
fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The file instead of the good one, given that and the plain NAR.
type Pack = Box<dyn Fn(&[u8], &[u8]) -> Vec<u8>>;

/// One way to spoil the compressed NAR of a fixture, and what is expected.
struct Spoiled {
    name: &'static str,
    compression: Compression,
    file: Pack,
    /// `None`: accepted.
    want: Option<(&'static str, &'static str)>,
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn spoiled_files() -> Vec<Spoiled> {
    use Compression::{Xz, Zstd};
    let spoiled = |name, compression, want, file: Pack| Spoiled {
        name,
        compression,
        file,
        want,
    };
    let corrupt = |fault| Some(("CacheCorrupt", fault));
    let skippable = |length: u32| [&[0x50, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes()].concat();
    vec![
        spoiled("good", Xz, None, Box::new(|good, _| good.to_vec())),
        spoiled(
            "truncated xz",
            Xz,
            corrupt("Nar("),
            Box::new(|good, _| good[..good.len() - 10].to_vec()),
        ),
        spoiled(
            "truncated zstd",
            Zstd,
            corrupt("Nar("),
            Box::new(|good, _| good[..good.len() / 2].to_vec()),
        ),
        spoiled(
            "xz with a wrong bit",
            Xz,
            corrupt("Nar("),
            Box::new(|good, _| {
                let mut bad = good.to_vec();
                let middle = bad.len() / 2;
                bad[middle] ^= 1;
                bad
            }),
        ),
        spoiled(
            "two xz streams",
            Xz,
            None,
            Box::new(|_, nar| {
                let (a, b) = nar.split_at(nar.len() / 2);
                [packed(Xz, a), packed(Xz, b)].concat()
            }),
        ),
        spoiled(
            "two zstd frames",
            Zstd,
            None,
            Box::new(|_, nar| {
                let (a, b) = nar.split_at(nar.len() / 2);
                [packed(Zstd, a), packed(Zstd, b)].concat()
            }),
        ),
        spoiled(
            "zstd with a small skippable frame",
            Zstd,
            None,
            Box::new(move |good, _| [skippable(4), b"note".to_vec(), good.to_vec()].concat()),
        ),
        spoiled(
            "xz where zstd was announced",
            Zstd,
            corrupt("Nar("),
            Box::new(|_, nar| packed(Xz, nar)),
        ),
        spoiled(
            "plain where xz was announced",
            Xz,
            corrupt("Nar("),
            Box::new(|_, nar| nar.to_vec()),
        ),
        spoiled(
            "zstd dictionary id",
            Zstd,
            Some(("CacheHostile", "Nar(")),
            Box::new(|_, _| {
                // Magic, a descriptor with a 4-byte dictionary id and a window, the window, the id.
                vec![0x28, 0xb5, 0x2f, 0xfd, 0x03, 0x58, 1, 0, 0, 0x10, 1, 0, 0]
            }),
        ),
        spoiled(
            "zstd window of 2 GiB",
            Zstd,
            Some(("CacheHostile", "Nar(")),
            Box::new(|_, _| vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0]),
        ),
        spoiled(
            "zstd bomb",
            Zstd,
            corrupt("Nar(TrailingBytes"),
            Box::new(|_, nar| {
                let mut nar = nar.to_vec();
                nar.resize(64 << 20, 0);
                packed(Zstd, &nar)
            }),
        ),
        spoiled(
            "xz bomb",
            Xz,
            corrupt("Nar(TrailingBytes"),
            Box::new(|_, nar| {
                let mut nar = nar.to_vec();
                nar.resize(32 << 20, 0);
                packed(Xz, &nar)
            }),
        ),
        spoiled(
            "trailing bytes",
            Compression::None,
            corrupt("Nar("),
            Box::new(|good, _| [good, b"x"].concat()),
        ),
    ]
}

/// H48, H49.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_compressed_bytes_is_named_and_what_is_only_unusual_is_read() {
    for Spoiled {
        name,
        compression,
        file,
        want,
    } in spoiled_files()
    {
        let fixture = Fixture::new("packed", 100_000, compression);
        let nar = fixture::nar_of(&fixture.contents);
        // Unsigned hints must not save us.
        let mut files = fixture.without_hints().files;
        files.0.insert(fixture.nar_path.clone(), file(fixture.nar(), &nar));
        let bad = Server::start(move |asked, conn| files.serve(asked, conn));
        let good_files = fixture.files.clone();
        let good = Server::start(move |asked, conn| good_files.serve(asked, conn));

        let bench = Bench::new();
        let result = bench.get(&one(&bad), &fixture.path).await;
        match want {
            None => assert_eq!(
                bench.unpacked().as_deref(),
                Some(fixture.contents.as_slice()),
                "{name}: {result:?}"
            ),
            Some((error, fault)) => {
                let refused = result.expect_err(name);
                assert!(format!("{refused:?}").starts_with(error), "{name}: {refused:?}");
                assert!(
                    refused
                        .asked()
                        .iter()
                        .any(|a| format!("{:?}", a.fault).starts_with(fault)),
                    "{name}: {refused:?}"
                );
                assert!(bench.is_empty(), "{name}");
            }
        }
        let bench = Bench::new();
        let both = vec![cache("bad", &bad.url(), Some(1)), cache("good", &good.url(), Some(2))];
        bench
            .get(&Substituter::new(both, quick()).unwrap(), &fixture.path)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(bench.unpacked().unwrap(), fixture.contents, "{name}");
    }
}

/// A narinfo of a zstd file that nobody ever made, without hints.
fn promised(path: &StorePath, nar_size: u64) -> Vec<u8> {
    let mut narinfo = NarInfo::new(Fields {
        store_path: path.clone(),
        nar_hash: fixture::sha256(b"never made"),
        nar_size,
        references: Vec::new(),
        deriver: None,
        ca: None,
        download: narinfo::Download {
            url: "nar/skip.nar.zst".parse().unwrap(),
            compression: Compression::Zstd,
            file_hash: None,
            file_size: None,
        },
    });
    narinfo.sign(&fixture::secret_key());
    narinfo.to_text().as_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_of_skippable_frames_is_not_read_to_its_end() {
    let mut fixture = Fixture::new("skip", 1000, Compression::Zstd);
    // H48. Behind a small NAR the file is simply too large for it. A NAR that may have as many bytes leaves it to the
    // decoder to see that nothing comes out of them, and that is no accident.
    for (nar_size, fault, class) in [
        (2000, "TooLarge", Class::Corrupt),
        (64 << 20, "Nar(Decode { offset: 0, source: Padding", Class::Hostile),
    ] {
        let narinfo = promised(&fixture.path, nar_size);
        fixture.files.0.insert(fixture.narinfo_path.clone(), narinfo);
        let sent = Arc::new(AtomicUsize::new(0));
        let (files, count) = (fixture.files.clone(), sent.clone());
        let server = Server::start(move |asked, conn| {
            if asked.path != "/nar/skip.nar.zst" {
                return files.serve(asked, conn);
            }
            conn.raw(b"HTTP/1.1 200 OK\r\n\r\n");
            conn.raw(&[&[0x50, 0x2a, 0x4d, 0x18][..], &(1u32 << 30).to_le_bytes()].concat());
            let block = noise(1 << 20, 3);
            while count.load(Ordering::Relaxed) < 1 << 30 && conn.raw(&block) {
                count.fetch_add(block.len(), Ordering::Relaxed);
            }
            Then::Close
        });
        let error = Bench::new().get(&one(&server), &fixture.path).await.unwrap_err();
        let found = &error.asked()[0].fault;
        assert_eq!(found.class(), class, "{error:?}");
        assert!(format!("{found:?}").starts_with(fault), "{error:?}");
        assert!(sent.load(Ordering::Relaxed) < 64 << 20, "{sent:?}");
    }
}

/// H50.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_at_the_second_request_are_hashed_again() {
    let fixture = Arc::new(Fixture::new("h50", 100_000, Compression::None));
    let count = Arc::new(AtomicUsize::new(0));
    let server = server(&fixture, move |f, asked, conn| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            return f.files.serve(asked, conn);
        }
        let mut bytes = f.nar().to_vec();
        bytes[5000] ^= 1;
        conn.reply(200, &[], &bytes);
        Then::Keep
    });
    let from = one(&server);
    let first = Bench::new();
    first.get(&from, &fixture.path).await.unwrap();
    assert_eq!(first.unpacked().unwrap(), fixture.contents);
    let second = Bench::new();
    second.get(&from, &fixture.path).await.unwrap_err();
    assert!(second.is_empty());
}

/// H30, without hints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_nar_behind_good_hints_is_a_hash_mismatch_that_names_both() {
    let fixture = Fixture::new("h30", 100_000, Compression::Zstd);
    let mut nar = fixture::nar_of(&fixture.contents);
    nar[5000] ^= 1;
    let file = packed(Compression::Zstd, &nar);
    let mut files = fixture.without_hints().files;
    files.0.insert(fixture.nar_path.clone(), file.clone());
    let server = Server::start(move |asked, conn| files.serve(asked, conn));
    let error = Bench::new().get(&one(&server), &fixture.path).await.unwrap_err();
    assert!(format!("{error:?}").starts_with("HashMismatch"), "{error:?}");
    assert!(
        error.to_string().contains(&fixture::sha256(&nar).to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_substitution_stops_and_leaves_nothing() {
    let fixture = Arc::new(Fixture::new("cancelled", 2_000_000, Compression::None));
    let server = server(&fixture, |f, _, conn| {
        conn.raw(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", f.nar().len()).as_bytes());
        conn.raw(&f.nar()[..1_000_000]);
        conn.hang();
        Then::Close
    });
    let options = Options {
        rate_window: Duration::from_secs(30),
        ..quick()
    };
    let from = Substituter::new(vec![cache("one", &server.url(), None)], options).unwrap();
    let bench = Bench::new();
    let cancelled = tokio::time::timeout(Duration::from_millis(500), bench.get(&from, &fixture.path)).await;
    assert!(cancelled.is_err());
    assert!(bench.counters.unpacked.load(Ordering::Relaxed) > 500_000);
    for _ in 0..100 {
        if bench.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the half-unpacked tree is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_drips_above_the_minimum_rate_ends_at_its_ceiling() {
    let fixture = Arc::new(Fixture::new("dripping", 1_000_000, Compression::None));
    let dripping = server(&fixture, |f, _, conn| {
        conn.raw(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", f.nar().len()).as_bytes());
        for drop in f.nar().chunks(2000) {
            if !conn.raw(drop) {
                break;
            }
            conn.pause(20);
        }
        Then::Close
    });
    let options = Options {
        download_timeout: Duration::from_millis(700),
        ..quick()
    };
    let bench = Bench::new();
    let from = Substituter::new(vec![cache("one", &dripping.url(), Some(1))], options.clone()).unwrap();
    let start = Instant::now();
    let error = bench.get(&from, &fixture.path).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(format!("{error:?}").starts_with("CacheUnreachable"), "{error:?}");
    assert!(
        error.to_string().contains("not downloaded within 0.7 s, after "),
        "{error}"
    );
    assert!(bench.is_empty() && from.health()[0].faults == 1);

    let files = fixture.files.clone();
    let good = Server::start(move |asked, conn| files.serve(asked, conn));
    let both = vec![
        cache("one", &dripping.url(), Some(1)),
        cache("good", &good.url(), Some(2)),
    ];
    let from = Substituter::new(both, options).unwrap();
    bench.get(&from, &fixture.path).await.unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);
}

/// H19. The length is right, and bytes follow that nobody asked for: they are not taken for the answer to what is asked next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_an_answer_answer_nothing() {
    let first = Fixture::new("first", 1000, Compression::None);
    let second = Fixture::new("second", 2000, Compression::None);
    let mut files = first.files.clone();
    files.0.extend(second.files.0.clone());
    let forged = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n".repeat(4);
    for (behind, connections) in [(Vec::new(), 1), (forged, 2)] {
        let (files, nar_path) = (files.clone(), first.nar_path.clone());
        let extra = behind.clone();
        let server = Server::start(move |asked, conn| {
            if asked.path != nar_path {
                return files.serve(asked, conn);
            }
            let body = &files.0[&nar_path];
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            // In one piece, so that all of it is there before the next request can be.
            conn.raw(&[head.as_bytes(), body, &extra].concat());
            Then::Keep
        });
        let from = one(&server);
        for fixture in [&first, &second] {
            let bench = Bench::new();
            bench.get(&from, &fixture.path).await.unwrap();
            assert!(bench.unpacked().unwrap() == fixture.contents);
        }
        assert_eq!(server.connections(), connections, "{} bytes behind", behind.len());
    }
}
