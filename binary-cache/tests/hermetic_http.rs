//! What servers do wrong (bad-inputs H), each as the only cache, as the first of two and as the second of two.
//! Never leaves this machine; every wait is bounded by the shrunken limits of `quick`.
//!
//! Where the H cases are that are not here: H06 H17 H27 H30 H48–H50 `hermetic_http_transfer`; H26 `hermetic_http_two`;
//! H11 H12 H28 H29 H31–H39 `hermetic_http_hosts`; H48 H49 also `hermetic_compression` and `hermetic_memory`.
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

use std::{sync::Arc, time::Duration};

use binary_cache::{compression::Compression, substitute::Substituter};
use fixture::{Bench, Fixture, cache, quick};
use futures_util::{StreamExt as _, stream};
use server::{Asked, Conn, Server, Then};
use tokio::time::Instant;

type Spoil = Box<dyn Fn(&Fixture, &Asked, &mut Conn) -> Option<Then> + Send + Sync>;

/// One bad behaviour and what is expected of it.
struct Case {
    name: &'static str,
    /// Returns `None` where the good answer should be given.
    spoil: Spoil,
    /// Name of the error, and of the fault in it, when it is the only cache; `|` between what may come first by chance.
    error: &'static str,
    fault: &'static str,
    /// Whether it counts against the cache.
    struck: bool,
}

fn case(
    name: &'static str,
    error: &'static str,
    fault: &'static str,
    spoil: impl Fn(&Fixture, &Asked, &mut Conn) -> Option<Then> + Send + Sync + 'static,
) -> Case {
    Case {
        name,
        spoil: Box::new(spoil),
        error,
        fault,
        struck: !["NotInAnyCache", "CredentialsRefused"].contains(&error),
    }
}

/// Answers every request for the narinfo, or for the NAR, in one way.
fn on(
    what: &'static str,
    act: impl Fn(&Fixture, &Asked, &mut Conn) -> Then + Send + Sync + 'static,
) -> impl Fn(&Fixture, &Asked, &mut Conn) -> Option<Then> + Send + Sync + 'static {
    move |fixture, asked, conn| {
        let path = asked.path.split('?').next().unwrap_or_default();
        let wanted = match what {
            "narinfo" => path == fixture.narinfo_path,
            "nar" => path == fixture.nar_path,
            "info" => path == "/nix-cache-info",
            _ => true,
        };
        wanted.then(|| act(fixture, asked, conn))
    }
}

fn status(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> impl Fn(&Fixture, &Asked, &mut Conn) -> Then + Send + Sync + 'static {
    move |_, _, conn| {
        conn.reply(status, headers, b"<html>text</html>");
        Then::Keep
    }
}

