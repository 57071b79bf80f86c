//! Connections to one address over TLS that wait for nothing: what is written goes out at once.
//! It must never trust an authority but the one that it was told of.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// Whom to trust, and as whom to come; all PEM.
pub(crate) struct Identity<'a> {
    pub(crate) authority: &'a [u8],
    /// Certificate and key, where the server wants to know.
    pub(crate) own: Option<(&'a [u8], &'a [u8])>,
}

/// One connection.
pub(crate) struct Https {
    requests: SendRequest<Full<Bytes>>,
    host: String,
}

impl Https {
    /// Connects to a port of 127.0.0.1.
    pub(crate) async fn connect(port: u16, identity: &Identity<'_>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(identity.authority) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let config = match identity.own {
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the connection's own task, which ends with its requests"
        )]
        tokio::spawn(connection);
        Ok(Self {
            requests,
            host: format!("127.0.0.1:{port}"),
        })
    }

    /// Posts JSON; what is answered, whole.
    pub(crate) async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        let request = Request::post(path)
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(Full::new(body.into()))?;
        let answered = async {
            self.requests.ready().await?;
            let response = self.requests.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let answered = timeout(Duration::from_secs(30), answered).await;
        Ok(answered.context("no answer within 30 s")??)
    }
}
