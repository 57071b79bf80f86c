//! Who is talked to: names, addresses, certificates, redirects, credentials. Canaries listen where nobody may connect.
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
    io,
    net::{IpAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    credentials::{Credentials, Netrc, Secret},
    fault::Class,
    options::{Options, Resolver},
    substitute::{SubstituteError, Substituter},
};
use fixture::{Bench, Fixture, cache, quick};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use server::{Server, Then, Wire};
use url::Url;

/// A listener that must never be talked to.
struct Canary {
    port: u16,
    visits: Arc<AtomicUsize>,
}

impl Canary {
    fn at(address: &str) -> Self {
        let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let (port, visits) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = visits.clone();
        std::thread::spawn(move || {
            for _visit in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { port, visits }
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::Relaxed)
    }
}

async fn refusal(configs: Vec<CacheConfig>, options: Options, fixture: &Fixture) -> (SubstituteError, String) {
    let bench = Bench::new();
    let from = Substituter::new(configs, options).unwrap();
    let error = bench.get(&from, &fixture.path).await.expect_err("must be refused");
    assert!(bench.is_empty());
    let faults: Vec<String> = error.asked().iter().map(|a| format!("{:?}", a.fault)).collect();
    (error, faults.join(" "))
}

/// Addresses where no cache lives, each with its number among the bad inputs.
fn foreign_urls(v4: u16, v6: u16) -> Vec<(&'static str, String)> {
    vec![
        ("H31", "file:///etc/shadow".to_owned()),
        ("H32", "file:///dev/zero".to_owned()),
        ("H33", format!("ftp://127.0.0.1:{v4}/x")),
        ("H33", format!("gopher://127.0.0.1:{v4}/x")),
        ("H33", "data:text/plain,x".to_owned()),
        ("H34", "http://169.254.169.254/latest/meta-data/".to_owned()),
        ("H35", format!("http://127.1:{v4}/x")),
        ("H35", format!("http://0x7f000001:{v4}/x")),
        ("H35", format!("http://[::ffff:127.0.0.1]:{v4}/x")),
        ("H35", format!("http://[::1]:{v6}/x")),
        ("H36", format!("http://[fe80::1%25eth0]:{v6}/x")),
        ("H37", "unix:/run/docker.sock".to_owned()),
        ("H37", "http+unix://%2Frun%2Fdocker.sock/x".to_owned()),
        ("H38", format!("http://127.0.0.1:{v4}/x")),
        ("more", format!("//127.0.0.1:{v4}/x")),
        ("more", format!("\\\\127.0.0.1:{v4}\\x")),
        ("more", format!("http://user@127.0.0.1:{v4}/x")),
        ("more", "../../../etc/shadow".to_owned()),
        ("more", "/etc/shadow".to_owned()),
    ]
}

/// What a slip of the pen may write is damage, not an attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_is_only_misspelt_is_not_taken_for_an_attack() {
    let fixture = Fixture::new("slip", 1000, Compression::None);
    for slip in ["nar/x.nar#y", "nar/%zz", "nar/\u{e4}"] {
        let files = fixture.with_line("URL", Some(slip));
        let server = Server::start(move |asked, conn| files.serve(asked, conn));
        let (error, faults) = refusal(vec![cache("c", &server.url(), None)], quick(), &fixture).await;
        assert!(faults.starts_with("NarInfo(Url"), "{slip}: {error:?}");
        assert_eq!(error.asked()[0].fault.class(), Class::Corrupt, "{slip}");
    }
}

/// Such a URL in a narinfo is an attack, and the narinfo is not asked for again.
async fn check_narinfo(fixture: &Fixture, id: &str, url: &str) {
    let files = fixture.with_line("URL", Some(url));
    let server = Server::start(move |asked, conn| files.serve(asked, conn));
    let (error, faults) = refusal(vec![cache("c", &server.url(), None)], quick(), fixture).await;
    assert!(faults.starts_with("NarInfo(Url"), "{id} {url}: {error:?}");
    assert_eq!(error.asked()[0].fault.class(), Class::Hostile, "{id} {url}");
    assert_eq!(server.count(".narinfo"), 1, "{id} {url}: no second try");
}

