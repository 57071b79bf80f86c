//! Which stretch a connection that has nothing to do takes a part of: pure decisions over counts and times.
//! Never splits what will be there soon anyway, and never gives the slower of two the larger part.

use std::time::Duration;

use super::width::PERIOD;

/// What would be there sooner is left alone: asking for a part of it takes a while, too.
const WORTH: Duration = Duration::from_millis(250);
/// Fewer bytes are not asked for: the request itself is of that order.
const LEAST: u64 = 4 << 10;
/// A stretch whose turn it is and that comes so many times as slowly as usual is shared although there is other work.
const STRAGGLER: f64 = 4.0;

/// A stretch under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// Bytes that it still lacks.
    pub(super) bytes: u64,
    /// Bytes that have come.
    pub(super) arrived: u64,
    /// Since it was begun.
    pub(super) age: Duration,
}

impl Left {
    /// Bytes a second to be expected of it, where `usual` is what others bring, as it is believed to for the first moment.
    fn rate(&self, usual: f64) -> f64 {
        (self.arrived as f64 + usual * PERIOD.as_secs_f64()) / (self.age + PERIOD).as_secs_f64()
    }

    fn seconds(&self, usual: f64) -> f64 {
        self.bytes as f64 / self.rate(usual)
    }

    /// How many bytes at its end another connection should take, so that both are done at the same time.
    fn share(&self, usual: f64) -> Option<u64> {
        let part = (self.bytes as f64 * usual / (usual + self.rate(usual))) as u64;
        (self.seconds(usual) > WORTH.as_secs_f64() && part >= LEAST).then_some(part)
    }

    /// As `share`, for the stretch whose turn it is: only where everything waits for it.
    pub(super) fn straggler(&self, usual: f64) -> Option<u64> {
        self.share(usual).filter(|_| self.rate(usual) * STRAGGLER < usual)
    }
}

/// The stretch that would be there last, and how many bytes at its end another connection should take.
pub(super) fn slowest(stretches: impl Iterator<Item = Left>, usual: f64) -> Option<(usize, u64)> {
    let (index, last) = stretches
        .enumerate()
        .max_by(|(_, a), (_, b)| a.seconds(usual).total_cmp(&b.seconds(usual)))?;
    Some((index, last.share(usual)?))
}

/// The rate that half of the connections reach; nothing where there is none yet.
pub(super) fn median(rates: impl Iterator<Item = f64>) -> Option<f64> {
    let mut rates: Vec<_> = rates.filter(|rate| *rate > 0.0).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    /// What one connection usually brings in a second.
    const USUAL: f64 = MIB as f64;

    fn left(bytes: u64, arrived: u64, milliseconds: u64) -> Left {
        Left {
            bytes,
            arrived,
            age: Duration::from_millis(milliseconds),
        }
    }

    #[test]
    fn of_equals_the_one_that_has_most_left_is_halved() {
        let stretches = [
            left(MIB, 3 * MIB, 3000),
            left(2 * MIB, 2 * MIB, 2000),
            left(0, 4 * MIB, 4000),
        ];
        assert_eq!(slowest(stretches.into_iter(), USUAL), Some((1, MIB)));
    }

    #[test]
    fn a_slow_one_keeps_the_small_part() {
        let slow = left(2 * MIB, MIB / 50, 1000);
        let (index, part) = slowest([left(MIB, MIB, 1000), slow].into_iter(), USUAL).unwrap();
        assert_eq!(index, 1);
        assert!(part > 3 * MIB / 2 && part < 2 * MIB, "{part}");
    }

    #[test]
    fn what_is_there_soon_is_left_alone() {
        assert_eq!(slowest([left(MIB / 5, MIB, 1000)].into_iter(), USUAL), None);
        assert!(slowest([left(MIB / 3, MIB, 1000)].into_iter(), USUAL).is_some());
        assert_eq!(slowest([left(0, MIB, 1000)].into_iter(), USUAL), None);
    }

    #[test]
    fn only_a_straggler_is_helped_while_there_is_other_work() {
        assert_eq!(left(2 * MIB, MIB / 2, 1000).straggler(USUAL), None);
        assert!(left(2 * MIB, MIB / 50, 2000).straggler(USUAL).is_some());
        assert_eq!(left(2 * MIB, 0, 100).straggler(USUAL), None, "it has only begun");
    }

    #[test]
    fn stragglers_do_not_say_what_is_usual() {
        assert_eq!(median([1.0, 50.0].into_iter()), Some(50.0));
        assert_eq!(median([50.0, 1.0, 49.0, 0.0].into_iter()), Some(49.0));
        assert_eq!(median([0.0].into_iter()), None);
    }
}
