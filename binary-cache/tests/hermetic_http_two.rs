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
use tokio::{net::TcpListener, task::JoinSet};
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
}

struct TwoServer {
    url: String,
    root: CertificateDer<'static>,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

async fn serve(fixture: &Arc<Fixture>, mode: Mode) -> TwoServer {
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
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (fixture, opened, asked) = (fixture.clone(), connections.clone(), requests.clone());
    let nars = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            opened.fetch_add(1, Ordering::Relaxed);
            let (acceptor, fixture, asked, nars) = (acceptor.clone(), fixture.clone(), asked.clone(), nars.clone());
            serving.spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else {
                    return;
                };
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
        _tasks: tasks,
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
    ] {
        let server = serve(&fixture, mode).await;
        let options = Options {
            extra_roots: vec![server.root.clone()],
            ..quick()
        };
        let bench = Bench::new();
        let from = Substituter::new(vec![cache("two", &server.url, Some(1))], options.clone()).unwrap();
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