/// H31–H38 as URL of a narinfo and as redirect; the twin shows H42 with an allowed origin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_narinfo_and_no_redirect_leads_to_another_place() {
    let fixture = Arc::new(Fixture::new("ssrf", 1000, Compression::None));
    let (v4, v6) = (Canary::at("127.0.0.1"), Canary::at("::1"));
    let other = Canary::at("127.0.0.2");
    let mut urls = foreign_urls(v4.port, v6.port);
    urls.push(("other host", format!("http://127.0.0.2:{}/x", other.port)));
    for (id, url) in &urls {
        check_narinfo(&fixture, id, url).await;

        // The redirect of a narinfo, and of a NAR. Relative ones stay on the origin and are simply not there.
        for spoilt in [fixture.narinfo_path.clone(), fixture.nar_path.clone()] {
            let (files, location) = (fixture.files.clone(), url.clone());
            let server = Server::start(move |asked, conn| {
                if asked.path == spoilt {
                    conn.reply(302, &[("Location", &location)], b"");
                    return Then::Keep;
                }
                files.serve(asked, conn)
            });
            let (error, faults) = refusal(vec![cache("c", &server.url(), None)], quick(), &fixture).await;
            let relative = url.starts_with("../") || url == "/etc/shadow";
            let want = if relative { "Absent" } else { "Redirect(" };
            assert!(faults.starts_with(want), "{id} {url}: {error:?}");
        }
    }
    assert_eq!((v4.visits(), v6.visits(), other.visits()), (0, 0, 0));

    // The twin: a listed origin is followed, and nothing else is.
    let files = fixture.files.clone();
    let elsewhere = Server::start(move |asked, conn| files.serve(asked, conn));
    let (files, target) = (
        fixture.files.clone(),
        format!("{}{}", elsewhere.url(), fixture.nar_path),
    );
    let nar = fixture.nar_path.clone();
    let redirecting = Server::start(move |asked, conn| {
        if asked.path == nar {
            conn.reply(307, &[("Location", &target)], b"");
            return Then::Keep;
        }
        files.serve(asked, conn)
    });
    let mut config = cache("c", &redirecting.url(), None);
    config.redirect_origins = vec![Url::parse(&elsewhere.url()).unwrap()];
    config.credentials = Some(Credentials::Bearer(Secret::new("CANARY").unwrap()));
    let bench = Bench::new();
    bench
        .get(&Substituter::new(vec![config], quick()).unwrap(), &fixture.path)
        .await
        .unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);
    assert!(
        redirecting
            .asked()
            .iter()
            .all(|a| a.header("authorization") == Some("Bearer CANARY"))
    );
    assert!(
        elsewhere.asked().iter().all(|a| a.header("authorization").is_none()),
        "credentials stay at home"
    );
    assert_eq!(elsewhere.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_reach_their_own_origin_and_no_text() {
    let fixture = Fixture::new("auth", 1000, Compression::None);
    let netrc = |text: &str| Credentials::Netrc(Netrc::parse(text).unwrap());
    let cases = [
        (
            Credentials::Bearer(Secret::new("CANARY-1").unwrap()),
            Some("Bearer CANARY-1"),
        ),
        (
            netrc("machine 127.0.0.1 login u password CANARY-2"),
            Some("Basic dTpDQU5BUlktMg=="),
        ),
        (netrc("machine 127.0.0.2 login u password CANARY-2"), None),
    ];
    for (credentials, want) in cases {
        let files = fixture.files.clone();
        let server = Server::start(move |asked, conn| {
            if asked.header("authorization").is_none() {
                conn.reply(401, &[("WWW-Authenticate", "Basic")], b"");
                return Then::Keep;
            }
            files.serve(asked, conn)
        });
        let mut config = cache("c", &server.url(), None);
        config.credentials = Some(credentials);
        assert!(!format!("{config:?}").contains("CANARY"));
        let from = Substituter::new(vec![config], quick()).unwrap();
        assert!(!format!("{from:?}").contains("CANARY"), "not even in Debug");
        let result = Bench::new().get(&from, &fixture.path).await;
        assert_eq!(result.is_ok(), want.is_some(), "{result:?}");
        assert!(server.asked().iter().all(|a| a.header("authorization") == want));
        if let Err(error) = result {
            assert!(
                error.asked().iter().any(|a| a.fault.class() == Class::Auth),
                "{error:?}"
            );
            assert!(!format!("{error:?} {error}").contains("CANARY"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gets_no_bearer_token() {
    let fixture = Fixture::new("mirrored", 1000, Compression::None);
    let mirror = Server::start(|_, conn| {
        conn.reply(404, &[], b"");
        Then::Keep
    });
    let files = fixture.files.clone();
    let main = Server::start(move |asked, conn| files.serve(asked, conn));
    let mut config = cache("c", &main.url(), None);
    config.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    config.credentials = Some(Credentials::Bearer(Secret::new("CANARY").unwrap()));
    Bench::new()
        .get(&Substituter::new(vec![config], quick()).unwrap(), &fixture.path)
        .await
        .unwrap();
    assert!(mirror.count(".narinfo") > 0, "mirrors are asked first");
    assert!(mirror.asked().iter().all(|a| a.header("authorization").is_none()));
    assert!(main.asked().iter().all(|a| a.header("authorization").is_some()));
}

/// A port that drops connection requests: its queue is full and nobody accepts.
fn black_hole() -> (TcpListener, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let raw = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&raw, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&raw, 0).unwrap();
    let listener = TcpListener::from(raw);
    let address = listener.local_addr().unwrap();
    let fill = (0..3)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok())
        .collect();
    (listener, fill)
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_be_reached_is_named_and_passed_over() {
    let fixture = Fixture::new("unreachable", 1000, Compression::None);
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (hole, _fill) = black_hole();
    let hole = hole.local_addr().unwrap().port();
    let loopback = |_host: String| async { Ok::<_, io::Error>(vec![IpAddr::from([127, 0, 0, 1])]) };
    let cases: Vec<(&str, String, Resolver, &str, &str)> = vec![
        (
            "H11",
            format!("http://127.0.0.1:{refused}"),
            Resolver::system(),
            "CacheUnreachable",
            "Connect(Io { kind: ConnectionRefused",
        ),
        (
            "H12",
            format!("http://127.0.0.1:{hole}"),
            Resolver::system(),
            "CacheUnreachable",
            "Connect(TimedOut",
        ),
        (
            "H29 NXDOMAIN",
            "http://cache.invalid".to_owned(),
            Resolver::new(|_| async { Err(io::ErrorKind::NotFound.into()) }),
            "CacheUnreachable",
            "Connect(Name",
        ),
        (
            "H29 empty",
            "http://cache.invalid".to_owned(),
            Resolver::new(|_| async { Ok(Vec::new()) }),
            "CacheUnreachable",
            "Connect(NoAddress",
        ),
        (
            "H29 slow",
            "http://cache.invalid".to_owned(),
            Resolver::new(|_| async {
                tokio::time::sleep(Duration::from_secs(30)).await;
                Ok(Vec::new())
            }),
            "CacheUnreachable",
            "Connect(TimedOut",
        ),
        (
            "H29 rebound",
            format!("http://cache.invalid:{refused}"),
            Resolver::new(loopback),
            "CacheHostile",
            "AddressRefused",
        ),
    ];
    for (name, url, resolver, want, fault) in cases {
        let options = Options { resolver, ..quick() };
        let (error, faults) = refusal(vec![cache("bad", &url, Some(1))], options.clone(), &fixture).await;
        assert!(format!("{error:?}").starts_with(want), "{name}: {error:?}");
        assert!(faults.starts_with(fault), "{name}: {error:?}");
        let files = fixture.files.clone();
        let good = Server::start(move |asked, conn| files.serve(asked, conn));
        let both = vec![cache("bad", &url, Some(1)), cache("good", &good.url(), Some(2))];
        let from = Substituter::new(both, options).unwrap();
        Bench::new()
            .get(&from, &fixture.path)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(from.health()[0].faults > 0, "{name}");
    }
}

/// H29.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_rebound_to_this_machine_reaches_no_canary() {
    let fixture = Fixture::new("rebound", 1000, Compression::None);
    let canary = Canary::at("127.0.0.1");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // A public address first (nothing answers there), this machine the second time.
    let resolver = Resolver::new(move |_| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            Ok(vec![if first {
                IpAddr::from([192, 0, 2, 1])
            } else {
                IpAddr::from([127, 0, 0, 1])
            }])
        }
    });
    let options = Options {
        resolver,
        connect_timeout: Duration::from_millis(100),
        ..quick()
    };
    let url = format!("http://cache.invalid:{}", canary.port);
    let (error, faults) = refusal(vec![cache("c", &url, None)], options, &fixture).await;
    assert!(faults.contains("AddressRefused"), "{error:?}");
    assert!(asked.load(Ordering::Relaxed) >= 2);
    assert_eq!(canary.visits(), 0);
    // The twin: `localhost` may be this machine.
    let files = fixture.files.clone();
    let server = Server::start(move |asked, conn| files.serve(asked, conn));
    let options = Options {
        resolver: Resolver::new(|_| async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) }),
        ..quick()
    };
    let config = cache("c", &format!("http://localhost:{}", server.port()), None);
    Bench::new()
        .get(&Substituter::new(vec![config], options).unwrap(), &fixture.path)
        .await
        .unwrap();
}

