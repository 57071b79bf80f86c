//! Which layers and views garbage collection removes.
//! Never lets anything go that is in use, pinned or young; never looks at a disk or a clock itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crds::domain::store_path::StorePath;
use serde::Serialize;

use crate::snapshot::{
    store::{BuiltView, Layer, StoreState},
    view::{BridgeId, ViewDigest},
};

/// When to collect, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectPolicy {
    /// Collect when the layers take more than this many bytes …
    pub high: u64,
    /// … until they take no more than this many.
    pub low: u64,
    /// Layers and views used more recently than this stay.
    pub grace: Duration,
    /// Store paths that stay whatever happens.
    pub pinned: BTreeSet<StorePath>,
}

impl CollectPolicy {
    /// Everything that nothing uses, at once.
    pub fn everything() -> Self {
        Self {
            high: 0,
            low: 0,
            grace: Duration::ZERO,
            pinned: BTreeSet::new(),
        }
    }
}

/// Garbage is collected when less of the disk than this is free …
const LOW_PERCENT: u64 = 15;
/// … until this much is.
const ENOUGH_PERCENT: u64 = 20;
/// What was used within this time stays even then.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// How much room there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The file system of the node store.
    pub capacity: u64,
    /// What is free of it.
    pub free: u64,
    /// What the store's layers take.
    pub used: u64,
    /// What they may take (`spec.maxBytes` of the CUDANode); nothing: as much as leaves the disk its share.
    pub most: Option<u64>,
}

/// What a daemon collects on its own: nothing, while there is room.
pub fn policy(room: &Room) -> Option<CollectPolicy> {
    let share = |percent: u64| room.capacity / 100 * percent;
    let for_the_disk =
        (room.free < share(LOW_PERCENT)).then(|| room.used.saturating_sub(share(ENOUGH_PERCENT) - room.free));
    let by_order = room.most.filter(|most| room.used > *most);
    let low = for_the_disk.into_iter().chain(by_order).min()?;
    Some(CollectPolicy {
        high: low,
        low,
        grace: GRACE,
        pinned: BTreeSet::new(),
    })
}

/// Why a layer stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// A lease or a mounted or published view holds it.
    InUse,
    /// The policy pins it.
    Pinned,
    /// It was used within the grace period.
    Young,
    /// It could go, but there is room.
    Room,
}

/// What to remove. Layers come least recently used first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectPlan {
    /// Layers to remove.
    pub remove: Vec<StorePath>,
    /// Views to remove: nothing uses them, and building one again costs little.
    pub remove_views: Vec<ViewDigest>,
    /// Driver bridges to remove: no view that stays has them, and the driver's files can be copied again.
    pub remove_bridges: Vec<BridgeId>,
    /// Sum of the removed layers, in bytes.
    pub freed_bytes: u64,
    /// Sum of the remaining layers, in bytes.
    pub used_bytes: u64,
    /// How many layers stay, and why.
    pub kept: BTreeMap<Kept, usize>,
    /// Bytes above the low watermark that cannot go, where collection was called for.
    pub short_by: u64,
}

/// Plans a collection at `now`.
pub fn plan(state: &StoreState, policy: &CollectPolicy, now: SystemTime) -> CollectPlan {
    let in_use = state.in_use();
    let young = |used: SystemTime| now.duration_since(used).map_or(true, |age| age < policy.grace);
    let mut plan = CollectPlan {
        used_bytes: state.used_bytes(),
        ..CollectPlan::default()
    };
    plan.remove_views = state
        .views
        .iter()
        .filter(|v| !v.in_use && !young(v.last_used))
        .map(|v| v.digest.clone())
        .collect();
    let stays = |view: &&BuiltView| !plan.remove_views.contains(&view.digest);
    let bridges_in_use: BTreeSet<_> = state
        .views
        .iter()
        .filter(stays)
        .filter_map(|v| v.bridge.as_ref())
        .collect();
    let unused =
        |id: &&BridgeId| !state.unknown_use && !bridges_in_use.contains(id) && !state.leased_bridges.contains(*id);
    plan.remove_bridges = state.bridges.iter().filter(unused).cloned().collect();
    let wanted = plan.used_bytes > policy.high;
    let mut layers: Vec<&Layer> = state.layers.iter().collect();
    layers.sort_unstable_by(|a, b| (a.last_used, &a.path).cmp(&(b.last_used, &b.path)));
    for layer in layers {
        let kept = if in_use.contains(&layer.path) {
            Kept::InUse
        } else if policy.pinned.contains(&layer.path) {
            Kept::Pinned
        } else if young(layer.last_used) {
            Kept::Young
        } else if !wanted || plan.used_bytes <= policy.low {
            Kept::Room
        } else {
            plan.used_bytes -= layer.bytes;
            plan.freed_bytes += layer.bytes;
            plan.remove.push(layer.path.clone());
            continue;
        };
        *plan.kept.entry(kept).or_default() += 1;
    }
    if wanted {
        plan.short_by = plan.used_bytes.saturating_sub(policy.low);
    }
    plan
}

