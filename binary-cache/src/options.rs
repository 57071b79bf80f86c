//! Every time-out, size and count that the fetching side obeys, with its default and the reason for it.
//! Never a bound hidden elsewhere, never a bound that cannot be shrunk by a test.

use std::{
    fmt,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::pki_types::CertificateDer;

/// Bounds and policies of a [`crate::substitute::Substituter`]. `Options::default()` is for production.
#[derive(Debug, Clone)]
pub struct Options {
    /// From the first name look-up to a finished TLS handshake. 5 s.
    pub connect_timeout: Duration,
    /// From a request to the end of its response's head, for each redirect hop. 30 s.
    pub first_byte_timeout: Duration,
    /// How long one cache is waited for before the next is asked as well, and how long a download may be silent before it is
    /// asked for elsewhere too. 2 s.
    pub patience: Duration,
    /// How long what was sent over a connection may stay unacknowledged before the connection counts as dead: by TCP, and over
    /// HTTP/2 a ping, sent when nothing has come for `patience`. 10 s.
    pub dead_after: Duration,
    /// A whole narinfo or nix-cache-info, redirects and body included. 60 s.
    pub document_timeout: Duration,
    /// A whole NAR from one cache, all tries and mirrors included, however steadily it drips. 6 h: 20 GiB at 1 MiB/s.
    pub download_timeout: Duration,
    /// Bytes per second that a body must reach on average over `rate_window`, counted only while we wait for it. 1 KiB/s.
    pub min_rate: u64,
    /// See `min_rate`. 30 s.
    pub rate_window: Duration,
    /// Largest head of a response, also the read buffer of a connection. 256 KiB.
    pub max_head: usize,
    /// Most 1xx answers before a real one. 64.
    pub max_interim: usize,
    /// Most redirects of one request. 10, as Nix.
    pub max_redirects: usize,
    /// Largest nix-cache-info. 64 KiB.
    pub max_cache_info: u64,
    /// Largest narinfo. 1 MiB.
    pub max_narinfo: u64,
    /// Rounds over the sources of a path, and tries of a broken download without progress. 5.
    pub attempts: u32,
    /// New bytes that count as progress of a download that breaks again and again. 16 KiB.
    pub progress: u64,
    /// First upper bound of the random delay between tries; doubles each time. 250 ms.
    pub backoff_base: Duration,
    /// Largest upper bound of the random delay. 10 s.
    pub backoff_cap: Duration,
    /// Longest `Retry-After` that is honoured; a longer one counts as this. 30 s.
    pub max_retry_after: Duration,
    /// Faults in a row after which a cache rests. 3; a hostile answer makes it rest at once.
    pub strikes: u32,
    /// How long a resting cache is passed over. 30 s.
    pub rest: Duration,
    /// How long an accepted narinfo is remembered. 1 h.
    pub found_ttl: Duration,
    /// How long "not here" is remembered. 30 s: an upload is seen soon; Nix's 3600 s would keep a pod waiting.
    pub absent_ttl: Duration,
    /// How long a nix-cache-info is remembered. 1 h.
    pub cache_info_ttl: Duration,
    /// Most narinfos (and as many absences) kept in memory, about 1 KiB each. 32,768.
    pub remembered: usize,
    /// Narinfos asked for at the same time by one closure walk. 64.
    pub parallel_narinfos: usize,
    /// Most store paths of a closure. 200,000.
    pub max_closure: usize,
    /// Chunks (each at most `max_head` bytes over HTTP/1, 64 KiB over HTTP/2) waiting between network and unpacker: bounds
    /// the memory of one download. 16.
    pub queued_chunks: usize,
    /// Bytes that the windows of all decoders may take together; downloads wait for each other beyond that, and one that
    /// needs more by itself is refused. 256 MiB: 32 downloads with the 8 MiB of `xz -6`, or two with the largest window.
    pub decoder_windows: u64,
    /// Connections that all downloads may open together besides the first of each, where one brings too little. 24.
    pub more_connections: usize,
    /// Bytes that all downloads may hold together of what comes over those before its turn. 64 MiB.
    pub read_ahead: usize,
    /// Certificate authorities trusted besides the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// How host names become addresses.
    pub resolver: Resolver,
    /// The clock of the memories and of resting caches (not of network time-outs).
    pub clock: Clock,
    /// Seed of the jitter; `None` takes one from the system.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            dead_after: Duration::from_secs(10),
            document_timeout: Duration::from_secs(60),
            download_timeout: Duration::from_secs(6 * 3600),
            min_rate: 1024,
            rate_window: Duration::from_secs(30),
            max_head: 256 << 10,
            max_interim: 64,
            max_redirects: 10,
            max_cache_info: 64 << 10,
            max_narinfo: 1 << 20,
            attempts: 5,
            progress: 16 << 10,
            backoff_base: Duration::from_millis(250),
            backoff_cap: Duration::from_secs(10),
            max_retry_after: Duration::from_secs(30),
            strikes: 3,
            rest: Duration::from_secs(30),
            found_ttl: Duration::from_secs(3600),
            absent_ttl: Duration::from_secs(30),
            cache_info_ttl: Duration::from_secs(3600),
            remembered: 32_768,
            parallel_narinfos: 64,
            max_closure: 200_000,
            queued_chunks: 16,
            decoder_windows: 256 << 20,
            more_connections: 24,
            read_ahead: 64 << 20,
            extra_roots: Vec::new(),
            resolver: Resolver::system(),
            clock: Clock::system(),
            seed: None,
        }
    }
}

