//! A fetch killed at a hundred random moments, and the disk it writes to running full.
//! Never looks at what is left through anything that would tidy up first.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use binary_cache::{compression::Compression, narinfo::NarInfo};
use crds::domain::store_path::StorePath;
use e2e::{
    made_up::{self, Closure},
    programs::{self, ended},
    server::Server,
    skip,
};
use node_agent::{
    act::{
        enter,
        fetch::{FetchError, FetchProgress, Fetched, Fetcher},
        verify::verify,
    },
    plan::fetch::{self as plan_fetch, FetchRefusal, Space, Wanted},
    store::NodeStore,
};

const KILLS: usize = 100;
/// Bytes per second and connection: slow enough that a kill finds a fetch at work.
const RATE: u64 = 3 << 20;

/// What is to be fetched, from where to where.
#[derive(Clone)]
struct Instructions {
    state: String,
    narinfos: String,
    nars: String,
    root: StorePath,
}

/// Fetches as told; `room` overrides what the disk says it has.
fn fetch(told: &Instructions, room: Option<u64>) -> Result<Fetched, FetchError> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = NodeStore::open(Path::new(&told.state))?;
        let narinfos = made_up::substituter(&told.narinfos).unwrap();
        let closure = narinfos
            .closure(std::slice::from_ref(&told.root), &|_| None)
            .await
            .unwrap()
            .paths;
        let present = store.present(closure.iter().map(|narinfo| narinfo.store_path()));
        let space = Space {
            free: room.map_or_else(|| store.free_bytes(), Ok)?,
            freeable: 0,
        };
        let wanted = closure.iter().map(|narinfo| Wanted::from(narinfo.as_ref()));
        let plan = plan_fetch::plan(wanted, &present, space)?;
        let fetcher = Fetcher {
            store,
            caches: made_up::substituter(&told.nars).unwrap(),
            parallel: 8,
        };
        fetcher
            .fetch(&plan, &closure, &Arc::new(FetchProgress::default()))
            .await
    })
}

/// `node-agent fetch` of the closure, as its user starts it.
fn program(state: &Path, server: &Server, closure: &Closure) -> Command {
    let mut fetch = Command::new(programs::node_agent().unwrap());
    let key = made_up::key().unwrap().public_key().to_string();
    fetch.args([
        "--output",
        "json",
        "fetch",
        "--cache",
        &server.url(),
        "--public-key",
        &key,
    ]);
    fetch.args(["--progress", "none", "--state"]).arg(state);
    fetch.arg(closure.root().to_string());
    fetch
}

/// The complete store paths, with the inode of each.
fn complete(store: &NodeStore) -> BTreeMap<StorePath, u64> {
    let inode = |path: &StorePath| fs::symlink_metadata(store.layout().files(path)).unwrap().ino();
    store
        .records()
        .unwrap()
        .into_iter()
        .map(|record| (record.path().clone(), inode(record.path())))
        .collect()
}

/// What is there without opening the store anew, which would sweep it.
fn look(state: &Path) -> Option<NodeStore> {
    state.join("staging").exists().then(|| NodeStore::at(state))
}

/// The URL path of every archive, and whose it is.
fn archives(narinfos: &[NarInfo]) -> BTreeMap<String, StorePath> {
    let archive = |narinfo: &NarInfo| {
        let fields = narinfo.fields();
        (format!("/{}", fields.download.url), fields.store_path.clone())
    };
    narinfos.iter().map(archive).collect()
}

