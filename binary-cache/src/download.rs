//! One NAR file over connections that may break: resumed by range, at the same site or at a mirror, as one stream.
//! Never hands out a byte twice; never goes on with a file that changed; never reads more than was announced.

use std::sync::Arc;

use bytes::Bytes;
use crds::domain::store_path::StorePath;

use crate::{
    fault::{Class, Fault},
    http::{Part, Validator},
    options::Options,
    retry::{self, Jitter},
    source::Source,
    transport::{Body, Transport},
};

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// What it belongs to, for logs.
    pub(crate) path: StorePath,
    /// Relative to the cache.
    pub(crate) location: String,
    /// Exact size, where the narinfo names one.
    pub(crate) size: Option<u64>,
    /// Most bytes, whatever the server says.
    pub(crate) limit: u64,
}

/// A file that is being read. Drop it to stop.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    transport: &'a Transport,
    options: &'a Options,
    wanted: Wanted,
    /// Where it may be read, the current one first; those that cannot serve it drop out.
    sources: Vec<Arc<Source>>,
    body: Option<Body>,
    /// Whose version `validator` names.
    validator: Option<(usize, Validator)>,
    /// Bytes handed out.
    received: u64,
    /// Bytes that this connection must repeat because the server ignored the range.
    skip: u64,
    /// Tries since `received` last grew by `Options::progress`.
    failures: u32,
    progress_mark: u64,
    jitter: Jitter,
}

impl<'a> Download<'a> {
    /// `sources`: all of one cache, the one to begin with first; at least one.
    pub(crate) fn new(
        transport: &'a Transport,
        options: &'a Options,
        sources: Vec<Arc<Source>>,
        wanted: Wanted,
    ) -> Self {
        Self {
            transport,
            options,
            wanted,
            sources,
            body: None,
            validator: None,
            received: 0,
            skip: 0,
            failures: 0,
            progress_mark: 0,
            jitter: Jitter::new(options.seed),
        }
    }

    /// Bytes handed out so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Lets go of the connection; the next bytes are asked for over another one. Not where that could not be told from
    /// the end: behind the last byte, or where nobody has said how long the file is.
    pub(crate) fn pause(&mut self) {
        if self.wanted.size.is_some_and(|size| self.received < size) {
            self.body = None;
        }
    }

    /// The next bytes; `None` at the end of the file. `retried` hears of every fault that is got over.
    pub(crate) async fn chunk(&mut self, retried: &(dyn Fn(&Fault) + Sync)) -> Result<Option<Bytes>, Fault> {
        loop {
            let fault = match self.attempt().await {
                Ok(chunk) => return Ok(chunk),
                Err(fault) => fault,
            };
            self.body = None;
            self.recover(fault, retried).await?;
        }
    }

    /// Reads on, connecting first where there is no connection.
    async fn attempt(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let Some(body) = &mut self.body else {
                self.connect().await?;
                continue;
            };
            match body.chunk().await? {
                None => return self.at_end(),
                Some(chunk) => {
                    let repeated = self.skip.min(chunk.len() as u64);
                    self.skip -= repeated;
                    let fresh = chunk.slice(usize::try_from(repeated).unwrap_or(chunk.len())..);
                    if !fresh.is_empty() {
                        return self.account(fresh).map(Some);
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Fault> {
        let source = self.sources.first().ok_or(Fault::NoFile)?.clone();
        let validator = self
            .validator
            .as_ref()
            .filter(|(id, _)| *id == source.id)
            .map(|(_, v)| v.clone());
        let part = Part {
            from: self.received,
            validator,
        };
        let (head, body) = self.transport.open(&source.site, &self.wanted.location, &part).await?;
        let whole = head.length.map(|length| head.from.saturating_add(length));
        match (self.wanted.size, whole) {
            (Some(wanted), Some(found)) if wanted != found => return Err(Fault::FileSize { wanted, found }),
            (None, Some(found)) if found > self.wanted.limit => {
                return Err(Fault::TooLarge {
                    limit: self.wanted.limit,
                });
            }
            // From now on it must not change.
            (None, Some(found)) => self.wanted.size = Some(found),
            (Some(_) | None, _) => {}
        }
        self.skip = self.received - head.from;
        self.validator = head.validator.map(|validator| (source.id, validator));
        self.body = Some(body);
        Ok(())
    }

    fn account(&mut self, fresh: Bytes) -> Result<Bytes, Fault> {
        let received = self.received + fresh.len() as u64;
        if let Some(wanted) = self.wanted.size.filter(|size| received > *size) {
            return Err(Fault::FileSize {
                wanted,
                found: received,
            });
        }
        if received > self.wanted.limit {
            return Err(Fault::TooLarge {
                limit: self.wanted.limit,
            });
        }
        self.received = received;
        if received - self.progress_mark >= self.options.progress {
            self.progress_mark = received;
            self.failures = 0;
        }
        Ok(fresh)
    }

    /// The server says this is all. A body without a length may just have been cut.
    fn at_end(&self) -> Result<Option<Bytes>, Fault> {
        match self.wanted.size {
            Some(expected) if self.received < expected => Err(Fault::Short {
                received: self.received,
                expected,
            }),
            _ => Ok(None),
        }
    }

    /// After a fault: the same source again, the next one, or the end.
    async fn recover(&mut self, fault: Fault, retried: &(dyn Fn(&Fault) + Sync)) -> Result<(), Fault> {
        match fault.class() {
            Class::Local => return Err(fault),
            Class::Transient => {
                self.failures += 1;
                if self.failures >= self.options.attempts {
                    return Err(fault);
                }
                retried(&fault);
                self.sources.rotate_left(1);
                // The first try after a fault, and the first round over the mirrors, need no delay.
                let rounds = self.failures.saturating_sub(1) / u32::try_from(self.sources.len()).unwrap_or(1).max(1);
                if rounds > 0 || fault.retry_after().is_some() {
                    tokio::time::sleep(retry::delay(
                        self.options,
                        rounds.max(1),
                        fault.retry_after(),
                        &mut self.jitter,
                    ))
                    .await;
                }
            }
            Class::Absent | Class::Auth | Class::Corrupt | Class::Hostile => {
                // What another site would continue is another file.
                if self.sources.len() < 2 || matches!(fault, Fault::Changed) {
                    return Err(fault);
                }
                let source = self.sources.remove(0);
                source.bad(&fault, &self.wanted.path, self.options);
                retried(&fault);
            }
        }
        Ok(())
    }
}
