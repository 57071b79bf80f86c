//! Asking the caches for a narinfo, in Nix's order, several times over where a fault may pass.
//! Never waits for one cache while another may have the answer; never counts more than one fault of a source per look-up.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crds::domain::store_path::StorePath;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::time::timeout;

use super::{Attempt, Found, Inner, memory::Info};
use crate::{
    cache_info::{CacheInfo, DEFAULT_PRIORITY},
    fault::{Class, Fault},
    narinfo::{NarInfo, VerifiedNarInfo},
    retry::{self, Jitter},
    source::Source,
};

/// A source, and its good narinfo.
type Answer = (usize, Arc<VerifiedNarInfo>);
/// A source, and what it did instead.
type Settled = (usize, Arc<Fault>);

impl Inner {
    /// What memory has of `path`.
    pub(super) fn remembered(&self, path: &StorePath) -> Option<Found> {
        let (narinfo, source) = self.memory.found(path, self.options.clock.now())?;
        Some(self.found(narinfo, source))
    }

    /// The next narinfo to try for the contents of `wanted`: the remembered one, or what the caches say.
    pub(super) async fn candidate(
        &self,
        wanted: &Arc<VerifiedNarInfo>,
        excluded: &HashSet<usize>,
    ) -> Result<Found, Vec<Attempt>> {
        match self
            .remembered(wanted.store_path())
            .filter(|found| !excluded.contains(&found.source))
        {
            Some(found) => Ok(found),
            None => self.find(wanted.store_path(), excluded).await,
        }
    }

    /// Asks every source but the excluded ones, in order, in up to `Options::attempts` rounds.
    pub(super) async fn find(&self, path: &StorePath, excluded: &HashSet<usize>) -> Result<Found, Vec<Attempt>> {
        let mut waiting: Vec<usize> = self
            .order()
            .await
            .into_iter()
            .filter(|id| !excluded.contains(id))
            .collect();
        let order = waiting.clone();
        let mut faults: Vec<Option<Arc<Fault>>> = vec![None; self.sources.len()];
        let mut jitter = Jitter::new(self.options.seed);
        let mut found = None;
        for round in 0..self.options.attempts {
            if round > 0 {
                let asked_for = waiting
                    .iter()
                    .filter_map(|id| faults[*id].as_ref()?.retry_after())
                    .min();
                tokio::time::sleep(retry::delay(&self.options, round, asked_for, &mut jitter)).await;
            }
            let (answer, settled) = self.round(path, waiting, round == 0).await;
            let mut again = Vec::new();
            for (id, fault) in settled {
                // A folder that is not there will not come within seconds.
                let settled = matches!(*fault, Fault::Resting { .. } | Fault::NoFolder);
                if fault.class() == Class::Transient && !settled {
                    again.push(id);
                }
                faults[id] = Some(fault);
            }
            again.sort_by_key(|id| order.iter().position(|other| other == id));
            if let Some((id, narinfo)) = answer {
                found = Some(self.found(narinfo, id));
                faults[id] = None;
            }
            if found.is_some() || again.is_empty() {
                break;
            }
            waiting = again;
        }
        for (source, fault) in self.sources.iter().zip(&faults) {
            match fault.as_deref() {
                None | Some(Fault::Resting { .. }) => {}
                Some(fault) => source.bad(fault, path, &self.options),
            }
        }
        found.ok_or_else(|| {
            order
                .iter()
                .filter_map(|id| Some(self.attempt(*id, faults[*id].clone()?)))
                .collect()
        })
    }

    /// Asks `sources` one after the other; one that keeps silent for `Options::patience` is waited for while the next is
    /// asked. The first good narinfo, and the faults of those that answered before.
    async fn round(&self, path: &StorePath, sources: Vec<usize>, first: bool) -> (Option<Answer>, Vec<Settled>) {
        let mut waiting = sources.into_iter().peekable();
        let mut asked = FuturesUnordered::new();
        let mut newest = None;
        let mut settled = Vec::new();
        loop {
            if let Some(id) = waiting.next() {
                newest = Some(id);
                asked.push(async move { (id, self.ask(&self.sources[id], path, first).await) });
            }
            let patience = match waiting.peek() {
                Some(_) => self.options.patience,
                None => Duration::MAX,
            };
            match timeout(patience, asked.next()).await {
                Ok(Some((id, Ok(narinfo)))) => return (Some((id, narinfo)), settled),
                Ok(Some((id, Err(fault)))) => settled.push((id, fault)),
                Ok(None) => return (None, settled),
                Err(_elapsed) => {
                    if let Some(silent) = newest {
                        self.sources[silent].slow(&self.options);
                    }
                }
            }
        }
    }

