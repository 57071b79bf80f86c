//! One file over several connections: where each is slow, where one falls silent, where more are no good.
//! Never asserts a time but against another of the same test: only what was asked for and sent, and who is not waited for.
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

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    options::Options,
    substitute::{SubstituteError, Substituter},
};
use fixture::{Bench, Fixture, cache};
use server::{Asked, Conn, Server, Then};
use url::Url;

/// Bytes that a connection is given at once, ten times a second.
const PIECE: usize = 50_000;

/// How a server sends.
#[derive(Default)]
struct Manner {
    in_parts: bool,
    /// Falls silent when so many bytes are sent.
    stop: Option<usize>,
    /// Bytes ten times a second.
    piece: usize,
    /// Bytes that were sent, counted before they are.
    sent: Arc<AtomicUsize>,
}

/// Answers with the part that was asked for, slowly; `stop` says when to fall silent, by bytes sent.
fn drip(conn: &mut Conn, asked: &Asked, nar: &[u8], in_parts: bool, stop: Option<usize>) -> Then {
    let manner = Manner {
        in_parts,
        stop,
        piece: PIECE,
        ..Manner::default()
    };
    send(conn, asked, nar, &manner)
}

/// Sends, and says what becomes of the connection.
fn send(conn: &mut Conn, asked: &Asked, nar: &[u8], manner: &Manner) -> Then {
    let Manner {
        in_parts, stop, piece, ..
    } = *manner;
    let (from, to) = asked.range().filter(|_| in_parts).unwrap_or((0, None));
    let body = &nar[from..to.unwrap_or(nar.len())];
    let (status, range) = match asked.range().is_some() && in_parts {
        true => (
            206,
            format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                from + body.len() - 1,
                nar.len()
            ),
        ),
        false => (200, String::new()),
    };
    let parts = if in_parts {
        "Accept-Ranges: bytes\r\nETag: \"1\"\r\n"
    } else {
        ""
    };
    conn.raw(
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{parts}{range}\r\n",
            body.len()
        )
        .as_bytes(),
    );
    let mut sent = 0;
    for piece in body.chunks(piece) {
        if stop.is_some_and(|stop| sent >= stop) {
            conn.hang();
            return Then::Close;
        }
        manner.sent.fetch_add(piece.len(), Ordering::SeqCst);
        if !conn.raw(piece) {
            return Then::Close;
        }
        sent += piece.len();
        conn.pause(100);
    }
    Then::Keep
}

/// A cache whose NAR is answered for by `nar`, given how many were asked for before.
fn serving(
    fixture: &Arc<Fixture>,
    nar: impl Fn(&Fixture, &Asked, &mut Conn, usize) -> Then + Send + Sync + 'static,
) -> Server {
    let fixture = fixture.clone();
    let asked_before = AtomicUsize::new(0);
    Server::start(move |asked, conn| match asked.path == fixture.nar_path {
        true => nar(&fixture, asked, conn, asked_before.fetch_add(1, Ordering::SeqCst)),
        false => fixture.files.serve(asked, conn),
    })
}

fn thing(length: usize) -> Arc<Fixture> {
    Arc::new(Fixture::new("slow", length, Compression::None))
}

fn options() -> Options {
    Options {
        patience: std::time::Duration::from_millis(300),
        seed: Some(1),
        ..Options::default()
    }
}

async fn fetch(fixture: &Fixture, caches: Vec<CacheConfig>, options: Options) -> Result<(), SubstituteError> {
    let bench = Bench::new();
    let from = Substituter::new(caches, options).unwrap();
    bench.get(&from, &fixture.path).await?;
    assert!(bench.unpacked().unwrap() == fixture.contents);
    Ok(())
}

/// What was asked for of the NAR.
fn ranges(server: &Server, fixture: &Fixture) -> Vec<Option<(usize, Option<usize>)>> {
    let asked = server.asked();
    asked
        .iter()
        .filter(|asked| asked.path == fixture.nar_path)
        .map(Asked::range)
        .collect()
}

/// Where a stretch is shared, its first reader is cut off: what was on its way then may come twice, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_slowly_is_read_over_several_connections_and_no_stretch_twice() {
    let fixture = thing(4_000_000);
    let manner = Manner {
        in_parts: true,
        piece: PIECE,
        ..Manner::default()
    };
    let sent = manner.sent.clone();
    let server = serving(&fixture, move |f, asked, conn, _| send(conn, asked, f.nar(), &manner));
    fetch(&fixture, vec![cache("slow", &server.url(), None)], options())
        .await
        .unwrap();
    let ranges = ranges(&server, &fixture);
    assert_eq!(ranges[0], None, "it began as any other");
    let mut stretches: Vec<(usize, usize)> = ranges[1..]
        .iter()
        .map(|range| {
            range
                .and_then(|(from, to)| Some((from, to?)))
                .expect("a stretch with an end")
        })
        .collect();
    stretches.sort_unstable();
    assert!(stretches.len() >= 2, "{ranges:?}");
    let whole = fixture.nar().len();
    let mut covered = stretches[0].0;
    for (from, to) in &stretches {
        assert!(*from <= covered, "nobody reads {covered} to {from}: {stretches:?}");
        covered = covered.max(*to);
    }
    assert_eq!(covered, whole);
    drop(server);
    let (sent, cut) = (sent.load(Ordering::SeqCst), whole + PIECE * ranges.len());
    assert!((whole..cut).contains(&sent), "{sent} of {whole}: {ranges:?}");
}

