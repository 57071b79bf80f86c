//! Which parts of the process are ready to serve.
//! Never a guess: a part says so itself, and says when it no longer is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// What `/readyz` answers from. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    parts: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// One part's own entry; it starts as not ready.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a part, which is waited for until it says that it is ready.
    pub fn part(&self, name: &'static str) -> Part {
        let part = Part {
            name,
            readiness: self.clone(),
        };
        part.set(false);
        part
    }

    /// The parts that are not ready, by name.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts
            .iter()
            .filter(|(_, ready)| !**ready)
            .map(|(name, _)| *name)
            .collect()
    }
}

impl Part {
    /// Whether it can serve now.
    pub fn set(&self, ready: bool) {
        let mut parts = self.readiness.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(self.name, ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_waited_for_by_name() {
        let readiness = Readiness::default();
        assert!(readiness.waiting_for().is_empty());
        let (one, other) = (readiness.part("caches"), readiness.part("admission"));
        assert_eq!(readiness.waiting_for(), ["admission", "caches"]);
        one.set(true);
        assert_eq!(readiness.waiting_for(), ["admission"]);
        other.set(true);
        assert!(readiness.waiting_for().is_empty());
        one.set(false);
        assert_eq!(readiness.waiting_for(), ["caches"]);
    }
}
