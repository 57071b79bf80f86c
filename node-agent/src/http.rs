//! `/healthz`, `/readyz` and `/metrics` over plain HTTP/1.1.
//! Never serves anything else, never reads a body, never keeps more than a few connections, never asks anybody to answer.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::report::metrics::Metrics;

/// kubelet's probes and a few scrapers.
const MOST_CONNECTIONS: usize = 64;
/// For the head of a request, also of the next one on the same connection.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// What the answers come from.
#[derive(Debug, Clone)]
pub struct Answers {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/readyz`: what the agent still waits for; empty: nothing.
    pub waiting_for: watch::Receiver<Vec<&'static str>>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, answers: Answers) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_CONNECTIONS {
            let _ended = connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: some will be free again.
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let answers = answers.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &answers);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
            if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, answers: &Answers) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned());
    }
    match request.uri().path() {
        // The threads run, or nobody would answer.
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match answers.waiting_for.borrow().as_slice() {
            [] => text(StatusCode::OK, "ok\n".to_owned()),
            waiting => {
                let said = format!("waiting for {}\n", waiting.join(", "));
                text(StatusCode::SERVICE_UNAVAILABLE, said)
            }
        },
        "/metrics" => match answers.metrics.text() {
            Ok(metrics) => {
                let mut response = text(StatusCode::OK, metrics);
                let kind = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /healthz, /readyz and /metrics\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn health_readiness_and_metrics_are_served_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (waiting, waiting_for) = watch::channel(vec!["the self-test"]);
        let answers = Answers {
            metrics: Metrics::register().unwrap(),
            waiting_for,
        };
        let server = async { serve(listener, answers).await };
        let asked = async {
            let ask = async |request: &str| {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            };
            for (request, status, says) in [
                ("GET /healthz", "200", "ok"),
                ("GET /readyz", "503", "waiting for the self-test"),
                ("GET /metrics", "200", "cudaenv_agent_info{version="),
                ("GET /debug", "404", "/metrics"),
                ("POST /healthz", "405", "GET"),
            ] {
                let answer = ask(request).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                assert!(answer.contains(says), "{answer}");
            }
            waiting.send_replace(Vec::new());
            assert!(ask("GET /readyz").await.starts_with("HTTP/1.1 200 "));
        };
        tokio::select! {
            () = server => unreachable!("it serves until it is dropped"),
            () = asked => {}
        }
    }
}
