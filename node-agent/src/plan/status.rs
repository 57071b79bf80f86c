//! When a node's status is written: soon after something changed, seldom enough for a large cluster, never without need.
//! Never reads a clock: how long ago something was is a parameter.

use std::time::Duration;

use crds::v1alpha1::CUDANodeStatus;

/// Between two writes.
pub const AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// Where nothing but the numbers of pods changed.
const COUNTS_EVERY: Duration = Duration::from_secs(30);
/// So long after a write the API server's answer is what counts, not what was sent: somebody may have changed it.
const SETTLED: Duration = Duration::from_secs(30);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// The last attempt to write.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attempt {
    /// What the API server accepted last, if it accepted something since the agent started.
    pub accepted: Option<CUDANodeStatus>,
    /// Attempts that failed since.
    pub failures: u32,
}

/// The status to compare with: what the API server has, as far as that can be known, `since` the last attempt.
pub fn baseline<'a>(attempt: &'a Attempt, since: Option<Duration>, observed: &'a CUDANodeStatus) -> &'a CUDANodeStatus {
    let fresh = since.is_some_and(|since| since < SETTLED);
    attempt.accepted.as_ref().filter(|_| fresh).unwrap_or(observed)
}

/// In how long `next` is to be written, `since` the last attempt; nothing where it says the same as `baseline`.
/// `jitter` is from 0 to 1: nodes that failed together do not come back together.
pub fn due(
    attempt: &Attempt,
    since: Option<Duration>,
    jitter: f64,
    (baseline, next): (&CUDANodeStatus, &CUDANodeStatus),
) -> Option<Duration> {
    if baseline == next {
        return None;
    }
    let every = if without_counts(baseline) == without_counts(next) {
        COUNTS_EVERY
    } else {
        AT_MOST_EVERY
    };
    let doubled = every.saturating_mul(1_u32.checked_shl(attempt.failures.min(10)).unwrap_or(1));
    let pause = doubled.min(LONGEST_PAUSE);
    let spread = match attempt.failures {
        0 => Duration::ZERO,
        _ => pause.mul_f64(jitter.clamp(0.0, 1.0) / 2.0),
    };
    let pause = pause.saturating_add(spread);
    Some(since.map_or(Duration::ZERO, |since| pause.saturating_sub(since)))
}

/// Pods come and go on many nodes all the time.
fn without_counts(status: &CUDANodeStatus) -> CUDANodeStatus {
    let mut status = status.clone();
    for environment in &mut status.environments {
        environment.pods = 0;
    }
    status
}

#[cfg(test)]
mod tests {
    use crds::v1alpha1::{EnvironmentPhase, NodeEnvironment};

    use super::*;

    #[test]
    fn pods_that_come_and_go_are_counted_less_often() {
        let with = |phase, pods| CUDANodeStatus {
            environments: vec![NodeEnvironment {
                phase,
                pods,
                ..NodeEnvironment::default()
            }],
            ..CUDANodeStatus::default()
        };
        let (ready, failed) = (EnvironmentPhase::Ready, EnvironmentPhase::Failed);
        let after = |next: &CUDANodeStatus, since| {
            let pause = due(
                &Attempt::default(),
                Some(Duration::from_secs(since)),
                0.0,
                (&with(ready, 1), next),
            );
            pause.map(|pause| pause.as_secs())
        };
        assert_eq!(after(&with(ready, 1), 1), None);
        assert_eq!(after(&with(ready, 2), 1), Some(29));
        assert_eq!(after(&with(ready, 2), 30), Some(0));
        assert_eq!(after(&with(failed, 2), 1), Some(4));
    }

    fn status(class: &str) -> CUDANodeStatus {
        CUDANodeStatus {
            class: Some(class.to_owned()),
            ..CUDANodeStatus::default()
        }
    }

    #[test]
    fn a_change_is_written_at_once_then_every_five_seconds_and_a_failure_later_and_later() {
        let (old, new) = (status("a"), status("b"));
        let after = |failures, since: Option<u64>| {
            let attempt = Attempt {
                accepted: None,
                failures,
            };
            due(&attempt, since.map(Duration::from_secs), 0.0, (&old, &new)).map(|pause| pause.as_secs())
        };
        assert_eq!(after(0, None), Some(0));
        assert_eq!(after(0, Some(1)), Some(4));
        assert_eq!(after(0, Some(5)), Some(0));
        assert_eq!(after(1, Some(1)), Some(9));
        assert_eq!(after(3, Some(0)), Some(40));
        assert_eq!(after(60, Some(0)), Some(120));
        let all = |failures| Attempt {
            accepted: None,
            failures,
        };
        let spread = |failures| {
            due(&all(failures), Some(Duration::ZERO), 1.0, (&old, &new))
                .unwrap()
                .as_secs()
        };
        assert_eq!((spread(0), spread(60)), (5, 180));
        assert_eq!(due(&all(3), Some(Duration::ZERO), 0.5, (&old, &old)), None);
    }

    #[test]
    fn what_was_accepted_counts_until_the_server_must_have_shown_it() {
        let attempt = Attempt {
            accepted: Some(status("sent")),
            failures: 0,
        };
        let observed = status("seen");
        let compared = |attempt, since: Option<u64>| {
            baseline(attempt, since.map(Duration::from_secs), &observed)
                .class
                .clone()
                .unwrap()
        };
        assert_eq!(compared(&attempt, Some(2)), "sent");
        assert_eq!(compared(&attempt, Some(31)), "seen");
        let never = Attempt::default();
        assert_eq!(compared(&never, Some(2)), "seen");
        assert_eq!(compared(&never, None), "seen");
    }
}
