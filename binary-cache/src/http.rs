//! Asking caches over http and https: one request, its redirects, its answer's head and paced body.
//! Never follows a redirect by itself that was not allowed, never reads a proxy or cookie from its surroundings, never
//! decodes a body, never retries: callers decide from the [`Fault`].

mod answer;
mod body;
mod connect;
mod redirect;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::Empty;
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, IF_RANGE, RANGE, USER_AGENT},
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{sync::Notify, time::timeout};
use url::Url;

pub(crate) use self::answer::{Head, Validator};
pub(crate) use self::body::PacedBody;
use self::{answer::judge, connect::Connector, redirect::Hop};
use crate::{cache::Site, fault::Fault, options::Options};

/// Idle connections kept per origin, enough for one closure walk.
const IDLE_CONNECTIONS: usize = 64;
/// How long an idle connection is kept: below the 60 to 75 s after which common servers close theirs.
const IDLE_TIME: Duration = Duration::from_secs(50);
/// HTTP/2 flow control: what one stream, and one connection, may have under way.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A client for all caches: keeps connections, speaks HTTP/1.1 and, where the server offers it, HTTP/2.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    shared: Client<Connector, Empty<Bytes>>,
    /// Speaks HTTP/1.1 alone, over TLS.
    own: Client<Connector, Empty<Bytes>>,
    options: Arc<Options>,
}

/// Over which connection a request goes, where the server would have one carry them all (HTTP/2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// That one.
    Shared,
    /// Another, which carries nothing else meanwhile: what slows the others down, or holds them up, does not touch it.
    Own,
}

/// Which part of a file is wanted, and what must not have changed since.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// First byte.
    pub(crate) from: u64,
    /// Byte behind the last; `None` for the end of the file.
    pub(crate) to: Option<u64>,
    pub(crate) validator: Option<Validator>,
}

impl Part {
    /// Whether it is less than the whole file, as far as is known.
    pub(crate) fn is_some(&self) -> bool {
        self.from > 0 || self.to.is_some()
    }
}

impl HttpClient {
    /// Loads the system's certificate authorities; opens nothing yet.
    pub(crate) fn new(options: Arc<Options>) -> Result<Self, rustls::Error> {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(options.max_head.max(8192))
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(u32::try_from(options.max_head).unwrap_or(u32::MAX))
            .http2_keep_alive_interval(options.patience)
            .http2_keep_alive_timeout(options.dead_after);
        Ok(Self {
            shared: builder.build(Connector::new(&options, connect::ALL_VERSIONS)?),
            own: builder.build(Connector::new(&options, connect::ONE_AT_A_TIME)?),
            options,
        })
    }

    /// A small file as a whole, at most `limit` bytes.
    pub(crate) async fn document(&self, site: &Site, location: &str, limit: u64) -> Result<Bytes, Fault> {
        let all = self.options.document_timeout;
        let read = async {
            let (head, mut body) = self.open(site, location, &Part::default(), Via::Shared).await?;
            if head.length.is_some_and(|length| length > limit) {
                return Err(Fault::TooLarge { limit });
            }
            let mut bytes = BytesMut::new();
            while let Some(chunk) = body.chunk().await? {
                if (bytes.len() + chunk.len()) as u64 > limit {
                    return Err(Fault::TooLarge { limit });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        };
        timeout(all, read)
            .await
            .unwrap_or(Err(Fault::DocumentTimeout { limit: all }))
    }

    /// Asks for `location`, from `part.from` on; answers with the judged head and the body, of which nothing is read.
    pub(crate) async fn open(
        &self,
        site: &Site,
        location: &str,
        part: &Part,
        via: Via,
    ) -> Result<(Head, PacedBody), Fault> {
        let start = site.locate(location).ok_or_else(|| Fault::OutsideCache {
            location: location.chars().take(200).collect(),
        })?;
        let mut url = start;
        for _ in 0..=self.options.max_redirects {
            let response = match self.send(site, &url, part, via).await {
                // It has no more connections, or none but HTTP/2: then all goes over the one.
                Err(fault) if via == Via::Own && connect::may_be_other_version(&fault) => {
                    self.send(site, &url, part, Via::Shared).await?
                }
                answer => answer?,
            };
            let (parts, body) = response.into_parts();
            match redirect::next(site, &url, parts.status, &parts.headers).map_err(Fault::Redirect)? {
                Hop::Follow(next) => url = next,
                Hop::Here => {
                    let head = judge(&parts, part)?;
                    return Ok((head, PacedBody::new(body, &self.options)));
                }
            }
        }
        Err(Fault::TooManyRedirects {
            limit: self.options.max_redirects,
        })
    }

    /// One request, up to the end of the answer's head.
    async fn send(&self, site: &Site, url: &Url, part: &Part, via: Via) -> Result<Response<Incoming>, Fault> {
        // Without TLS there is no HTTP/2, so that each request has its own connection anyway.
        let client = match (via, url.scheme()) {
            (Via::Own, "https") => &self.own,
            (Via::Own | Via::Shared, _) => &self.shared,
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.as_str().parse().map_err(|_| Fault::OutsideCache {
            location: site.label().to_owned(),
        })?;
        *request.headers_mut() = headers(site, url, part);
        let (limit, flood) = (self.options.max_interim, Arc::new(Notify::new()));
        let (seen, alarm) = (AtomicUsize::new(0), flood.clone());
        hyper::ext::on_informational(&mut request, move |_| {
            if seen.fetch_add(1, Ordering::Relaxed) >= limit {
                alarm.notify_one();
            }
        });
        let answer = async {
            tokio::select! {
                biased;
                () = flood.notified() => Err(Fault::TooManyInterim { limit }),
                response = client.request(request) => {
                    response.map_err(|error| connect::fault_of(error, self.options.max_head))
                }
            }
        };
        let patience = self.options.first_byte_timeout;
        timeout(patience, answer)
            .await
            .unwrap_or(Err(Fault::NoAnswer { limit: patience }))
    }
}

fn headers(site: &Site, url: &Url, part: &Part) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("cudaenv/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let last = part.to.map(|to| to.saturating_sub(1).to_string()).unwrap_or_default();
    if part.is_some()
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-{last}", part.from))
    {
        headers.insert(RANGE, range);
        if let Some(validator) = part.validator.as_ref().and_then(Validator::for_if_range) {
            headers.insert(IF_RANGE, validator.clone());
        }
    }
    // A redirect target is another origin's business: it gets no credentials.
    if url.origin() == site.base.origin()
        && let Some(authorization) = &site.authorization
    {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    headers
}
