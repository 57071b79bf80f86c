//! Closures of every awkward shape, from a folder of narinfos: deep, wide, cyclic, broken.
//! Never recurses, never keeps more than the closure itself in memory.
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
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use binary_cache::{
    closure::{Closure, ClosureError},
    narinfo::VerifiedNarInfo,
    options::Options,
    substitute::Substituter,
    write::source_store_path,
};
use crds::domain::store_path::StorePath;
use fixture::{bare_narinfo, cache, quick, sha256};
use url::Url;

/// The path number `i`.
fn path(i: usize) -> StorePath {
    source_store_path(&format!("p{i}"), &sha256(&i.to_le_bytes()), &[]).unwrap()
}

fn put(dir: &Path, i: usize, references: &[usize]) {
    let narinfo = bare_narinfo(&path(i), references.iter().map(|r| path(*r)).collect());
    fs::write(dir.join(format!("{}.narinfo", path(i).hash())), narinfo.to_text()).unwrap();
}

fn folder(dir: &Path, options: Options) -> Substituter {
    fs::write(dir.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    Substituter::new(
        vec![cache("f", Url::from_file_path(dir).unwrap().as_str(), None)],
        options,
    )
    .unwrap()
}

async fn walk(from: &Substituter, roots: &[usize]) -> Result<Closure, ClosureError> {
    let roots: Vec<StorePath> = roots.iter().map(|r| path(*r)).collect();
    from.closure(&roots, &|_| None).await
}

/// Every path comes after what it refers to, itself excepted.
fn assert_references_first(closure: &Closure) {
    let position: HashMap<&StorePath, usize> = closure
        .paths
        .iter()
        .enumerate()
        .map(|(i, n)| (n.store_path(), i))
        .collect();
    for (at, narinfo) in closure.paths.iter().enumerate() {
        for reference in narinfo.references() {
            assert!(position[reference] <= at, "{reference} after {}", narinfo.store_path());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diamond_with_self_references_comes_out_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (i, references) in [(0, &[1, 2, 0][..]), (1, &[3, 1]), (2, &[3]), (3, &[])] {
        put(dir.path(), i, references);
    }
    let closure = walk(&folder(dir.path(), quick()), &[0, 0]).await.unwrap();
    assert_eq!(closure.paths.len(), 4);
    assert_eq!(closure.roots, [path(0)]);
    assert_eq!((closure.nar_size, closure.download_size), (4000, 2000));
    assert_eq!(closure.paths[0].store_path(), &path(3));
    assert_references_first(&closure);
}

/// An error as a person sees it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_ends_and_a_missing_reference_is_named_with_who_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    for (i, references) in [(0, &[1][..]), (1, &[2]), (2, &[0]), (5, &[6]), (6, &[7])] {
        put(dir.path(), i, references);
    }
    let from = folder(dir.path(), quick());
    assert_eq!(walk(&from, &[0]).await.unwrap().paths.len(), 3);
    let error = walk(&from, &[5]).await.unwrap_err();
    let ClosureError::Reference { referrer, source } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((source.path(), referrer), (&path(7), &path(6)));
    assert!(format!("{source:?}").starts_with("NotInAnyCache"));
    let text = chain(&error);
    assert!(
        text.contains(&format!(
            "{} refers to a path that cannot be had: {} is in none",
            path(6),
            path(7)
        )),
        "{text}"
    );
    let error = walk(&from, &[9]).await.unwrap_err();
    assert!(matches!(error, ClosureError::Root(_)));
    let text = chain(&error);
    assert_eq!(
        text.matches(&path(9).to_string()).count(),
        1,
        "the path is named once: {text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_already_is_not_asked_for_but_walked() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 0, &[1]);
    put(dir.path(), 2, &[]);
    let known: Arc<VerifiedNarInfo> = Arc::new(
        bare_narinfo(&path(1), vec![path(2)])
            .verify(&path(1), &fixture::keys())
            .unwrap(),
    );
    let asked = AtomicUsize::new(0);
    let from = folder(dir.path(), quick());
    let closure = from
        .closure(&[path(0)], &|p| {
            asked.fetch_add(1, Ordering::Relaxed);
            (p == &path(1)).then(|| known.clone())
        })
        .await
        .unwrap();
    assert_eq!(
        (closure.paths.len(), closure.nar_size, closure.download_size),
        (3, 3000, 1000)
    );
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closure_above_the_limit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), 0, &(1..=20).collect::<Vec<_>>());
    for i in 1..=20 {
        put(dir.path(), i, &[]);
    }
    for (max_closure, good) in [(21, true), (20, false)] {
        let result = walk(&folder(dir.path(), Options { max_closure, ..quick() }), &[0]).await;
        assert_eq!(result.is_ok(), good);
        assert!(good || matches!(result, Err(ClosureError::TooLarge { limit: 20 })));
    }
}
