//! `make bench`: ours and real Nix fetch the same closure from the same cache in one run, in alternation, as ratios.
//! It must never report a time without the limit measured beside it, and never assert one.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use binary_cache::{
    compression::{Compression, decoder},
    narinfo::NarInfo,
};
use e2e::{
    layout::Layout,
    node, parts,
    programs::{self, finished},
    real_nix::{Key, RealNix},
    server::Server,
};
use sha2::{Digest, Sha256};

const ROUNDS: usize = 3;

/// What is fetched: real libraries and the many small files of a Python, as much as a pod's environment has of them.
struct Workload {
    compression: &'static str,
    /// Which real drivers' libraries: these are large files that compress well.
    drivers: &'static [&'static str],
    /// Folders of Python's library that are left out.
    without: &'static [&'static str],
}

/// About 530 MiB for what today's caches write; runtimes and Python alone for xz, of which a second writes a few MiB.
const WORKLOADS: [Workload; 2] = [
    Workload {
        compression: "zstd",
        drivers: &["550.163.01", "555.58.02"],
        without: &["site-packages"],
    },
    Workload {
        compression: "xz",
        drivers: &[],
        without: &["site-packages", "test"],
    },
];

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
    /// Highest resident memory, MiB; 0 where it was not measured.
    memory: f64,
}

fn main() -> Result<()> {
    let work = tempfile::Builder::new()
        .prefix("cudaenv-bench-")
        .tempdir_in(programs::target_folder())?;
    let nix = RealNix::find()?;
    let key = nix.key("bench-1")?;
    for workload in &WORKLOADS {
        let compression = workload.compression;
        let cache = work.path().join(compression);
        let (root, files, bytes) = publish(&nix, &key, workload, work.path(), &cache)?;
        let server = Server::start(&cache)?;
        say(&format!(
            "\n{compression}: {files} files, {} MiB unpacked, {} MiB to download; {ROUNDS} rounds, medians\n",
            bytes >> 20,
            size_of(&cache)? >> 20
        ))?;
        let mut rounds = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            rounds.0.push(limit(&server.url(), &cache)?);
            rounds.1.push(ours(
                &server.url(),
                &key.public,
                &root,
                &work.path().join(format!("ours-{round}")),
            )?);
            rounds.2.push(theirs(
                &nix,
                &server.url(),
                &key.public,
                &root,
                &work.path().join(format!("nix-{round}")),
            )?);
        }
        report(median(rounds.0), median(rounds.1), median(rounds.2))?;
    }
    Ok(())
}

/// Real libraries as store paths below one environment path, packed and signed by real Nix.
fn publish(nix: &RealNix, key: &Key, workload: &Workload, work: &Path, cache: &Path) -> Result<(String, usize, u64)> {
    let compression = workload.compression;
    let mut layout = Layout::new(&work.join(format!("layout-{compression}")))?;
    let mut members = Vec::new();
    for driver in parts::available_drivers()? {
        if workload.drivers.contains(&driver.version.as_str()) {
            members.push(layout.add(&format!("driver-{}", driver.version), &[], |to, _| {
                node::copy_tree(&driver.root, to)
            })?);
        }
    }
    ensure!(
        members.len() == workload.drivers.len(),
        "drivers are missing: run `e2e/parts/drivers.sh`"
    );
    for kit in parts::available_toolkits()? {
        members.push(layout.add(&format!("cuda-runtime-{}", kit.version), &[], |to, _| {
            node::copy_tree(&kit.root, to)
        })?);
    }
    let python = python_library()?;
    members.push(layout.add("python-library", &[], |to, _| copy_but(&python, to, workload.without))?);
    let members: Vec<_> = members.iter().map(String::as_str).collect();
    let root = layout.add("bench-environment", &members, |folder, _| {
        Ok(fs::write(folder.join("members"), members.join("\n"))?)
    })?;
    nix.register(&layout)?;
    nix.publish(&layout, key, compression, cache)?;
    let (files, bytes) = count(layout.root())?;
    Ok((root, files, bytes))
}

/// The folder of Python's own library: many small files, as every Python environment has them.
fn python_library() -> Result<PathBuf> {
    let printed = finished(Command::new("python3").args(["-c", "import os; print(os.path.dirname(os.__file__))"]))?;
    Ok(PathBuf::from(printed.trim()))
}

