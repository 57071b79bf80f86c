//! The words of a selection's answer. They are API: tools match on the reasons and modes.
//! Never computes anything.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::{code::GpuCode, cuda::CudaVersion, store_path::StorePath};

/// Which variant of each package fits a node, and why every other one that does not was rejected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// The chosen variant of each package that has one.
    pub selected: BTreeMap<String, Selected>,
    /// Every variant that does not fit, in the author's order.
    pub rejected: Vec<Rejected>,
    /// Variants that fit but were outranked, best first within a package.
    pub alternatives: Vec<Alternative>,
    /// The code that was found in variants of which nobody declared it, whether they fit or not. Not part of what is
    /// printed: other nodes' agents need not read it again.
    #[serde(skip)]
    pub read: BTreeMap<StorePath, GpuCode>,
}

/// The variant chosen for a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selected {
    /// The variant's name.
    pub variant: String,
    /// How it runs on the node's driver.
    pub mode: Mode,
    /// What a person should know: sentences, none of which stops the program from starting.
    pub warnings: Vec<String>,
    /// The CUDA release the variant was built with.
    pub cuda: CudaVersion,
    /// The closure's root for the node's system.
    pub store_path: StorePath,
    /// In mode forward-compat: the store path whose driver libraries take the place of the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_compat: Option<StorePath>,
    /// Store paths whose contents would decide but are not known. The answer is optimistic until they are: fetch and
    /// scan them, then select again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<StorePath>,
}

/// A variant that would have done too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alternative {
    /// The package's name.
    pub package: String,
    /// The variant's name.
    pub variant: String,
    /// How it would run.
    pub mode: Mode,
}

/// A variant that does not fit the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// The package's name.
    pub package: String,
    /// The variant's name.
    pub variant: String,
    /// The stable word for why.
    pub reason: Reason,
    /// The same for a person: a sentence with the numbers, and what to do where something helps.
    pub detail: String,
}

/// How a variant runs on a node's driver. The order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The driver's CUDA release is the variant's or newer: everything works.
    Native,
    /// The driver is older but of the same CUDA major: SASS runs, PTX newer than the driver's does not, and some newer
    /// calls answer 36 (`CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER`).
    MinorVersionCompat,
    /// The driver is too old; NVIDIA's compat libraries take the place of its user-mode half.
    ForwardCompat,
}

/// Why a variant was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The CUDA runtime refuses the driver (error 35), and no forward compatibility applies.
    DriverTooOld,
    /// The only code for a GPU is PTX that the driver cannot compile (error 222).
    PtxTooNew,
    /// The variant carries no code that runs on a GPU of the node (error 209), or the driver no longer drives that GPU.
    NoCodeForGpu,
    /// The variant has no store path for the node's system.
    NoVariantForSystem,
    /// Kernel module and user-space library are of different versions (error 803): reload the module or reboot.
    DriverMismatch,
    /// The node has no usable driver.
    DriverMissing,
    /// The author declared a range of drivers for the variant, and the node's is not in it.
    OutsideDeclaredRange,
}

impl Mode {
    /// Every mode, best first.
    pub const ALL: [Self; 3] = [Self::Native, Self::MinorVersionCompat, Self::ForwardCompat];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::MinorVersionCompat => "minor-version-compat",
            Self::ForwardCompat => "forward-compat",
        }
    }
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::DriverTooOld,
        Self::PtxTooNew,
        Self::NoCodeForGpu,
        Self::NoVariantForSystem,
        Self::DriverMismatch,
        Self::DriverMissing,
        Self::OutsideDeclaredRange,
    ];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DriverTooOld => "driver-too-old",
            Self::PtxTooNew => "ptx-too-new",
            Self::NoCodeForGpu => "no-code-for-gpu",
            Self::NoVariantForSystem => "no-variant-for-system",
            Self::DriverMismatch => "driver-mismatch",
            Self::DriverMissing => "driver-missing",
            Self::OutsideDeclaredRange => "outside-declared-range",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
