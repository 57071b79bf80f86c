//! Over how many connections a cache is read that speaks HTTP/2 over TLS, and what becomes of one that is dead and not ended.
//! Never asserts a time but against another that is far longer.
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
    convert::Infallible,
    future::pending,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use binary_cache::{compression::Compression, options::Options, substitute::Substituter};
use bytes::Bytes;
use fixture::{Bench, Files, Fixture, cache};
use futures_util::stream::unfold;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Bytes that an answer is given at once, ten times a second.
const PIECE: usize = 50_000;
/// Far longer than a connection that is left takes, far shorter than one that is waited for.
const SOON: Duration = Duration::from_secs(15);

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];
const TWO_ALONE: &[&[u8]] = &[b"h2"];

/// A connection that can be made to swallow everything, as a network does that forgot it.
struct Line {
    socket: TcpStream,
    dead: Arc<AtomicBool>,
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.dead.load(Ordering::SeqCst) {
            true => Poll::Pending,
            false => Pin::new(&mut self.socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.dead.load(Ordering::SeqCst) {
            true => Poll::Pending,
            false => Pin::new(&mut self.socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A connection as the server sees it.
#[derive(Clone)]
struct Seen {
    is_two: bool,
    dead: Arc<AtomicBool>,
}

/// What was asked for of a NAR: the connection's number, and the part.
type Asked = (usize, Option<(usize, Option<usize>)>);

/// What the server has, and what was done with it.
struct Shop {
    files: Files,
    /// The connection of the first NAR dies when so many bytes of it were sent.
    die_after: Option<usize>,
    lines: Mutex<Vec<Seen>>,
    asked: Mutex<Vec<Asked>>,
    nars: AtomicUsize,
}

struct Https {
    url: String,
    root: CertificateDer<'static>,
    shop: Arc<Shop>,
    _tasks: JoinSet<()>,
}

impl Https {
    /// Offers these versions of HTTP.
    async fn start(files: Files, versions: &[&[u8]], die_after: Option<usize>) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let root = certificate.self_signed(&key).unwrap().der().clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let shop = Arc::new(Shop {
            files,
            die_after,
            lines: Mutex::default(),
            asked: Mutex::default(),
            nars: AtomicUsize::new(0),
        });
        let (mut tasks, inside) = (JoinSet::new(), shop.clone());
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                serving.spawn(serve(inside.clone(), acceptor.clone(), socket));
            }
        });
        Self {
            url,
            root,
            shop,
            _tasks: tasks,
        }
    }

    fn options(&self) -> Options {
        Options {
            patience: Duration::from_millis(300),
            dead_after: Duration::from_millis(500),
            extra_roots: vec![self.root.clone()],
            seed: Some(1),
            ..Options::default()
        }
    }

    fn substituter(&self, options: Options) -> Substituter {
        Substituter::new(vec![cache("https", &self.url, None)], options).unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        self.shop.asked.lock().unwrap().clone()
    }

    /// Which connections speak HTTP/2.
    fn twos(&self) -> Vec<bool> {
        self.shop.lines.lock().unwrap().iter().map(|line| line.is_two).collect()
    }
}

async fn serve(shop: Arc<Shop>, acceptor: TlsAcceptor, socket: TcpStream) {
    let dead = Arc::new(AtomicBool::new(false));
    let line = Line {
        socket,
        dead: dead.clone(),
    };
    let Ok(stream) = acceptor.accept(line).await else {
        return;
    };
    let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let number = {
        let mut lines = shop.lines.lock().unwrap();
        lines.push(Seen { is_two, dead });
        lines.len() - 1
    };
    let service = service_fn(move |request| {
        let answer = answer(&shop, number, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let stream = TokioIo::new(stream);
    let _ended = match is_two {
        true => {
            let two = http2::Builder::new(TokioExecutor::new());
            two.serve_connection(stream, service).await.is_ok()
        }
        false => http1::Builder::new().serve_connection(stream, service).await.is_ok(),
    };
}

/// Small files at once; a NAR, or the part of it that was asked for, slowly.
fn answer(shop: &Arc<Shop>, line: usize, request: &Request<Incoming>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let path = request.uri().path();
    let Some(file) = shop.files.0.get(path) else {
        let mut response = Response::new(Full::default().boxed_unsync());
        *response.status_mut() = hyper::StatusCode::NOT_FOUND;
        return response;
    };
    let file = Bytes::copy_from_slice(file);
    if !path.starts_with("/nar/") {
        return Response::new(Full::new(file).boxed_unsync());
    }
    let range = request
        .headers()
        .get("range")
        .and_then(|range| part(range.to_str().unwrap()));
    shop.asked.lock().unwrap().push((line, range));
    let (from, to) = range.unwrap_or((0, None));
    let body = file.slice(from..to.unwrap_or(file.len()));
    let response = Response::builder()
        .header("etag", "\"1\"")
        .header("content-length", body.len());
    let response = match range {
        Some(_) => {
            let range = format!("bytes {from}-{}/{}", from + body.len() - 1, file.len());
            response.status(206).header("content-range", range)
        }
        None => response.header("accept-ranges", "bytes"),
    };
    let first = shop.nars.fetch_add(1, Ordering::SeqCst) == 0;
    let die_after = shop.die_after.filter(|_| first);
    response.body(drip(shop.clone(), line, body, die_after)).unwrap()
}

fn part(range: &str) -> Option<(usize, Option<usize>)> {
    let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let to = last.parse::<usize>().ok().map(|last| last + 1);
    Some((from.parse().ok()?, to))
}

fn drip(shop: Arc<Shop>, line: usize, body: Bytes, die_after: Option<usize>) -> UnsyncBoxBody<Bytes, Infallible> {
    let stream = unfold(0, move |sent| {
        let (shop, body) = (shop.clone(), body.clone());
        async move {
            if sent >= body.len() {
                return None;
            }
            if sent > 0 {
                sleep(Duration::from_millis(100)).await;
            }
            if die_after.is_some_and(|most| sent >= most) {
                shop.lines.lock().unwrap()[line].dead.store(true, Ordering::SeqCst);
                pending::<()>().await;
            }
            let end = body.len().min(sent + PIECE);
            Some((Ok(Frame::data(body.slice(sent..end))), end))
        }
    });
    StreamBody::new(Box::pin(stream)).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stretches_come_over_connections_of_their_own_where_http_2_would_have_one_carry_them_all() {
    for versions in [BOTH, TWO_ALONE] {
        let fixture = Fixture::new("many", 4_000_000, Compression::None);
        let server = Https::start(fixture.files.clone(), versions, None).await;
        let bench = Bench::new();
        bench
            .get(&server.substituter(server.options()), &fixture.path)
            .await
            .unwrap();
        assert!(bench.unpacked().unwrap() == fixture.contents);
        let (asked, twos) = (server.asked(), server.twos());
        assert_eq!(asked[0], (0, None), "it began as any other");
        assert!(asked.len() > 2 && twos[0], "{asked:?}");
        assert_eq!(twos.iter().filter(|two| **two).count(), 1, "{twos:?}");
        // Who speaks nothing but HTTP/2 serves all the same.
        let own = asked[1..].iter().all(|(line, _)| !twos[*line]);
        assert_eq!(own, versions == BOTH, "{asked:?} {twos:?}");
        assert_eq!(twos.len() > 2, versions == BOTH, "{twos:?}");
    }
}

/// Otherwise the minimum rate would speak after 30 s, and then the same connection would be asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_leaves_a_dead_connection_that_all_requests_share() {
    for versions in [BOTH, TWO_ALONE] {
        let fixture = Fixture::new("dead", 600_000, Compression::None);
        let server = Https::start(fixture.files.clone(), versions, Some(200_000)).await;
        let bench = Bench::new();
        let from = server.substituter(server.options());
        timeout(SOON, bench.get(&from, &fixture.path))
            .await
            .expect("left soon")
            .unwrap();
        assert!(bench.unpacked().unwrap() == fixture.contents);
        let (asked, twos) = (server.asked(), server.twos());
        assert_eq!(asked[0], (0, None));
        let rest = &asked[1..];
        assert!(
            !rest.is_empty() && rest.iter().all(|(line, part)| *line > 0 && part.is_some()),
            "{asked:?}"
        );
        assert_eq!(twos[asked[1].0], versions == TWO_ALONE, "{asked:?} {twos:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_leaves_a_dead_connection_that_an_earlier_piece_of_work_opened() {
    let [first, second] = ["first", "second"].map(|name| Fixture::new(name, name.len() * 1000, Compression::None));
    let mut files = first.files.clone();
    files.0.extend(second.files.0.clone());
    let server = Https::start(files, BOTH, None).await;
    let from = server.substituter(server.options());
    from.lookup(&first.path).await.unwrap();
    assert_eq!(server.twos(), [true]);
    server.shop.lines.lock().unwrap()[0].dead.store(true, Ordering::SeqCst);
    // Otherwise the answer would be waited for during 30 s, time and again.
    timeout(SOON, from.renewed().lookup(&second.path))
        .await
        .expect("left soon")
        .unwrap();
    assert_eq!(server.twos(), [true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_after_a_silent_connection_is_made_over_another() {
    let fixture = Fixture::new("again", 600_000, Compression::None);
    for (die_after, connections) in [(None, vec![true]), (Some(200_000), vec![true, false])] {
        let server = Https::start(fixture.files.clone(), BOTH, die_after).await;
        // Neither another connection nor a ping comes first.
        let options = Options {
            patience: Duration::from_secs(60),
            dead_after: Duration::from_secs(60),
            first_byte_timeout: Duration::from_secs(2),
            rate_window: Duration::from_secs(1),
            attempts: 3,
            more_connections: 0,
            ..server.options()
        };
        let bench = Bench::new();
        bench.get(&server.substituter(options), &fixture.path).await.unwrap();
        assert!(bench.unpacked().unwrap() == fixture.contents);
        assert_eq!(server.twos(), connections);
    }
}
