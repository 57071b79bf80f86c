//! Environments: named packages, each in several variants, of which selection picks one per node.
//! Never holds anything that a cluster must be asked for; what it names (caches) may not exist.

use std::collections::BTreeMap;

use super::{
    code::GpuCode,
    cuda::CudaVersion,
    driver::DriverVersion,
    store_path::{StorePath, System},
};

/// What a `CUDAEnvironment` or `ClusterCUDAEnvironment` says, once every string in it has been parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The namespace; `None` for a `ClusterCUDAEnvironment`, and for a file that names none.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// Names of the caches to ask, in this order; `None`: every cache that is allowed, by priority.
    pub caches: Option<Vec<String>>,
    /// At least one; names are unique.
    pub packages: Vec<Package>,
}

impl Environment {
    /// `namespace/name`, or `name` where there is no namespace.
    pub fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// A named member of an environment. Packages of conflicting CUDA versions live side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// A DNS label: it becomes a file name below `packages/` of the view.
    pub name: String,
    /// At least one; names are unique. The author's order breaks ties.
    pub variants: Vec<Variant>,
}

/// One build of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// A DNS label, unique in its package.
    pub name: String,
    /// The CUDA release it was built with.
    pub cuda: CudaVersion,
    /// The closure's root for each system it was built for; at least one.
    pub store_paths: BTreeMap<System, StorePath>,
    /// The GPU code it carries, where the author declared it; else what a scan of the closure finds.
    pub code: Option<GpuCode>,
    /// Drivers that the author allows: narrows the rule, never widens it.
    pub driver: DriverRange,
    /// A newer user-mode driver to fall back on where the node's own is too old.
    pub forward_compat: Option<ForwardCompat>,
}

/// Drivers from `min` to `max`, both inclusive; an absent end is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverRange {
    /// The oldest driver allowed.
    pub min: Option<DriverVersion>,
    /// The newest driver allowed.
    pub max: Option<DriverVersion>,
}

impl DriverRange {
    /// Whether a driver lies in the range.
    pub fn contains(&self, version: &DriverVersion) -> bool {
        self.min.as_ref().is_none_or(|min| min <= version) && self.max.as_ref().is_none_or(|max| version <= max)
    }
}

/// NVIDIA's `cuda-compat`: the user-mode libraries of a newer driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardCompat {
    /// The store path that holds `libcuda.so.*` (directly, or below `lib` or `compat`).
    pub store_path: StorePath,
    /// The driver version of those libraries, where the author declared it; else what a scan finds.
    pub driver: Option<DriverVersion>,
}
