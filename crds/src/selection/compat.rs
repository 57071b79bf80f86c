//! Forward compatibility: whether a closure's libcuda may take the place of the node's.
//! Never prefers it; that is ranking's. The library's own ELF note decides, and only where there is none NVIDIA's table.

use std::collections::BTreeSet;

use super::{
    contents::{CompatLibrary, Contents},
    releases::{compat_table, cuda_of_branch, last_branch_for},
};
use crate::domain::{
    cuda::{ComputeCapability, CudaVersion},
    driver::DriverVersion,
    environment::ForwardCompat,
    node::{Brand, Gpu},
    store_path::StorePath,
};

/// Brands for which NVIDIA supports forward compatibility at all: the rule where a library brings no list of its own.
const DATA_CENTRE: [Brand; 2] = [Brand::Tesla, Brand::Nvidia];

/// Brands that every note read so far lists (570 to 615): the estimate for a library from 570 on that was not read yet.
const USUALLY_LISTED: [Brand; 10] = [
    Brand::Quadro,
    Brand::Tesla,
    Brand::VApps,
    Brand::Vpc,
    Brand::Vcs,
    Brand::Vws,
    Brand::CloudGaming,
    Brand::QuadroRtx,
    Brand::NvidiaRtx,
    Brand::Nvidia,
];

/// First driver branch whose libcuda carries the note.
const FIRST_WITH_NOTE: u32 = 570;

/// Why forward compatibility does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompatRefusal {
    /// The scan found no usable library.
    #[error("{0} holds no single libcuda.so that is not a stub")]
    NoLibrary(StorePath),
    /// Neither a note nor a version: nothing to decide on.
    #[error("its libcuda has neither a version nor a note that says where it may run")]
    NothingKnown,
    /// A compat library must be newer than the driver it replaces.
    #[error("its libcuda {library} is not newer than the node's driver {host}")]
    NotNewer {
        /// The library's driver version.
        library: DriverVersion,
        /// The node's.
        host: DriverVersion,
    },
    /// The same for libraries that only tell their CUDA release.
    #[error("its libcuda has CUDA {library}, which is not newer than the node's {host}")]
    CudaNotNewer {
        /// The library's CUDA release.
        library: CudaVersion,
        /// The node's.
        host: CudaVersion,
    },
    /// The library's own list of driver branches decides.
    #[error("its libcuda accepts the driver branches {}, not {host}", list(.accepted))]
    BranchNotListed {
        /// What the note lists.
        accepted: BTreeSet<u32>,
        /// The node's branch.
        host: u32,
    },
    /// NVIDIA's table decides where the library has no list.
    #[error("NVIDIA's table does not list driver branch {host} as a base for compat libraries of branch {library}")]
    NotInTable {
        /// The library's branch.
        library: u32,
        /// The node's branch.
        host: u32,
    },
    /// It accepts the node, but it does not reach the variant either.
    #[error("its libcuda has CUDA {library}, and the variant needs CUDA {needed} or newer")]
    TooOldItself {
        /// The library's CUDA release.
        library: CudaVersion,
        /// The lowest that starts the variant.
        needed: CudaVersion,
    },
    /// Without GPUs there is no brand to check.
    #[error(
        "it depends on the GPU's brand, and the node's GPUs are not known; name them with their brand, as in 9.0:tesla or 8.9:geforce-rtx"
    )]
    GpusUnknown,
    /// Without a brand it would be a guess, and GeForce fails with 804.
    #[error(
        "it depends on the GPU's brand, which is not known for compute capability {0}; name it, as in {0}:tesla or {0}:geforce-rtx"
    )]
    BrandUnknown(ComputeCapability),
    /// Would end in 804 (`CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE`).
    #[error("it is not for GPUs of brand {brand} (error 804)")]
    Brand {
        /// The GPU's brand.
        brand: Brand,
    },
    /// The library's branch is too new for the GPU.
    #[error("its libcuda {library} no longer drives compute capability {gpu}; the last branch that does is {last}")]
    GpuDropped {
        /// The library's driver version.
        library: DriverVersion,
        /// The GPU.
        gpu: ComputeCapability,
        /// The last branch for it.
        last: u32,
    },
}

fn list(branches: &BTreeSet<u32>) -> String {
    let texts: Vec<String> = branches.iter().map(u32::to_string).collect();
    texts.join(", ")
}

/// What takes the place of the node's user-mode driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replacement {
    /// Its CUDA release.
    pub(super) cuda: CudaVersion,
    /// Its driver version, where known.
    pub(super) version: Option<DriverVersion>,
    /// Whether the library itself was read. Where not, the answer is an estimate.
    pub(super) read: bool,
}

/// The driver of the node, and the GPUs it drives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) version: &'a DriverVersion,
    pub(super) cuda: CudaVersion,
    pub(super) gpus: &'a [Gpu],
}

