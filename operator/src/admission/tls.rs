//! The TLS side of the webhook: the certificate can change at any time, and open connections do not notice.
//! Never serves without a certificate: the handshake fails until there is one.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;

/// The certificate to serve, with its key; nothing until there is one.
pub type Serving = watch::Receiver<Option<Arc<CertifiedKey>>>;

/// Gives each handshake the certificate of its moment.
struct Latest(Serving);

impl fmt::Debug for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Latest")
    }
}

impl ResolvesServerCert for Latest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

/// The configuration of a server whose certificate is the latest of `serving`, for HTTP/2 and HTTP/1.1.
///
/// # Errors
/// The library has no protocol version in common with its own provider.
pub fn config(serving: Serving) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Latest(serving)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
