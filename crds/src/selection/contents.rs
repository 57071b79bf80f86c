//! What a scan found in a closure: its GPU code, file by file, and the compat library in it.
//! Never scans; the node agent does, and hands the result in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::releases::cuda_of_branch;
use crate::domain::{code::GpuCode, cuda::CudaVersion, driver::DriverVersion, store_path::StorePath};

/// What is known of closures, by the store path at their root.
pub type KnownContents = BTreeMap<StorePath, Contents>;

/// What a scan found in one closure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// All GPU code of all files. Empty: the closure carries no device code.
    pub code: GpuCode,
    /// The files that carry device code.
    #[serde(default)]
    pub files: Vec<FileCode>,
    /// The `libcuda` found in the closure, if it has exactly one that is not a stub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<CompatLibrary>,
    /// Files that may carry device code and could not be read: what they carry is in none of the fields above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// A file with device code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileCode {
    /// Absolute path, below a store path of the closure.
    pub path: String,
    /// What it carries.
    pub code: GpuCode,
    /// Its `DT_NEEDED` entries.
    #[serde(default)]
    pub needed: Vec<String>,
}

/// A user-mode driver library (`libcuda.so.*`) that comes from a closure instead of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompatLibrary {
    /// From its file name; Jetson's libraries carry none (`libcuda.so.1.1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<DriverVersion>,
    /// Its ELF note; every libcuda from driver 570 on has one, none up to 555 has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<CompatNote>,
}

/// The ELF note `.note.cuda.fwd_compatibility`: where the library says it may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompatNote {
    /// The library's own CUDA release.
    pub cuda: CudaVersion,
    /// Driver branches of the host that it accepts; absent in Jetson's libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branches: Option<BTreeSet<u32>>,
    /// Brands that it accepts, as NVML's numbers ([`Brand::number`](crate::domain::node::Brand::number)); absent in
    /// Jetson's libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brands: Option<BTreeSet<u32>>,
}

impl CompatLibrary {
    /// Its CUDA release: what its note says, else what its driver branch is known to have.
    pub fn cuda(&self) -> Option<CudaVersion> {
        let of_branch = || cuda_of_branch(self.version.as_ref()?.major());
        self.note.as_ref().map(|note| note.cuda).or_else(of_branch)
    }
}
