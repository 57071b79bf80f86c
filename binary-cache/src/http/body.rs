//! The body of an answer, chunk by chunk, from a server that must keep up a minimum rate.
//! Never counts the time that the reader itself takes between two chunks.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::{fault::Fault, options::Options};

#[derive(Debug)]
pub(crate) struct PacedBody {
    inner: Incoming,
    received: u64,
    pace: Pace,
}

/// Bytes against the time spent waiting for them.
#[derive(Debug)]
struct Pace {
    min_rate: u64,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl PacedBody {
    pub(crate) fn new(inner: Incoming, options: &Options) -> Self {
        let pace = Pace {
            min_rate: options.min_rate,
            window: options.rate_window,
            waited: Duration::ZERO,
            bytes: 0,
        };
        Self {
            inner,
            received: 0,
            pace,
        }
    }

    /// The next bytes; `None` at the end that the server meant.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let asked = Instant::now();
            let frame = timeout(self.pace.left(), self.inner.frame()).await;
            let bytes = match &frame {
                Ok(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
                Ok(_) | Err(_) => 0,
            };
            self.received += bytes;
            let received = self.received;
            if self.pace.too_slow(asked.elapsed(), bytes) {
                return Err(Fault::Stalled {
                    min_rate: self.pace.min_rate,
                    window: self.pace.window,
                    received,
                });
            }
            match frame {
                Err(_elapsed) => {}
                Ok(None) => return Ok(None),
                Ok(Some(Err(source))) => return Err(Fault::Cut { received, source }),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    // An empty chunk or trailers: nothing for us.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }
}

impl Pace {
    /// How long the window still lasts.
    fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// Accounts for one wait; at the end of a window, whether it brought too little.
    fn too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.window {
            return false;
        }
        let wanted = self.window.as_secs_f64() * self.min_rate as f64;
        let slow = (self.bytes as f64) < wanted;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_too_slow_by_the_average_over_a_window() {
        let second = Duration::from_secs(1);
        let pace = || Pace {
            min_rate: 100,
            window: 30 * second,
            waited: Duration::ZERO,
            bytes: 0,
        };
        let mut steady = pace();
        assert!((0..300).all(|_| !steady.too_slow(second, 100)));
        let mut bursts = pace();
        assert!((0..300).all(|i| !bursts.too_slow(second, if i % 10 == 0 { 1000 } else { 0 })));
        let mut dripping = pace();
        assert_eq!((0..300).position(|_| dripping.too_slow(second, 1)), Some(29));
        let mut stalled = pace();
        assert!(!stalled.too_slow(second, 1_000_000));
        assert!(!stalled.too_slow(29 * second, 0), "this window was good");
        assert!(stalled.too_slow(30 * second, 0), "the next was not");
    }
}
