//! The node store with a real cache in a folder: fetching, sweeping, leasing, collecting, verifying.
//! Never needs root or a network.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "support/cache.rs"]
mod cache;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use binary_cache::narinfo::VerifiedNarInfo;
use cache::{SmallCache, key_ring, path};
use crds::domain::store_path::StorePath;
use node_agent::{
    act::{
        collect::collect,
        fetch::{FetchError, FetchProgress, Fetched, Fetcher},
        verify::{Fault, verify},
        view,
    },
    plan::{
        collect::{self as plan_collect, CollectPlan, CollectPolicy},
        fetch::{self as plan_fetch, FetchPlan, FetchRefusal, Space, Wanted},
        view::{self as plan_view, ViewPlan},
    },
    snapshot::view::{ViewDigest, ViewKind, ViewRequest},
    store::{LeaseContent, NodeStore, StoreError},
};

fn open(folder: &Path) -> NodeStore {
    NodeStore::open(&folder.join("state")).unwrap()
}

fn plan(store: &NodeStore, closure: &[Arc<VerifiedNarInfo>]) -> FetchPlan {
    let present = store.present(closure.iter().map(|narinfo| narinfo.store_path()));
    let space = Space {
        free: store.free_bytes().unwrap(),
        freeable: 0,
    };
    plan_fetch::plan(
        closure.iter().map(|narinfo| Wanted::from(narinfo.as_ref())),
        &present,
        space,
    )
    .unwrap()
}

