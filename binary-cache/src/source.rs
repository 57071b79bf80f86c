//! A site of a configured cache together with how it behaved: the unit that is asked, struck, and passed over.
//! Never forgets by itself: only good answers and time clear a slate.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{cache::Site, fault::Fault, options::Options, retry::Conduct};

/// One address of one cache.
#[derive(Debug)]
pub(crate) struct Source {
    /// Position among all sources of a substituter.
    pub(crate) id: usize,
    /// Position of its cache in the configuration.
    pub(crate) cache: usize,
    pub(crate) site: Site,
    conduct: Mutex<Conduct>,
}

impl Source {
    pub(crate) fn new(id: usize, cache: usize, site: Site) -> Self {
        Self {
            id,
            cache,
            site,
            conduct: Mutex::default(),
        }
    }

    /// Clears its slate after a usable answer.
    pub(crate) fn good(&self) {
        self.conduct().good();
    }

    /// Counts a fault against it.
    pub(crate) fn bad(&self, fault: &Fault, options: &Options) {
        let class = fault.class();
        tracing::debug!(cache.url = self.site.label(), class = ?class, error = %fault, "a cache failed");
        self.conduct().bad(class, options.clock.now(), options);
    }

    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
