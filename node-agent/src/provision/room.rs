//! Room on a full disk: what nothing uses goes, least recently used first, until the closure fits.
//! Never removes anything where that would not be enough.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use super::{
    ProvisionError,
    supply::{self, SupplyError},
};
use crate::{
    act::{self, fetch::FetchError},
    plan::{
        collect::{self, CollectPlan, CollectPolicy},
        fetch::FetchRefusal,
    },
    snapshot::store::StoreState,
    store::NodeStore,
};

/// Bytes that would have to go for the closure to fit; nothing where room is not what is missing, or cannot be made.
pub(super) fn shortage(error: &ProvisionError) -> Option<u64> {
    if let ProvisionError::Supply(SupplyError::Refused {
        source: FetchRefusal::InsufficientDisk { needed, free, freeable },
    }) = error
    {
        let short = needed.saturating_sub(*free);
        return (short <= *freeable).then_some(short);
    }
    // Somebody took the room between the plan and the reservation. What garbage there is was not looked at.
    if let ProvisionError::Supply(SupplyError::Fetch {
        source: FetchError::Refused(FetchRefusal::InsufficientDisk { needed, free, .. }),
    }) = error
    {
        return Some(needed.saturating_sub(*free).max(1));
    }
    None
}

/// Makes so much room; whether anything went.
pub(super) fn make(store: &NodeStore, shortage: u64, now: SystemTime) -> Result<bool, ProvisionError> {
    let decide = |state: &StoreState| {
        let policy = CollectPolicy {
            high: 0,
            low: state.used_bytes().saturating_sub(shortage),
            grace: Duration::ZERO,
            pinned: BTreeSet::new(),
        };
        let plan = collect::plan(state, &policy, now);
        if plan.short_by > 0 {
            CollectPlan::default()
        } else {
            plan
        }
    };
    let gone: CollectPlan = act::collect::collect(store, decide).map_err(|source| supply::failed(store, source))?;
    tracing::info!(
        paths = gone.remove.len(),
        bytes = gone.freed_bytes,
        "made room on the disk"
    );
    Ok(gone.freed_bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_where_that_may_be_enough() {
        let refusal = |needed, free, freeable| FetchRefusal::InsufficientDisk { needed, free, freeable };
        let planned = |refusal| ProvisionError::Supply(SupplyError::Refused { source: refusal });
        let reserved = |refusal| {
            ProvisionError::Supply(SupplyError::Fetch {
                source: FetchError::Refused(refusal),
            })
        };
        for (error, expected) in [
            (planned(refusal(100, 40, 60)), Some(60)),
            (planned(refusal(100, 40, 59)), None),
            (reserved(refusal(100, 40, 0)), Some(60)),
            (reserved(refusal(100, 100, 0)), Some(1)),
            (ProvisionError::Abandoned, None),
        ] {
            assert_eq!(shortage(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn nothing_goes_where_all_of_it_would_not_be_enough() {
        let folder = tempfile::tempdir().unwrap();
        let store = NodeStore::open(folder.path()).unwrap();
        assert!(!make(&store, 1, SystemTime::UNIX_EPOCH).unwrap());
    }
}