async fn fetch(cache: &SmallCache, store: &NodeStore) -> Result<Fetched, FetchError> {
    let closure = cache.closure().await;
    let fetcher = Fetcher {
        store: store.clone(),
        caches: cache.substituter(),
        parallel: 4,
    };
    fetcher
        .fetch(&plan(store, &closure), &closure, &Arc::new(FetchProgress::default()))
        .await
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn assert_clean(store: &NodeStore, paths: &[StorePath]) {
    let hashes: Vec<String> = paths.iter().map(|path| path.hash().to_owned()).collect();
    assert_eq!(names(&store.layout().store()), hashes);
    let records: Vec<String> = hashes.iter().map(|hash| format!("{hash}.narinfo")).collect();
    assert_eq!(names(&store.layout().meta()), records);
    assert_eq!(names(&store.layout().staging()), Vec::<String>::new());
    let verified = verify(store, 2, &|_| ()).unwrap();
    assert!(verified.is_good(), "{verified:?}");
    assert_eq!(verified.good, paths.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_closure_is_complete_and_nothing_else_is_there() {
    let (cache, folder) = (SmallCache::new(20), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    let closure = cache.closure().await;
    let progress = Arc::new(FetchProgress::default());
    let fetcher = Fetcher {
        store: store.clone(),
        caches: cache.substituter(),
        parallel: 4,
    };
    let plan_now = plan(&store, &closure);
    let fetched = fetcher.fetch(&plan_now, &closure, &progress).await.unwrap();
    assert_eq!(
        (fetched.paths, fetched.bytes, fetched.by_others),
        (20, plan_now.bytes, 0)
    );
    let status = progress.status();
    assert_eq!((status.paths_done, status.paths_total), (20, 20));
    assert_eq!(
        (status.bytes_done, status.bytes_total),
        (plan_now.bytes, plan_now.bytes)
    );
    assert_eq!(status.source.as_deref(), Some("small"));
    assert_clean(&store, &cache.paths);
    let files = store.layout().files(&cache.paths[3]);
    assert_eq!(fs::read(files.join("link")).unwrap(), vec![3_u8; 1003]);
    for (file, mode) in [("run", 0o100_555), ("lib/data", 0o100_444), ("lib", 0o40_555)] {
        let found = fs::metadata(files.join(file)).unwrap();
        assert_eq!((found.mode(), found.mtime()), (mode, 1), "{file}");
    }
    assert_eq!(fs::metadata(store.layout().staging()).unwrap().mode() & 0o777, 0o700);

    let again = fetch(&cache, &store).await.unwrap();
    assert_eq!(again, Fetched::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_fetchers_of_one_closure_bring_each_path_once() {
    let (cache, folder) = (SmallCache::new(12), tempfile::tempdir().unwrap());
    let closure = cache.closure().await;
    let mut fetchers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        // Each with a store and connections of its own, as so many processes would have.
        let store = open(folder.path());
        let (fetcher, closure) = (
            Fetcher {
                store,
                caches: cache.substituter(),
                parallel: 3,
            },
            closure.clone(),
        );
        fetchers.spawn(async move {
            let plan = plan(&fetcher.store, &closure);
            fetcher
                .fetch(&plan, &closure, &Arc::new(FetchProgress::default()))
                .await
                .unwrap()
        });
    }
    let fetched = fetchers.join_all().await;
    assert_eq!(fetched.iter().map(|one| one.paths).sum::<u64>(), 12);
    assert_clean(&open(folder.path()), &cache.paths);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_path_stops_the_fetch_and_what_was_complete_stays() {
    let (cache, folder) = (SmallCache::new(8), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    let closure = cache.closure().await;
    let bad = closure
        .iter()
        .find(|narinfo| *narinfo.store_path() == cache.paths[0])
        .unwrap();
    let mut bytes = fs::read(cache.nar(bad)).unwrap();
    let sound = bytes.clone();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(cache.nar(bad), bytes).unwrap();

    let error = fetch(&cache, &store).await.unwrap_err();
    let FetchError::Substitute(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.path(), &cache.paths[0]);
    assert!(!store.has(&cache.paths[0]));
    assert!(names(&store.layout().staging()).is_empty());
    let brought = store.records().unwrap().len();

    fs::write(cache.nar(bad), sound).unwrap();
    let fetched = fetch(&cache, &store).await.unwrap();
    assert_eq!(
        fetched.paths,
        8 - u64::try_from(brought).unwrap(),
        "nothing complete is fetched again"
    );
    assert_clean(&store, &cache.paths);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_can_leave_is_swept_and_what_lives_is_not() {
    let (cache, folder) = (SmallCache::new(5), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    let layout = store.layout();
    // A layer without a record, a record without its files, a record cut short, a scan without a record.
    fs::remove_file(layout.record(&path(0))).unwrap();
    fs::rename(layout.layer(&path(1)), folder.path().join("gone")).unwrap();
    let record = fs::read(layout.record(&path(2))).unwrap();
    fs::write(layout.record(&path(2)), &record[..record.len() / 2]).unwrap();
    fs::write(layout.scan(&path(0)), "{}").unwrap();
    fs::write(layout.scan(&path(3)), "{}").unwrap();
    // Unfinished work of a process that is gone, and of one that lives.
    fs::create_dir_all(layout.staging().join("4711.0/x/y")).unwrap();
    fs::write(layout.staging().join(format!("{}.lock", path(4).hash())), "").unwrap();
    let alive = store.workspace().unwrap();
    // Not of our making.
    fs::write(layout.store().join("notes.txt"), "mine").unwrap();

    let store = open(folder.path());
    let scan = format!("{}.scan.json", path(3).hash());
    let record = |number| format!("{}.narinfo", path(number).hash());
    assert_eq!(names(&store.layout().meta()), [record(3), scan, record(4)]);
    let hash = |number| path(number).hash().to_owned();
    assert_eq!(
        names(&store.layout().store()),
        [hash(3), hash(4), "notes.txt".to_owned()]
    );
    let left = names(&store.layout().staging());
    assert_eq!(left, [alive.path().file_name().unwrap().to_str().unwrap()]);
    alive.finish().unwrap();

    fs::remove_file(store.layout().scan(&path(3))).unwrap();
    fs::remove_file(store.layout().store().join("notes.txt")).unwrap();
    assert_eq!(fetch(&cache, &store).await.unwrap().paths, 3);
    assert_clean(&store, &cache.paths);
}

#[test]
fn a_workspace_that_is_dropped_takes_what_is_in_it_along_and_never_a_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let staging = store.layout().staging();
    let work = store.workspace().unwrap();
    let tree = work.path().join("half/a/view");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o555)).unwrap();
    drop(work);
    assert!(names(&staging).is_empty());

    // The name of one that is finished goes to the next: dropping the first must spare it.
    let first = store.workspace().unwrap();
    let name = first.path().to_owned();
    fs::remove_dir(&name).unwrap();
    let second = store.workspace().unwrap();
    assert_eq!(second.path(), name);
    fs::write(second.path().join("file"), "x").unwrap();
    drop(first);
    assert_eq!(names(&name), ["file"]);
    second.finish().unwrap();
    assert!(names(&staging).is_empty());
}

fn everything_old(state: &node_agent::snapshot::store::StoreState) -> CollectPlan {
    let policy = CollectPolicy {
        high: 0,
        low: 0,
        grace: Duration::ZERO,
        pinned: BTreeSet::new(),
    };
    plan_collect::plan(state, &policy, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40))
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_spares_what_is_leased_and_takes_the_rest() {
    let (cache, folder) = (SmallCache::new(6), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    fs::write(store.layout().scan(&path(5)), "{}").unwrap();
    let digest: ViewDigest = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let kept: BTreeSet<StorePath> = [path(1), path(2)].into();
    let lease = store
        .lease(&LeaseContent {
            view: Some(digest),
            paths: kept.clone(),
            ..LeaseContent::default()
        })
        .unwrap();
    let other_process = open(folder.path());

    let mut plan = collect(&other_process, everything_old).unwrap();
    plan.remove.sort();
    assert_eq!(plan.remove, [path(0), path(3), path(4), path(5)]);
    assert_clean(&store, &[path(1), path(2)]);

    // A holder that crashed: its lock is gone, its file is not.
    let file = names(&store.layout().leases()).remove(0);
    let file = store.layout().leases().join(file);
    fs::copy(&file, file.with_extension("crashed")).unwrap();
    drop(lease);
    assert!(!file.exists(), "one that is dropped is over");
    assert_eq!(names(&store.layout().leases()).len(), 1);
    assert_eq!(collect(&other_process, everything_old).unwrap().remove.len(), 2);
    assert!(names(&store.layout().leases()).is_empty());
    assert_clean(&store, &[]);
    assert_eq!(fetch(&cache, &store).await.unwrap().paths, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_go_first() {
    let (cache, folder) = (SmallCache::new(4), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (number, used) in [(0, 40), (1, 10), (2, 30), (3, 20)] {
        store.touch([&path(number)], at(used)).unwrap();
    }
    let size = store.records().unwrap()[0].nar_size();
    let policy = CollectPolicy {
        high: 0,
        low: 3 * size,
        grace: Duration::from_secs(15),
        pinned: BTreeSet::new(),
    };
    let plan = collect(&store, |state| plan_collect::plan(state, &policy, at(50))).unwrap();
    assert_eq!(plan.remove, [path(1), path(3)]);
    assert!(store.has(&path(0)) && store.has(&path(2)));
}

fn view_of(paths: &[StorePath]) -> ViewPlan {
    plan_view::plan(ViewRequest {
        kind: ViewKind::Overlay,
        paths: paths.iter().cloned().collect(),
        packages: BTreeMap::new(),
        bridge: None,
        cudaenv_json: "{}".to_owned(),
        selinux_label: None,
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_were_used_when_their_view_was_also_after_the_view_is_gone() {
    let (cache, folder) = (SmallCache::new(4), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let view = view_of(&[path(0), path(1)]);
    view::build(&view, &store, at(10)).unwrap();
    store.touch([&path(2), &path(3)], at(20)).unwrap();
    view::used(&view, &store, at(30)).unwrap();
    let size = store.records().unwrap()[0].nar_size();
    let mut policy = CollectPolicy {
        high: u64::MAX,
        low: 3 * size,
        grace: Duration::ZERO,
        pinned: BTreeSet::new(),
    };
    // There is room: only the view goes, which nothing shows.
    let plan = collect(&store, |state| plan_collect::plan(state, &policy, at(40))).unwrap();
    assert_eq!((plan.remove_views, plan.remove.len()), (vec![view.digest], 0));
    policy.high = 0;
    let plan = collect(&store, |state| plan_collect::plan(state, &policy, at(50))).unwrap();
    assert_eq!(plan.remove, [path(2), path(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_on_a_view_keeps_what_its_record_lists() {
    let (cache, folder) = (SmallCache::new(4), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    let view = view_of(&[path(1), path(2)]);
    view::build(&view, &store, UNIX_EPOCH).unwrap();
    let content = LeaseContent {
        view: Some(view.digest),
        ..LeaseContent::default()
    };
    let lease = store.lease(&content).unwrap();
    let mut plan = collect(&store, everything_old).unwrap();
    plan.remove.sort();
    assert_eq!((plan.remove, plan.remove_views.len()), (vec![path(0), path(3)], 0));
    lease.end().unwrap();
    let plan = collect(&store, everything_old).unwrap();
    assert_eq!((plan.remove.len(), plan.remove_views.len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_finds_one_flipped_bit_and_everything_else_that_is_wrong() {
    let (cache, folder) = (SmallCache::new(8), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    assert!(verify(&store, 3, &|_| ()).unwrap().is_good());
    let layout = store.layout();
    let edit = |file: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(file).unwrap();
        change(&mut bytes);
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(file, bytes).unwrap();
    };
    edit(&layout.files(&path(0)).join("lib/data"), &|bytes| bytes[500] ^= 4);
    edit(&layout.files(&path(1)).join("lib/data"), &|bytes| bytes.push(1));
    fs::set_permissions(
        layout.files(&path(2)).join("lib/data"),
        fs::Permissions::from_mode(0o555),
    )
    .unwrap();
    fs::write(layout.layer(&path(3)).join("etc"), "planted").unwrap();
    edit(&layout.record(&path(4)), &|bytes| bytes[20] ^= 1);
    fs::rename(layout.layer(&path(5)), layout.store().join(path(77).hash())).unwrap();

    let found = verify(&store, 3, &|_| ()).unwrap();
    let corrupt: BTreeMap<_, _> = found
        .corrupt
        .iter()
        .map(|corrupt| (&corrupt.path, &corrupt.fault))
        .collect();
    assert!(matches!(corrupt[&path(0)], Fault::Hash { .. }), "{corrupt:?}");
    assert!(matches!(corrupt[&path(1)], Fault::Hash { .. }), "{corrupt:?}");
    assert!(matches!(corrupt[&path(2)], Fault::Hash { .. }), "{corrupt:?}");
    assert!(
        matches!(corrupt[&path(3)], Fault::Stranger { name } if name == "etc"),
        "{corrupt:?}"
    );
    assert_eq!((corrupt.len(), found.good), (4, 2));
    assert!(
        matches!(&found.bad_records[..], [StoreError::BadRecord { path: file, .. }] if *file == layout.record(&path(4)))
    );
    assert_eq!(
        (found.missing, found.extra),
        (vec![path(5)], vec![path(77).hash().to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_a_damaged_record_is_replaced_only_when_no_view_has_it() {
    let (cache, folder) = (SmallCache::new(3), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    let layout = store.layout();
    let inode = || fs::metadata(layout.files(&path(1))).unwrap().ino();
    let digest: ViewDigest = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let paths: BTreeSet<StorePath> = [path(1), path(2)].into();
    let lease = |view| LeaseContent {
        view,
        paths: paths.clone(),
        ..LeaseContent::default()
    };
    let volume = layout.volumes().join("one.json");
    let publish = || {
        let record = serde_json::json!({ "paths": &paths }).to_string();
        fs::create_dir_all(layout.view(&digest)).unwrap();
        fs::write(layout.view_record(&digest), record).unwrap();
        fs::write(&volume, format!("{{\"view\":\"{digest}\"}}")).unwrap();
    };
    for (case, leased, published) in [
        ("a lease on a view", Some(lease(Some(digest.clone()))), false),
        ("a published view", None, true),
    ] {
        // Of what another fetch leased, nobody reads anything yet.
        let _fetching = store.lease(&lease(None)).unwrap();
        let held = leased.map(|content| store.lease(&content).unwrap());
        if published {
            publish();
        }
        let before = inode();
        fs::write(layout.record(&path(1)), "damaged").unwrap();
        let refused = fetch(&cache, &store).await.unwrap_err();
        assert!(
            matches!(&refused, FetchError::Refused(FetchRefusal::InUse { path: found }) if *found == path(1)),
            "{case}: {refused:?}"
        );
        assert_eq!(inode(), before, "{case}");
        assert!(names(&layout.staging()).is_empty(), "{case}");
        drop(held);
        let _published = fs::remove_file(&volume).is_ok();
        assert_eq!(fetch(&cache, &store).await.unwrap().paths, 1, "{case}");
        assert_ne!(inode(), before, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_beside_a_running_fetch_finds_nothing_wrong() {
    const PATHS: usize = 60;
    let (cache, folder) = (SmallCache::new(PATHS), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut seen = BTreeSet::new();
    // Until one came in the middle: between two commits of a fetch.
    while !seen.iter().any(|good| (1..PATHS).contains(good)) {
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        collect(&store, everything_old).unwrap();
        let mut fetching = std::pin::pin!(fetch(&cache, &store));
        loop {
            let looking = store.clone();
            let verifying = tokio::task::spawn_blocking(move || verify(&looking, 1, &|_| ()).unwrap());
            let (fetched, verified) = tokio::select! {
                fetched = &mut fetching => (Some(fetched.unwrap()), None),
                verified = verifying => (None, Some(verified.unwrap())),
            };
            if let Some(verified) = verified {
                assert!(verified.is_good(), "{verified:?}");
                seen.insert(verified.good);
            }
            if let Some(fetched) = fetched {
                assert_eq!(fetched.paths, PATHS as u64);
                break;
            }
        }
    }
    assert_clean(&store, &cache.paths);
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_proves_nothing_to_those_who_trust_other_keys() {
    let (cache, folder) = (SmallCache::new(1), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    fetch(&cache, &store).await.unwrap();
    assert_eq!(
        store.verified(&path(0), &key_ring("small-1")).unwrap().signed_by(),
        ["small-1"]
    );
    assert!(store.verified(&path(0), &key_ring("other-1")).is_none());
    assert!(store.verified(&path(1), &key_ring("small-1")).is_none());
}

#[test]
fn a_state_folder_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        NodeStore::open(&state),
        Err(StoreError::WritableByOthers { .. })
    ));
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    NodeStore::open(&state).unwrap();
    assert_eq!(
        fs::metadata(&state).unwrap().mode() & 0o777,
        0o700,
        "a narrow folder is not widened"
    );
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(NodeStore::open(&file).is_err());
}
