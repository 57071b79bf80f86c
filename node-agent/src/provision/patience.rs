//! Patience with caches that are down: how long the last failure answers for the next attempts.
//! Never holds back an order that failed for another reason than the network.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use crds::failure::Reason;
use tokio::time::Instant;

use super::ProvisionError;

/// After the first failure; doubled with each one more.
const FIRST: Duration = Duration::from_secs(1);
/// Never longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Orders that are remembered; the oldest is forgotten first.
const MOST: usize = 256;

/// What failed for the network's sake, and until when it is not tried again.
#[derive(Debug)]
pub(super) struct Patience<T> {
    failed: VecDeque<Failed<T>>,
}

#[derive(Debug)]
struct Failed<T> {
    what: T,
    times: u32,
    until: Instant,
    error: Arc<ProvisionError>,
}

impl<T> Default for Patience<T> {
    fn default() -> Self {
        Self {
            failed: VecDeque::new(),
        }
    }
}

impl<T: PartialEq + Clone> Patience<T> {
    /// The failure that still answers for `what`.
    pub(super) fn refuses(&self, what: &T, now: Instant) -> Option<Arc<ProvisionError>> {
        let failed = self.failed.iter().find(|failed| failed.what == *what)?;
        (now < failed.until).then(|| Arc::clone(&failed.error))
    }

    pub(super) fn failed(&mut self, what: &T, error: &Arc<ProvisionError>, now: Instant) {
        let times = self.forget(what) + 1;
        if error.reason() != Reason::CacheUnreachable {
            return;
        }
        if self.failed.len() >= MOST {
            self.failed.pop_front();
        }
        self.failed.push_back(Failed {
            what: what.clone(),
            times,
            until: now + pause(times),
            error: Arc::clone(error),
        });
    }

    /// Forgets `what`; how often it had failed.
    pub(super) fn forget(&mut self, what: &T) -> u32 {
        let times = self
            .failed
            .iter()
            .find(|failed| failed.what == *what)
            .map_or(0, |failed| failed.times);
        self.failed.retain(|failed| failed.what != *what);
        times
    }
}

/// Half of it for certain, half by chance: nodes that lost a cache together do not come back together.
fn pause(times: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << times.saturating_sub(1).min(16)).min(LONGEST);
    let chance = RandomState::new().build_hasher().finish() % 1000;
    let chance = u32::try_from(chance).unwrap_or_default();
    whole / 2 + whole / 2000 * chance
}

#[cfg(test)]
mod tests {
    use binary_cache::{closure::ClosureError, substitute::SubstituteError};

    use super::*;
    use crate::provision::supply::SupplyError;

    fn unreachable() -> Arc<ProvisionError> {
        let source = ClosureError::Root(SubstituteError::CacheUnreachable {
            path: "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x".parse().unwrap(),
            cache: "here".to_owned(),
            asked: Vec::new(),
        });
        Arc::new(SupplyError::Closure { source }.into())
    }

    #[test]
    fn a_dead_cache_is_asked_less_and_less_often_and_other_failures_at_once() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        for (times, shortest, longest) in [(1, 0.5, 1.0), (2, 1.0, 2.0), (3, 2.0, 4.0)] {
            patience.failed(&0, &unreachable(), start);
            let at = |seconds| start + Duration::from_secs_f64(seconds);
            assert!(patience.refuses(&0, at(shortest - 0.01)).is_some(), "{times}");
            assert!(patience.refuses(&0, at(longest)).is_none(), "{times}");
            assert!(patience.refuses(&1, start).is_none());
        }
        for _ in 0..40 {
            patience.failed(&0, &unreachable(), start);
        }
        assert!(patience.refuses(&0, start + LONGEST).is_none(), "bounded");
        patience.failed(&0, &Arc::new(ProvisionError::Abandoned), start);
        assert!(patience.refuses(&0, start).is_none());
        for number in 0..2 * MOST {
            patience.failed(&number, &unreachable(), start);
        }
        assert_eq!(patience.failed.len(), MOST);
    }
}
