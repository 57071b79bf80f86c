//! Who writes: one replica at a time, by a `Lease`.
//! Never compares this machine's clock with another's: a lease is old when it has not changed for as long as it lasts.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// How long a lease lasts after its last renewal.
pub const LASTS: Duration = Duration::from_secs(15);
/// How long its holder believes in it without a renewal: it stops before anybody else may begin.
pub const TRUSTED: Duration = Duration::from_secs(10);
/// Between two looks at it.
pub const EVERY: Duration = Duration::from_secs(2);

/// What a `Lease` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// `metadata.resourceVersion`: renewed over nothing else.
    pub resource_version: String,
    /// Who holds it; `None` or empty: nobody.
    pub holder: Option<String>,
    /// How long it lasts.
    pub lasts: Option<Duration>,
    /// How often it changed hands.
    pub transitions: i32,
    /// When its holder took it, by the holder's own clock.
    pub acquired: Option<Timestamp>,
}

/// A record, and when this process first saw it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The record.
    pub record: Record,
    /// By this process's monotonic clock, since it started.
    pub since: Duration,
}

/// What to do about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There is none: make one and hold it.
    Create,
    /// Write it anew: ours still, or ours now.
    Take {
        /// Whether it changes hands.
        new_holder: bool,
    },
    /// Somebody else holds it.
    Wait,
}

/// What `me` does about a lease that was last seen as `seen`, at `now` of the same monotonic clock.
pub fn turn(seen: Option<&Sighting>, me: &str, now: Duration) -> Turn {
    let Some(Sighting { record, since }) = seen else {
        return Turn::Create;
    };
    match record.holder.as_deref() {
        Some(holder) if holder == me => Turn::Take { new_holder: false },
        None | Some("") => Turn::Take { new_holder: true },
        Some(_) => {
            let old = now.saturating_sub(*since) >= record.lasts.unwrap_or(LASTS);
            if old {
                Turn::Take { new_holder: true }
            } else {
                Turn::Wait
            }
        }
    }
}

/// Keeps a sighting for as long as the record is the same one.
pub fn sight(before: Option<Sighting>, record: Record, now: Duration) -> Sighting {
    match before {
        Some(sighting) if sighting.record == record => sighting,
        Some(_) | None => Sighting { record, since: now },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn held(by: &str, version: &str) -> Record {
        Record {
            resource_version: version.to_owned(),
            holder: Some(by.to_owned()),
            lasts: Some(LASTS),
            ..Record::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_ours_free_or_has_not_changed_for_as_long_as_it_lasts() {
        let seen = |by: &str, at| sight(None, held(by, "1"), seconds(at));
        for (seen, now, expected) in [
            (None, 0, Turn::Create),
            (Some(seen("me", 0)), 100, Turn::Take { new_holder: false }),
            (Some(seen("", 0)), 0, Turn::Take { new_holder: true }),
            (Some(seen("other", 10)), 24, Turn::Wait),
            (Some(seen("other", 10)), 25, Turn::Take { new_holder: true }),
        ] {
            assert_eq!(turn(seen.as_ref(), "me", seconds(now)), expected, "{seen:?} at {now}");
        }
    }

    #[test]
    fn a_renewal_is_a_new_sighting_and_another_look_is_not() {
        let first = sight(None, held("other", "1"), seconds(0));
        let again = sight(Some(first.clone()), held("other", "1"), seconds(14));
        assert_eq!(again, first);
        let renewed = sight(Some(again), held("other", "2"), seconds(14));
        assert_eq!(turn(Some(&renewed), "me", seconds(28)), Turn::Wait);
        assert_eq!(turn(Some(&renewed), "me", seconds(29)), Turn::Take { new_holder: true });
    }

    #[test]
    fn the_holder_stops_before_anybody_else_may_begin() {
        assert!(TRUSTED + EVERY < LASTS);
    }
}
