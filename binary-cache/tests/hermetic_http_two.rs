//! HTTP/2: chosen by ALPN, one connection for many requests, and servers that reset or leave in the middle.
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

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use binary_cache::{compression::Compression, options::Options, substitute::Substituter};
use bytes::Bytes;
use fixture::{Bench, Fixture, cache, quick};
use h2::{Reason, server::SendResponse};
use hyper::{Request, Response};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use server::Server;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// What the server does with the NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Good,
    /// Half of it, then RST_STREAM; the next request, a range, is served.
    ResetOnce,
    /// Every request is reset at once.
    ResetAlways,
    /// Half of it, then GOAWAY and the end of the connection; then good.
    GoAway,
    /// A head, then resets of its stream without end.
    Flood,
}

/// Resident memory of this process, in bytes. Its one test shares it with nobody.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The flood was one, it cost no memory, and it ends where nobody listens any more.
async fn check_flood(server: &TwoServer, before: usize) {
    let sent = || server.floods.load(Ordering::Relaxed);
    let grown = resident().saturating_sub(before);
    assert!(sent() >= 10_000 && grown < 64 << 20, "{} resets, {grown} bytes", sent());
    for _ in 0..100 {
        let earlier = sent();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if sent() == earlier {
            return;
        }
    }
    panic!("still flooded: {} resets", sent());
}

struct TwoServer {
    url: String,
    root: CertificateDer<'static>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    /// Resets sent in floods.
    floods: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// TLS for this machine that offers HTTP/2 alone, and the certificate to trust.
fn tls() -> (TlsAcceptor, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .der()
        .clone();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), certificate)
}

async fn serve(fixture: &Arc<Fixture>, mode: Mode) -> TwoServer {
    let (acceptor, certificate) = tls();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (fixture, opened, asked) = (fixture.clone(), connections.clone(), requests.clone());
    let nars = Arc::new(AtomicUsize::new(0));
    let sent = Arc::new(AtomicUsize::new(0));
    let floods = sent.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            opened.fetch_add(1, Ordering::Relaxed);
            let (acceptor, fixture, asked, nars) = (acceptor.clone(), fixture.clone(), asked.clone(), nars.clone());
            let floods = floods.clone();
            serving.spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else {
                    return;
                };
                if mode == Mode::Flood {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let _client_went_away = flood(&mut stream, &floods).await;
                    return;
                }
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if answer(&fixture, mode, &nars, &request, respond) {
                        // Let what is queued go out, then leave: GOAWAY, and no more.
                        let closing = async {
                            connection.abrupt_shutdown(Reason::NO_ERROR);
                            std::future::poll_fn(|cx| connection.poll_closed(cx)).await
                        };
                        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), closing).await;
                        return;
                    }
                }
            });
        }
    });
    TwoServer {
        url,
        root: certificate,
        connections,
        requests,
        floods: sent,
        _tasks: tasks,
    }
}

/// Speaks frames by hand: what no well-behaved server says cannot be said through a library. The head of an answer to the
/// first request, then its stream reset again and again.
async fn flood(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), sent: &AtomicUsize) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    // SETTINGS of nothing.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    let asked = loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        // HEADERS: the request.
        if head[3] == 1 {
            break [head[5], head[6], head[7], head[8]];
        }
    };
    // HEADERS with END_HEADERS: `:status: 200` is entry 8 of the static table.
    stream.write_all(&[0, 0, 1, 1, 4]).await?;
    stream.write_all(&asked).await?;
    stream.write_all(&[0x88]).await?;
    let reset = [&[0, 0, 4, 3, 0][..], &asked, &[0, 0, 0, 8]].concat();
    let many = reset.repeat(1000);
    loop {
        stream.write_all(&many).await?;
        sent.fetch_add(1000, Ordering::Relaxed);
    }
}

/// Answers one request; true where the connection is to be ended.
fn answer<T>(
    fixture: &Fixture,
    mode: Mode,
    nars: &AtomicUsize,
    request: &Request<T>,
    mut respond: SendResponse<Bytes>,
) -> bool {
    let path = request.uri().path();
    let Some(body) = fixture.files.0.get(path) else {
        respond
            .send_response(Response::builder().status(404).body(()).unwrap(), true)
            .unwrap();
        return false;
    };
    let is_nar = path == fixture.nar_path;
    if mode == Mode::ResetAlways && is_nar {
        respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        return false;
    }
    let range = request.headers().get("range").map(|r| r.to_str().unwrap().to_owned());
    let from: usize = range.map_or(0, |r| r["bytes=".len()..r.len() - 1].parse().unwrap());
    let response = Response::builder().header("etag", "\"v\"");
    let response = if from > 0 {
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        response.status(206).header("content-range", range)
    } else {
        response.header("content-length", body.len())
    };
    let spoilt = is_nar && mode != Mode::Good && nars.fetch_add(1, Ordering::Relaxed) == 0;
    let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
    if spoilt {
        stream
            .send_data(Bytes::copy_from_slice(&body[..body.len() / 2]), false)
            .unwrap();
        if mode == Mode::ResetOnce {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        return mode == Mode::GoAway;
    }
    stream.send_data(Bytes::copy_from_slice(&body[from..]), true).unwrap();
    false
}

/// H26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_used_where_it_is_offered_and_its_ways_of_breaking_are_survived() {
    let fixture = Arc::new(Fixture::new("two", 60_000, Compression::None));
    for (mode, good) in [
        (Mode::Good, true),
        (Mode::ResetOnce, true),
        (Mode::GoAway, true),
        (Mode::ResetAlways, false),
        (Mode::Flood, false),
    ] {
        let server = serve(&fixture, mode).await;
        let options = Options {
            extra_roots: vec![server.root.clone()],
            ..quick()
        };
        let bench = Bench::new();
        let from = Substituter::new(vec![cache("two", &server.url, Some(1))], options.clone()).unwrap();
        let before = resident();
        let result = bench.get(&from, &fixture.path).await;
        assert_eq!(result.is_ok(), good, "{mode:?}: {result:?}");
        if good {
            assert_eq!(bench.unpacked().unwrap(), fixture.contents, "{mode:?}");
            let connections = server.connections.load(Ordering::Relaxed);
            assert!(
                connections <= 2 && (mode != Mode::Good || connections == 1),
                "{mode:?}: {connections}"
            );
            continue;
        }
        let error = result.unwrap_err();
        assert!(format!("{error:?}").starts_with("CacheUnreachable"), "{error:?}");
        assert!(
            server.requests.load(Ordering::Relaxed) <= 3 * quick().attempts as usize,
            "a flood is not answered by one"
        );
        drop(from);
        if mode == Mode::Flood {
            check_flood(&server, before).await;
        }
        let files = fixture.files.clone();
        let second = Server::start(move |asked, conn| files.serve(asked, conn));
        let both = vec![
            cache("two", &server.url, Some(1)),
            cache("good", &second.url(), Some(2)),
        ];
        Bench::new()
            .get(&Substituter::new(both, options).unwrap(), &fixture.path)
            .await
            .unwrap();
    }
}