    /// One source's narinfo of `path`, accepted; `first` where a resting source is passed over.
    async fn ask(&self, source: &Source, path: &StorePath, first: bool) -> Result<Arc<VerifiedNarInfo>, Arc<Fault>> {
        let now = self.options.clock.now();
        if first && let Some(rest) = source.conduct().rest(now) {
            return Err(Arc::new(Fault::Resting { rest }));
        }
        if let Some(retry_in) = self.memory.absent(source.id, path, now) {
            return Err(Arc::new(Fault::KnownAbsent { retry_in }));
        }
        self.info(source).await?;
        let fetched = self.fetch(source, path).await;
        let now = self.options.clock.now();
        match fetched {
            Ok(narinfo) => {
                source.good();
                let narinfo = Arc::new(narinfo);
                self.memory.remember(&narinfo, source.id, now);
                Ok(narinfo)
            }
            Err(fault) => {
                if matches!(fault, Fault::Absent { .. } | Fault::NoFile) {
                    source.good();
                    self.memory.remember_absent(source.id, path, now);
                }
                Err(Arc::new(fault))
            }
        }
    }

    async fn fetch(&self, source: &Source, path: &StorePath) -> Result<VerifiedNarInfo, Fault> {
        let location = format!("{}.narinfo", path.hash());
        let text = self
            .transport
            .document(&source.site, &location, self.options.max_narinfo)
            .await?;
        if text.trim_ascii_start().starts_with(b"<") {
            return Err(Fault::WebPage);
        }
        let narinfo = NarInfo::parse(&text).map_err(Fault::NarInfo)?;
        narinfo
            .verify(path, &self.caches[source.cache].keys)
            .map_err(Fault::of_trust)
    }

    /// What `source` says of itself, asked once per `Options::cache_info_ttl`; a cache that has no nix-cache-info is taken
    /// to say nothing. Whoever waited while somebody else's question failed shares that failure.
    async fn info(&self, source: &Source) -> Result<CacheInfo, Arc<Fault>> {
        let arrived = self.options.clock.now();
        let mut info = self.memory.infos[source.id].lock().await;
        match &*info {
            Info::Good(known, at) if fresh(*at, arrived, self.options.cache_info_ttl) => return Ok(*known),
            Info::Bad(fault, at) if *at > arrived => return Err(fault.clone()),
            Info::Unknown | Info::Good(..) | Info::Bad(..) => {}
        }
        let fetched = self
            .transport
            .document(&source.site, "nix-cache-info", self.options.max_cache_info)
            .await;
        let parsed = match fetched {
            Ok(text) => CacheInfo::parse(&text).map_err(Fault::CacheInfo),
            Err(Fault::Absent { .. } | Fault::NoFile) => Ok(CacheInfo {
                priority: None,
                want_mass_query: false,
            }),
            Err(fault) => Err(fault),
        };
        let now = self.options.clock.now();
        match parsed {
            Ok(known) => {
                *info = Info::Good(known, now);
                Ok(known)
            }
            Err(fault) => {
                let fault = Arc::new(fault);
                *info = Info::Bad(fault.clone(), now);
                Err(fault)
            }
        }
    }

    /// All sources: caches by priority, then as configured; a cache's mirrors before itself. Those that kept us waiting of
    /// late come last.
    async fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sources.len()).collect();
        let priorities = match self.caches.len() {
            1 => vec![DEFAULT_PRIORITY],
            caches => join_all((0..caches).map(|cache| self.priority(cache))).await,
        };
        let now = self.options.clock.now();
        order.sort_by_key(|id| {
            let source = &self.sources[*id];
            (source.conduct().is_slow(now), priorities[source.cache], *id)
        });
        order
    }

    /// As configured, or as the first of its sites says that can be asked now and answers soon.
    async fn priority(&self, cache: usize) -> u32 {
        if let Some(priority) = self.caches[cache].priority {
            return priority;
        }
        for source in self.sources.iter().filter(|source| source.cache == cache) {
            if source.conduct().is_passed_over(self.options.clock.now()) {
                continue;
            }
            match timeout(self.options.patience, self.info(source)).await {
                Ok(Ok(info)) => return info.priority.unwrap_or(DEFAULT_PRIORITY),
                Ok(Err(_)) => {}
                Err(_elapsed) => source.slow(&self.options),
            }
        }
        DEFAULT_PRIORITY
    }

    pub(super) fn found(&self, narinfo: Arc<VerifiedNarInfo>, source: usize) -> Found {
        let Attempt { cache, url, .. } = self.attempt(source, Arc::new(Fault::NoFile));
        Found {
            narinfo,
            cache,
            url,
            source,
        }
    }

    fn attempt(&self, source: usize, fault: Arc<Fault>) -> Attempt {
        let source = &self.sources[source];
        Attempt {
            cache: self.caches[source.cache].name.clone(),
            url: source.site.label().to_owned(),
            fault,
        }
    }
}

fn fresh(at: Instant, now: Instant, ttl: Duration) -> bool {
    now.saturating_duration_since(at) < ttl
}