/// Copies what is in a folder, but for some of its folders.
fn copy_but(from: &Path, to: &Path, without: &[&str]) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() && !without.iter().any(|left_out| name == *left_out) {
            node::copy_tree(&entry.path(), &to.join(name))?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn ours(url: &str, key: &str, root: &str, state: &Path) -> Result<Cost> {
    let mut command = Command::new(programs::node_agent()?);
    command
        .args([
            "fetch",
            "--cache",
            url,
            "--public-key",
            key,
            "--progress",
            "none",
            "--state",
        ])
        .arg(state)
        .arg(root);
    let cost = measured(&mut command)?;
    remove(state)?;
    Ok(cost)
}

fn theirs(nix: &RealNix, url: &str, key: &str, root: &str, store: &Path) -> Result<Cost> {
    let mut command = nix.copy_command(url, &[key], store, &[root]);
    // Nix makes nothing durable unless told; ours always does. Both variants of Nix are of interest, this is the fair one.
    command.args(["--option", "fsync-metadata", "true"]);
    let cost = measured(&mut command)?;
    remove(store)?;
    Ok(cost)
}

/// Downloads, decompresses and hashes every archive of the cache on two threads, and throws it away.
fn limit(url: &str, cache: &Path) -> Result<Cost> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "narinfo") {
            let narinfo = NarInfo::parse(&fs::read(&path)?)?;
            let download = &narinfo.fields().download;
            archives.push((
                download.url.to_string(),
                download.compression,
                narinfo.fields().nar_size,
            ));
        }
    }
    archives.sort_by_key(|(_, _, size)| std::cmp::Reverse(*size));
    let (start, cpu) = (now(), cpu_seconds());
    let queue = std::sync::Mutex::new(archives.into_iter());
    let next = || queue.lock().ok().and_then(|mut archives| archives.next());
    let worker = || -> Result<()> {
        while let Some((path, compression, _)) = next() {
            drain(&format!("{url}/{path}"), compression)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    Ok(Cost {
        wall: start.elapsed().as_secs_f64(),
        cpu: cpu_seconds() - cpu,
        memory: 0.0,
    })
}

fn drain(url: &str, compression: Compression) -> Result<()> {
    let (host, path) = url.trim_start_matches("http://").split_once('/').context("no path")?;
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut stream = std::io::BufReader::with_capacity(256 << 10, stream);
    // The server keeps connections open: the end of the archive is where its length says, not where reading ends.
    let (mut line, mut length) = (String::new(), None);
    while line != "\r\n" {
        line.clear();
        ensure!(
            std::io::BufRead::read_line(&mut stream, &mut line)? > 0,
            "no answer for {url}"
        );
        if let Some(value) = line.strip_prefix("Content-Length: ") {
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

/// Runs a program to its end: wall time, CPU seconds of it and its children, highest resident memory of it alone.
fn measured(command: &mut Command) -> Result<Cost> {
    let (start, cpu) = (now(), children_cpu_seconds()?);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut memory = 0.0;
    let ended = loop {
        if let Ok(text) = fs::read_to_string(&status)
            && let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:"))
        {
            memory = line
                .split_whitespace()
                .nth(1)
                .and_then(|kib| kib.parse::<f64>().ok())
                .map_or(memory, |kib| kib / 1024.0);
        }
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = start.elapsed().as_secs_f64();
    let mut said = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    ensure!(ended.success(), "{command:?} failed: {said}");
    Ok(Cost {
        wall,
        cpu: children_cpu_seconds()? - cpu,
        memory,
    })
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// CPU seconds of this process (fields 14 and 15 of proc(5)'s stat, in ticks of 10 ms).
fn cpu_seconds() -> f64 {
    ticks(13).unwrap_or(0.0)
}

/// CPU seconds of children that ended and were waited for (fields 16 and 17).
fn children_cpu_seconds() -> Result<f64> {
    ticks(15)
}

fn ticks(first: usize) -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .context("odd stat")?
        .1
        .split_whitespace()
        .collect();
    // The fields behind the name begin with the third.
    let field = |index: usize| {
        fields
            .get(index - 2)
            .and_then(|text| text.parse::<f64>().ok())
            .context("odd stat")
    };
    Ok((field(first)? + field(first + 1)?) / 100.0)
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    costs[costs.len() / 2]
}

fn report(limit: Cost, ours: Cost, nix: Cost) -> Result<()> {
    say("| | wall s | CPU s | peak MiB | wall / limit | wall / Nix | CPU / Nix |\n|---|--:|--:|--:|--:|--:|--:|\n")?;
    for (name, cost) in [
        ("limit (fetch, decode, hash, throw away)", limit),
        ("cudaenv (verified, durable)", ours),
        ("nix copy", nix),
    ] {
        say(&format!(
            "| {name} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | {:.2} |\n",
            cost.wall,
            cost.cpu,
            cost.memory,
            cost.wall / limit.wall,
            cost.wall / nix.wall,
            cost.cpu / nix.cpu
        ))?;
    }
    Ok(())
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Files and bytes below a folder; links are not followed.
fn count(folder: &Path) -> Result<(usize, u64)> {
    let (mut files, mut bytes, mut folders) = (0, 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                files += 1;
                bytes += metadata.len();
            }
        }
    }
    Ok((files, bytes))
}

fn size_of(folder: &Path) -> Result<u64> {
    count(folder).map(|(_, bytes)| bytes)
}

/// Read-only folders and all: the program's own way of removing a tree is not measured.
fn remove(folder: &Path) -> Result<()> {
    finished(Command::new("chmod").args(["-R", "u+w"]).arg(folder))?;
    Ok(fs::remove_dir_all(folder)?)
}
