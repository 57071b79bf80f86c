//! Over how many connections one file is read: pure decisions over counts and times.
//! Never opens another connection while what comes is taken as slowly as it comes.

use std::time::Duration;

/// Connections of one file at most: as many as browsers and download managers open to one host.
pub(super) const MOST: usize = 8;
/// How often the width is thought over.
pub(super) const PERIOD: Duration = Duration::from_millis(250);
/// How many times as many connections there may be after one period.
const GROWTH: usize = 4;
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

    /// Accounts for a piece that was waited for during `waited`, `elapsed` after the one before. Where waiting took most of a
    /// period: as many times the connections as the reader could take what they bring, but twice to four times.
    pub(super) fn account(&mut self, waited: Duration, elapsed: Duration) {
        self.waited += waited;
        self.elapsed += elapsed;
        if self.elapsed < PERIOD {
            return;
        }
        if self.waited * 2 > self.elapsed {
            let busy = self.elapsed.saturating_sub(self.waited).as_secs_f64();
            let times = (self.elapsed.as_secs_f64() / busy.max(0.001)) as usize;
            self.connections = (self.connections * times.clamp(2, GROWTH)).min(self.most);
        }
        (self.waited, self.elapsed) = (Duration::ZERO, Duration::ZERO);
    }
}

/// How long the first stretch should be, of a file of which so many bytes are left: each connection gets one.
pub(super) fn first_stretch(length: u64, left: u64, connections: usize) -> u64 {
    length.min((left / connections.max(1) as u64).max(STRETCH.0))
}

/// How long a stretch should be where one connection brings `rate` bytes a second.
pub(super) fn stretch(rate: f64) -> u64 {
    ((rate * STRETCH_TIME) as u64).clamp(STRETCH.0, STRETCH.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_multiply_while_the_network_is_waited_for() {
        let ms = Duration::from_millis;
        let seen = |waited, width: &mut Width| {
            let mut step = || {
                width.account(ms(waited), ms(50));
                width.connections()
            };
            (0..50).map(|_| step()).collect::<Vec<_>>()
        };
        let mut width = Width::new();
        let much = seen(45, &mut width);
        assert_eq!((much[3], much[4], much[9], much[49]), (1, 4, 8, 8));
        let little = seen(30, &mut Width::new());
        assert_eq!(
            (little[3], little[4], little[9], little[14], little[49]),
            (1, 2, 4, 8, 8)
        );
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
    fn of_a_short_rest_each_connection_reads_an_equal_part_but_no_crumb() {
        assert_eq!(first_stretch(4 << 20, 100 << 20, 4), 4 << 20);
        assert_eq!(first_stretch(4 << 20, 8 << 20, 4), 2 << 20);
        assert_eq!(first_stretch(4 << 20, 512 << 10, 4), 256 << 10);
    }

    #[test]
    fn stretches_take_about_two_seconds_within_bounds() {
        for (rate, wanted) in [(0.0, 256 << 10), (1e6, 2_000_000), (1e9, 4 << 20)] {
            assert_eq!(stretch(rate), wanted);
        }
    }
}