#[test]
fn killed_at_a_hundred_random_moments_the_program_loses_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let closure = Closure::new("killed", 60, 100_000).unwrap();
    let cache = folder.path().join("cache");
    let nars = archives(&closure.cache(&cache, Compression::None).unwrap());
    let (mut kills, mut rounds, mut random) = (0, 0, 0x2545_f491_4f6c_dd1d_u64);
    let mut killed_at = BTreeSet::new();
    while kills < KILLS {
        let state = folder.path().join(format!("state-{rounds}"));
        let mut before = BTreeMap::new();
        while before.len() < closure.members().len() && kills < KILLS {
            // A server for each try: what one is asked is not mixed up with late entries of the one before.
            let server = Server::start_at_rate(&cache, Some(RATE)).unwrap();
            let mut fetch = program(&state, &server, &closure);
            let mut child = fetch.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(5 + next(&mut random) % 700));
            let ended = child.try_wait().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(
                ended.is_none_or(|status| status.success()),
                "the fetch failed by itself: {ended:?}"
            );
            kills += usize::from(ended.is_none());
            let Some(store) = look(&state) else { continue };
            let after = complete(&store);
            check_no_layer_is_half(&store, &closure);
            check_nothing_was_lost(&store, &before, &after);
            check_nothing_was_fetched_again(&server, &nars, &before);
            killed_at.insert(after.len());
            before = after;
        }
        let server = Server::start_at_rate(&cache, Some(RATE)).unwrap();
        let ended = ended(&mut program(&state, &server, &closure)).unwrap();
        assert_eq!(ended.code, 0, "{ended:?}");
        let missing = closure.members().len() - before.len();
        assert_eq!(ended.json().unwrap()["fetchedPaths"], missing, "{ended:?}");
        check_nothing_was_fetched_again(&server, &nars, &before);
        check_end(&state, &closure);
        rounds += 1;
    }
    assert!(rounds >= 2, "a round that ends well comes between kills");
    assert!(killed_at.len() > 3, "the moments were alike: {killed_at:?}");
}

/// A step of xorshift: the same moments in every run.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Whatever has its final name is whole, also where the kill came before its record.
fn check_no_layer_is_half(store: &NodeStore, closure: &Closure) {
    for entry in fs::read_dir(store.layout().store()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let member = closure.members().iter().find(|member| member.path.hash() == name);
        let member = member.ok_or_else(|| format!("{name} is nobody's")).unwrap();
        member.check(&store.layout().files(&member.path)).unwrap();
    }
}

fn check_nothing_was_lost(store: &NodeStore, before: &BTreeMap<StorePath, u64>, after: &BTreeMap<StorePath, u64>) {
    for (path, inode) in before {
        assert_eq!(after.get(path), Some(inode), "{path} was complete before the kill");
    }
    let verified = verify(store, 2, &|_| ()).unwrap();
    assert!(
        verified.corrupt.is_empty() && verified.missing.is_empty() && verified.bad_records.is_empty(),
        "{verified:?}"
    );
    assert_eq!(verified.good, after.len());
}

fn check_nothing_was_fetched_again(
    server: &Server,
    nars: &BTreeMap<String, StorePath>,
    had: &BTreeMap<StorePath, u64>,
) {
    let asked: BTreeSet<StorePath> = server
        .log()
        .iter()
        .filter_map(|access| nars.get(&access.path))
        .cloned()
        .collect();
    let again: Vec<_> = asked.iter().filter(|path| had.contains_key(*path)).collect();
    assert!(again.is_empty(), "complete, yet fetched again: {again:?}");
}

fn check_end(state: &Path, closure: &Closure) {
    let store = NodeStore::at(state);
    let verified = verify(&store, 2, &|_| ()).unwrap();
    assert!(verified.is_good(), "{verified:?}");
    assert_eq!(verified.good, closure.members().len());
    let layout = store.layout();
    for folder in [layout.staging(), layout.leases(), layout.views()] {
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{}", folder.display());
    }
    assert_eq!(
        fs::read_dir(store.layout().store()).unwrap().count(),
        closure.members().len()
    );
    assert_eq!(
        fs::read_dir(store.layout().meta()).unwrap().count(),
        closure.members().len()
    );
    for member in closure.members() {
        member.check(&store.layout().files(&member.path)).unwrap();
    }
}

