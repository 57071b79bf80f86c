//! One stretch of a NAR file over connections that may break: resumed by range, at the same site or at a mirror.
//! Never hands out a byte twice; never goes on with a file that changed; never reads more than was announced.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use crds::domain::store_path::StorePath;

use crate::{
    fault::{Class, Fault},
    http::{Part, Validator, Via},
    options::Options,
    retry::{self, Jitter},
    source::Source,
    substitute::Progress,
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

/// What of a file is to be read.
#[derive(Debug, Clone)]
pub(super) struct Range {
    /// First byte.
    pub(super) from: u64,
    /// Byte behind the last; `None` for the end of the file, wherever it is.
    pub(super) to: Option<u64>,
    /// What the file must still be, at the source of that number.
    pub(super) version: Option<(usize, Validator)>,
    /// Over which connection it is asked for first.
    pub(super) via: Via,
}

/// What the first answer says of the file.
#[derive(Debug, Clone)]
pub(super) struct Began {
    /// Bytes of the whole file.
    pub(super) size: Option<u64>,
    /// Whether the server gives out parts.
    pub(super) in_parts: bool,
    /// Which version it is, and of which source.
    pub(super) version: Option<(usize, Validator)>,
}

/// What comes out of a stretch.
#[derive(Debug)]
pub(super) enum Item {
    /// Once, before the first bytes.
    Began(Began),
    Bytes(Bytes),
}

/// A stretch that is being read. Drop it to stop.
pub(super) struct Stretch {
    transport: Transport,
    options: Arc<Options>,
    progress: Arc<dyn Progress>,
    wanted: Wanted,
    /// Where it may be read, the current one first; those that cannot serve it drop out.
    sources: Vec<Arc<Source>>,
    /// Which of them was asked last.
    asked: Arc<AtomicUsize>,
    via: Via,
    body: Option<Body>,
    /// Whose version `validator` names.
    validator: Option<(usize, Validator)>,
    /// Where in the file it stands.
    received: u64,
    to: Option<u64>,
    /// Whether a server that ignores the range is of no use: another stretch reads what comes before.
    strictly: bool,
    began: bool,
    /// Bytes that this connection must repeat because the server ignored the range.
    skip: u64,
    /// Tries since `received` last grew by `Options::progress`.
    failures: u32,
    progress_mark: u64,
    jitter: Jitter,
}

/// With what a stretch is read.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) transport: Transport,
    pub(super) options: Arc<Options>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) wanted: Wanted,
}

impl Stretch {
    /// `sources`: all of one cache, the one to begin with first; at least one.
    pub(super) fn new(means: Means, sources: Vec<Arc<Source>>, range: Range) -> Self {
        let Means {
            transport,
            options,
            progress,
            wanted,
        } = means;
        Self {
            transport,
            jitter: Jitter::new(options.seed),
            options,
            progress,
            wanted,
            asked: Arc::new(AtomicUsize::new(sources.first().map_or(usize::MAX, |source| source.id))),
            sources,
            via: range.via,
            body: None,
            validator: range.version,
            received: range.from,
            strictly: range.to.is_some(),
            to: range.to,
            began: false,
            skip: 0,
            failures: 0,
            progress_mark: range.from,
        }
    }

    /// Where it will be seen which source was asked last.
    pub(super) fn asked(&self) -> Arc<AtomicUsize> {
        self.asked.clone()
    }

    /// The next of it; `None` at its end. The progress hears of every fault that is got over.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, Fault> {
        loop {
            if self.to.is_some_and(|to| self.received >= to) {
                return Ok(None);
            }
            let fault = match self.attempt().await {
                Ok(item) => return Ok(item),
                Err(fault) => fault,
            };
            self.body = None;
            self.recover(fault).await?;
        }
    }

    /// Reads on, connecting first where there is no connection.
    async fn attempt(&mut self) -> Result<Option<Item>, Fault> {
        loop {
            let Some(body) = &mut self.body else {
                let began = self.connect().await?;
                if !std::mem::replace(&mut self.began, true) {
                    return Ok(Some(Item::Began(began)));
                }
                continue;
            };
            match body.chunk().await? {
                None => return self.at_end(),
                Some(chunk) => {
                    let repeated = self.skip.min(chunk.len() as u64);
                    self.skip -= repeated;
                    let mut fresh = chunk.slice(usize::try_from(repeated).unwrap_or(chunk.len())..);
                    if let Some(left) = self.to.map(|to| to.saturating_sub(self.received)) {
                        fresh.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    }
                    if !fresh.is_empty() {
                        return self.account(fresh).map(|bytes| Some(Item::Bytes(bytes)));
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Began, Fault> {
        let source = self.sources.first().ok_or(Fault::NoFile)?.clone();
        self.asked.store(source.id, Ordering::Relaxed);
        let validator = self
            .validator
            .as_ref()
            .filter(|(id, _)| *id == source.id)
            .map(|(_, v)| v.clone());
        let part = Part {
            from: self.received,
            to: self.to,
            validator,
        };
        let opening = self
            .transport
            .open(&source.site, &self.wanted.location, &part, self.via);
        let (head, body) = opening.await?;
        if self.strictly && head.from < self.received {
            return Err(Fault::WrongPart { wanted: self.received });
        }
        let whole = head.length.map(|length| head.from.saturating_add(length));
        match (self.wanted.size, whole) {
            // Of a stretch with an end only that end is known.
            _ if self.to.is_some() => {}
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
        Ok(Began {
            size: self.wanted.size,
            in_parts: head.in_parts,
            version: self.validator.clone(),
        })
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
    fn at_end(&self) -> Result<Option<Item>, Fault> {
        match self.to.or(self.wanted.size) {
            Some(expected) if self.received < expected => Err(Fault::Short {
                received: self.received,
                expected,
            }),
            _ => Ok(None),
        }
    }

    /// After a fault: the same source again, the next one, or the end.
    async fn recover(&mut self, fault: Fault) -> Result<(), Fault> {
        match fault.class() {
            Class::Local => return Err(fault),
            Class::Transient => {
                self.failures += 1;
                if self.failures >= self.options.attempts {
                    return Err(fault);
                }
                self.progress.retried(&fault);
                self.sources.rotate_left(1);
                // A connection that is silent, and not ended, would be taken again.
                if matches!(fault, Fault::Stalled { .. } | Fault::NoAnswer { .. }) {
                    self.via = Via::Own;
                }
                // The first try after a fault, and the first round over the mirrors, need no delay.
                let rounds = self.failures.saturating_sub(1) / u32::try_from(self.sources.len()).unwrap_or(1).max(1);
                if rounds > 0 || fault.retry_after().is_some() {
                    tokio::time::sleep(retry::delay(
                        &self.options,
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
                source.bad(&fault, &self.wanted.path, &self.options);
                self.progress.retried(&fault);
            }
        }
        Ok(())
    }
}
