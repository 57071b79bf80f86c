//! Reading through a view against the same files in the folders below it: many small files, large libraries, `import torch`.
//! It must never let one side read from disk what the other reads from memory: a round of both goes before.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context, Result};
use e2e::{documents, nginx::Nginx, node, parts, programs, programs::finished, real_nix::RealNix};
use serde_json::json;

use crate::{
    measure::percentile,
    table::{say, table},
    workload::{self, published},
};

const ROUNDS: usize = 9;

/// Run within the view: prints `NAME SIDE SECONDS` for each round. `sys.argv`: store, rounds.
const MEASURE: &str = r#"
import mmap, os, subprocess, sys, time
layers, rounds = sys.argv[1], int(sys.argv[2])
view = "/nix/store"
paths = [name for name in sorted(os.listdir(view)) if "bench-environment" not in name]
side = {"view": {n: f"{view}/{n}" for n in paths},
        "folder": {n: f"{layers}/{n.split('-')[0]}/nix/store/{n}" for n in paths}}
def files(roots, small):
    found = []
    for root in roots.values():
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and (os.path.getsize(path) < 65536) == small:
                    found.append(path)
    return found
def small(roots):
    for root in roots.values():
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    if os.fstat(file.fileno()).st_size < 65536:
                        file.read()
def large(roots):
    for root in roots.values():
        for folder, _, names in os.walk(root):
            for name in names:
                if ".so" in name:
                    with open(os.path.join(folder, name), "rb") as file:
                        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
                            total = 0
                            for at in range(0, len(memory), 4096):
                                total += memory[at]
def torch(roots):
    env = dict(os.environ, PYTHONPATH=":".join(roots.values()), PYTHONDONTWRITEBYTECODE="1", HOME="/tmp")
    subprocess.run([sys.executable, "-c", "import torch; torch.ones(2).sum()"], env=env, check=True,
                   stderr=subprocess.DEVNULL)
def from_disk(path):
    def so_far():
        with open("/proc/self/io") as file:
            return int(dict(line.split(": ") for line in file)["read_bytes"])
    before = so_far()
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
    return so_far() - before
libraries = {which: max(files(side[which], False), key=os.path.getsize) for which in side}
with open(libraries["folder"], "rb") as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
print("disk", "view", from_disk(libraries["view"]))
print("disk", "folder", from_disk(libraries["folder"]))
count = len(files(side["view"], True))
print("count", "small", count)
works = {"small": small, "large": large}
if any(name.split("-", 1)[1].startswith("torch-") for name in paths):
    works["torch"] = torch
for name, work in works.items():
    for round in range(rounds + 1):
        for which in ("view", "folder") if round % 2 else ("folder", "view"):
            start = time.perf_counter()
            work(side[which])
            if round:
                print(name, which, time.perf_counter() - start)
"#;

pub(crate) fn run(nix: &RealNix) -> Result<()> {
    let closure = published(nix, &workload::IMPORTED)?;
    let server = Nginx::serve(&closure.cache)?;
    let work = tempfile::Builder::new()
        .prefix("cudaenv-bench-")
        .tempdir_in(programs::target_folder())?;
    let drivers = parts::available_drivers()?;
    let root = work.path().join("root");
    node::lay_out(drivers.last().context("no driver can be had")?, &root)?;
    let mut variant = documents::variant("torch", "12.4", &closure.root);
    variant["code"] = json!({"sass": ["8.0"]});
    let (environment, caches) = (work.path().join("environment.yaml"), work.path().join("caches.yaml"));
    let package = documents::package("torch", &[variant]);
    documents::write(&environment, &[documents::environment("torch", &[package])])?;
    documents::write(&caches, &[documents::cache("here", &server.url(), &[&closure.key])])?;
    let script = work.path().join("measure.py");
    fs::write(&script, MEASURE)?;
    let mut command = Command::new(programs::node_agent()?);
    command.arg("run").arg("--environment").arg(&environment);
    command.arg("--caches").arg(&caches).arg("--driver-root").arg(&root);
    command.arg("--state").arg(work.path().join("state"));
    command.args(["--gpu", "8.0:tesla", "--progress", "none", "--", "python3"]);
    command.arg(&script).arg(work.path().join("state/store"));
    command.arg(ROUNDS.to_string());
    show(&finished(&mut command)?)?;
    workload::remove(work.path())?;
    Ok(fs::create_dir(work.path())?)
}

fn show(printed: &str) -> Result<()> {
    let mut took: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut count = "";
    for line in printed.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(side), Some(figure)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        match name {
            "count" => count = figure,
            _ => took.entry((name, side)).or_default().push(figure.parse()?),
        }
    }
    say(&format!(
        "\n{ROUNDS} rounds in alternation, medians, everything in memory\n"
    ))?;
    let mut rows = Vec::new();
    for (name, what) in [
        ("small", format!("every file opened, {count} small ones read")),
        ("large", "every library mapped, each of its pages touched".to_owned()),
        ("torch", "`python3 -c 'import torch'`".to_owned()),
    ] {
        let mut median = |side| {
            let samples = took
                .get_mut(&(name, side))
                .with_context(|| format!("{name} was not measured"))?;
            anyhow::Ok(percentile(samples, 0.5))
        };
        let (view, folder) = (median("view")?, median("folder")?);
        rows.push(vec![
            what,
            format!("{view:.3}"),
            format!("{folder:.3}"),
            format!("{:.2}", view / folder),
        ]);
    }
    table(&["", "view s", "folder s", "view / folder"], &rows)?;
    let mut disk = |side| Some(took.get_mut(&("disk", side))?.first().copied()? / f64::from(1 << 20));
    let (first, second) = (disk("view"), disk("folder"));
    say(&format!(
        "The largest library, dropped from memory and read twice: {:.0} MiB from disk through the view, then {:.0} MiB from \
         the folder below it: one page cache.",
        first.context("not measured")?,
        second.context("not measured")?
    ))
}