/// A certificate authority of our own.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn server(&self, name: &str, adjust: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        tls_config(certificate.der().clone(), &key)
    }
}

fn tls_config(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

fn tls(config: ServerConfig) -> impl Fn(TcpStream) -> Option<Box<dyn Wire>> + Send + Sync + 'static {
    let config = Arc::new(config);
    move |socket| {
        let connection = ServerConnection::new(config.clone()).ok()?;
        Some(Box::new(StreamOwned::new(connection, socket)))
    }
}

fn https(server: &Server) -> String {
    server.url().replace("http:", "https:")
}

/// H28.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_must_be_ours_current_and_for_this_name() {
    let fixture = Fixture::new("tls", 50_000, Compression::Zstd);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        tls_config(params.self_signed(&key).unwrap().der().clone(), &key)
    };
    let expired = ours.server("127.0.0.1", |p| {
        p.not_before = date_time_ymd(2000, 1, 1);
        p.not_after = date_time_ymd(2001, 1, 1);
    });
    let options = Options {
        extra_roots: vec![ours.certificate.clone()],
        ..quick()
    };
    for (name, config, want) in [
        ("good", ours.server("127.0.0.1", |_| {}), None),
        ("expired", expired, Some("Expired")),
        ("wrong name", ours.server("127.0.0.2", |_| {}), Some("NotValidForName")),
        ("self-signed", self_signed, Some("Tls(InvalidCertificate(")),
        (
            "unknown authority",
            theirs.server("127.0.0.1", |_| {}),
            Some("Tls(InvalidCertificate("),
        ),
    ] {
        let files = fixture.files.clone();
        let server = Server::start_with(tls(config), move |asked, conn| files.serve(asked, conn));
        let config = cache("c", &https(&server), None);
        match want {
            None => {
                let bench = Bench::new();
                bench
                    .get(&Substituter::new(vec![config], options.clone()).unwrap(), &fixture.path)
                    .await
                    .unwrap();
                assert_eq!(bench.unpacked().unwrap(), fixture.contents);
                assert_eq!(server.asked().len(), 3, "what it is, a narinfo and a NAR");
            }
            Some(fault) => {
                let (error, faults) = refusal(vec![config], options.clone(), &fixture).await;
                assert!(format!("{error:?}").starts_with("CacheHostile"), "{name}: {error:?}");
                assert!(faults.contains(fault), "{name}: {error:?}");
                assert!(server.asked().is_empty(), "{name}: nothing was asked");
            }
        }
    }
}

