//! Over how many connections one file is read: pure decisions over counts and times.
//! Never opens another connection while what comes is taken as slowly as it comes.

use std::time::Duration;

/// Connections of one file at most: as many as browsers and download managers open to one host.
pub(super) const MOST: usize = 8;
/// How often the width is thought over.
pub(super) const PERIOD: Duration = Duration::from_millis(250);
/// Smallest and largest stretch that one connection reads: in bytes.
const STRETCH: (u64, u64) = (256 << 10, 4 << 20);
/// How long reading one stretch should take: the request before it, a round trip, is then next to nothing.
const STRETCH_TIME: f64 = 2.0;

/// The number of connections, and how it came about.
#[derive(Debug)]
pub(super) struct Width {
    connections: usize,
    most: usize,
    waited: Duration,
    elapsed: Duration,
}

impl Width {
    pub(super) fn new() -> Self {
        Self {
            connections: 1,
            most: MOST,
            waited: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    /// How many connections there should be.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// One connection from now on: more were no good.
    pub(super) fn narrow(&mut self) {
        (self.connections, self.most) = (1, 1);
    }

    /// Accounts for a piece that was waited for during `waited`, `elapsed` after the one before: twice as many connections
    /// where waiting took most of a period.
    pub(super) fn account(&mut self, waited: Duration, elapsed: Duration) {
        self.waited += waited;
        self.elapsed += elapsed;
        if self.elapsed < PERIOD {
            return;
        }
        if self.waited * 2 > self.elapsed {
            self.connections = (self.connections * 2).min(self.most);
        }
        (self.waited, self.elapsed) = (Duration::ZERO, Duration::ZERO);
    }
}

/// How long a stretch should be where one connection brings `rate` bytes a second.
pub(super) fn stretch(rate: f64) -> u64 {
    ((rate * STRETCH_TIME) as u64).clamp(STRETCH.0, STRETCH.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_double_while_the_network_is_waited_for() {
        let ms = Duration::from_millis;
        let mut width = Width::new();
        let mut seen = Vec::new();
        for _ in 0..50 {
            width.account(ms(45), ms(50));
            seen.push(width.connections());
        }
        assert_eq!((seen[3], seen[4], seen[9], seen[14], seen[49]), (1, 2, 4, 8, 8));
        width.narrow();
        for _ in 0..50 {
            width.account(ms(45), ms(50));
        }
        assert_eq!(width.connections(), 1);
    }

    #[test]
    fn a_network_that_is_faster_than_its_reader_needs_no_second_connection() {
        let ms = Duration::from_millis;
        let mut width = Width::new();
        for _ in 0..1000 {
            width.account(ms(20), ms(50));
        }
        assert_eq!(width.connections(), 1);
    }

    #[test]
    fn stretches_take_about_two_seconds_within_bounds() {
        for (rate, wanted) in [(0.0, 256 << 10), (1e6, 2_000_000), (1e9, 4 << 20)] {
            assert_eq!(stretch(rate), wanted);
        }
    }
}
