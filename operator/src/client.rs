//! The client of the API server.
//! Never waits for ever: a connection that has gone silent is given up, and its request fails.

use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};

/// A watch that says nothing for this long is asked for anew: seconds. Bookmarks come every minute.
pub const SILENCE: u32 = 240;

/// Longer than the API server leaves any request of ours unanswered: a hung list is given up then, as a silent watch is.
const UNANSWERED: Duration = Duration::from_secs(250);

/// For a connection: one that is not there by then is tried anew.
const CONNECTED: Duration = Duration::from_secs(10);

/// A client of the cluster that the kubeconfig, or the pod's service account, leads to.
///
/// # Errors
/// None is configured, or it cannot be used.
pub async fn client() -> anyhow::Result<Client> {
    let config = Config::infer().await.context("no cluster is configured")?;
    Client::try_from(impatient(config, UNANSWERED)).context("the client of the API server cannot be made")
}

/// The same, with limits.
pub(crate) fn impatient(mut config: Config, unanswered: Duration) -> Config {
    config.connect_timeout = Some(CONNECTED);
    config.read_timeout = Some(unanswered);
    config.reset_reader_on_write = true;
    config
}

/// An API server that is there and says nothing.
#[cfg(test)]
pub(crate) mod silent {
    use super::*;

    /// A client of it that would wait for `unanswered`. Connections are taken and kept by the kernel: nobody reads them.
    pub(crate) fn server(unanswered: Duration) -> (std::net::TcpListener, Client) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let config = impatient(Config::new(address.parse().unwrap()), unanswered);
        (listener, Client::try_from(config).unwrap())
    }
}

/// A server on loopback that answers as a test says, where a real API server cannot be made to.
#[cfg(test)]
pub(crate) mod answering {
    use std::{convert::Infallible, sync::Arc};

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::{Method, Response, StatusCode, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::*;

    /// A client of it.
    #[expect(clippy::disallowed_methods, reason = "the server's own tasks")]
    pub(crate) async fn server(answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = Arc::clone(&answer);
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (status, body) = answer(request.method(), request.uri().path());
                    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Client::try_from(Config::new(address.parse().unwrap())).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::Api;

    use super::*;

    #[tokio::test]
    async fn a_request_that_nobody_answers_fails() {
        assert!(UNANSWERED > Duration::from_secs(SILENCE.into()));
        let (_listener, client) = silent::server(Duration::from_millis(300));
        let asked = tokio::time::timeout(Duration::from_secs(20), Api::<Node>::all(client).get("a")).await;
        asked.unwrap().unwrap_err();
    }
}