/// H28 (TLS 1.0), H39.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_tls_plain_http_behind_https_and_downgrades_are_refused() {
    let fixture = Fixture::new("downgrade", 1000, Compression::None);
    let ours = Authority::new();
    let options = Options {
        extra_roots: vec![ours.certificate.clone()],
        ..quick()
    };
    // An alert in a TLS 1.0 record: this server speaks nothing newer.
    let old = Server::start_with(
        |mut socket| {
            use std::io::{Read as _, Write as _};
            let mut hello = [0; 1024];
            let _ = socket.read(&mut hello).ok()?;
            socket.write_all(&[0x15, 3, 1, 0, 2, 2, 70]).ok()?;
            None
        },
        |_, _| Then::Close,
    );
    let (error, faults) = refusal(vec![cache("c", &https(&old), None)], options.clone(), &fixture).await;
    assert!(faults.starts_with("Tls(AlertReceived(ProtocolVersion"), "{error:?}");

    let files = fixture.files.clone();
    let plain = Server::start(move |asked, conn| files.serve(asked, conn));
    let (error, _) = refusal(vec![cache("c", &https(&plain), None)], options.clone(), &fixture).await;
    assert!(plain.asked().is_empty(), "{error:?}");

    let (files, nar, target) = (fixture.files.clone(), fixture.nar_path.clone(), plain.url());
    let downgrading = Server::start_with(tls(ours.server("127.0.0.1", |_| {})), move |asked, conn| {
        if asked.path == nar {
            conn.reply(301, &[("Location", &format!("{target}{nar}"))], b"");
            return Then::Keep;
        }
        files.serve(asked, conn)
    });
    let mut config = cache("c", &https(&downgrading), None);
    config.redirect_origins = vec![Url::parse(&plain.url()).unwrap()];
    let (error, faults) = refusal(vec![config], options, &fixture).await;
    assert!(
        faults.starts_with("Redirect(Downgrade"),
        "even to a listed origin: {error:?}"
    );
    assert!(plain.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_resolver_says_is_told_on_one_bounded_line() {
    let fixture = Fixture::new("unresolved", 1000, Compression::None);
    let said = "failed to lookup address information: Name or service not known";
    for (answer, told) in [
        (said.to_owned(), said.to_owned()),
        (
            format!("two\nlines {}", "x".repeat(10_000)),
            format!("twolines {}", "x".repeat(100)),
        ),
    ] {
        let options = Options {
            resolver: Resolver::new(move |_| {
                let error = io::Error::other(answer.clone());
                async move { Err(error) }
            }),
            ..quick()
        };
        let (error, _) = refusal(vec![cache("c", "http://cache.invalid", None)], options, &fixture).await;
        let text = error.to_string();
        assert!(text.contains(&format!("its name cannot be resolved: {told}")), "{text}");
        assert!(text.len() < 600 && !text.contains('\n'), "{text}");
    }
}
