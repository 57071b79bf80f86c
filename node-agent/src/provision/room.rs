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
    act,
    plan::{
        collect::{self, CollectPlan, CollectPolicy},
        fetch::FetchRefusal,
    },
    snapshot::store::StoreState,
    store::NodeStore,
};

/// Bytes that would have to go for the closure to fit; nothing where room is not what is missing, or cannot be made.
pub(super) fn shortage(error: &ProvisionError) -> Option<u64> {
    let ProvisionError::Supply(SupplyError::Refused {
        source: FetchRefusal::InsufficientDisk { needed, free, freeable },
    }) = error
    else {
        return None;
    };
    let short = needed.saturating_sub(*free);
    (short <= *freeable).then_some(short)
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
        collect::plan(state, &policy, now)
    };
    let gone: CollectPlan = act::collect::collect(store, decide).map_err(|source| supply::failed(store, source))?;
    tracing::info!(
        paths = gone.remove.len(),
        bytes = gone.freed_bytes,
        "made room on the disk"
    );
    Ok(gone.freed_bytes > 0)
}