/// Plans the removal of store paths that turned out to be damaged: those that nothing uses now, with every view that has one
/// of them. A plain view of a damaged path is as damaged as the path.
pub fn discard(state: &StoreState, damaged: &BTreeSet<StorePath>) -> CollectPlan {
    let in_use = state.in_use();
    let stays = |path: &StorePath| state.unknown_use || in_use.contains(path);
    let (kept, remove): (Vec<_>, Vec<_>) = damaged.iter().cloned().partition(stays);
    let affected = |view: &&BuiltView| !view.in_use && view.paths.iter().any(|path| remove.contains(path));
    CollectPlan {
        remove_views: state
            .views
            .iter()
            .filter(affected)
            .map(|view| view.digest.clone())
            .collect(),
        kept: if kept.is_empty() {
            BTreeMap::new()
        } else {
            [(Kept::InUse, kept.len())].into()
        },
        remove,
        ..CollectPlan::default()
    }
}

/// Bytes that a collection with no watermark could free: what "InsufficientDisk" calls freeable.
pub fn freeable(state: &StoreState, policy: &CollectPolicy, now: SystemTime) -> u64 {
    let everything = CollectPolicy {
        high: 0,
        low: 0,
        ..policy.clone()
    };
    plan(state, &everything, now).freed_bytes
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn path(letter: char) -> StorePath {
        let hash: String = std::iter::repeat_n(letter, 32).collect();
        StorePath::from_base_name(&format!("{hash}-x")).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Layers a, b, c, d of 100 bytes each, last used at 10, 20, 30 and 40 seconds.
    fn state() -> StoreState {
        let layer = |(letter, used)| Layer {
            path: path(letter),
            bytes: 100,
            last_used: at(used),
        };
        StoreState {
            layers: [('d', 40), ('b', 20), ('a', 10), ('c', 30)].map(layer).into(),
            ..StoreState::default()
        }
    }

    fn policy(high: u64, low: u64) -> CollectPolicy {
        CollectPolicy {
            high,
            low,
            grace: Duration::from_secs(5),
            pinned: BTreeSet::new(),
        }
    }

    fn removed(state: &StoreState, policy: &CollectPolicy, now: u64) -> String {
        plan(state, policy, at(now))
            .remove
            .iter()
            .filter_map(|path| path.hash().chars().next())
            .collect()
    }

    #[test]
    fn between_the_watermarks_the_least_recently_used_go_first() {
        assert_eq!(
            removed(&state(), &policy(400, 0), 100),
            "",
            "not above the high watermark"
        );
        assert_eq!(removed(&state(), &policy(399, 300), 100), "a");
        assert_eq!(removed(&state(), &policy(399, 299), 100), "ab");
        assert_eq!(removed(&state(), &policy(0, 0), 100), "abcd");
    }

    #[test]
    fn what_is_in_use_pinned_or_young_stays_and_the_plan_says_so() {
        let mut state = state();
        state.leased.insert(path('a'));
        let digest: ViewDigest = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let view = |in_use| BuiltView {
            digest: digest.clone(),
            paths: [path('b')].into(),
            bridge: None,
            last_used: at(1),
            in_use,
            broken: false,
        };
        state.views = vec![view(true)];
        let mut policy = policy(0, 0);
        policy.pinned.insert(path('c'));
        let plan_at = |state: &StoreState, now| plan(state, &policy, at(now));
        let kept = plan_at(&state, 44);
        assert!(kept.remove.is_empty() && kept.remove_views.is_empty());
        assert_eq!(
            kept.kept,
            BTreeMap::from([(Kept::InUse, 2), (Kept::Pinned, 1), (Kept::Young, 1)])
        );
        assert_eq!((kept.used_bytes, kept.short_by), (400, 400));

        state.views = vec![view(false)];
        state.leased.clear();
        let gone = plan_at(&state, 45);
        assert_eq!(gone.remove, [path('a'), path('b'), path('d')]);
        assert_eq!(gone.remove_views, std::slice::from_ref(&digest));
        assert_eq!((gone.freed_bytes, gone.used_bytes, gone.short_by), (300, 100, 100));
    }

    #[test]
    fn a_bridge_stays_with_the_last_view_or_lease_that_has_it() {
        let id = |text: &str| text.parse::<BridgeId>().unwrap();
        let mut state = state();
        state.bridges = [id("535.a"), id("550.b"), id("570.c")].into();
        state.leased_bridges = [id("570.c")].into();
        let view = |in_use| BuiltView {
            digest: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            paths: [path('b')].into(),
            bridge: Some(id("535.a")),
            last_used: at(1),
            in_use,
            broken: false,
        };
        state.views = vec![view(true)];
        assert_eq!(plan(&state, &policy(0, 0), at(100)).remove_bridges, [id("550.b")]);
        state.views = vec![view(false)];
        assert_eq!(
            plan(&state, &policy(0, 0), at(100)).remove_bridges,
            [id("535.a"), id("550.b")]
        );
        assert_eq!(
            plan(&state, &policy(0, 0), at(3)).remove_bridges,
            [id("550.b")],
            "the view is young"
        );
    }

    #[test]
    fn where_a_use_cannot_be_read_nothing_goes() {
        let mut state = state();
        state.bridges = ["535.a".parse().unwrap()].into();
        state.unknown_use = true;
        let kept = plan(&state, &policy(0, 0), at(100));
        assert!(kept.remove.is_empty() && kept.remove_bridges.is_empty());
        assert_eq!(kept.kept, BTreeMap::from([(Kept::InUse, 4)]));
        assert!(discard(&state, &[path('a')].into()).remove.is_empty());
        state.unknown_use = false;
        assert_eq!(plan(&state, &policy(0, 0), at(100)).remove.len(), 4);
    }

    #[test]
    fn damaged_paths_go_with_their_views_unless_something_uses_them() {
        let mut state = state();
        state.leased.insert(path('a'));
        state.views = vec![BuiltView {
            digest: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            paths: [path('b'), path('c')].into(),
            bridge: None,
            last_used: at(1),
            in_use: false,
            broken: false,
        }];
        let plan = discard(&state, &[path('a'), path('b')].into());
        assert_eq!((plan.remove, plan.remove_views.len()), (vec![path('b')], 1));
        assert_eq!(plan.kept, BTreeMap::from([(Kept::InUse, 1)]));
    }

    #[test]
    fn a_clock_that_went_back_removes_nothing() {
        assert_eq!(removed(&state(), &policy(0, 0), 5), "");
    }

    #[test]
    fn a_daemon_collects_for_the_disk_and_by_order() {
        let room = |free, used, most| {
            let room = Room {
                capacity: 1000,
                free,
                used,
                most,
            };
            super::policy(&room).map(|policy| (policy.high, policy.low))
        };
        assert_eq!(room(150, 800, None), None, "enough is free");
        assert_eq!(room(149, 800, None), Some((749, 749)), "up to a fifth of the disk");
        assert_eq!(
            room(0, 100, None),
            Some((0, 0)),
            "others fill the disk: all that can go"
        );
        assert_eq!(room(900, 80, Some(80)), None);
        assert_eq!(room(900, 80, Some(79)), Some((79, 79)));
        assert_eq!(room(900, 80, Some(0)), Some((0, 0)));
        assert_eq!(room(100, 800, Some(790)), Some((700, 700)), "whichever asks for more");
        assert_eq!(room(100, 800, Some(600)), Some((600, 600)), "whichever asks for more");
    }

    #[test]
    fn freeable_is_what_no_watermark_would_keep() {
        assert_eq!(freeable(&state(), &policy(10_000, 9_000), at(100)), 400);
        assert_eq!(freeable(&state(), &policy(10_000, 9_000), at(42)), 300);
    }
}
