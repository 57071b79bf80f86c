//! What the log says of caches that misbehave, and that no credential is in it, whatever the level.
//! Never shares its process: the subscriber is the global one, and hears every thread.
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
    io,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    credentials::{Credentials, Netrc, Secret},
    substitute::Substituter,
};
use fixture::{Bench, Fixture, cache, quick};
use serde_json::Value;
use server::{Server, Then};

/// Where the log goes.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    /// Takes what was logged since the last time.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

fn bearer(name: &str, server: &Server, priority: u32) -> CacheConfig {
    let mut config = cache(name, &server.url(), Some(priority));
    config.credentials = Some(Credentials::Bearer(Secret::new("CANARY-BEARER").unwrap()));
    config
}

fn netrc(name: &str, server: &Server, priority: u32) -> CacheConfig {
    let mut config = cache(name, &server.url(), Some(priority));
    let text = "machine 127.0.0.1 login CANARY-LOGIN password CANARY-NETRC";
    config.credentials = Some(Credentials::Netrc(Netrc::parse(text).unwrap()));
    config
}

/// The good cache, but for one file that `answer` gives.
fn spoilt(fixture: &Fixture, file: &str, status: u16, headers: &'static [(&str, &str)], body: &[u8]) -> Server {
    let (files, file, body) = (fixture.files.clone(), file.to_owned(), body.to_vec());
    Server::start(move |asked, conn| {
        if asked.path == file {
            conn.reply(status, headers, &body);
            return Then::Keep;
        }
        files.serve(asked, conn)
    })
}

/// The warnings of a log, by the cache they are about.
fn warnings(log: &str) -> Vec<(String, Value)> {
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["level"] == "WARN")
        .map(|event| {
            (
                event["fields"]["cache"].as_str().unwrap().to_owned(),
                event["fields"].clone(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_passed_over_for_what_it_served_is_warned_of_and_no_secret_is_logged() {
    let log = Captured::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();

    let fixture = Fixture::new("logged", 50_000, Compression::None);
    let (narinfo, nar) = (&fixture.narinfo_path, &fixture.nar_path);
    let away = &[("Location", "http://192.0.2.1/x?token=CANARY-LOCATION")];
    let hostile = spoilt(&fixture, nar, 302, away, b"");
    let corrupt = spoilt(&fixture, nar, 200, &[], b"too short");
    let page = spoilt(&fixture, narinfo, 200, &[], b"<html>CANARY-PAGE</html>");
    let locked = spoilt(&fixture, narinfo, 401, &[("WWW-Authenticate", "Basic")], b"CANARY-BODY");
    let absent = spoilt(&fixture, narinfo, 404, &[], b"CANARY-BODY");
    let (files, signed) = (
        fixture.with_line("URL", Some("nar/gone?sig=CANARY-QUERY")),
        narinfo.clone(),
    );
    let presigned = Server::start(move |asked, conn| {
        if asked.path == signed || asked.path == "/nix-cache-info" {
            return files.serve(asked, conn);
        }
        conn.reply(500, &[], b"CANARY-BODY");
        Then::Keep
    });
    let leading_away = fixture.with_line("URL", Some("http://169.254.169.254/CANARY-URL"));
    let leading_away = spoilt(&fixture, narinfo, 200, &[], &leading_away.0[narinfo]);
    let good = spoilt(&fixture, "/none", 404, &[], b"");
    let configs = vec![
        bearer("absent", &absent, 1),
        netrc("locked", &locked, 2),
        bearer("presigned", &presigned, 3),
        netrc("page", &page, 4),
        netrc("corrupt", &corrupt, 5),
        bearer("hostile", &hostile, 6),
        bearer("leading away", &leading_away, 7),
        bearer("good", &good, 8),
    ];
    let bench = Bench::new();
    let from = Substituter::new(configs, quick()).unwrap();
    bench.get(&from, &fixture.path).await.unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);

    let log = log.take();
    assert!(log.contains("\"DEBUG\""), "the lower levels are captured: {log}");
    let encoded = STANDARD.encode("CANARY-LOGIN:CANARY-NETRC");
    for secret in ["CANARY", encoded.as_str()] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    check_warnings(
        &warnings(&log),
        &[
            ("page", &page),
            ("corrupt", &corrupt),
            ("hostile", &hostile),
            ("leading away", &leading_away),
        ],
        &fixture.path.to_string(),
    );
}

/// Exactly the caches of `wanted` are warned of, each with its address, the path, and what it did.
fn check_warnings(warnings: &[(String, Value)], wanted: &[(&str, &Server)], path: &str) {
    for (name, fields) in warnings {
        let server = wanted.iter().find(|(known, _)| known == name).expect(name).1;
        assert_eq!(fields["cache.url"], server.url(), "{fields}");
        assert_eq!(fields["store.path"], path, "{fields}");
        let security = fields.get("security").and_then(Value::as_bool);
        assert_eq!(
            security,
            ["hostile", "leading away"].contains(&name.as_str()).then_some(true),
            "{fields}"
        );
    }
    for (name, text) in [
        ("page", "a web page where a narinfo should be"),
        ("corrupt", "has 9 bytes where the narinfo says "),
        ("hostile", "redirect refused: to the origin http://192.0.2.1"),
        ("leading away", "bad `URL`: absolute"),
    ] {
        let error = |fields: &Value| fields["error"].as_str().unwrap().contains(text);
        assert!(
            warnings.iter().any(|(cache, fields)| cache == name && error(fields)),
            "{name}: {warnings:?}"
        );
    }
}