/// Whether `compat` may replace the host's libcuda for a variant that needs CUDA `needed` to start.
pub(super) fn replace(
    compat: &ForwardCompat,
    contents: Option<&Contents>,
    host: &Host<'_>,
    needed: CudaVersion,
) -> Result<Replacement, CompatRefusal> {
    let replacement = match contents {
        Some(contents) => of_library(compat, contents, host)?,
        None => of_declaration(compat, host, needed)?,
    };
    if replacement.cuda < needed {
        return Err(CompatRefusal::TooOldItself {
            library: replacement.cuda,
            needed,
        });
    }
    if let Some(library) = &replacement.version {
        for gpu in host.gpus {
            if let Some(last) = last_branch_for(gpu.compute_capability).filter(|last| *last < library.major()) {
                return Err(CompatRefusal::GpuDropped {
                    library: library.clone(),
                    gpu: gpu.compute_capability,
                    last,
                });
            }
        }
    }
    Ok(replacement)
}

fn of_library(compat: &ForwardCompat, contents: &Contents, host: &Host<'_>) -> Result<Replacement, CompatRefusal> {
    let library = contents
        .compat
        .as_ref()
        .ok_or_else(|| CompatRefusal::NoLibrary(compat.store_path.clone()))?;
    accepts_driver(library, host.version, host.cuda)?;
    match &library.note {
        // Jetson's libraries list no brands: there is one GPU they can meet.
        Some(note) => note.brands.as_ref().map_or(Ok(()), |listed| {
            check_brands(host.gpus, |brand| listed.contains(&u32::from(brand.number())))
        })?,
        None => check_brands(host.gpus, |brand| DATA_CENTRE.contains(&brand))?,
    }
    Ok(Replacement {
        cuda: library.cuda().ok_or(CompatRefusal::NothingKnown)?,
        version: library.version.clone(),
        read: true,
    })
}

/// Before the library was read: what the declared version lets expect.
fn of_declaration(compat: &ForwardCompat, host: &Host<'_>, needed: CudaVersion) -> Result<Replacement, CompatRefusal> {
    if let Some(library) = &compat.driver {
        newer(library, host.version)?;
        if compat_table(library.major(), host.version.major()) == Some(false) && library.major() != host.version.major()
        {
            return Err(not_in_table(library, host.version));
        }
    }
    let may_have_note = compat
        .driver
        .as_ref()
        .is_none_or(|library| library.major() >= FIRST_WITH_NOTE);
    let expected: &[Brand] = if may_have_note { &USUALLY_LISTED } else { &DATA_CENTRE };
    check_brands(host.gpus, |brand| expected.contains(&brand))?;
    let declared = compat
        .driver
        .as_ref()
        .and_then(|library| cuda_of_branch(library.major()));
    Ok(Replacement {
        cuda: declared.unwrap_or(needed),
        version: compat.driver.clone(),
        read: false,
    })
}

/// Whether a compat library may run on a host driver, GPUs aside. The library's own list comes first; without a note
/// NVIDIA's table; with a note without list (Jetson) only its CUDA release counts.
pub fn accepts_driver(
    library: &CompatLibrary,
    host: &DriverVersion,
    host_cuda: CudaVersion,
) -> Result<(), CompatRefusal> {
    let Some(note) = &library.note else {
        let version = library.version.as_ref().ok_or(CompatRefusal::NothingKnown)?;
        newer(version, host)?;
        return match compat_table(version.major(), host.major()) {
            Some(true) => Ok(()),
            Some(false) | None => Err(not_in_table(version, host)),
        };
    };
    if let Some(accepted) = note.base_branches.as_ref().filter(|list| !list.contains(&host.major())) {
        return Err(CompatRefusal::BranchNotListed {
            accepted: accepted.clone(),
            host: host.major(),
        });
    }
    match &library.version {
        Some(version) if note.base_branches.is_some() => newer(version, host),
        _ if note.cuda > host_cuda => Ok(()),
        _ => Err(CompatRefusal::CudaNotNewer {
            library: note.cuda,
            host: host_cuda,
        }),
    }
}

fn newer(library: &DriverVersion, host: &DriverVersion) -> Result<(), CompatRefusal> {
    if library > host {
        return Ok(());
    }
    Err(CompatRefusal::NotNewer {
        library: library.clone(),
        host: host.clone(),
    })
}

fn not_in_table(library: &DriverVersion, host: &DriverVersion) -> CompatRefusal {
    CompatRefusal::NotInTable {
        library: library.major(),
        host: host.major(),
    }
}

fn check_brands(gpus: &[Gpu], allowed: impl Fn(Brand) -> bool) -> Result<(), CompatRefusal> {
    if gpus.is_empty() {
        return Err(CompatRefusal::GpusUnknown);
    }
    for gpu in gpus {
        let brand = gpu.brand.ok_or(CompatRefusal::BrandUnknown(gpu.compute_capability))?;
        if !allowed(brand) {
            return Err(CompatRefusal::Brand { brand });
        }
    }
    Ok(())
}
