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
use e2e::{programs, real_nix::RealNix};
use sha2::{Digest, Sha256};

use crate::{
    measure::{Cost, measured, median, spent},
    nginx::Nginx,
    table::{costs, say},
    workload::{self, Closure, publish, remove},
};

/// Fetches the wheels `rounds` times by each program.
pub(crate) fn run(nix: &RealNix, wheels: &[&str], compression: &str, rounds: usize) -> Result<()> {
    let work = tempfile::Builder::new()
        .prefix("cudaenv-bench-")
        .tempdir_in(programs::target_folder())?;
    let closure = publish(nix, &nix.key("bench-1")?, wheels, compression, work.path())?;
    let server = Nginx::serve(&closure.cache, None)?;
    say(&format!(
        "\n{compression}: {}; {rounds} rounds, medians\n",
        closure.size()
    ))?;
    let mut all = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let [limits, ours, durable, plain] = &mut all;
        limits.push(limit(&server.url(), &closure.cache)?);
        ours.push(node_agent(&server.url(), &closure, &work.path().join("ours"))?);
        durable.push(nix_copy(nix, &server.url(), &closure, &work.path().join("nix"), true)?);
        plain.push(nix_copy(nix, &server.url(), &closure, &work.path().join("nix"), false)?);
    }
    let [limits, ours, durable, plain] = all.map(median);
    costs(&[
        ("limit (download, decode, hash, throw away)", limits),
        ("cudaenv (verified, durable)", ours),
        ("nix copy, fsync-store-paths", durable),
        ("nix copy", plain),
    ])?;
    workload::remove(closure.layout.root())
}

fn node_agent(url: &str, closure: &Closure, state: &Path) -> Result<Cost> {
    let mut command = Command::new(programs::node_agent()?);
    command.args(["fetch", "--cache", url, "--public-key", &closure.key]);
    command
        .args(["--progress", "none", "--state"])
        .arg(state)
        .arg(&closure.root);
    settle();
    let cost = measured(&mut command)?;
    remove(state)?;
    Ok(cost)
}

fn nix_copy(nix: &RealNix, url: &str, closure: &Closure, store: &Path, durable: bool) -> Result<Cost> {
    let mut command = nix.copy_command(url, &[&closure.key], store, &[&closure.root]);
    // Nix makes nothing durable unless told; ours always does.
    command.args(["--option", "fsync-store-paths", if durable { "true" } else { "false" }]);
    settle();
    let cost = measured(&mut command)?;
    remove(store)?;
    Ok(cost)
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
