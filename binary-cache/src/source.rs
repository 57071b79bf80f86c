//! A site of a configured cache together with how it behaved: the unit that is asked, struck, and passed over.
//! Never forgets by itself: only good answers and time clear a slate.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crds::domain::store_path::StorePath;

use crate::{
    cache::Site,
    fault::{Class, Fault},
    options::Options,
    retry::Conduct,
};

/// One address of one cache.
#[derive(Debug)]
pub(crate) struct Source {
    /// Position among all sources of a substituter.
    pub(crate) id: usize,
    /// Position of its cache in the configuration.
    pub(crate) cache: usize,
    /// What its cache is called, for logs.
    name: Box<str>,
    pub(crate) site: Site,
    conduct: Mutex<Conduct>,
}

impl Source {
    /// `cache`: position and name.
    pub(crate) fn new(id: usize, (cache, name): (usize, &str), site: Site) -> Self {
        Self {
            id,
            cache,
            name: name.into(),
            site,
            conduct: Mutex::default(),
        }
    }

    /// The same address with a clean slate.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            id: self.id,
            cache: self.cache,
            name: self.name.clone(),
            site: self.site.clone(),
            conduct: Mutex::default(),
        }
    }

    /// Clears its slate after a usable answer.
    pub(crate) fn good(&self) {
        self.conduct().good();
    }

    /// Counts a fault that it showed when asked for `path`, and tells the log: the caller goes on with the next cache, so
    /// nobody else will.
    pub(crate) fn bad(&self, fault: &Fault, path: &StorePath, options: &Options) {
        let class = fault.class();
        let (cache, url, error) = (&*self.name, self.site.label(), fault.chain());
        match class {
            Class::Hostile => tracing::warn!(
                cache, cache.url = url, store.path = %path, security = true, error,
                "an answer of a cache looks like an attack; the cache is passed over"
            ),
            Class::Corrupt => tracing::warn!(
                cache, cache.url = url, store.path = %path, error,
                "a cache serves something unusable; the next one is asked"
            ),
            Class::Absent | Class::Auth | Class::Transient | Class::Local => tracing::debug!(
                cache, cache.url = url, store.path = %path, class = ?class, error,
                "a cache did not help"
            ),
        }
        self.conduct().bad(class, options.clock.now(), options);
    }

    /// It kept a look-up or a download waiting for `Options::patience`, which went on elsewhere where it could.
    pub(crate) fn slow(&self, options: &Options) {
        tracing::debug!(
            cache = &*self.name,
            cache.url = self.site.label(),
            "a cache keeps silent; for a while it is asked last"
        );
        self.conduct().slow(options.clock.now(), options);
    }

    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
