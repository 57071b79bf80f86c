//! Getting a connection: names, TCP, TLS, within one time limit; and reading the errors of the layers below.
//! Never trusts a certificate that the system (or `extra_roots`) does not; never connects where a name has no business.

use std::{
    error::Error,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use rustls::{AlertDescription, ClientConfig, RootCertStore, crypto::ring};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use crate::{
    credentials::is_localhost,
    fault::{ConnectFault, Fault},
    options::{Options, Resolver},
};

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// What is offered to a server over TLS (ALPN), the best first.
pub(crate) const ALL_VERSIONS: &[&[u8]] = &[b"h2", b"http/1.1"];
/// The version that carries one request at a time, so that another request is another connection.
pub(crate) const ONE_AT_A_TIME: &[&[u8]] = &[b"http/1.1"];

#[derive(Clone, Debug)]
pub(crate) struct Connector {
    inner: HttpsConnector<HttpConnector<Names>>,
    limit: Duration,
}

impl Connector {
    /// `versions`: those of HTTP that are offered.
    pub(crate) fn new(options: &Options, versions: &[&[u8]]) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        // Certificates of the system that cannot be read are passed over, as everyone does; ours must be good.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for root in &options.extra_roots {
            roots.add(root.clone())?;
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = versions.iter().map(|version| version.to_vec()).collect();
        let mut http = HttpConnector::new_with_resolver(Names(options.resolver.clone()));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(30)));
        http.set_keepalive_interval(Some(options.dead_after));
        http.set_tcp_user_timeout(Some(options.dead_after));
        Ok(Self {
            inner: HttpsConnector::from((http, tls)),
            limit: options.connect_timeout,
        })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = ConnectFault;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectFault>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectFault>> {
        self.inner
            .poll_ready(context)
            .map_err(|error| connect_fault(error.as_ref()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.inner.call(uri), self.limit);
        Box::pin(async move {
            match timeout(limit, connecting).await {
                Ok(result) => result.map_err(|error| connect_fault(error.as_ref())),
                Err(_elapsed) => Err(ConnectFault::TimedOut { limit }),
            }
        })
    }
}

/// Name resolution, with the addresses left out that no cache's name may lead to.
#[derive(Clone, Debug)]
struct Names(Resolver);

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ConnectFault;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectFault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectFault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (host, resolver) = (name.as_str().to_ascii_lowercase(), self.0.clone());
        Box::pin(async move {
            let found = resolver
                .resolve(host.clone())
                .await
                .map_err(|error| unresolved(&error))?;
            let allowed = permitted(&host, found)?;
            Ok(allowed
                .into_iter()
                .map(|ip| SocketAddr::new(ip, 0))
                .collect::<Vec<_>>()
                .into_iter())
        })
    }
}

/// The resolver's text, at most 200 characters of it, none of them a control character.
fn unresolved(error: &io::Error) -> ConnectFault {
    let text = error.to_string();
    let answer: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    ConnectFault::Name { answer: answer.into() }
}

/// The addresses of `host` that may be connected to. Whoever owns a name decides where it leads; so a name other than
/// `localhost` may not lead to this machine, nor to link-local addresses and the few others where clouds keep their
/// metadata, whatever way the address is written in. Who wants that writes the address itself into the configuration.
fn permitted(host: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, ConnectFault> {
    let (good, bad): (Vec<_>, Vec<_>) = found.into_iter().partition(|ip| is_permitted(host, *ip));
    match (good.is_empty(), bad.first()) {
        (false, _) => Ok(good),
        (true, Some(ip)) => Err(ConnectFault::AddressRefused(*ip)),
        (true, None) => Err(ConnectFault::NoAddress),
    }
}

/// Metadata services outside the link-local ranges: AWS and its EKS Pod Identity, Google (IPv6), Alibaba and Azure.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// The IPv4 address that a packet to this IPv6 address may end at: mapped, compatible (RFC 4291), behind a translator
/// (RFC 6052, RFC 8215), or 6to4 (RFC 3056).
fn carried(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        // `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0] if high == 0 && low <= 1 => None,
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] | [0x64, 0xff9b, 1, _, _, _] => Some(v4(high, low)),
        [0x2002, high, low, _, _, _] => Some(v4(high, low)),
        _ => None,
    }
}