fn raw(bytes: &'static [u8]) -> impl Fn(&Fixture, &Asked, &mut Conn) -> Then + Send + Sync + 'static {
    move |_, _, conn| {
        conn.raw(bytes);
        Then::Close
    }
}

/// The head of a NAR answer that promises the whole of it.
fn promise(fixture: &Fixture, conn: &mut Conn) {
    conn.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", fixture.nar().len()).as_bytes());
}

fn redirect(location: String) -> impl Fn(&Fixture, &Asked, &mut Conn) -> Then + Send + Sync + 'static {
    move |_, _, conn| {
        conn.reply(302, &[("Location", &location)], b"");
        Then::Keep
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn statuses() -> Vec<Case> {
    vec![
        case(
            "H01 narinfo",
            "CredentialsRefused",
            "Unauthorized",
            on("narinfo", status(401, &[])),
        ),
        case(
            "H01 info",
            "CredentialsRefused",
            "Unauthorized",
            on("info", status(401, &[])),
        ),
        case(
            "H02 narinfo",
            "NotInAnyCache",
            "Absent",
            on("narinfo", status(403, &[])),
        ),
        case("H02 nar", "NotInAnyCache", "Absent", on("nar", status(403, &[]))),
        case(
            "H03 narinfo",
            "NotInAnyCache",
            "Absent",
            on("narinfo", status(404, &[])),
        ),
        case("H03 nar", "NotInAnyCache", "Absent", on("nar", status(404, &[]))),
        case(
            "H04 narinfo",
            "NotInAnyCache",
            "Absent",
            on("narinfo", status(410, &[])),
        ),
        case(
            "H05 1",
            "CacheUnreachable",
            "Busy",
            on("narinfo", status(429, &[("Retry-After", "1")])),
        ),
        case(
            "H05 10^9",
            "CacheUnreachable",
            "Busy",
            on("narinfo", status(429, &[("Retry-After", "1000000000")])),
        ),
        case(
            "H05 date",
            "CacheUnreachable",
            "Busy",
            on(
                "nar",
                status(
                    429,
                    &[
                        ("Retry-After", "Wed, 01 Jan 2200 00:00:00 GMT"),
                        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
                    ],
                ),
            ),
        ),
        case(
            "H05 garbage",
            "CacheUnreachable",
            "Busy",
            on("narinfo", status(429, &[("Retry-After", "soon")])),
        ),
        case("H07 all", "CacheUnreachable", "Busy", on("all", status(503, &[]))),
        case(
            "H07 narinfo",
            "CacheUnreachable",
            "Busy",
            on("narinfo", status(503, &[])),
        ),
        case("H07 nar", "CacheUnreachable", "Busy", on("nar", status(503, &[]))),
        case(
            "H08 narinfo",
            "CacheCorrupt",
            "WebPage",
            on("narinfo", status(200, &[("Content-Type", "text/html")])),
        ),
        case(
            "H08 info",
            "CacheCorrupt",
            "CacheInfo(WebPage",
            on("info", status(200, &[])),
        ),
        case("H08 nar", "CacheCorrupt", "FileSize", on("nar", status(200, &[]))),
        case(
            "H09 narinfo",
            "CacheCorrupt",
            "UnexpectedStatus { status: 204",
            on("narinfo", raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
        ),
        case(
            "H09 nar",
            "CacheCorrupt",
            "UnexpectedStatus { status: 204",
            on("nar", raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
        ),
        case(
            "H10 narinfo",
            "CacheCorrupt",
            "UnaskedPart",
            on("narinfo", status(206, &[("Content-Range", "bytes 0-16/17")])),
        ),
        case(
            "H10 nar",
            "CacheCorrupt",
            "UnaskedPart",
            on("nar", status(206, &[("Content-Range", "bytes 0-16/17")])),
        ),
        case(
            "H22 nar",
            "CacheCorrupt",
            "ContentEncoding",
            on("nar", status(200, &[("Content-Encoding", "gzip")])),
        ),
        case(
            "H22 narinfo",
            "CacheCorrupt",
            "ContentEncoding",
            on("narinfo", status(200, &[("Content-Encoding", "gzip")])),
        ),
        case(
            "H23",
            "CacheCorrupt",
            "ContentEncoding",
            on("nar", |f, _, c| {
                c.reply(200, &[("Content-Encoding", "zstd")], f.nar());
                Then::Keep
            }),
        ),
        case(
            "H47 store dir",
            "CacheCorrupt",
            "CacheInfo(OtherStoreDir",
            on("info", |_, _, c| {
                c.reply(200, &[], b"StoreDir: /gnu/store\n");
                Then::Keep
            }),
        ),
        case(
            "H47 priority",
            "CacheCorrupt",
            "CacheInfo(Priority",
            on("info", |_, _, c| {
                c.reply(200, &[], b"StoreDir: /nix/store\nPriority: -1\n");
                Then::Keep
            }),
        ),
        case(
            "H47 10 MB",
            "CacheCorrupt",
            "TooLarge",
            on("info", |_, _, c| {
                c.reply(200, &[], &vec![b'x'; 10 << 20]);
                Then::Close
            }),
        ),
        case(
            "S12 10 MB narinfo",
            "CacheCorrupt",
            "TooLarge",
            on("narinfo", |_, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\n\r\n");
                while c.raw(&[b'x'; 65536]) {}
                Then::Close
            }),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn broken_transfers() -> Vec<Case> {
    vec![
        case(
            "H13 narinfo",
            "CacheUnreachable",
            "NoAnswer",
            on("narinfo", |_, _, c| {
                c.hang();
                Then::Close
            }),
        ),
        case(
            "H13 all",
            "CacheUnreachable",
            "NoAnswer",
            on("all", |_, _, c| {
                c.hang();
                Then::Close
            }),
        ),
        case(
            "H14",
            "CacheUnreachable",
            "NoAnswer",
            on("nar", |_, _, c| {
                while c.raw(b"H") {
                    c.pause(100);
                }
                Then::Close
            }),
        ),
        case(
            "H15 nar",
            "CacheUnreachable",
            "Stalled",
            on("nar", |f, _, c| {
                promise(f, c);
                while c.raw(b"n") {
                    c.pause(20);
                }
                Then::Close
            }),
        ),
        case(
            "H15 narinfo",
            "CacheUnreachable",
            "Stalled",
            on("narinfo", |_, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
                while c.raw(b"S") {
                    c.pause(20);
                }
                Then::Close
            }),
        ),
        case(
            "H16",
            "CacheUnreachable",
            "Stalled",
            on("nar", |f, asked, c| {
                // No ranges: each try stalls at the same place.
                let _ = asked;
                promise(f, c);
                c.raw(&f.nar()[..f.nar().len() / 100 * 99]);
                c.hang();
                Then::Close
            }),
        ),
        case(
            "H17",
            "CacheUnreachable",
            "Cut",
            on("nar", |f, _, c| {
                promise(f, c);
                c.raw(&f.nar()[..f.nar().len() / 2]);
                c.pause(20);
                c.reset();
                Then::Close
            }),
        ),
        case(
            "H17 at once",
            "CacheUnreachable",
            "Broken",
            on("narinfo", |_, _, c| {
                c.reset();
                Then::Close
            }),
        ),
        case(
            "H18",
            "CacheUnreachable",
            "Cut",
            on("nar", |f, _, c| {
                promise(f, c);
                c.raw(&f.nar()[..f.nar().len() / 2]);
                Then::Close
            }),
        ),
        case(
            "H18 without length",
            "CacheUnreachable",
            "Short",
            on("nar", |f, _, c| {
                c.raw(b"HTTP/1.0 200 OK\r\n\r\n");
                c.raw(&f.nar()[..f.nar().len() / 2]);
                Then::Close
            }),
        ),
        case(
            "H19 no length",
            "CacheCorrupt",
            "FileSize",
            on("nar", |f, _, c| {
                c.raw(b"HTTP/1.0 200 OK\r\n\r\n");
                c.raw(f.nar());
                c.raw(b"and more");
                Then::Close
            }),
        ),
        case(
            "H20 nar",
            "CacheCorrupt",
            "FileSize",
            on("nar", |f, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunk = [format!("{:x}\r\n", f.nar().len()).as_bytes(), f.nar(), b"\r\n"].concat();
                while c.raw(&chunk) {}
                Then::Close
            }),
        ),
        case(
            "H20 narinfo",
            "CacheCorrupt",
            "TooLarge",
            on("narinfo", |_, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                while c.raw(&[&b"10000\r\n"[..], &[b'x'; 65536], b"\r\n"].concat()) {}
                Then::Close
            }),
        ),
        case(
            "H21 small",
            "CacheCorrupt",
            "FileSize",
            on("nar", |f, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
                c.raw(f.nar());
                Then::Close
            }),
        ),
        case(
            "H21 large",
            "CacheCorrupt",
            "FileSize",
            on("nar", |f, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
                c.raw(f.nar());
                Then::Close
            }),
        ),
        case(
            "H21 negative",
            "CacheCorrupt",
            "Malformed",
            on("nar", raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello")),
        ),
        case(
            "H21 two",
            "CacheCorrupt",
            "Malformed",
            on(
                "nar",
                raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
            ),
        ),
        case(
            "not HTTP",
            "CacheCorrupt",
            "Malformed",
            on("narinfo", raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")),
        ),
        case(
            "H24",
            "CacheHostile",
            "HeadTooLarge",
            on("narinfo", |_, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\nX-Large: ");
                while c.raw(&[b'x'; 65536]) {}
                Then::Close
            }),
        ),
        case(
            "H24 many",
            "CacheHostile",
            "HeadTooLarge",
            on("nar", |_, _, c| {
                c.raw(b"HTTP/1.1 200 OK\r\n");
                while c.raw(&b"X-Field: value\r\n".repeat(1000)) {}
                Then::Close
            }),
        ),
        case(
            "H25",
            "CacheHostile",
            "TooManyInterim",
            on("narinfo", |_, _, c| {
                while c.raw(&b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000)) {}
                Then::Close
            }),
        ),
        case(
            "H30",
            "HashMismatch",
            "Nar(HashMismatch",
            on("nar", |f, _, c| {
                let other = Fixture::new("other", f.contents.len(), Compression::None);
                let mut bytes = other.nar().to_vec();
                bytes[200] ^= 1;
                c.reply(200, &[], &bytes);
                Then::Keep
            }),
        ),
    ]
}

/// What is found by FileSize above, where the narinfo has none: what is signed must do.
fn without_hints() -> Vec<Case> {
    let mut cases: Vec<Case> = statuses().into_iter().chain(broken_transfers()).collect();
    let mut again = |name, error, fault| {
        let at = cases.iter().position(|case| case.name == name).expect(name);
        let case = cases.swap_remove(at);
        Case { error, fault, ..case }
    };
    vec![
        again("H08 nar", "CacheCorrupt", "Nar(BadMagic"),
        again("H19 no length", "CacheCorrupt", "Nar(TrailingBytes"),
        again("H20 nar", "CacheCorrupt", "Nar(TrailingBytes|TooLarge"),
        again("H21 small", "CacheCorrupt", "Nar(Truncated"),
        again("H21 large", "CacheCorrupt", "TooLarge"),
        again("H30", "HashMismatch", "Nar(HashMismatch"),
        case(
            "H21 a little large",
            "CacheUnreachable",
            "Cut",
            on("nar", |f, _, c| {
                c.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", f.nar().len() + 8).as_bytes());
                c.raw(f.nar());
                Then::Close
            }),
        ),
    ]
}

fn redirects() -> Vec<Case> {
    let to = |name, location: &str, fault| case(name, "CacheHostile", fault, on("nar", redirect(location.to_owned())));
    vec![
        to("H42", "http://192.0.2.1/x", "Redirect(OtherOrigin"),
        to("H43", "http://user:secret@127.0.0.1/x", "Redirect(UserInfo"),
        to("H44", "file:///etc/shadow", "Redirect(Scheme"),
        to(
            "H45",
            "http://169.254.169.254/latest/meta-data/",
            "Redirect(OtherOrigin",
        ),
        to("H46 encoded", "/x%0d%0aSet-Cookie:%20a=b", "Redirect(Characters"),
        // A split head is a redirect to `/x` and one more field; both harmless.
        case(
            "H46 raw",
            "NotInAnyCache",
            "Absent",
            on("nar", redirect("/x\r\nX-Split: yes".to_owned())),
        ),
        case(
            "no Location",
            "CacheHostile",
            "Redirect(NoLocation",
            on("narinfo", status(302, &[])),
        ),
        case(
            "H40",
            "CacheHostile",
            "TooManyRedirects",
            on("nar", |f, _, c| {
                c.reply(302, &[("Location", &f.nar_path)], b"");
                Then::Keep
            }),
        ),
        case(
            "H41",
            "CacheHostile",
            "TooManyRedirects",
            on("nar", |f, asked, c| {
                let hop: usize = asked.path.split("?hop=").nth(1).map_or(0, |n| n.parse().unwrap());
                match hop {
                    11 => f.files.serve(asked, c),
                    _ => {
                        c.reply(302, &[("Location", &format!("{}?hop={}", f.nar_path, hop + 1))], b"");
                        Then::Keep
                    }
                }
            }),
        ),
    ]
}

fn serve(fixture: &Arc<Fixture>, spoil: Spoil) -> Server {
    let fixture = fixture.clone();
    Server::start(move |asked, conn| spoil(&fixture, asked, conn).unwrap_or_else(|| fixture.files.serve(asked, conn)))
}

async fn check(fixture: &Arc<Fixture>, case: Case) {
    let Case {
        name,
        spoil,
        error,
        fault,
        struck,
    } = case;
    let bad = serve(fixture, spoil);
    let good = serve(fixture, Box::new(|_, _, _| None));

    let bench = Bench::new();
    let only = Substituter::new(vec![cache("bad", &bad.url(), Some(1))], quick()).unwrap();
    let start = Instant::now();
    let refused = bench.get(&only, &fixture.path).await.expect_err(name);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{name}: took {:?}",
        start.elapsed()
    );
    assert!(format!("{refused:?}").starts_with(error), "{name}: {refused:?}");
    let faults: Vec<String> = refused
        .asked()
        .iter()
        .map(|attempt| format!("{:?}", attempt.fault))
        .collect();
    let named = |found: &String| fault.split('|').any(|fault| found.starts_with(fault));
    assert!(faults.iter().any(named), "{name}: {faults:?}");
    assert!(
        refused.to_string().contains(&format!("bad ({}): ", bad.url())),
        "{name}: {refused}"
    );
    assert!(bench.is_empty(), "{name}: something was left behind");

    let bench = Bench::new();
    let first = Substituter::new(
        vec![cache("bad", &bad.url(), Some(1)), cache("good", &good.url(), Some(2))],
        quick(),
    )
    .unwrap();
    bench
        .get(&first, &fixture.path)
        .await
        .unwrap_or_else(|e| panic!("{name}, first of two: {e}"));
    assert!(
        bench.unpacked().is_some_and(|bytes| bytes == fixture.contents),
        "{name}: wrong bytes"
    );
    let health = first.health();
    assert_eq!(health[0].faults > 0, struck, "{name}: {health:?}");
    assert_eq!(health[1].faults, 0, "{name}: {health:?}");
    check_second(fixture, name, &bad, &good).await;
}

