//! A download that falls silent: when, where and how often it is asked for elsewhere, and who is blamed.
//! Never asserts a time: only what was asked for and sent, while a server keeps silent for a known while.
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
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use binary_cache::{compression::Compression, options::Options, substitute::Substituter};
use fixture::{Bench, Fixture, cache};
use server::{Asked, Conn, Server, Then};
use tokio::time::{Instant, sleep};
use url::Url;

/// Bytes that a connection is given at once, ten times a second.
const PIECE: usize = 50_000;
/// What a first answer sends before it falls silent.
const BEFORE: usize = 200_000;
/// So little that it is not read over several connections.
const SMALL: usize = 600_000;
/// The smallest stretch that one connection of several reads.
const STRETCH: usize = 256 << 10;

fn options() -> Options {
    Options {
        patience: Duration::from_millis(300),
        seed: Some(1),
        ..Options::default()
    }
}

fn thing(name: &str, length: usize) -> Arc<Fixture> {
    Arc::new(Fixture::new(name, length, Compression::None))
}

/// Serves the small files of `fixture`; `nar` answers for its NAR, given how many were asked for before.
fn serving(
    fixture: &Arc<Fixture>,
    nar: impl Fn(&Fixture, &Asked, &mut Conn, usize) -> Then + Send + Sync + 'static,
) -> Server {
    let (fixture, before) = (fixture.clone(), AtomicUsize::new(0));
    Server::start(move |asked, conn| match asked.path == fixture.nar_path {
        true => nar(&fixture, asked, conn, before.fetch_add(1, Ordering::SeqCst)),
        false => fixture.files.serve(asked, conn),
    })
}

/// Sends the head of an answer; what its body is to be.
fn begin<'n>(conn: &mut Conn, asked: &Asked, nar: &'n [u8]) -> &'n [u8] {
    let (from, to) = asked.range().unwrap_or((0, None));
    let body = &nar[from..to.unwrap_or(nar.len())];
    let (status, range) = match asked.range() {
        Some(_) => {
            let last = from + body.len() - 1;
            (206, format!("Content-Range: bytes {from}-{last}/{}\r\n", nar.len()))
        }
        None => (200, String::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\nETag: \"1\"\r\n{range}\r\n"
    );
    conn.raw(head.as_bytes());
    body
}

/// Sends so much at once, ten times a second, while `wanted` says so; how much that was.
fn drip(conn: &mut Conn, body: &[u8], piece: usize, wanted: impl Fn(usize) -> bool) -> usize {
    let mut sent = 0;
    for piece in body.chunks(piece) {
        if !wanted(sent) || !conn.raw(piece) {
            break;
        }
        sent += piece.len();
        conn.pause(100);
    }
    sent
}

/// The first half slowly, nothing for so long, the rest at once.
fn falter(conn: &mut Conn, asked: &Asked, nar: &[u8], silence: u64) -> Then {
    let body = begin(conn, asked, nar);
    let sent = drip(conn, body, PIECE, |sent| sent < BEFORE);
    conn.pause(silence);
    conn.raw(&body[sent..]);
    Then::Keep
}

fn wait_for(flag: &AtomicBool, conn: &Conn) {
    for _ in 0..800 {
        if flag.load(Ordering::SeqCst) {
            return;
        }
        conn.pause(10);
    }
}

/// What was asked for of the NAR, in parts or as a whole.
fn ranges(server: &Server, fixture: &Fixture) -> Vec<Option<(usize, Option<usize>)>> {
    let asked = server.asked();
    let nars = asked.iter().filter(|asked| asked.path == fixture.nar_path);
    nars.map(Asked::range).collect()
}

/// What was asked for, and how many faults the progress heard of.
async fn fetch(fixture: &Fixture, server: &Server, options: Options) -> (Vec<Option<(usize, Option<usize>)>>, u64) {
    let bench = Bench::new();
    let from = Substituter::new(vec![cache("one", &server.url(), None)], options).unwrap();
    bench.get(&from, &fixture.path).await.unwrap();
    assert!(bench.unpacked().unwrap() == fixture.contents);
    (ranges(server, fixture), bench.counters.retries.load(Ordering::Relaxed))
}