/// How long a file takes whose request of that number, if one is named, is answered at a fiftieth of the rate of the others;
/// and what was asked for.
async fn with_a_straggler(slow: Option<usize>) -> (std::time::Duration, Vec<Option<(usize, Option<usize>)>>) {
    let fixture = thing(8_000_000);
    let server = serving(&fixture, move |f, asked, conn, before| {
        let piece = if slow == Some(before) { PIECE / 50 } else { PIECE };
        let manner = Manner {
            in_parts: true,
            piece,
            ..Manner::default()
        };
        send(conn, asked, f.nar(), &manner)
    });
    let begun = tokio::time::Instant::now();
    fetch(&fixture, vec![cache("slow", &server.url(), None)], options())
        .await
        .unwrap();
    (begun.elapsed(), ranges(&server, &fixture))
}

/// Alone, the slow connection would need half a minute for the smallest stretch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_slow_and_not_silent_leaves_most_of_its_stretch_to_the_others() {
    let (without, _) = with_a_straggler(None).await;
    for slow in [0, 3] {
        let (with, asked) = with_a_straggler(Some(slow)).await;
        assert!(with < without * 3 / 2, "{with:?}, {without:?} without: {asked:?}");
        let Some((from, Some(to))) = asked[slow] else {
            assert_eq!((slow, asked[slow]), (0, None));
            continue;
        };
        let taken_over =
            |range: &Option<(usize, Option<usize>)>| range.is_some_and(|(begin, end)| begin > from && end == Some(to));
        assert!(asked.iter().any(taken_over), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_gives_out_no_parts_is_asked_once_and_so_is_a_fast_one() {
    let fixture = thing(1_500_000);
    let server = serving(&fixture, |f, asked, conn, _| drip(conn, asked, f.nar(), false, None));
    fetch(&fixture, vec![cache("whole", &server.url(), None)], options())
        .await
        .unwrap();
    assert_eq!(ranges(&server, &fixture), [None]);
    let fixture = thing(4_000_000);
    let server = serving(&fixture, |f, _, conn, _| {
        conn.reply(200, &[("Accept-Ranges", "bytes")], f.nar());
        Then::Keep
    });
    fetch(&fixture, vec![cache("fast", &server.url(), None)], options())
        .await
        .unwrap();
    assert_eq!(ranges(&server, &fixture), [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_one_connection_only_still_serves() {
    let fixture = thing(3_000_000);
    let busy = Arc::new(AtomicUsize::new(0));
    let server = serving(&fixture, move |f, asked, conn, _| {
        let others = busy.fetch_add(1, Ordering::SeqCst);
        let then = match others {
            0 => drip(conn, asked, f.nar(), true, None),
            _ => {
                conn.reply(503, &[], b"");
                Then::Keep
            }
        };
        busy.fetch_sub(1, Ordering::SeqCst);
        then
    });
    let patient = Options {
        backoff_base: std::time::Duration::from_millis(100),
        backoff_cap: std::time::Duration::from_millis(500),
        ..options()
    };
    fetch(&fixture, vec![cache("one", &server.url(), None)], patient)
        .await
        .unwrap();
}

/// The whole minimum rate's window would be 30 s, more than the server lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_falls_silent_is_left_for_another() {
    let fixture = thing(600_000);
    let server = serving(&fixture, |f, asked, conn, before| {
        let stop = (before == 0).then_some(200_000);
        drip(conn, asked, f.nar(), true, stop)
    });
    fetch(&fixture, vec![cache("silent", &server.url(), None)], options())
        .await
        .unwrap();
    let ranges = ranges(&server, &fixture);
    assert_eq!((ranges.len(), ranges[0]), (2, None));
    assert_eq!(ranges[1], Some((200_000, None)), "it goes on where the first stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_mirror_does_not_keep_its_cache_from_serving() {
    let fixture = thing(100_000);
    let mirror = serving(&fixture, |_, _, conn, _| {
        conn.hang();
        Then::Close
    });
    let server = serving(&fixture, |f, asked, conn, _| drip(conn, asked, f.nar(), true, None));
    let mut mirrored = cache("mirrored", &server.url(), None);
    mirrored.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    fetch(&fixture, vec![mirrored], options()).await.unwrap();
    assert_eq!(
        (mirror.count(&fixture.nar_path), server.count(&fixture.nar_path)),
        (1, 1)
    );
}

/// Ten look-ups cost one patience, not ten first-byte time-outs of 30 s: the server would be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_cache_is_not_waited_for_while_another_answers() {
    let fixture = thing(10_000);
    let silent = Server::start(|_, conn| {
        conn.hang();
        Then::Close
    });
    for priority in [Some(1), None] {
        let other = serving(&fixture, |f, asked, conn, _| drip(conn, asked, f.nar(), true, None));
        let caches = vec![
            cache("silent", &silent.url(), priority),
            cache("other", &other.url(), Some(50)),
        ];
        let from = Substituter::new(
            caches,
            Options {
                absent_ttl: std::time::Duration::ZERO,
                ..options()
            },
        )
        .unwrap();
        let asked_before = silent.connections();
        for _ in 0..10 {
            let found = from.lookup(&fixture.path).await.unwrap();
            assert_eq!(found.cache, "other");
        }
        assert!(silent.connections() - asked_before <= 2, "it is asked last for a while");
    }
}