/// The bad cache behind a good one is not even asked.
async fn check_second(fixture: &Fixture, name: &str, bad: &Server, good: &Server) {
    let bench = Bench::new();
    let before = bad.asked().len();
    let second = Substituter::new(
        vec![cache("good", &good.url(), Some(1)), cache("bad", &bad.url(), Some(2))],
        quick(),
    )
    .unwrap();
    bench
        .get(&second, &fixture.path)
        .await
        .unwrap_or_else(|e| panic!("{name}, second of two: {e}"));
    assert_eq!(
        bad.asked().len(),
        before,
        "{name}: the second cache was asked without need"
    );
}

fn thing() -> Fixture {
    Fixture::new("thing", 200_000, Compression::None)
}

async fn check_all(fixture: Fixture, cases: Vec<Case>) {
    let fixture = Arc::new(fixture);
    stream::iter(cases)
        .for_each_concurrent(6, |case| check(&fixture, case))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_status_is_named_and_the_next_cache_helps() {
    check_all(thing(), statuses()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_transfer_is_named_and_the_next_cache_helps() {
    check_all(thing(), broken_transfers()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_nar_is_found_out_by_what_is_signed_where_the_hints_say_nothing() {
    check_all(thing().without_hints(), without_hints()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_redirect_is_named_and_the_next_cache_helps() {
    check_all(thing(), redirects()).await;
}
