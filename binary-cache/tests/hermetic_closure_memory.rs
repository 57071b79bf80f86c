//! A closure of a hundred thousand paths, wide and deep, against the peak memory of this process.
//! Never shares its process: one test, so that nobody else's memory is measured.
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
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use binary_cache::{substitute::Substituter, write::source_store_path};
use crds::domain::store_path::StorePath;
use fixture::{bare_narinfo, cache, quick, sha256};
use url::Url;

const WIDE: usize = 50_000;
const DEEP: usize = 50_000;
/// What the walk may take at its peak, the closure it answers with counted: about 2.6 KiB a path.
const LIMIT: u64 = 256 << 20;

/// The path number `i`.
fn path(i: usize) -> StorePath {
    source_store_path(&format!("p{i}"), &sha256(&i.to_le_bytes()), &[]).unwrap()
}

fn put(dir: &Path, i: usize, references: &[usize]) {
    let narinfo = bare_narinfo(&path(i), references.iter().map(|r| path(*r)).collect());
    fs::write(dir.join(format!("{}.narinfo", path(i).hash())), narinfo.to_text()).unwrap();
}

/// 0 → 1 … 50 (hubs) → 999 leaves each; then a chain from 100,000 on.
fn write_closure(dir: &Path) {
    fs::write(dir.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    put(dir, 0, &(1..=50).chain([100_000]).collect::<Vec<_>>());
    for hub in 1..=50 {
        let leaves: Vec<usize> = (0..WIDE / 50 - 1).map(|l| hub * 1000 + l).collect();
        put(dir, hub, &leaves);
        leaves.iter().for_each(|leaf| put(dir, *leaf, &[]));
    }
    for i in 0..DEEP {
        let next = [100_000 + i + 1];
        put(dir, 100_000 + i, if i + 1 == DEEP { &[] } else { &next });
    }
}

/// A field of `/proc/self/status` that is in KiB, in bytes.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Serves the files of `dir` on loopback, keeping nothing of them: what is measured is the client's.
fn serve(dir: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let dir = dir.clone();
            std::thread::spawn(move || converse(socket, &dir));
        }
    });
    url
}

fn converse(mut socket: TcpStream, dir: &Path) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut lines = BufReader::new(socket.try_clone().ok()?).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let name = request.split(' ').nth(1)?.strip_prefix('/')?;
        let body = fs::read(dir.join(name)).ok()?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        socket.write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
    Some(())
}

async fn walk(from: &Substituter) -> usize {
    from.closure(&[path(0)], &|_| None).await.unwrap().paths.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_paths_and_a_chain_of_fifty_thousand_stay_within_memory() {
    // In memory where that is possible: it is not the disk that is measured.
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    write_closure(dir.path());
    let base = status("VmRSS:");
    for url in [
        Url::from_file_path(dir.path()).unwrap().to_string(),
        serve(dir.path().to_owned()),
    ] {
        let from = Substituter::new(vec![cache("c", &url, None)], quick()).unwrap();
        // Forgets the peak of what came before; where that is forbidden, that counts too.
        let _forbidden = fs::write("/proc/self/clear_refs", "5").is_err();
        assert_eq!(walk(&from).await, 1 + WIDE + DEEP, "{url}");
        let grown = status("VmHWM:").saturating_sub(base);
        assert!(grown > 1 << 20, "{url}: nothing was measured");
        assert!(grown < LIMIT, "{url}: {} MiB", grown >> 20);
    }
}
