//! The GPUs of a machine: from NVML where a kernel module is loaded, else as a person states them.
//! Never initialises NVML without a module: as root that would create `/dev/nvidiactl` on a machine that has no driver.

use std::path::{Path, PathBuf};

use crds::domain::{
    cuda::{ComputeCapability, CudaVersion},
    driver::DriverVersion,
    node::{Brand, Gpu, GpuError},
};
use nvml_wrapper::{Device, Nvml, enum_wrappers::device::Brand as NvmlBrand, error::NvmlError};
use serde::Deserialize;

use crate::snapshot::driver::KernelModule;

/// What a person states of a node, in a file of JSON or YAML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// The driver; absent: it is detected.
    pub driver: Option<StatedDriver>,
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

/// A driver as stated.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatedDriver {
    pub version: DriverVersion,
    /// Absent: what the version's branch is known to have.
    pub cuda: Option<CudaVersion>,
}

/// What NVML answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// One entry for each kind, in the order of the kinds' first GPU.
    pub gpus: Vec<Gpu>,
    /// GPUs that did not answer (fallen off the bus, for one), and why.
    pub faults: Vec<String>,
}

/// Why a file of facts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("the facts are no JSON or YAML of the known form")]
    Form(#[source] Box<serde_saphyr::Error>),
    #[error("gpus[{index}].count is 0")]
    NoCount { index: usize },
}

/// Why NVML could not be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum NvmlFault {
    #[error("kernel module {version} is not this machine's: its version comes from an ordinary file")]
    NotRunning { version: DriverVersion },
    #[error("cannot load and initialise {}", library.display())]
    Init { library: PathBuf, source: NvmlError },
    #[error("NVML did not say how many GPUs there are")]
    Count(#[source] NvmlError),
}

/// Reads `COMPUTE-CAPABILITY[:BRAND]`, such as `9.0:tesla`.
pub fn parse_gpu(text: &str) -> Result<Gpu, GpuError> {
    text.parse()
}

/// Reads a file of facts.
pub fn parse_facts(text: &str) -> Result<Facts, FactsError> {
    let facts: Facts = serde_saphyr::from_str(text).map_err(|error| FactsError::Form(Box::new(error)))?;
    match facts.gpus.iter().position(|gpu| gpu.count == 0) {
        Some(index) => Err(FactsError::NoCount { index }),
        None => Ok(facts),
    }
}

/// GPUs of the same kind become one entry with their count.
pub fn group(gpus: impl IntoIterator<Item = Gpu>) -> Vec<Gpu> {
    let mut kinds: Vec<Gpu> = Vec::new();
    for gpu in gpus {
        let same = |kind: &&mut Gpu| {
            (kind.compute_capability, kind.brand, &kind.model) == (gpu.compute_capability, gpu.brand, &gpu.model)
        };
        match kinds.iter_mut().find(same) {
            Some(kind) => kind.count = kind.count.saturating_add(gpu.count),
            None => kinds.push(gpu),
        }
    }
    kinds
}

/// Asks the driver's own NVML (`libnvidia-ml.so.<version>` at `library`). The module is the proof that one is loaded; one
/// that does not run on this machine is refused before anything is loaded.
///
/// The library is loaded for this call alone and let go before it returns.
pub fn observe(library: &Path, module: &KernelModule) -> Result<Observed, NvmlFault> {
    if !module.running() {
        return Err(NvmlFault::NotRunning {
            version: module.version().clone(),
        });
    }
    let nvml = (Nvml::builder().lib_path(library.as_os_str()).init()).map_err(|source| NvmlFault::Init {
        library: library.to_owned(),
        source,
    })?;
    let count = nvml.device_count().map_err(NvmlFault::Count)?;
    let mut observed = Observed::default();
    let mut gpus = Vec::new();
    for index in 0..count {
        match nvml.device_by_index(index).and_then(|device| gpu(&device)) {
            Ok(gpu) => gpus.push(gpu),
            Err(error) => observed.faults.push(format!("GPU {index} does not answer: {error}")),
        }
    }
    observed.gpus = group(gpus);
    Ok(observed)
}

/// The compute capability must be known; a brand or a name newer than the wrapper's tables may be missing.
fn gpu(device: &Device<'_>) -> Result<Gpu, NvmlError> {
    let capability = device.cuda_compute_capability()?;
    let number = |part: i32| u16::try_from(part).map_err(|_| NvmlError::Unknown);
    Ok(Gpu {
        compute_capability: ComputeCapability::new(number(capability.major)?, number(capability.minor)?),
        brand: device.brand().ok().and_then(brand),
        model: device.name().ok(),
        count: 1,
    })
}

fn brand(brand: NvmlBrand) -> Option<Brand> {
    Some(match brand {
        NvmlBrand::Unknown => return None,
        NvmlBrand::Quadro => Brand::Quadro,
        NvmlBrand::Tesla => Brand::Tesla,
        NvmlBrand::NVS => Brand::Nvs,
        NvmlBrand::GRID => Brand::Grid,
        NvmlBrand::GeForce => Brand::GeForce,
        NvmlBrand::Titan => Brand::Titan,
        NvmlBrand::VApps => Brand::VApps,
        NvmlBrand::VPC => Brand::Vpc,
        NvmlBrand::VCS => Brand::Vcs,
        NvmlBrand::VWS => Brand::Vws,
        NvmlBrand::CloudGaming | NvmlBrand::VGaming => Brand::CloudGaming,
        NvmlBrand::QuadroRTX => Brand::QuadroRtx,
        NvmlBrand::NvidiaRTX => Brand::NvidiaRtx,
        NvmlBrand::Nvidia => Brand::Nvidia,
        NvmlBrand::GeForceRTX => Brand::GeForceRtx,
        NvmlBrand::TitanRTX => Brand::TitanRtx,
    })
}

#[cfg(test)]
mod tests;
