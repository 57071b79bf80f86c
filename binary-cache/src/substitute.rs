//! Getting verified store paths from several caches: look-up, download, unpacking, with the next cache on any fault.
//! Never hands out a narinfo or a tree that a trusted key has not signed; never lets one bad cache hide a good one.

mod error;
mod incoming;
mod lookup;
mod memory;
mod progress;
mod unpack;
mod windows;

use std::{collections::HashSet, ffi::OsString, os::fd::OwnedFd, sync::Arc};

use crds::domain::store_path::StorePath;

use self::{error::verdict, memory::Memory, unpack::Unpack, windows::Windows};
pub use self::{
    error::{Attempt, SubstituteError},
    progress::{Counters, Progress},
};
use crate::{
    cache::{CacheConfig, ConfigError},
    download::Ahead,
    fault::Fault,
    key::KeyRing,
    narinfo::VerifiedNarInfo,
    options::Options,
    source::Source,
    transport::Transport,
};

/// The caches of one consumer, asked together. Cheap to clone; clones share connections, memories and conduct.
#[derive(Debug, Clone)]
pub struct Substituter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Arc<Options>,
    transport: Transport,
    caches: Arc<[Cache]>,
    /// All sites of all caches, in the order of the configuration.
    sources: Vec<Arc<Source>>,
    memory: Memory,
    windows: Windows,
    ahead: Ahead,
}

#[derive(Debug)]
struct Cache {
    name: String,
    keys: KeyRing,
    priority: Option<u32>,
}

/// A narinfo, and which cache answered for it.
#[derive(Debug, Clone)]
pub struct Found {
    pub narinfo: Arc<VerifiedNarInfo>,
    /// Name of the cache.
    pub cache: String,
    /// Address that was asked: the cache's own or a mirror's.
    pub url: String,
    source: usize,
}

/// Where a store path is to be unpacked: `name`, which must not exist, in `parent`.
#[derive(Debug, Clone)]
pub struct Target {
    pub parent: Arc<OwnedFd>,
    pub name: OsString,
}

/// How one address of a cache behaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Name of the cache.
    pub cache: String,
    pub url: String,
    /// Operations that failed because of it, ever.
    pub faults: u64,
    /// Whether it is passed over at the moment.
    pub resting: bool,
}

