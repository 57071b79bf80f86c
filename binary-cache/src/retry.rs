//! When to try again, and when to let a cache rest: pure decisions over values.
//! Never sleeps, never reads a clock, never draws from a global source of chance.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use crate::{fault::Class, options::Options};

/// The random part of delays: a xorshift generator, good enough to keep nodes from asking in step.
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Self(seed | 1)
    }

    /// A delay from 0 to `bound`, evenly.
    pub(crate) fn below(&mut self, bound: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let fraction = (self.0 >> 11) as f64 / (1u64 << 53) as f64;
        bound.mul_f64(fraction)
    }
}

/// How long to wait before try number `failures + 1`: full jitter below a doubling bound, or the server's `Retry-After`
/// where that is longer, capped.
pub(crate) fn delay(options: &Options, failures: u32, retry_after: Option<Duration>, jitter: &mut Jitter) -> Duration {
    let doubled = options
        .backoff_base
        .saturating_mul(1 << failures.saturating_sub(1).min(20));
    let random = jitter.below(doubled.min(options.backoff_cap));
    random.max(retry_after.unwrap_or_default().min(options.max_retry_after))
}

/// How a cache behaved of late.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conduct {
    /// Faults since the last good answer.
    strikes: u32,
    /// Faults ever.
    faults: u64,
    rests_until: Option<Instant>,
    slow_until: Option<Instant>,
}

impl Conduct {
    /// A usable answer, "not here" included: the slate is clean.
    pub(crate) fn good(&mut self) {
        self.strikes = 0;
        self.rests_until = None;
        self.slow_until = None;
    }

    /// No answer for so long that another cache was asked too: it comes last for a while.
    pub(crate) fn slow(&mut self, now: Instant, options: &Options) {
        self.slow_until = Some(now + options.rest);
    }

    /// Whether it kept somebody waiting of late.
    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        self.slow_until.is_some_and(|until| until > now)
    }

    /// Whether nothing should wait for it that can do without.
    pub(crate) fn is_passed_over(&self, now: Instant) -> bool {
        self.is_slow(now) || self.rest(now).is_some()
    }

    /// An answer of class `class`: enough bad ones in a row, or one hostile one, and the cache rests for a while.
    pub(crate) fn bad(&mut self, class: Class, now: Instant, options: &Options) {
        match class {
            Class::Absent | Class::Auth | Class::Local => return,
            Class::Transient | Class::Corrupt => self.strikes = self.strikes.saturating_add(1),
            Class::Hostile => self.strikes = self.strikes.max(options.strikes),
        }
        self.faults = self.faults.saturating_add(1);
        if self.strikes >= options.strikes {
            self.rests_until = Some(now + options.rest);
        }
    }

    /// How much longer the cache is passed over. After that one more fault makes it rest again.
    pub(crate) fn rest(&self, now: Instant) -> Option<Duration> {
        self.rests_until
            .map(|until| until.saturating_duration_since(now))
            .filter(|left| !left.is_zero())
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_are_random_and_stay_below_their_caps() {
        let options = Options::default();
        let mut jitter = Jitter::new(Some(7));
        for failures in 1..40 {
            let bound = options
                .backoff_base
                .saturating_mul(1 << (failures - 1).min(20))
                .min(options.backoff_cap);
            let (a, b) = (
                delay(&options, failures, None, &mut jitter),
                delay(&options, failures, None, &mut jitter),
            );
            assert!(a <= bound && b <= bound && a != b, "{failures}: {a:?} {b:?}");
        }
        let long = Some(Duration::from_secs(1_000_000_000));
        assert_eq!(delay(&options, 1, long, &mut jitter), options.max_retry_after);
        let short = Some(Duration::from_secs(1));
        assert!(delay(&options, 1, short, &mut jitter) >= Duration::from_secs(1));
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..8).map(|_| jitter.below(Duration::from_secs(1))).collect::<Vec<_>>()
        };
        assert_eq!(draw(Some(3)), draw(Some(3)));
        assert_ne!(draw(Some(3)), draw(Some(5)));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn three_strikes_or_one_hostile_answer_and_a_cache_rests() {
        let options = Options::default();
        let start = Clock::system().now();
        let mut conduct = Conduct::default();
        conduct.bad(Class::Transient, start, &options);
        conduct.bad(Class::Corrupt, start, &options);
        conduct.bad(Class::Absent, start, &options);
        assert_eq!(conduct.rest(start), None);
        conduct.bad(Class::Transient, start, &options);
        assert_eq!(conduct.rest(start), Some(options.rest));
        assert_eq!(conduct.rest(start + options.rest), None, "it may try again");
        conduct.bad(Class::Transient, start + options.rest, &options);
        assert!(
            conduct.rest(start + options.rest).is_some(),
            "one fault more and it rests again"
        );
        conduct.good();
        assert_eq!(conduct.rest(start), None);
        conduct.slow(start, &options);
        assert!(conduct.is_slow(start) && conduct.is_passed_over(start));
        assert_eq!(conduct.rest(start), None, "who is slow is asked all the same, last");
        assert!(!conduct.is_slow(start + options.rest));
        conduct.good();
        assert!(!conduct.is_slow(start));
        conduct.bad(Class::Hostile, start, &options);
        assert!(conduct.rest(start).is_some());
        assert_eq!(conduct.faults(), 5);
    }

    use crate::options::Clock;
}
