//! Garbage collection beside real mounts and real processes: what somebody can read stays, the rest goes, space returns.
//! Each test works in a mount namespace of its own thread, which takes every mount with it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crds::domain::store_path::StorePath;
use e2e::{documents, made_up::Closure, parts, skip, stage::Stage};
use node_agent::{
    act::{collect::collect, enter, view},
    plan::{
        collect::{self as plan_collect, CollectPlan, CollectPolicy, Kept},
        view::{ViewPlan, plan},
    },
    snapshot::{
        store::StoreState,
        view::{ViewKind, ViewRequest},
    },
    store::NodeStore,
};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Everything may go that nothing holds.
fn greedy(state: &StoreState) -> CollectPlan {
    let policy = CollectPolicy {
        high: 0,
        low: 0,
        grace: Duration::from_secs(60),
        pinned: BTreeSet::new(),
    };
    plan_collect::plan(state, &policy, at(1 << 40))
}

fn view_of(closure: &Closure, kind: ViewKind) -> ViewPlan {
    plan(ViewRequest {
        kind,
        paths: closure.paths().cloned().collect(),
        packages: BTreeMap::from([("cuda".to_owned(), closure.root().clone())]),
        bridge: None,
        cudaenv_json: "{}".to_owned(),
        selinux_label: None,
    })
    .unwrap()
}

fn privately(what: &str, check: impl FnOnce() + Send) {
    if skip::without(what, skip::root()).is_none() {
        return;
    }
    std::thread::scope(|scope| {
        let inside = || {
            enter::private_namespace().unwrap();
            check();
        };
        scope.spawn(inside).join().unwrap();
    });
}

fn paths(closures: &[&Closure]) -> BTreeSet<StorePath> {
    closures.iter().flat_map(|closure| closure.paths()).cloned().collect()
}

fn here(store: &NodeStore) -> BTreeSet<StorePath> {
    store
        .records()
        .unwrap()
        .iter()
        .map(|record| record.path().clone())
        .collect()
}

fn check(closure: &Closure, at: &Path) {
    for member in closure.members() {
        member
            .check(&at.join("nix/store").join(member.path.base_name()))
            .unwrap();
    }
}

#[test]
fn what_is_mounted_or_published_stays_until_it_is_not() {
    privately("collection beside mounted views", || {
        let folder = tempfile::tempdir().unwrap();
        let store = NodeStore::open(&folder.path().join("state")).unwrap();
        let [mounted, published, plain, unused] =
            ["mounted", "published", "plain", "unused"].map(|name| Closure::new(name, 8, 10).unwrap());
        for closure in [&mounted, &published, &plain, &unused] {
            closure.commit(&store).unwrap();
        }
        let views = [
            (&mounted, ViewKind::Overlay),
            (&published, ViewKind::Overlay),
            (&plain, ViewKind::Plain),
        ]
        .map(|(closure, kind)| view_of(closure, kind));
        for view in &views {
            view::build(view, &store, at(100)).unwrap();
            view::mount(view, &store).unwrap();
        }
        let home = |view: &ViewPlan| store.layout().view_mount(&view.digest, view.kind);
        // Published, its own mount gone, as after the agent's restart.
        let target = folder.path().join("pod");
        let volume = store.layout().volumes().join("v1.json");
        fs::write(
            &volume,
            format!("{{\"view\":\"{}\",\"target\":\"pod\"}}", views[1].digest),
        )
        .unwrap();
        let place = view::Target::below(folder.path(), &target).unwrap();
        view::publish(&views[1].digest, views[1].kind, &store, &place).unwrap();
        view::unmount_view(&views[1].digest, &store).unwrap();

        let plan = collect(&store, greedy).unwrap();
        assert_eq!(here(&store), paths(&[&mounted, &published, &plain]));
        assert_eq!((plan.remove.len(), plan.kept[&Kept::InUse]), (8, 24));
        check(&mounted, &home(&views[0]));
        check(&published, &target);
        check(&plain, &home(&views[2]));

        view::unmount_view(&views[0].digest, &store).unwrap();
        view::unmount_view(&views[2].digest, &store).unwrap();
        view::unpublish(&place).unwrap();
        fs::remove_file(&volume).unwrap();
        let plan = collect(&store, greedy).unwrap();
        assert_eq!((plan.remove.len(), plan.remove_views.len()), (24, 3));
        assert!(here(&store).is_empty());
        for folder in [store.layout().store(), store.layout().views(), store.layout().staging()] {
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{}", folder.display());
        }
    });
}

#[test]
fn space_returns_also_where_a_plain_view_had_the_files_under_a_second_name() {
    privately("collection and free space", || {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &disk, "tmpfs", flags, c"size=64m").unwrap();
        let store = NodeStore::open(&disk.join("state")).unwrap();
        let empty = store.free_bytes().unwrap();
        let closure = Closure::new("large", 10, 2 << 20).unwrap();
        closure.commit(&store).unwrap();
        view::build(&view_of(&closure, ViewKind::Plain), &store, at(100)).unwrap();
        assert!(empty - store.free_bytes().unwrap() > 15 << 20);
        let plan = collect(&store, greedy).unwrap();
        assert!(plan.freed_bytes > 15 << 20);
        assert!(
            empty - store.free_bytes().unwrap() < 1 << 20,
            "the hard links held on to the space"
        );
    });
}

#[test]
fn a_lease_lives_as_long_as_the_program_that_run_became() {
    let what = "a running program keeps its closure";
    let set = || {
        skip::without(what, skip::root())?;
        let driver = skip::without(what, parts::drivers())?.swap_remove(3);
        let toolkits = skip::without(what, parts::toolkits())?;
        let stage = skip::without(what, Stage::new(&toolkits[..1], |_, _| Ok(())))?;
        Some((driver, stage))
    };
    let Some((driver, stage)) = set() else { return };
    let closure = &stage.closures[0];
    let variant = documents::variant("cu", &closure.toolkit.cuda, &closure.environment);
    let environment = stage
        .environment("cuda", &[documents::package("cuda", &[variant])])
        .unwrap();
    let (node, state) = (stage.node(&driver).unwrap(), stage.state("leased"));
    let mut run = stage.run(&environment, &node, &state).unwrap();
    run.arg("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = run.spawn().unwrap();
    let name = format!("/proc/{}/comm", child.id());
    let became_cat = (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        fs::read_to_string(&name).is_ok_and(|name| name == "cat\n")
    });
    let store = NodeStore::at(&state.canonicalize().unwrap());
    let held = here(&store);
    let plan = collect(&store, greedy).unwrap();
    let left = here(&store);
    // Killed, not ended: nobody tidies up after it.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(became_cat && held.len() > 1, "{} paths", held.len());
    assert_eq!((plan.remove.len(), plan.kept.get(&Kept::InUse)), (0, Some(&held.len())));
    assert_eq!(left, held);
    assert_eq!(collect(&store, greedy).unwrap().remove.len(), held.len());
    assert!(here(&store).is_empty());
    assert_eq!(fs::read_dir(store.layout().leases()).unwrap().count(), 0);
}
