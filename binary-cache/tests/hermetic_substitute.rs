//! Which cache is asked, when, and how often: order, mirrors, memories, resting caches, verdicts.
//! Never leaves this machine; time is turned by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "support/fixture.rs"]
mod fixture;
#[path = "support/server.rs"]
mod server;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use binary_cache::{
    cache::ConfigError,
    compression::Compression,
    key::{KeyRing, SecretKey},
    options::{Clock, Options},
    substitute::{SetupError, Substituter, Target},
};
use fixture::{Bench, Files, Fixture, bare_narinfo, cache, quick};
use server::{Server, Then};
use url::Url;

/// A clock that stands until it is turned.
#[derive(Clone)]
struct Hand(Arc<Mutex<std::time::Instant>>);

impl Hand {
    fn new() -> (Self, Clock) {
        let hand = Self(Arc::new(Mutex::new(tokio::time::Instant::now().into_std())));
        let read = hand.clone();
        (hand, Clock::new(move || *read.0.lock().unwrap()))
    }

    fn turn(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

fn serving(files: &Files) -> Server {
    let files = files.clone();
    Server::start(move |asked, conn| files.serve(asked, conn))
}

fn empty(priority: &str) -> Server {
    let mut files = Files::default();
    files.0.insert(
        "/nix-cache-info".to_owned(),
        format!("StoreDir: /nix/store\n{priority}").into_bytes(),
    );
    serving(&files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_are_asked_by_priority_mirrors_before_the_cache_itself() {
    let fixture = Fixture::new("ordered", 1000, Compression::None);
    let (ten, forty, none) = (empty("Priority: 10\n"), empty("Priority: 40\n"), empty(""));
    let (mirror, holder) = (empty(""), serving(&fixture.files));
    let mut with_mirror = cache("mirrored", &holder.url(), Some(60));
    with_mirror.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    let configs = vec![
        with_mirror,
        cache("none", &none.url(), None),
        cache("forty", &forty.url(), None),
        cache("ten", &ten.url(), None),
        cache("twenty", &forty.url(), Some(20)),
    ];
    let from = Substituter::new(configs, quick()).unwrap();
    let found = from.lookup(&fixture.path).await.unwrap();
    assert_eq!((found.cache.as_str(), found.url), ("mirrored", holder.url()));
    let missing = Fixture::new("missing", 1000, Compression::None);
    let error = from.lookup(&missing.path).await.unwrap_err();
    let order: Vec<(&str, &str)> = error
        .asked()
        .iter()
        .map(|a| (a.cache.as_str(), a.url.as_str()))
        .collect();
    let (m, h) = (mirror.url(), holder.url());
    assert_eq!(
        order.iter().map(|(c, _)| *c).collect::<Vec<_>>(),
        ["ten", "twenty", "forty", "none", "mirrored", "mirrored"]
    );
    assert_eq!((order[4].1, order[5].1), (m.as_str(), h.as_str()));
    assert!(format!("{error:?}").starts_with("NotInAnyCache"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_is_not_asked_again_and_what_was_absent_is_seen_after_its_time() {
    let fixture = Fixture::new("late", 1000, Compression::None);
    let uploaded = Arc::new(AtomicBool::new(false));
    let (files, there, narinfo) = (fixture.files.clone(), uploaded.clone(), fixture.narinfo_path.clone());
    let server = Server::start(move |asked, conn| {
        if asked.path == narinfo && !there.load(Ordering::Relaxed) {
            conn.reply(404, &[], b"");
            return Then::Keep;
        }
        files.serve(asked, conn)
    });
    let (hand, clock) = Hand::new();
    let options = Options { clock, ..quick() };
    let (absent_ttl, found_ttl) = (options.absent_ttl, options.found_ttl);
    let from = Substituter::new(vec![cache("c", &server.url(), None)], options).unwrap();
    for _ in 0..3 {
        from.lookup(&fixture.path).await.unwrap_err();
    }
    assert_eq!(server.count(".narinfo"), 1, "absence is remembered");
    uploaded.store(true, Ordering::Relaxed);
    hand.turn(absent_ttl - Duration::from_secs(1));
    from.lookup(&fixture.path).await.unwrap_err();
    hand.turn(Duration::from_secs(1));
    for _ in 0..3 {
        from.lookup(&fixture.path).await.unwrap();
    }
    assert_eq!(
        server.count(".narinfo"),
        2,
        "and forgotten in time; presence is remembered longer"
    );
    hand.turn(found_ttl);
    from.lookup(&fixture.path).await.unwrap();
    assert_eq!(server.count(".narinfo"), 3);
    assert_eq!(server.count("nix-cache-info"), 2, "asked again after its own time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_piece_of_work_shares_what_was_found_and_asks_again_for_what_was_not() {
    let (found, late) = (
        Fixture::new("found", 1000, Compression::None),
        Fixture::new("late", 1000, Compression::None),
    );
    let uploaded = Arc::new(AtomicBool::new(false));
    let mut files = found.files.clone();
    files.0.extend(late.files.0.clone());
    let (there, narinfo) = (uploaded.clone(), late.narinfo_path.clone());
    let server = Server::start(move |asked, conn| {
        if asked.path == narinfo && !there.load(Ordering::Relaxed) {
            conn.reply(503, &[], b"");
            return Then::Keep;
        }
        files.serve(asked, conn)
    });
    let (_hand, clock) = Hand::new();
    let options = Options { clock, ..quick() };
    let first = Substituter::new(vec![cache("c", &server.url(), None)], options).unwrap();
    first.lookup(&found.path).await.unwrap();
    first.lookup(&late.path).await.unwrap_err();
    while !first.health()[0].resting {
        first.lookup(&late.path).await.unwrap_err();
    }
    uploaded.store(true, Ordering::Relaxed);
    let (narinfos, infos) = (server.count(".narinfo"), server.count("nix-cache-info"));
    let second = first.renewed();
    assert!(
        !second.health()[0].resting,
        "whoever tries again wants to know how it is now"
    );
    second.lookup(&found.path).await.unwrap();
    assert_eq!(server.count(".narinfo"), narinfos);
    second.lookup(&late.path).await.unwrap();
    assert_eq!(server.count(".narinfo"), narinfos + 1);
    // Whatever one finds, the other knows.
    first.lookup(&late.path).await.unwrap();
    assert_eq!(
        (server.count(".narinfo"), server.count("nix-cache-info")),
        (narinfos + 1, infos)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_nix_cache_info_is_seen_in_time_and_another_store_directory_ends_the_trust() {
    let fixture = Fixture::new("moved", 1000, Compression::None);
    let text = Arc::new(Mutex::new("StoreDir: /nix/store\nPriority: 10\n"));
    let (files, says) = (fixture.files.clone(), text.clone());
    let changing = Server::start(move |asked, conn| {
        if asked.path == "/nix-cache-info" {
            conn.reply(200, &[], says.lock().unwrap().as_bytes());
            return Then::Keep;
        }
        files.serve(asked, conn)
    });
    let steady = serving(&fixture.files);
    let (hand, clock) = Hand::new();
    let options = Options { clock, ..quick() };
    let (info_ttl, found_ttl, rest) = (options.cache_info_ttl, options.found_ttl, options.rest);
    let from = Substituter::new(
        vec![
            cache("changing", &changing.url(), None),
            cache("steady", &steady.url(), Some(30)),
        ],
        options,
    )
    .unwrap();
    assert_eq!(from.lookup(&fixture.path).await.unwrap().cache, "changing");
    *text.lock().unwrap() = "StoreDir: /nix/store\nPriority: 50\n";
    hand.turn(info_ttl.max(found_ttl));
    assert_eq!(
        from.lookup(&fixture.path).await.unwrap().cache,
        "steady",
        "the new priority counts"
    );
    *text.lock().unwrap() = "StoreDir: /gnu/store\nPriority: 1\n";
    hand.turn(info_ttl.max(found_ttl) + rest);
    assert_eq!(
        from.lookup(&fixture.path).await.unwrap().cache,
        "steady",
        "a cache of another store is not asked"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_fails_again_and_again_rests_and_is_tried_again_later() {
    let paths: Vec<Fixture> = (0..8)
        .map(|i| Fixture::new(&format!("p{i}"), 1000, Compression::None))
        .collect();
    let mut files = Files::default();
    for fixture in &paths {
        files.0.extend(fixture.files.0.clone());
    }
    let healthy = Arc::new(AtomicBool::new(false));
    let (good_files, well) = (files.clone(), healthy.clone());
    let flaky = Server::start(move |asked, conn| {
        if asked.path.ends_with(".narinfo") && !well.load(Ordering::Relaxed) {
            conn.reply(503, &[], b"");
            return Then::Keep;
        }
        good_files.serve(asked, conn)
    });
    let steady = serving(&files);
    let (hand, clock) = Hand::new();
    let options = Options { clock, ..quick() };
    let (rest, strikes) = (options.rest, options.strikes as usize);
    let from = Substituter::new(
        vec![
            cache("flaky", &flaky.url(), Some(1)),
            cache("steady", &steady.url(), Some(2)),
        ],
        options,
    )
    .unwrap();
    for fixture in &paths[..6] {
        assert_eq!(from.lookup(&fixture.path).await.unwrap().cache, "steady");
    }
    assert_eq!(flaky.count(".narinfo"), strikes, "after that it rests");
    assert!(from.health()[0].resting);
    healthy.store(true, Ordering::Relaxed);
    hand.turn(rest);
    assert_eq!(
        from.lookup(&paths[6].path).await.unwrap().cache,
        "flaky",
        "and is asked again"
    );
    assert!(!from.health()[0].resting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_never_answers_delays_a_whole_level_once() {
    let paths: Vec<_> = (0..40)
        .map(|i| Fixture::new(&format!("q{i}"), 100, Compression::None))
        .collect();
    let mut files = Files::default();
    for fixture in &paths {
        files.0.extend(fixture.files.0.clone());
    }
    let silent = Server::start(|_, conn| {
        conn.hang();
        Then::Close
    });
    let good = serving(&files);
    let configs = vec![
        cache("silent", &silent.url(), Some(1)),
        cache("good", &good.url(), Some(2)),
    ];
    let from = Substituter::new(configs, quick()).unwrap();
    let roots: Vec<_> = paths.iter().map(|f| f.path.clone()).collect();
    let start = tokio::time::Instant::now();
    let closure = from.closure(&roots, &|_| None).await.unwrap();
    assert_eq!(closure.paths.len(), 40);
    assert!(
        start.elapsed() < 8 * quick().first_byte_timeout,
        "{:?}",
        start.elapsed()
    );
    assert!(silent.asked().len() <= 2, "{}", silent.asked().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_mirror_is_continued_at_the_next_without_starting_over() {
    let fixture = Arc::new(Fixture::new("continued", 300_000, Compression::None));
    let (f, half) = (fixture.clone(), fixture.nar().len() / 2);
    let mirror = Server::start(move |asked, conn| {
        if asked.path != f.nar_path {
            return f.files.serve(asked, conn);
        }
        conn.raw(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", f.nar().len()).as_bytes());
        conn.raw(&f.nar()[..half]);
        Then::Close
    });
    let main = serving(&fixture.files);
    let mut config = cache("c", &main.url(), None);
    config.mirrors = vec![Url::parse(&mirror.url()).unwrap()];
    let bench = Bench::new();
    bench
        .get(&Substituter::new(vec![config], quick()).unwrap(), &fixture.path)
        .await
        .unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);
    assert_eq!(
        bench.counters.downloaded.load(Ordering::Relaxed),
        fixture.nar().len() as u64
    );
    let continued = main.asked().into_iter().find(|a| a.path == fixture.nar_path).unwrap();
    assert_eq!(continued.from(), Some(half));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_nobody_trusts_is_named_and_does_not_hide_a_good_one() {
    let fixture = Fixture::new("signed", 1000, Compression::None);
    let server = serving(&fixture.files);
    let stranger = SecretKey::from_seed("stranger-1", &[9; 32]).unwrap();
    let impostor = SecretKey::from_seed(fixture::KEY_NAME, &[9; 32]).unwrap();
    let config = |name: &str, key: &SecretKey, priority| {
        let mut config = cache(name, &server.url(), Some(priority));
        config.keys = KeyRing::new(vec![key.public_key()]).unwrap();
        config
    };
    for key in [&stranger, &impostor] {
        let from = Substituter::new(vec![config("strict", key, 1)], quick()).unwrap();
        let error = from.lookup(&fixture.path).await.unwrap_err();
        assert!(format!("{error:?}").starts_with("SignatureUntrusted"), "{error:?}");
        assert!(error.to_string().contains(fixture::KEY_NAME), "{error}");
    }
    assert_eq!(server.count(".nar"), 0, "nothing is downloaded before a good signature");
    let both = vec![
        config("strict", &stranger, 1),
        config("trusting", &fixture::secret_key(), 2),
    ];
    let found = Substituter::new(both, quick())
        .unwrap()
        .lookup(&fixture.path)
        .await
        .unwrap();
    assert_eq!(
        (found.cache.as_str(), found.narinfo.signed_by()),
        ("trusting", &[fixture::KEY_NAME.to_owned()][..])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cache_may_not_slip_in_other_references() {
    let fixture = Fixture::new("swapped", 50_000, Compression::None);
    let mut corrupt = fixture.files.clone();
    // An archive that decodes: one that does not is given up somewhere on the way, before or after its hash is known.
    let mut flipped = fixture.nar().to_vec();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    corrupt.0.insert(fixture.nar_path.clone(), flipped);
    let mut swapped = fixture.files.clone();
    let other = bare_narinfo(&fixture.path, vec![fixture.path.clone()]);
    swapped
        .0
        .insert(fixture.narinfo_path.clone(), other.to_text().as_bytes().to_vec());
    let (corrupt, swapped) = (serving(&corrupt), serving(&swapped));
    let configs = vec![
        cache("corrupt", &corrupt.url(), Some(1)),
        cache("swapped", &swapped.url(), Some(2)),
    ];
    let bench = Bench::new();
    let error = bench
        .get(&Substituter::new(configs, quick()).unwrap(), &fixture.path)
        .await
        .unwrap_err();
    let faults: Vec<String> = error.asked().iter().map(|a| format!("{:?}", a.fault)).collect();
    assert!(
        faults[0].starts_with("Nar(HashMismatch") && faults[1].starts_with("OtherReferences"),
        "{faults:?}"
    );
    assert!(bench.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reused_and_a_folder_is_a_cache_too() {
    let fixture = Fixture::new("reused", 300_000, Compression::Zstd);
    let server = serving(&fixture.files);
    let from = Substituter::new(vec![cache("c", &server.url(), None)], quick()).unwrap();
    for _ in 0..10 {
        Bench::new().get(&from, &fixture.path).await.unwrap();
    }
    // A connection is free again a moment after its last byte was read: now and then the next request comes before that.
    let (connections, asked) = (server.connections(), server.asked().len());
    assert!(
        asked == 12 && connections <= 4,
        "{connections} connections for {asked} requests"
    );

    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in &fixture.files.0 {
        let place = dir.path().join(&path[1..]);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, bytes).unwrap();
    }
    let url = Url::from_file_path(dir.path()).unwrap();
    let bench = Bench::new();
    bench
        .get(
            &Substituter::new(vec![cache("f", url.as_str(), None)], quick()).unwrap(),
            &fixture.path,
        )
        .await
        .unwrap();
    assert_eq!(bench.unpacked().unwrap(), fixture.contents);
    std::fs::remove_file(dir.path().join(&fixture.nar_path[1..])).unwrap();
    let bench = Bench::new();
    let error = bench
        .get(
            &Substituter::new(vec![cache("f", url.as_str(), None)], quick()).unwrap(),
            &fixture.path,
        )
        .await;
    assert!(format!("{:?}", error.unwrap_err()).starts_with("NotInAnyCache"));
    assert!(bench.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_or_occupied_place_is_this_machines_fault_and_no_caches() {
    let fixture = Fixture::new("occupied", 1000, Compression::None);
    let (first, second) = (serving(&fixture.files), serving(&fixture.files));
    let configs = vec![cache("a", &first.url(), Some(1)), cache("b", &second.url(), Some(2))];
    let from = Substituter::new(configs, quick()).unwrap();
    let bench = Bench::new();
    let mut target = bench.target.clone();
    target.name = "missing-folder/out".into();
    let found = from.lookup(&fixture.path).await.unwrap();
    let error = from
        .substitute(&found.narinfo, &target, Arc::new(()))
        .await
        .unwrap_err();
    assert!(format!("{error:?}").starts_with("Local"), "{error:?}");
    assert!(error.disk().is_some());
    assert_eq!(second.asked().len(), 0, "no other cache can help");
    assert!(from.health().iter().all(|h| h.faults == 0));
}

/// Otherwise that would come out when the server speaks again, or when it is too slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_cannot_be_written_is_told_of_although_the_server_is_silent() {
    let fixture = Arc::new(Fixture::new("silent", 100_000, Compression::None));
    for name in ["missing-folder/out", "out"] {
        let (files, nar_path) = (fixture.files.clone(), fixture.nar_path.clone());
        let spoke = Arc::new(AtomicBool::new(false));
        let speaks = spoke.clone();
        let server = Server::start(move |asked, conn| {
            let Some(nar) = files.0.get(&asked.path).filter(|_| asked.path == nar_path) else {
                return files.serve(asked, conn);
            };
            conn.raw(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", nar.len()).as_bytes());
            conn.raw(&nar[..50_000]);
            conn.pause(4000);
            speaks.store(true, Ordering::SeqCst);
            conn.raw(&nar[50_000..]);
            Then::Keep
        });
        let bench = Bench::new();
        let target = Target {
            name: name.into(),
            ..bench.target.clone()
        };
        let patient = Options {
            patience: Duration::from_secs(60),
            ..Options::default()
        };
        let from = Substituter::new(vec![cache("silent", &server.url(), None)], patient).unwrap();
        let found = from.lookup(&fixture.path).await.unwrap();
        let result = from.substitute(&found.narinfo, &target, Arc::new(())).await;
        assert_eq!(spoke.load(Ordering::SeqCst), name == "out", "{result:?}");
        match name == "out" {
            false => {
                let error = result.unwrap_err();
                assert!(format!("{error:?}").starts_with("Local"), "{error:?}");
            }
            true => assert_eq!(bench.unpacked().unwrap(), fixture.contents),
        }
    }
}

#[test]
fn a_configuration_without_caches_or_with_a_name_twice_is_refused() {
    let error = |configs| match Substituter::new(configs, Options::default()) {
        Err(SetupError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error(Vec::new()), ConfigError::NoCaches);
    let twice = || cache("a", "http://127.0.0.1:1", None);
    assert_eq!(
        error(vec![twice(), twice()]),
        ConfigError::DuplicateName { cache: "a".to_owned() }
    );
    Substituter::new(vec![twice()], Options::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_is_asked_level_by_level_in_parallel() {
    // Three levels of 30 paths; each answer takes 50 ms, so one after the other would take 4.5 s.
    let paths: Vec<Vec<_>> = (0..3)
        .map(|level| {
            (0..30)
                .map(|i| Fixture::new(&format!("l{level}-{i}"), 10, Compression::None).path)
                .collect()
        })
        .collect();
    let mut files = Files::default();
    for level in 0..3 {
        for path in &paths[level] {
            let references = paths.get(level + 1).cloned().unwrap_or_default();
            files.0.insert(
                format!("/{}.narinfo", path.hash()),
                bare_narinfo(path, references).to_text().as_bytes().to_vec(),
            );
        }
    }
    let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (busy.clone(), most.clone());
    let server = Server::start(move |asked, conn| {
        peak.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        conn.pause(50);
        now.fetch_sub(1, Ordering::Relaxed);
        files.serve(asked, conn)
    });
    let options = Options {
        parallel_narinfos: 16,
        first_byte_timeout: Duration::from_secs(10),
        document_timeout: Duration::from_secs(20),
        ..quick()
    };
    let from = Substituter::new(vec![cache("c", &server.url(), None)], options).unwrap();
    let closure = from.closure(&paths[0], &|_| None).await.unwrap();
    assert_eq!(closure.paths.len(), 90);
    assert_eq!(server.count(".narinfo"), 90, "each narinfo once");
    assert!((8..=16).contains(&most.load(Ordering::Relaxed)), "{most:?}");
    from.closure(&paths[0], &|_| None).await.unwrap();
    assert_eq!(server.count(".narinfo"), 90, "and never again within its time to live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistyped_name_is_a_miss_that_tells_the_right_one_and_no_strike() {
    let fixture = Fixture::new("right-1.0", 1000, Compression::None);
    let server = serving(&fixture.files);
    let from = Substituter::new(vec![cache("c", &server.url(), None)], quick()).unwrap();
    let mistyped = format!("/nix/store/{}-wrong-1.0", fixture.path.hash()).parse().unwrap();
    for _ in 0..=quick().strikes {
        let error = from.lookup(&mistyped).await.unwrap_err();
        assert!(format!("{error:?}").starts_with("NotInAnyCache"), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("the cache has this hash under the name `right-1.0`"),
            "{text}"
        );
    }
    assert_eq!((from.health()[0].faults, from.health()[0].resting), (0, false));
    from.lookup(&fixture.path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_not_there_is_unreachable_and_a_file_that_is_not_there_is_absent() {
    let fixture = Fixture::new("nowhere", 1000, Compression::None);
    let dir = tempfile::tempdir().unwrap();
    for (folder, want, text) in [
        (dir.path().to_owned(), "NotInAnyCache", "not found"),
        (dir.path().join("mistyped"), "CacheUnreachable", "no such folder"),
    ] {
        let url = Url::from_file_path(folder).unwrap();
        let from = Substituter::new(vec![cache("f", url.as_str(), None)], quick()).unwrap();
        let error = from.lookup(&fixture.path).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(want), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
}
