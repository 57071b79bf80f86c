//! Serves admission over TLS, HTTP/2 and HTTP/1.1.
//! Never waits for a client without a limit, never takes a body larger than a review can be.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::{
    Admission,
    peers::{Peers, Place, Work},
};

/// Most bytes of a question: etcd takes objects of 1.5 MiB, and a review can hold two.
const MOST_BODY: usize = 4 << 20;
const TOO_LARGE: &str = "the body is larger than 4 MiB\n";
/// Most connections at once: a few for each API server.
const MOST_CONNECTIONS: usize = 256;
/// Most questions that are read and answered at once; with [`MOST_BODY`] it bounds memory.
pub(super) const MOST_QUESTIONS: usize = 32;
/// Most questions at once on one connection of HTTP/2.
const MOST_STREAMS: u32 = 100;
/// For the handshake, and for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request as a whole: just below the webhook's own timeout of 5 seconds.
const TIMEOUT: Duration = Duration::from_millis(4500);
/// A client of HTTP/2 that does not answer a ping for so long is gone.
const PING: Duration = Duration::from_secs(20);

/// For a client to leave once it is told to: more than its last questions may take.
const LEAVE: Duration = Duration::from_secs(10);

/// What a client may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A connection without a question for so long is closed.
    pub idle: Duration,
    /// Most connections of one address: all API servers may share one.
    pub per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            per_address: MOST_CONNECTIONS / 4,
        }
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Shared {
    admission: Admission,
    questions: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
    limits: Limits,
}

/// Serves until it is dropped. When `ending` becomes true, open connections are closed as soon as their questions are
/// answered, so that clients go elsewhere; new ones are still answered.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    admission: Admission,
    ending: watch::Receiver<bool>,
    limits: Limits,
) {
    let acceptor = TlsAcceptor::from(tls);
    let shared = Shared {
        admission,
        questions: Arc::new(Semaphore::new(MOST_QUESTIONS)),
        ending,
        limits,
    };
    let peers = Peers::default();
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= MOST_CONNECTIONS {
            connections.join_next().await;
        }
        let (stream, address) = match listener.accept().await {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                debug!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        match peers.place(address, limits.per_address) {
            Some(place) => {
                connections.spawn(connection((stream, place), acceptor.clone(), shared.clone()));
            }
            None => debug!(client.address = %address, "too many connections of one address"),
        }
    }
}

async fn connection((stream, _place): (TcpStream, Place), acceptor: TlsAcceptor, shared: Shared) {
    let stream = match timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(error = %error, "a handshake failed"),
        Err(_) => return debug!("a handshake took too long"),
    };
    if let Err(error) = speak(stream, shared).await {
        debug!(error = %error, "a connection broke");
    }
}

async fn speak(stream: TlsStream<TcpStream>, shared: Shared) -> Result<(), hyper::Error> {
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let (mut ending, idle) = (shared.ending.clone(), shared.limits.idle);
    let work = Work::none();
    let counted = work.clone();
    let service = service_fn(move |request| {
        let (shared, open) = (shared.clone(), counted.open());
        async move {
            let answered = answer(request, &shared).await;
            drop(open);
            Ok::<_, Infallible>(answered)
        }
    });
    let enough = async {
        tokio::select! {
            () = told(&mut ending) => {}
            () = work.idle_for(idle) => {}
        }
    };
    if two {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let mut connection = pin!(http.serve_connection(stream, service));
        tokio::select! {
            done = connection.as_mut() => return done,
            () = enough => connection.as_mut().graceful_shutdown(),
        }
        timeout(LEAVE, connection).await.unwrap_or(Ok(()))
    } else {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let mut connection = pin!(http.serve_connection(stream, service));
        tokio::select! {
            done = connection.as_mut() => return done,
            () = enough => connection.as_mut().graceful_shutdown(),
        }
        timeout(LEAVE, connection).await.unwrap_or(Ok(()))
    }
}

/// Waits until the end is told. One that came before the connection did is not waited for: its question is answered first.
async fn told(ending: &mut watch::Receiver<bool>) {
    let known = *ending.borrow_and_update();
    if known || ending.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let answered = timeout(TIMEOUT, async {
        // Closed never; and where it were, nothing would be answered.
        let _permit = shared.questions.acquire().await;
        take(request, &shared.admission).await
    });
    answered
        .await
        .unwrap_or_else(|_| text(StatusCode::REQUEST_TIMEOUT, "the question took too long\n"))
}

async fn take(request: Request<Incoming>, admission: &Admission) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only POST is served\n");
    }
    let path = request.uri().path().to_owned();
    let announced = request.body().size_hint().lower();
    if announced > MOST_BODY as u64 {
        return text(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    let body = match Limited::new(request.into_body(), MOST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
        }
        Err(error) => {
            debug!(error = %error, "a body broke off");
            return text(StatusCode::BAD_REQUEST, "the body broke off\n");
        }
    };
    let (status, body) = admission.answer(&path, &body).await;
    let kind = if status == StatusCode::OK {
        "application/json"
    } else {
        "text/plain"
    };
    with_kind(status, Bytes::from(body), kind)
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_kind(status, Bytes::from_static(body.as_bytes()), "text/plain")
}

fn with_kind(status: StatusCode, body: Bytes, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