/// Why a substituter cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    #[error("bad configuration")]
    Config(#[source] ConfigError),
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// What all downloads of a process may take together: the memory of decoders, the connections besides each download's
/// first, and the memory for what they bring early. Cheap to clone; clones are the same bounds.
#[derive(Debug, Clone)]
pub struct Bounds {
    windows: Windows,
    ahead: Ahead,
}

impl Bounds {
    /// As `options` has them.
    pub fn new(options: &Options) -> Self {
        Self {
            windows: Windows::new(options.decoder_windows),
            ahead: Ahead::new(options),
        }
    }
}

impl Substituter {
    /// Checks the configuration; asks nobody yet. Its bounds are its own.
    pub fn new(caches: Vec<CacheConfig>, options: Options) -> Result<Self, SetupError> {
        let bounds = Bounds::new(&options);
        Self::within(&bounds, caches, options)
    }

    /// As [`Substituter::new`], within bounds that others share.
    pub fn within(bounds: &Bounds, caches: Vec<CacheConfig>, options: Options) -> Result<Self, SetupError> {
        if caches.is_empty() {
            return Err(SetupError::Config(ConfigError::NoCaches));
        }
        let mut names = HashSet::new();
        let mut sources = Vec::new();
        for (index, cache) in caches.iter().enumerate() {
            if !names.insert(cache.name.as_str()) {
                return Err(SetupError::Config(ConfigError::DuplicateName {
                    cache: cache.name.clone(),
                }));
            }
            for site in cache.sites().map_err(SetupError::Config)? {
                sources.push(Arc::new(Source::new(sources.len(), (index, &cache.name), site)));
            }
        }
        let options = Arc::new(options);
        let transport = Transport::new(options.clone()).map_err(SetupError::Tls)?;
        let caches = caches
            .into_iter()
            .map(|c| Cache {
                name: c.name,
                keys: c.keys,
                priority: c.priority,
            })
            .collect();
        let memory = Memory::new(&options, sources.len());
        let Bounds { windows, ahead } = bounds.clone();
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                transport,
                caches,
                sources,
                memory,
                windows,
                ahead,
            }),
        })
    }

    /// The same caches for another piece of work, which shares what was found in them, their connections, and the bounds on
    /// memory. How they behaved and what they did not have is forgotten: whoever tries again wants to know how it is now.
    pub fn renewed(&self) -> Self {
        let inner = &self.inner;
        Self {
            inner: Arc::new(Inner {
                options: inner.options.clone(),
                transport: inner.transport.clone(),
                caches: inner.caches.clone(),
                sources: inner.sources.iter().map(|source| Arc::new(source.renewed())).collect(),
                memory: inner.memory.renewed(),
                windows: inner.windows.clone(),
                ahead: inner.ahead.clone(),
            }),
        }
    }

    /// The verified narinfo of `path`, from the first cache that has a good one, or from memory.
    pub async fn lookup(&self, path: &StorePath) -> Result<Found, SubstituteError> {
        if let Some(found) = self.inner.remembered(path) {
            return Ok(found);
        }
        let found = self.inner.find(path, &HashSet::new()).await;
        found.map_err(|attempts| verdict(path, attempts))
    }

    /// Downloads, verifies and unpacks `wanted` to `target`; returns the narinfo that the bytes were verified against.
    ///
    /// That may be another cache's narinfo where the first one's bytes were bad, with the same references but perhaps
    /// another hash: builds need not be reproducible. On failure nothing is left at `target`. Memory: at most
    /// `Options::queued_chunks` chunks, the unpacker's blocks (3 MiB where it has threads of its own), and what is taken out
    /// of the [`Bounds`] for all downloads together: the decoder's window, the blocks of `.xz` that are decoded ahead, and
    /// what more connections bring early. When the future is dropped,
    /// its thread stops at the next read and removes what it had unpacked.
    pub async fn substitute(
        &self,
        wanted: &Arc<VerifiedNarInfo>,
        target: &Target,
        progress: Arc<dyn Progress>,
    ) -> Result<Arc<VerifiedNarInfo>, SubstituteError> {
        let path = wanted.store_path();
        let inner = &self.inner;
        let mut excluded = HashSet::new();
        let mut attempts = Vec::new();
        let mut restarted = false;
        loop {
            let found = match inner.candidate(wanted, &excluded).await {
                Ok(found) => found,
                Err(more) => {
                    attempts.extend(more);
                    return Err(verdict(path, attempts));
                }
            };
            let source = &inner.sources[found.source];
            let fault = if found.narinfo.references() == wanted.references() {
                progress.source(&found.cache);
                let unpack = Unpack {
                    inner,
                    narinfo: &found.narinfo,
                    source,
                    target,
                    progress: &progress,
                };
                match unpack.run().await {
                    Ok(()) => {
                        source.good();
                        return Ok(found.narinfo);
                    }
                    Err(fault) => fault,
                }
            } else {
                Fault::OtherReferences { path: path.clone() }
            };
            progress.restarted(&fault);
            inner.memory.forget(path);
            let again = matches!(fault, Fault::Changed) && !std::mem::replace(&mut restarted, true);
            if !again {
                // Another build with other references is no fault of the cache that has it.
                if !matches!(fault, Fault::OtherReferences { .. }) {
                    source.bad(&fault, path, &inner.options);
                }
                excluded.insert(found.source);
            }
            attempts.push(Attempt {
                cache: found.cache,
                url: found.url,
                fault: Arc::new(fault),
            });
            if let Some(error) = SubstituteError::local(path, &attempts) {
                return Err(error);
            }
        }
    }

    /// How every address behaved so far, in the order of the configuration.
    pub fn health(&self) -> Vec<Health> {
        let now = self.inner.options.clock.now();
        let health = |source: &Arc<Source>| {
            let conduct = source.conduct();
            Health {
                cache: self.inner.caches[source.cache].name.clone(),
                url: source.site.label().to_owned(),
                faults: conduct.faults(),
                resting: conduct.rest(now).is_some(),
            }
        };
        self.inner.sources.iter().map(health).collect()
    }

    /// The bounds it works within.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }
}
