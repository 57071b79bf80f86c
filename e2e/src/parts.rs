//! Real parts fetched by the scripts of `e2e/parts`, each checked there against a pinned hash: drivers, runtimes, Nix.
//! It must never commit, copy into the tree or publish any of them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::programs;

/// The user-mode files of one real driver, as its distribution lays them out below `root`.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Full version, such as `535.274.02`.
    pub version: String,
    /// The CUDA version that this driver's branch reports (measured with the real library).
    pub cuda: &'static str,
    /// Highest PTX ISA that its JIT compiles (measured with the real compiler).
    pub isa: &'static str,
    /// The lowest PTX ISA that its JIT refuses.
    pub isa_above: &'static str,
    /// Folder that holds `usr/lib/…/libcuda.so.<version>`; it has no `/sys`: `node::lay_out` makes a node of it.
    pub root: PathBuf,
}

/// One real CUDA runtime.
#[derive(Debug, Clone)]
pub struct Toolkit {
    /// Full version, such as `12.8.90`.
    pub version: String,
    /// `major.minor`.
    pub cuda: String,
    /// Major version: the runtime refuses drivers below `major.0`.
    pub major: u32,
    /// Name under which programs open the runtime, such as `libcudart.so.12`.
    pub soname: String,
    /// Folder that holds `lib/<soname>`.
    pub root: PathBuf,
}

impl Driver {
    /// The folder with the libraries, in a copy of the driver below `root`.
    pub fn libraries(&self, root: &Path) -> Result<PathBuf> {
        let below = root.join("usr/lib/x86_64-linux-gnu/nvidia");
        let file = format!("libcuda.so.{}", self.version);
        let mut folders = std::fs::read_dir(&below)?.filter_map(|entry| Some(entry.ok()?.path()));
        folders
            .find(|folder| folder.join(&file).is_file())
            .with_context(|| format!("no {file} in {}", below.display()))
    }

    /// Whether the real runtime accepts this driver (measured): the driver's CUDA is at least `major.0`.
    pub fn runs(&self, toolkit: &Toolkit) -> bool {
        let major = self.cuda.split('.').next().and_then(|major| major.parse::<u32>().ok());
        major.is_some_and(|major| major >= toolkit.major)
    }
}

const DRIVERS: [(&str, &str, &str, &str); 6] = [
    ("450.248.02", "11.0", "7.0", "7.1"),
    ("470.256.02", "11.4", "7.4", "7.5"),
    ("525.147.05", "12.0", "8.0", "8.1"),
    ("535.274.02", "12.2", "8.2", "8.3"),
    ("550.163.01", "12.4", "8.4", "8.5"),
    ("555.58.02", "12.5", "8.5", "8.6"),
];

const TOOLKITS: [&str; 5] = ["11.8.89", "12.2.140", "12.4.127", "12.8.90", "13.0.96"];

/// Version and CUDA release of every driver that can be had at all, oldest first.
pub fn known_drivers() -> impl Iterator<Item = (&'static str, &'static str)> {
    DRIVERS.iter().map(|row| (row.0, row.1))
}

/// The real drivers that could be had, oldest first.
pub fn available_drivers() -> Result<Vec<Driver>> {
    script("drivers.sh", &[])?;
    let shelf = shelf()?;
    let all = DRIVERS.iter().map(|&(version, cuda, isa, isa_above)| {
        let root = shelf.join("drivers").join(version);
        Driver {
            version: version.to_owned(),
            cuda,
            isa,
            isa_above,
            root,
        }
    });
    Ok(all.filter(|driver| driver.root.is_dir()).collect())
}

/// All six real drivers, oldest first, or an error that names the missing ones.
pub fn drivers() -> Result<Vec<Driver>> {
    let found = available_drivers()?;
    let missing: Vec<_> = DRIVERS
        .iter()
        .map(|row| row.0)
        .filter(|v| found.iter().all(|d| d.version != *v))
        .collect();
    ensure!(
        missing.is_empty(),
        "drivers that could not be fetched: {}",
        missing.join(", ")
    );
    Ok(found)
}

