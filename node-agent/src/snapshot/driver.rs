//! What was found of a driver: versions, files, and every place that was looked at.
//! Never opens a file; detection fills it in.

use std::{fmt, path::PathBuf};

use crds::domain::{cuda::CudaVersion, driver::DriverVersion, node::DriverState};
use serde::Serialize;

/// The answer of one detection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// What selection may count on.
    pub state: DriverState,
    /// The kernel module that is loaded. Only ever observed, never assumed: NVML is touched on its strength alone, and only
    /// if it is running here.
    pub kernel: Option<KernelModule>,
    /// The user-space driver chosen, also where it is not ready to be used.
    pub driver: Option<DriverFiles>,
    /// Every place looked at, in order.
    pub places: Vec<Place>,
    /// What a person should know although it decided nothing.
    pub warnings: Vec<String>,
}

impl Detection {
    /// Where a driver was looked for, for a message: the places that exist.
    pub fn looked_in(&self) -> String {
        looked_in(&self.places)
    }

    /// The driver's files and version, if it is ready.
    pub fn ready(&self) -> Option<(&DriverFiles, &DriverVersion, CudaVersion)> {
        match (&self.state, &self.driver) {
            (DriverState::Ready { version, cuda }, Some(driver)) => Some((driver, version, *cuda)),
            _ => None,
        }
    }
}

/// The NVIDIA kernel module, seen loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelModule {
    version: DriverVersion,
    running: bool,
}

impl KernelModule {
    /// For the observation of a kernel's files alone.
    pub(crate) fn observed(version: DriverVersion, running: bool) -> Self {
        Self { version, running }
    }

    /// Whether this machine's kernel said so itself, in sysfs or procfs. A root that was laid out by hand, as in tests and
    /// demonstrations, has ordinary files there: its module is believed, but not this machine's to be talked to.
    pub fn running(&self) -> bool {
        self.running
    }

    /// Its version.
    pub fn version(&self) -> &DriverVersion {
        &self.version
    }
}

/// Who laid a driver's files where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// The distribution's own library directories.
    Host,
    /// Debian's alternatives, `<triplet>/nvidia/*`.
    DebianAlternatives,
    /// A driver container of NVIDIA's GPU Operator, or whatever root its `driver-ready` file names.
    GpuOperator,
    /// Google's Container-Optimized OS on GKE.
    GkeCos,
    /// NixOS.
    NixOs,
    /// Talos.
    Talos,
    /// Flatcar and others that install below `/opt/nvidia`.
    Flatcar,
    /// Bottlerocket.
    Bottlerocket,
    /// Windows' driver inside WSL2: its libraries name no driver version, only a CUDA release.
    Wsl,
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::DebianAlternatives => "Debian alternatives",
            Self::GpuOperator => "GPU Operator",
            Self::GkeCos => "GKE Container-Optimized OS",
            Self::NixOs => "NixOS",
            Self::Talos => "Talos",
            Self::Flatcar => "Flatcar",
            Self::Bottlerocket => "Bottlerocket",
            Self::Wsl => "WSL2",
        })
    }
}

/// A directory that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub environment: Environment,
    /// The driver's own root, below the root that was searched: `/`, or `/run/nvidia/driver`.
    pub root: PathBuf,
    /// The directory below the driver's root.
    pub directory: PathBuf,
    pub found: Found,
}

impl Place {
    /// Its directory as a path below the root that was searched.
    pub fn below(&self) -> PathBuf {
        self.root
            .join(self.directory.strip_prefix("/").unwrap_or(&self.directory))
    }
}

/// The places that exist, for a message.
pub fn looked_in(places: &[Place]) -> String {
    let there: Vec<String> = (places.iter())
        .filter(|place| place.found != Found::Absent)
        .map(|place| place.below().display().to_string())
        .collect();
    if there.is_empty() {
        format!("{} places, none of which exists", places.len())
    } else {
        there.join(", ")
    }
}

/// What lay in a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub enum Found {
    /// No such directory.
    Absent,
    /// A directory without libcuda.
    Nothing,
    /// Something called libcuda that is no driver's: linking against it works, running ends in error 34.
    Stub { file: String },
    /// A driver library. `file` is where it lies after all links, below the driver's root; `version` is from its file
    /// name, absent for `libcuda.so.1.1` as on Tegra and WSL2.
    Library {
        file: PathBuf,
        version: Option<DriverVersion>,
    },
    /// Could not be read, and why.
    Unreadable { why: String },
}

/// The user-space half of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverFiles {
    pub environment: Environment,
    /// The driver's own root, below the root that was searched.
    pub root: PathBuf,
    /// Where its libraries lie, below the driver's root, links resolved.
    pub directory: PathBuf,
    /// From libcuda's file name.
    pub version: Option<DriverVersion>,
    /// Its CUDA release, where it is known.
    pub cuda: Option<DriverCuda>,
    /// Driver libraries in that directory, sorted by name.
    pub files: Vec<LibraryFile>,
}

/// User-mode driver libraries in a store path: they take the place of the node's where forward compatibility is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompatFiles {
    /// Where they lie, below the store path.
    pub directory: PathBuf,
    /// From libcuda's file name.
    pub version: Option<DriverVersion>,
    /// Sorted by name.
    pub files: Vec<LibraryFile>,
}

/// The CUDA release of a driver, and how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverCuda {
    pub release: CudaVersion,
    pub source: CudaSource,
}

/// How the CUDA release of a driver is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CudaSource {
    /// libcuda says so in its ELF note (570 and later).
    ElfNote,
    /// The table of driver branches.
    BranchTable,
}

/// One library file, with what the loader and a bridge need to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LibraryFile {
    /// The file's own name, links resolved.
    pub name: String,
    /// Where it lies below the driver's root, links resolved.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    pub soname: Option<String>,
    pub needed: Vec<String>,
    /// The linker's build id, hexadecimal.
    pub build_id: Option<String>,
}
