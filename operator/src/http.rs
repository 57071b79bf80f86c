//! `/healthz`, `/readyz` and `/metrics`, over plain HTTP/1.1.
//! Never serves anything else, never reads a body, never keeps more than a few connections.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, TextEncoder};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::debug;

use crate::{metrics::Metrics, readiness::Readiness};

/// Most connections at once: kubelet's probes and a scraper or two.
const MOST_CONNECTIONS: usize = 64;
/// For the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the answers come from.
#[derive(Debug, Clone)]
pub struct Told {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, told: Told) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= MOST_CONNECTIONS {
            connections.join_next().await;
        }
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let told = told.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &told);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                debug!(error = %error, "a connection broke");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, told: &Told) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n".to_owned());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match told.readiness.waiting_for().as_slice() {
            [] => text(StatusCode::OK, "ok\n".to_owned()),
            waiting => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for: {}\n", waiting.join(", ")),
            ),
        },
        "/metrics" => metrics(&told.metrics),
        _ => text(
            StatusCode::NOT_FOUND,
            "/healthz, /readyz and /metrics are served\n".to_owned(),
        ),
    }
}

fn metrics(metrics: &Metrics) -> Response<Full<Bytes>> {
    let encoder = TextEncoder::new();
    let mut body = Vec::new();
    match encoder.encode(&metrics.registry.gather(), &mut body) {
        Ok(()) => {
            let mut response = Response::new(Full::from(body));
            let kind = header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