/// A monotonic clock that tests can turn by hand.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Clock {
    /// The system's monotonic clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "the network client's one reading of the clock; everything else takes it as a value"
    )]
    pub fn system() -> Self {
        Self(Arc::new(Instant::now))
    }

    /// A clock that answers what `read` answers.
    pub fn new(read: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn now(&self) -> Instant {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// From a host name to its addresses.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String) -> Addresses + Send + Sync>);

impl Resolver {
    /// The system's resolver.
    pub fn system() -> Self {
        Self::new(|host| async move {
            Ok(tokio::net::lookup_host((host.as_str(), 0))
                .await?
                .map(|address| address.ip())
                .collect())
        })
    }

    /// A resolver that answers what `resolve` answers.
    pub fn new<F>(resolve: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |host| Box::pin(resolve(host))))
    }

    pub(crate) fn resolve(&self, host: String) -> Addresses {
        (self.0)(host)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceilings_of_production_are_the_ones_that_are_documented() {
        let options = Options::default();
        let seconds = |duration: Duration| duration.as_secs_f64();
        for (name, found, wanted) in [
            ("connect_timeout", seconds(options.connect_timeout), 5.0),
            ("first_byte_timeout", seconds(options.first_byte_timeout), 30.0),
            ("patience", seconds(options.patience), 2.0),
            ("dead_after", seconds(options.dead_after), 10.0),
            ("document_timeout", seconds(options.document_timeout), 60.0),
            ("download_timeout", seconds(options.download_timeout), 21_600.0),
            ("rate_window", seconds(options.rate_window), 30.0),
            ("backoff_base", seconds(options.backoff_base), 0.25),
            ("backoff_cap", seconds(options.backoff_cap), 10.0),
            ("max_retry_after", seconds(options.max_retry_after), 30.0),
            ("rest", seconds(options.rest), 30.0),
            ("found_ttl", seconds(options.found_ttl), 3600.0),
            ("absent_ttl", seconds(options.absent_ttl), 30.0),
            ("cache_info_ttl", seconds(options.cache_info_ttl), 3600.0),
        ] {
            assert_eq!(found, wanted, "{name}, in seconds");
        }
        for (name, found, wanted) in [
            ("min_rate", options.min_rate, 1024),
            ("max_head", options.max_head as u64, 262_144),
            ("max_interim", options.max_interim as u64, 64),
            ("max_redirects", options.max_redirects as u64, 10),
            ("max_cache_info", options.max_cache_info, 65_536),
            ("max_narinfo", options.max_narinfo, 1_048_576),
            ("attempts", options.attempts.into(), 5),
            ("progress", options.progress, 16_384),
            ("strikes", options.strikes.into(), 3),
            ("remembered", options.remembered as u64, 32_768),
            ("parallel_narinfos", options.parallel_narinfos as u64, 64),
            ("max_closure", options.max_closure as u64, 200_000),
            ("queued_chunks", options.queued_chunks as u64, 16),
            ("more_connections", options.more_connections as u64, 24),
            ("read_ahead", options.read_ahead as u64, 67_108_864),
            ("decoder_windows", options.decoder_windows, 268_435_456),
        ] {
            assert_eq!(found, wanted, "{name}");
        }
        assert!(options.extra_roots.is_empty() && options.seed.is_none());
    }
}