/// Four times in a second it would be without the pauses, which double: 0.3, 0.6, 1.2 and 2.4 seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_elsewhere_is_asked_for_again_after_ever_longer_pauses_and_told_of() {
    let fixture = thing("refused", SMALL);
    let server = serving(&fixture, |f, asked, conn, before| match before {
        0 => falter(conn, asked, f.nar(), 4000),
        _ => {
            conn.reply(404, &[], b"");
            Then::Keep
        }
    });
    let (asked, faults) = fetch(&fixture, &server, options()).await;
    let refused = asked.len() - 1;
    assert!((2..=5).contains(&refused), "{asked:?}");
    assert_eq!(faults, refused as u64, "each is told of");
    // Where it is not refused, once is enough.
    let server = serving(&fixture, |f, asked, conn, before| {
        falter(conn, asked, f.nar(), if before == 0 { 4000 } else { 0 })
    });
    let (asked, faults) = fetch(&fixture, &server, options()).await;
    assert_eq!((asked, faults), (vec![None, Some((BEFORE, None))], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_connection_is_one_of_those_that_all_downloads_may_have() {
    let fixture = thing("few", SMALL);
    let elsewhere = Some((BEFORE, None));
    for (more_connections, silence, asked) in [
        (1, 3000, vec![None, elsewhere]),
        (0, 3000, vec![None]),
        // Longer than twice the patience: the silent one is left, so that there are not more than before.
        (0, 7000, vec![None, elsewhere]),
    ] {
        let server = serving(&fixture, move |f, asked, conn, before| {
            falter(conn, asked, f.nar(), if before == 0 { silence } else { 0 })
        });
        let options = Options {
            patience: Duration::from_secs(2),
            more_connections,
            ..options()
        };
        let (found, _) = fetch(&fixture, &server, options).await;
        assert_eq!(found, asked, "{more_connections} more, silent for {silence} ms");
    }
}

/// The first source has the narinfo and is busy for the NAR; so the mirror is asked, and it is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_is_asked_last_for_a_while_and_not_who_was_begun_with() {
    let [wanted, earlier, later] = ["wanted", "earlier", "later"].map(|name| thing(name, 50_000 + name.len()));
    let both = {
        let mut files = earlier.files.clone();
        files.0.extend(later.files.0.clone());
        files
    };
    let (files, nar_path) = (both.clone(), wanted.nar_path.clone());
    let mirror = Server::start(move |asked, conn| match asked.path == nar_path {
        true => {
            conn.hang();
            Then::Close
        }
        false => files.serve(asked, conn),
    });
    let (fixture, busy) = (wanted.clone(), AtomicBool::new(true));
    let server = Server::start(move |asked, conn| match asked.path == fixture.nar_path {
        true if busy.swap(false, Ordering::SeqCst) => {
            conn.reply(503, &[], b"");
            Then::Keep
        }
        _ if fixture.files.0.contains_key(&asked.path) => fixture.files.serve(asked, conn),
        _ => both.serve(asked, conn),
    });
    let mut mirrored = cache("mirrored", &server.url(), None);
    mirrored.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    let from = Substituter::new(vec![mirrored], options()).unwrap();
    let found = from.lookup(&earlier.path).await.unwrap();
    assert!(found.url.starts_with(&mirror.url()), "mirrors come first: {found:?}");
    Bench::new().get(&from, &wanted.path).await.unwrap();
    assert_eq!((mirror.count(&wanted.nar_path), server.count(&wanted.nar_path)), (1, 2));
    let found = from.lookup(&later.path).await.unwrap();
    assert!(found.url.starts_with(&server.url()), "but not a silent one: {found:?}");
}

/// What the two downloads of the next test tell each other.
#[derive(Default)]
struct Signals {
    /// The first one holds all memory for what is read ahead.
    full: AtomicBool,
    /// The second one is asked for elsewhere: the first may end.
    asked_elsewhere: AtomicBool,
    /// There was memory again: the second one is read over several connections.
    in_parts: AtomicBool,
    /// Bytes that were sent elsewhere.
    sent: AtomicUsize,
}

/// A server whose first file takes the memory, and whose second falls silent.
fn two_files(first: &Arc<Fixture>, second: &Arc<Fixture>, signals: &Arc<Signals>) -> Server {
    let (first, second, signals) = (first.clone(), second.clone(), signals.clone());
    Server::start(move |asked, conn| {
        let to = asked.range().map(|(_, to)| to);
        if asked.path == first.nar_path {
            let body = begin(conn, asked, first.nar());
            let sent = match to {
                None => drip(conn, body, PIECE / 5, |_| {
                    !signals.asked_elsewhere.load(Ordering::SeqCst)
                }),
                Some(_) => {
                    signals.full.store(true, Ordering::SeqCst);
                    wait_for(&signals.asked_elsewhere, conn);
                    0
                }
            };
            conn.raw(&body[sent..]);
        } else if asked.path == second.nar_path {
            let body = begin(conn, asked, second.nar());
            match to {
                None => {
                    drip(conn, body, PIECE / 5, |sent| sent < 60_000);
                    conn.hang();
                    return Then::Close;
                }
                Some(None) if signals.in_parts.load(Ordering::SeqCst) => {
                    conn.raw(body);
                }
                Some(None) => {
                    signals.asked_elsewhere.store(true, Ordering::SeqCst);
                    wait_for(&signals.in_parts, conn);
                    let sent = drip(conn, body, PIECE, |_| true);
                    signals.sent.store(sent, Ordering::SeqCst);
                }
                Some(Some(_)) => {
                    signals.in_parts.store(true, Ordering::SeqCst);
                    conn.raw(body);
                }
            }
        } else if first.files.0.contains_key(&asked.path) {
            return first.files.serve(asked, conn);
        } else {
            return second.files.serve(asked, conn);
        }
        Then::Keep
    })
}

/// Otherwise it would go on to the end of the file, and what the others bring would be memory for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_elsewhere_ends_where_others_began_meanwhile() {
    let (first, second) = (thing("first", 700_000), thing("second", 1_500_000));
    let signals = Arc::new(Signals::default());
    let server = two_files(&first, &second, &signals);
    let options = Options {
        read_ahead: STRETCH,
        ..options()
    };
    let from = Substituter::new(vec![cache("two", &server.url(), None)], options).unwrap();
    let (one, other) = (Bench::new(), Bench::new());
    let begun = Instant::now();
    let once_full = async {
        while !signals.full.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(8) {
            sleep(Duration::from_millis(5)).await;
        }
        other.get(&from, &second.path).await
    };
    let (got, also) = tokio::join!(one.get(&from, &first.path), once_full);
    got.unwrap();
    also.unwrap();
    assert!(one.unpacked().unwrap() == first.contents && other.unpacked().unwrap() == second.contents);
    let asked = ranges(&server, &second);
    assert_eq!(asked[..2], [None, Some((60_000, None))], "{asked:?}");
    assert!(matches!(asked[2], Some((_, Some(_)))), "{asked:?}");
    // The connection is left by the client, which the server learns when it writes again.
    drop((from, server));
    sleep(Duration::from_millis(300)).await;
    let sent = signals.sent.load(Ordering::SeqCst);
    assert!((STRETCH / 2..3 * STRETCH).contains(&sent), "{sent}: {asked:?}");
}