/// Runs a command to its end.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A small ext4 of its own, with so many inodes, mounted in this thread's mount namespace.
fn small_disk(folder: &Path, megabytes: u64, inodes: u64) -> std::path::PathBuf {
    let (image, disk) = (folder.join("image"), folder.join("disk"));
    fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    let inodes = inodes.to_string();
    run(
        "mkfs.ext4",
        &["-q", "-b", "4096", "-m", "0", "-N", &inodes, image.to_str().unwrap()],
    );
    fs::create_dir(&disk).unwrap();
    run(
        "mount",
        &["-o", "loop", image.to_str().unwrap(), disk.to_str().unwrap()],
    );
    disk
}

#[test]
fn a_disk_that_runs_full_is_named_and_the_fetch_ends_well_once_there_is_room() {
    if skip::without("fetching to a full disk", skip::root()).is_none() {
        return;
    }
    // Many tiny files: each takes a block and an inode, of which NarSize says nothing. First blocks run out, then inodes.
    for (inodes, what) in [(20_000, "blocks"), (900, "inodes")] {
        let inside = move || {
            enter::private_namespace().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let closure = Closure::with_files("full", 12, 250, 1).unwrap();
            let cache = folder.path().join("cache");
            closure.cache(&cache, Compression::None).unwrap();
            let disk = small_disk(folder.path(), 40, inodes);
            let filler = disk.join("filler");
            if what == "blocks" {
                fs::write(&filler, vec![1; 24 << 20]).unwrap();
            }
            let url = format!("file://{}", cache.display());
            let state = disk.join("state").display().to_string();
            let told = Instructions {
                state,
                narinfos: url.clone(),
                nars: url,
                root: closure.root().clone(),
            };
            let error = fetch(&told, None).unwrap_err();
            assert!(matches!(error, FetchError::DiskFull { .. }), "{what}: {error:?}");
            let store = NodeStore::at(Path::new(&told.state));
            assert_eq!(
                fs::read_dir(store.layout().staging()).unwrap().count(),
                0,
                "{what}: garbage in staging"
            );
            let verified = verify(&store, 2, &|_| ()).unwrap();
            assert!(verified.is_good() && verified.good < 12, "{what}: {verified:?}");
            if what == "blocks" {
                fs::remove_file(&filler).unwrap();
                let fetched = fetch(&told, None).unwrap();
                assert_eq!(fetched.paths, 12 - u64::try_from(verified.good).unwrap());
                check_end(Path::new(&told.state), &closure);
            }
            run("umount", &[disk.to_str().unwrap()]);
        };
        std::thread::spawn(inside).join().unwrap();
    }
}

#[test]
fn room_is_taken_before_the_first_byte_and_refused_in_figures() {
    if skip::without("reserving room on a small disk", skip::root()).is_none() {
        return;
    }
    let inside = || {
        enter::private_namespace().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let closure = Closure::new("large", 3, 20 << 20).unwrap();
        let cache = folder.path().join("cache");
        closure.cache(&cache, Compression::None).unwrap();
        let disk = small_disk(folder.path(), 40, 1000);
        let server = Server::start(&cache).unwrap();
        let state = disk.join("state").display().to_string();
        let narinfos = format!("file://{}", cache.display());
        let told = Instructions {
            state,
            narinfos,
            nars: server.url(),
            root: closure.root().clone(),
        };
        // As the disk says, and as it was before somebody else filled it.
        for room in [None, Some(u64::MAX)] {
            let error = fetch(&told, room).unwrap_err();
            let FetchError::Refused(FetchRefusal::InsufficientDisk { needed, free, .. }) = error else {
                panic!("{error:?}")
            };
            assert!(needed > 60 << 20 && free < 40 << 20, "{needed} {free}");
            let store = NodeStore::at(Path::new(&told.state));
            assert_eq!(fs::read_dir(store.layout().staging()).unwrap().count(), 0);
            assert!(store.free_bytes().unwrap() > 30 << 20, "the reservation was given back");
        }
        assert!(server.log().is_empty(), "nothing may be asked for before there is room");
        run("umount", &[disk.to_str().unwrap()]);
    };
    std::thread::spawn(inside).join().unwrap();
}