fn is_permitted(host: &str, ip: IpAddr) -> bool {
    if let IpAddr::V6(ip) = ip
        && let Some(carried) = carried(ip)
    {
        return is_permitted(host, carried.into());
    }
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let this_machine = ip.is_loopback() && !is_localhost(host);
    !METADATA.contains(&ip) && !link_local && !this_machine && !ip.is_unspecified() && !ip.is_multicast()
}

/// What the client's error means.
pub(crate) fn fault_of(error: hyper_util::client::legacy::Error, max_head: usize) -> Fault {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    let mut malformed = false;
    while let Some(this) = cause {
        if let Some(fault) = this.downcast_ref::<ConnectFault>() {
            return fault.clone().into();
        }
        if let Some(hyper) = this.downcast_ref::<hyper::Error>() {
            if hyper.is_parse_too_large() {
                return Fault::HeadTooLarge { limit: max_head };
            }
            malformed |= hyper.is_parse();
        }
        cause = this.source();
    }
    if malformed {
        Fault::Malformed(error)
    } else {
        Fault::Broken(error)
    }
}

/// Reads what a connector of the layers below says.
fn connect_fault(error: &(dyn Error + 'static)) -> ConnectFault {
    let mut cause = Some(error);
    let mut kind = io::ErrorKind::Other;
    while let Some(this) = cause {
        if let Some(fault) = this.downcast_ref::<ConnectFault>() {
            return fault.clone();
        }
        if let Some(tls) = this.downcast_ref::<rustls::Error>() {
            return ConnectFault::Tls(tls.clone());
        }
        let io = this.downcast_ref::<io::Error>();
        if let Some(io) = io {
            kind = io.kind();
        }
        // An io::Error's source() skips the error inside it, which is the one we want to see.
        cause = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => this.source(),
        };
    }
    ConnectFault::Io { kind }
}

/// Whether a server may be one that speaks none of the versions that it was offered: it says so, or just hangs up.
pub(crate) fn may_be_other_version(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Tls(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
            | Fault::Connect(ConnectFault::Io { .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_connection_does_not_acknowledge_ends_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        for seconds in [10, 3] {
            let options = Options {
                dead_after: Duration::from_secs(seconds),
                ..Options::default()
            };
            let mut connector = Connector::new(&options, ALL_VERSIONS).unwrap();
            let MaybeHttpsStream::Http(stream) = connector.call(uri.clone()).await.unwrap() else {
                panic!("no TLS was asked for");
            };
            let limit = rustix::net::sockopt::tcp_user_timeout(stream.inner()).unwrap();
            assert_eq!(u64::from(limit), seconds * 1000);
        }
    }

    #[test]
    fn a_name_may_not_lead_to_this_machine_or_to_a_metadata_service() {
        let ask = |host: &str, ips: &[&str]| permitted(host, ips.iter().map(|ip| ip.parse().unwrap()).collect());
        for ip in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "169.254.170.23",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "64:ff9b::6464:64c8",
            "224.0.0.1",
        ] {
            assert!(
                matches!(ask("cache.example", &[ip]), Err(ConnectFault::AddressRefused(_))),
                "{ip}"
            );
        }
        assert!(matches!(ask("cache.example", &[]), Err(ConnectFault::NoAddress)));
        for (host, ip) in [
            ("cache.example", "192.0.2.1"),
            ("cache.example", "10.0.0.1"),
            ("cache.example", "2001:db8::254"),
            ("cache.example", "fd00:ec2::1:254"),
            ("cache.example", "fd00:ec2::24"),
            ("cache.example", "fd00:ec2::1:23"),
            ("cache.example", "fd20:ce:1::254"),
            ("cache.example", "100.100.100.201"),
            ("cache.example", "169.253.169.254"),
            ("cache.example", "::ffff:192.0.2.1"),
            ("cache.example", "::192.0.2.1"),
            ("cache.example", "64:ff9b::c000:201"),
            ("cache.example", "64:ff9b:1::c000:201"),
            ("cache.example", "2002:c000:201::1"),
            ("localhost", "::ffff:127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("a.localhost", "::1"),
        ] {
            assert_eq!(ask(host, &[ip]).unwrap().len(), 1, "{host} {ip}");
        }
        assert_eq!(
            ask("cache.example", &["127.0.0.1", "192.0.2.1"]).unwrap().len(),
            1,
            "the good one remains"
        );
    }
}
