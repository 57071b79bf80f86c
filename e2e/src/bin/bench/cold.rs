//! A closure out of a cache on loopback into an empty store: the limit of the machine, ours, and real Nix, in alternation.
//! It must never give one of them a warmer page cache, another server or other bytes than the next.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    sync::Mutex,
};

use anyhow::{Context, Result, anyhow, ensure};
use binary_cache::{
    compression::{Compression, decoder},
    narinfo::NarInfo,
};
use e2e::{nginx::Nginx, programs, real_nix::RealNix};
use sha2::{Digest, Sha256};

use crate::{
    measure::{Cost, measured, median, spent},
    table::{costs, say},
    workload::{Closure, Workload, published, remove},
};

/// Fetches the closure `rounds` times by each program.
pub(crate) fn run(nix: &RealNix, workload: &Workload, rounds: usize) -> Result<()> {
    let closure = published(nix, workload)?;
    let work = tempfile::Builder::new()
        .prefix("cudaenv-bench-")
        .tempdir_in(programs::target_folder())?;
    let server = Nginx::serve(&closure.cache)?;
    say(&format!(
        "\n{}: {}; {rounds} rounds, medians\n",
        workload.compression,
        closure.size()
    ))?;
    // Each run has a folder of its own, and all are removed at the end: for a minute ext4 looks long for the place of a new
    // file where many were deleted.
    let folder = |program: &str, round: usize| work.path().join(format!("{program}-{round}"));
    let mut all = [const { Vec::new() }; 4];
    for round in 0..rounds {
        let [limits, ours, durable, plain] = &mut all;
        limits.push(limit(&server.url(), &closure.cache)?);
        ours.push(node_agent(&server.url(), &closure, &folder("ours", round))?);
        let (url, durably, plainly) = (server.url(), folder("durable", round), folder("plain", round));
        durable.push(nix_copy(nix, &url, &closure, &durably, true)?);
        plain.push(nix_copy(nix, &url, &closure, &plainly, false)?);
    }
    let [limits, ours, durable, plain] = all.map(median);
    costs(&[
        ("limit (download, decode, hash, throw away)", limits),
        ("cudaenv (verified, durable)", ours),
        ("nix copy, fsync-store-paths", durable),
        ("nix copy", plain),
    ])?;
    remove(work.path())?;
    // Its own end would look for what was just removed.
    Ok(fs::create_dir(work.path())?)
}

pub(crate) fn node_agent(url: &str, closure: &Closure, state: &Path) -> Result<Cost> {
    let mut command = Command::new(programs::node_agent()?);
    command.args(["fetch", "--cache", url, "--public-key", &closure.key]);
    command
        .args(["--progress", "none", "--state"])
        .arg(state)
        .arg(&closure.root);
    settle();
    measured(&mut command)
}

pub(crate) fn nix_copy(nix: &RealNix, url: &str, closure: &Closure, store: &Path, durable: bool) -> Result<Cost> {
    let mut command = nix.copy_command(url, &[&closure.key], store, &[&closure.root]);
    // Nix makes nothing durable unless told; ours always does.
    command.args(["--option", "fsync-store-paths", if durable { "true" } else { "false" }]);
    settle();
    measured(&mut command)
}

/// What an earlier run left to be written is not the next one's to wait for.
fn settle() {
    rustix::fs::sync();
}

/// Downloads, decompresses and hashes every archive of the cache on as many threads as there are cores, and throws it away.
pub(crate) fn limit(url: &str, cache: &Path) -> Result<Cost> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "narinfo") {
            let narinfo = NarInfo::parse(&fs::read(&path)?)?;
            let (download, size) = (&narinfo.fields().download, narinfo.fields().nar_size);
            archives.push((format!("{url}/{}", download.url), download.compression, size));
        }
    }
    archives.sort_by_key(|(_, _, size)| std::cmp::Reverse(*size));
    let queue = Mutex::new(archives.into_iter());
    let next = || queue.lock().ok().and_then(|mut archives| archives.next());
    let worker = || -> Result<()> {
        while let Some((url, compression, _)) = next() {
            drain(&url, compression)?;
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism()?.get();
    spent(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))?)
        })
    })
}

fn drain(url: &str, compression: Compression) -> Result<()> {
    let (host, path) = url.trim_start_matches("http://").split_once('/').context("no path")?;
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let (mut line, mut length) = (String::new(), None);
    while line != "\r\n" {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "no answer for {url}");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = Some(value.trim().parse()?);
        }
    }
    let stream = stream.take(length.with_context(|| format!("no length of {url}"))?);
    let mut plain = decoder(compression, stream, 256 << 20)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match plain.read(&mut buffer)? {
            0 => {
                std::hint::black_box(hash.finalize());
                return Ok(());
            }
            count => hash.update(&buffer[..count]),
        }
    }
}