/// The real runtimes that could be had, oldest first.
pub fn available_toolkits() -> Result<Vec<Toolkit>> {
    let folders = TOOLKITS.map(|version| format!("cuda-runtime-{version}"));
    script("toolkits.sh", &folders.each_ref().map(OsStr::new))?;
    let shelf = shelf()?;
    let mut found = Vec::new();
    for version in TOOLKITS {
        let root = shelf.join("toolkits").join(format!("cuda-runtime-{version}"));
        if root.is_dir() {
            found.push(toolkit(version, root)?);
        }
    }
    Ok(found)
}

/// All five real runtimes, oldest first, or an error that names the missing ones.
pub fn toolkits() -> Result<Vec<Toolkit>> {
    let found = available_toolkits()?;
    let missing: Vec<_> = TOOLKITS
        .iter()
        .filter(|v| found.iter().all(|t| t.version != **v))
        .copied()
        .collect();
    ensure!(
        missing.is_empty(),
        "runtimes that could not be fetched: {}",
        missing.join(", ")
    );
    Ok(found)
}

/// Folder of a part that carries real GPU code beside the runtimes, such as `cuda-nvjpeg-12.4.0.76`.
pub fn toolkit_folder(name: &str) -> Result<PathBuf> {
    script("toolkits.sh", &[name.as_ref()])?;
    let folder = shelf()?.join("toolkits").join(name);
    ensure!(folder.is_dir(), "{name} could not be fetched");
    Ok(folder)
}

/// A Python wheel unpacked in the folder `name` of the shelf, such as real fat binaries to scan.
pub fn wheel(name: &str, requirement: &str, sha256: &str) -> Result<PathBuf> {
    let folder = shelf()?.join(name);
    script(
        "wheel.sh",
        &[
            "--require".as_ref(),
            folder.as_os_str(),
            requirement.as_ref(),
            sha256.as_ref(),
        ],
    )?;
    Ok(folder)
}

/// Folder with real `nix` and `nix-store`.
pub fn nix() -> Result<PathBuf> {
    printed_path("nix.sh")
}

/// Folder with the newest `nix` and `nix-store` that Debian has.
pub fn newest_nix() -> Result<PathBuf> {
    printed_path("newest-nix.sh")
}

/// The program `nginx`, not installed.
pub fn nginx() -> Result<PathBuf> {
    printed_path("nginx.sh")
}

fn printed_path(name: &str) -> Result<PathBuf> {
    let printed = script(name, &["--require".as_ref()])?;
    let last = printed.lines().last();
    Ok(PathBuf::from(last.with_context(|| format!("{name} printed no path"))?))
}

/// A real PyTorch and what it loads: one folder per wheel, `<name>-<version>`.
pub fn torch() -> Result<Vec<PathBuf>> {
    script("torch.sh", &["--require".as_ref()])?;
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(shelf()?.join("torch"))? {
        let path = entry?.path();
        let begun = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !begun {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn toolkit(version: &str, root: PathBuf) -> Result<Toolkit> {
    let (major, rest) = version.split_once('.').context("version without a dot")?;
    let minor = rest.split('.').next().unwrap_or_default();
    let soname = std::fs::read_dir(root.join("lib"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("libcudart.so."))
        .with_context(|| format!("no libcudart in {}", root.display()))?;
    Ok(Toolkit {
        version: version.to_owned(),
        cuda: format!("{major}.{minor}"),
        major: major.parse()?,
        soname,
        root,
    })
}

/// Runs one of the scripts; what it says on the way, such as what it could not fetch, is shown.
fn script(name: &str, arguments: &[&OsStr]) -> Result<String> {
    let mut script = Command::new(programs::source_folder().join("e2e/parts").join(name));
    programs::finished(script.args(arguments).stderr(Stdio::inherit()))
}

/// Where the scripts keep what they fetched: the same rule as in `e2e/parts/shelf.sh`.
#[expect(clippy::disallowed_methods, reason = "the test tiers have no args.rs")]
fn shelf() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("CUDAENV_CACHE")
        .or_else(|| set("XDG_CACHE_HOME"))
        .map(PathBuf::from);
    let base = base.or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base
        .context("neither CUDAENV_CACHE nor HOME is set")?
        .join("cudaenv/parts"))
}
