//! What the benchmarks fetch: real wheels as store paths of one closure, packed and signed by real Nix.
//! It must never fetch or pack within the time that is measured.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    layout::Layout,
    node, parts,
    programs::{self, finished},
    real_nix::RealNix,
};
use serde::{Deserialize, Serialize};

/// A closure in a binary cache.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Closure {
    /// Store path that refers to all others.
    pub(crate) root: String,
    /// Folder of the cache.
    pub(crate) cache: PathBuf,
    /// Public key, `name:base64`.
    pub(crate) key: String,
    /// Regular files.
    pub(crate) files: usize,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes of the cache.
    pub(crate) packed: u64,
}

/// What is packed, and how.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Of its folder below `target/bench`.
    pub(crate) name: &'static str,
    /// As Nix's store URLs say it.
    pub(crate) compression: &'static str,
    /// Wheels, by the name of their folder up to the version; each becomes one store path.
    wheels: &'static [&'static str],
}

const LIBRARIES: [&str; 4] = [
    "torch-",
    "nvidia-cublas-cu12-",
    "nvidia-cudnn-cu12-",
    "nvidia-cuda-runtime-cu12-",
];
const SOME: [&str; 4] = [
    "nvidia-cuda-cupti-cu12-",
    "nvidia-nvjitlink-cu12-",
    "sympy-",
    "networkx-",
];

/// A closure of CUDA libraries.
pub(crate) const COLD: Workload = Workload {
    name: "cold",
    compression: "zstd",
    wheels: &LIBRARIES,
};
/// Enough to see a regression, in seconds.
pub(crate) const SMOKE: Workload = Workload {
    name: "smoke",
    compression: "zstd",
    wheels: &SOME,
};
/// One large library, packed on several cores: in blocks.
pub(crate) const XZ_BLOCKS: Workload = Workload {
    name: "xz-blocks",
    compression: "xz&parallel-compression=true",
    wheels: &["nvidia-cublas-cu12-"],
};
/// Several paths, each in one block, as upstream caches have them.
pub(crate) const XZ_PATHS: Workload = Workload {
    name: "xz-paths",
    compression: "xz",
    wheels: &SOME,
};
/// One file of a middling size.
pub(crate) const ONE: Workload = Workload {
    name: "slow",
    compression: "zstd",
    wheels: &["nvidia-cufft-cu12-"],
};
/// PyTorch with all that it loads.
pub(crate) const IMPORTED: Workload = Workload {
    name: "torch",
    compression: "zstd",
    wheels: &[
        "torch-",
        "nvidia-cublas-cu12-",
        "nvidia-cudnn-cu12-",
        "nvidia-cuda-runtime-cu12-",
        "nvidia-cuda-cupti-cu12-",
        "nvidia-cuda-nvrtc-cu12-",
        "nvidia-cufft-cu12-",
        "nvidia-curand-cu12-",
        "nvidia-cusolver-cu12-",
        "nvidia-cusparse-cu12-",
        "nvidia-nccl-cu12-",
        "nvidia-nvtx-cu12-",
        "nvidia-nvjitlink-cu12-",
        "typing-extensions-",
        "sympy-",
        "mpmath-",
        "filelock-",
        "networkx-",
        "jinja2-",
        "markupsafe-",
        "fsspec-",
    ],
};
pub(crate) const ALL: [&Workload; 6] = [&SMOKE, &COLD, &XZ_BLOCKS, &XZ_PATHS, &ONE, &IMPORTED];

/// The wheels below one environment, packed by the peer; once for all runs, in `target/bench/NAME`.
pub(crate) fn published(nix: &RealNix, workload: &Workload) -> Result<Closure> {
    let folder = programs::target_folder().join("bench").join(workload.name);
    let description = folder.join("closure.json");
    if let Ok(text) = fs::read(&description) {
        return Ok(serde_json::from_slice(&text)?);
    }
    let begun = folder.with_extension("begun");
    if begun.exists() {
        remove(&begun)?;
    }
    fs::create_dir_all(&begun)?;
    let closure = publish(nix, workload, &begun, folder.join("cache"))?;
    fs::write(begun.join("closure.json"), serde_json::to_vec(&closure)?)?;
    fs::rename(&begun, &folder)?;
    Ok(closure)
}

/// Packs into `work/cache`, which will lie at `cache`.
fn publish(nix: &RealNix, workload: &Workload, work: &Path, cache: PathBuf) -> Result<Closure> {
    let mut layout = Layout::new(&work.join("layout"))?;
    let mut members = Vec::new();
    let all = parts::torch()?;
    for wheel in workload.wheels {
        let found = all.iter().find(|folder| name_of(folder).starts_with(wheel));
        let found = found.with_context(|| format!("{wheel} is missing: run `e2e/parts/torch.sh`"))?;
        members.push(layout.add(&name_of(found), &[], |to, _| node::copy_tree(found, to))?);
    }
    ensure!(!members.is_empty(), "no wheels");
    let references: Vec<_> = members.iter().map(String::as_str).collect();
    let root = layout.add("bench-environment", &references, |folder, _| {
        Ok(fs::write(folder.join("members"), references.join("\n"))?)
    })?;
    nix.register(&layout)?;
    let key = nix.key("bench-1")?;
    nix.publish(&layout, &key, workload.compression, &work.join("cache"))?;
    let (files, bytes) = count(layout.root())?;
    let (_, packed) = count(&work.join("cache"))?;
    remove(layout.root())?;
    Ok(Closure {
        root,
        cache,
        key: key.public,
        files,
        bytes,
        packed,
    })
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Closure {
    /// How much it is, in words.
    pub(crate) fn size(&self) -> String {
        let Self {
            files, bytes, packed, ..
        } = self;
        format!(
            "{files} files, {} MiB unpacked, {} MiB to download",
            bytes >> 20,
            packed >> 20
        )
    }
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

/// Removes a tree, read-only folders and all: the program's own way of removing one is not measured.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    finished(Command::new("chmod").args(["-R", "u+w"]).arg(folder))?;
    Ok(fs::remove_dir_all(folder)?)
}
