//! Writing a cache and reading it back: names, hashes, signatures, all compressions.
//! Never needs Nix; what real Nix says of it is asked in e2e.
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

use std::{fs, os::unix::fs::symlink};

use binary_cache::{
    cache_info::CacheInfo,
    compression::Compression,
    key::{KeyRing, SecretKey},
    nar,
    narinfo::NarInfo,
    substitute::Substituter,
    write::{CacheWriter, Entry, WriteError, source_store_path},
};
use crds::domain::store_path::StorePath;
use fixture::{Bench, cache, keys, nar_of, quick, secret_key, sha256};
use url::Url;

fn entry(path: &StorePath, compression: Compression) -> Entry {
    Entry {
        store_path: path.clone(),
        references: Vec::new(),
        deriver: None,
        compression,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_goes_into_a_cache_and_comes_out_the_same_in_every_compression() {
    let source = tempfile::tempdir().unwrap();
    let tree = source.path().join("tree");
    fs::create_dir_all(tree.join("lib")).unwrap();
    fs::write(tree.join("lib/libx.so.1"), fixture::noise(70_000, 5)).unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    symlink("lib/libx.so.1", tree.join("libx.so")).unwrap();
    let parent = fs::File::open(source.path()).unwrap();
    let mut plain = Vec::new();
    let (hash, size) = nar::dump(std::os::fd::AsFd::as_fd(&parent), "tree".as_ref(), &mut plain).unwrap();
    let path = source_store_path("tree", &hash, &[]).unwrap();
    for compression in Compression::ALL {
        let dir = tempfile::tempdir().unwrap();
        let writer = CacheWriter::create(dir.path(), 40).unwrap();
        let narinfo = writer
            .add_tree(&entry(&path, compression), &tree, &[secret_key()])
            .unwrap();
        assert_eq!((narinfo.fields().nar_hash, narinfo.fields().nar_size), (hash, size));
        let url = narinfo.fields().download.url.to_string();
        assert!(
            url.starts_with("nar/") && url.ends_with(&format!(".nar{}", compression.extension())),
            "{url}"
        );
        assert_eq!(
            fs::metadata(dir.path().join(&url)).unwrap().len(),
            narinfo.fields().download.file_size.unwrap()
        );
        let again = writer
            .add_tree(&entry(&path, compression), &tree, &[secret_key()])
            .unwrap();
        assert_eq!(again.to_text(), narinfo.to_text(), "writing twice changes nothing");
        assert_eq!(
            fs::read_dir(dir.path().join("nar")).unwrap().count(),
            1,
            "and leaves nothing else"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);

        let bench = Bench::new();
        let from = Substituter::new(
            vec![cache("f", Url::from_file_path(dir.path()).unwrap().as_str(), None)],
            quick(),
        )
        .unwrap();
        bench
            .get(&from, &path)
            .await
            .unwrap_or_else(|e| panic!("{compression}: {e}"));
        let unpacked = fs::File::open(bench.dir.path()).unwrap();
        let mut dumped = Vec::new();
        nar::dump(std::os::fd::AsFd::as_fd(&unpacked), "out".as_ref(), &mut dumped).unwrap();
        assert_eq!(dumped, plain, "{compression}");
    }
}

#[test]
fn two_writers_of_one_process_fill_one_folder_and_do_not_write_into_each_others_files() {
    let dir = tempfile::tempdir().unwrap();
    // What a writer that was killed left under the first name of the next.
    let left = dir.path().join(format!(".tmp-{}-0", std::process::id()));
    fs::write(&left, "left").unwrap();
    let writers = [(); 2].map(|()| CacheWriter::create(dir.path(), 40).unwrap());
    let nars: Vec<Vec<u8>> = (0..40)
        .map(|seed| nar_of(&fixture::noise(200_000, 2 * seed + 1)))
        .collect();
    let paths: Vec<StorePath> = nars
        .iter()
        .map(|nar| source_store_path("x", &sha256(nar), &[]).unwrap())
        .collect();
    // Both count from where they were made: nearly every name is asked for twice, at the same time.
    std::thread::scope(|scope| {
        for (number, writer) in writers.iter().enumerate() {
            let (nars, paths) = (&nars, &paths);
            scope.spawn(move || {
                for (nar, path) in nars.iter().zip(paths).skip(number).step_by(2) {
                    let entry = entry(path, Compression::None);
                    writer.add_nar(&entry, nar.as_slice(), &[secret_key()]).unwrap();
                }
            });
        }
    });
    for (nar, path) in nars.iter().zip(&paths) {
        let text = fs::read(dir.path().join(format!("{}.narinfo", path.hash()))).unwrap();
        let narinfo = NarInfo::parse(&text).unwrap();
        let url = narinfo.fields().download.url.to_string();
        assert!(fs::read(dir.path().join(url)).unwrap() == *nar, "{path}");
    }
    assert_eq!(fs::read_to_string(&left).unwrap(), "left");
    assert_eq!(fs::read_dir(dir.path().join("nar")).unwrap().count(), nars.len());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), nars.len() + 3);
}

#[test]
fn a_narinfo_carries_every_signature_and_the_info_its_priority() {
    let dir = tempfile::tempdir().unwrap();
    let writer = CacheWriter::create(dir.path(), 33).unwrap();
    let info = CacheInfo::parse(&fs::read(dir.path().join("nix-cache-info")).unwrap()).unwrap();
    assert_eq!((info.priority, info.want_mass_query), (Some(33), true));
    let second = SecretKey::from_seed("second-1", &[3; 32]).unwrap();
    let nar = nar_of(b"hello");
    let path = source_store_path("hello", &sha256(&nar), &[]).unwrap();
    writer
        .add_nar(
            &entry(&path, Compression::Zstd),
            nar.as_slice(),
            &[secret_key(), second],
        )
        .unwrap();
    let text = fs::read(dir.path().join(format!("{}.narinfo", path.hash()))).unwrap();
    let second = SecretKey::from_seed("second-1", &[3; 32]).unwrap();
    for ring in [keys(), KeyRing::new(vec![second.public_key()]).unwrap()] {
        NarInfo::parse(&text).unwrap().verify(&path, &ring).unwrap();
    }
}

#[test]
fn a_writer_refuses_what_no_reader_would_take() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        CacheWriter::create(dir.path(), 1 << 31),
        Err(WriteError::Priority(_))
    ));
    let writer = CacheWriter::create(dir.path(), 0).unwrap();
    let nar = nar_of(b"one");
    let path = source_store_path("one", &sha256(&nar), &[]).unwrap();
    let entry = entry(&path, Compression::None);
    assert!(matches!(
        writer.add_nar(&entry, nar.as_slice(), &[]),
        Err(WriteError::NoKey { .. })
    ));
    assert!(matches!(
        writer.add_nar(&entry, &b""[..], &[secret_key()]),
        Err(WriteError::EmptyNar { .. })
    ));
    assert!(matches!(
        writer.add_tree(&entry, &dir.path().join("missing"), &[secret_key()]),
        Err(WriteError::Dump { .. })
    ));
    writer.add_nar(&entry, nar.as_slice(), &[secret_key()]).unwrap();
    let other = nar_of(b"two");
    assert!(matches!(
        writer.add_nar(&entry, other.as_slice(), &[secret_key()]),
        Err(WriteError::OtherContent { .. })
    ));
    let names = |dir| {
        fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .filter(|n| n.to_string_lossy().starts_with('.'))
            .count()
    };
    assert_eq!(
        names(dir.path().to_owned()) + names(dir.path().join("nar")),
        0,
        "no temporary file stays"
    );
}
