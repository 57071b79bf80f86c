//! Node facts: what selection knows of a node.
//! Never read from a machine here; the agent observes them, the command line is told them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    cuda::{ComputeCapability, CudaVersion, NumberError},
    driver::DriverVersion,
    store_path::System,
};

/// The market a GPU was sold to, with NVML's numbers (`nvmlBrandType_t`): forward compatibility is bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Brand {
    /// Workstation cards.
    Quadro = 1,
    /// Data-centre cards up to Volta and Turing.
    Tesla = 2,
    /// Multi-display business cards.
    Nvs = 3,
    /// Virtual GPUs of the first generation.
    Grid = 4,
    /// Gaming cards.
    GeForce = 5,
    /// Titan cards.
    Titan = 6,
    /// NVIDIA Virtual Applications.
    VApps = 7,
    /// NVIDIA Virtual PC.
    Vpc = 8,
    /// NVIDIA Virtual Compute Server.
    Vcs = 9,
    /// NVIDIA RTX Virtual Workstation.
    Vws = 10,
    /// NVIDIA Cloud Gaming.
    CloudGaming = 11,
    /// Workstation cards of the Turing generation.
    QuadroRtx = 12,
    /// Workstation cards from Ampere on.
    NvidiaRtx = 13,
    /// Data-centre cards from Ampere on.
    Nvidia = 14,
    /// Gaming cards from Turing on.
    GeForceRtx = 15,
    /// Titan RTX.
    TitanRtx = 16,
}

impl Brand {
    /// Every brand with its name, as the command line takes it.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::Quadro, "quadro"),
        (Self::Tesla, "tesla"),
        (Self::Nvs, "nvs"),
        (Self::Grid, "grid"),
        (Self::GeForce, "geforce"),
        (Self::Titan, "titan"),
        (Self::VApps, "vapps"),
        (Self::Vpc, "vpc"),
        (Self::Vcs, "vcs"),
        (Self::Vws, "vws"),
        (Self::CloudGaming, "cloud-gaming"),
        (Self::QuadroRtx, "quadro-rtx"),
        (Self::NvidiaRtx, "nvidia-rtx"),
        (Self::Nvidia, "nvidia"),
        (Self::GeForceRtx, "geforce-rtx"),
        (Self::TitanRtx, "titan-rtx"),
    ];

    /// NVML's number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From NVML's number; numbers newer than this table (17 and up) are `None`.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .map(|(brand, _)| brand)
            .find(|brand| u32::from(brand.number()) == number)
    }

    /// From its name, in any case; `_`, blank and `-` are the same.
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = name.trim().to_ascii_lowercase().replace(['_', ' '], "-");
        Self::ALL
            .into_iter()
            .find(|(_, known)| *known == plain)
            .map(|(brand, _)| brand)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(brand, _)| *brand == self)
            .map_or("unknown", |(_, name)| name)
    }
}

impl fmt::Display for Brand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Brand {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Brand {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_name(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a GPU brand known to NVML")))
    }
}

/// Why a stated GPU is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// Not a compute capability.
    #[error(transparent)]
    ComputeCapability(NumberError),
    /// Not a brand.
    #[error("`{brand}` is not a brand known to NVML: {}", Brand::ALL.map(|(_, name)| name).join(", "))]
    Brand {
        /// What was given, escaped and cut.
        brand: String,
    },
}

/// GPUs of one kind in a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// The GPU generation.
    pub compute_capability: ComputeCapability,
    /// Absent where NVML names a brand that is newer than this software.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<Brand>,
    /// NVML's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many of them.
    #[serde(default = "one")]
    pub count: u32,
}

impl FromStr for Gpu {
    type Err = GpuError;

    /// Reads `COMPUTE-CAPABILITY[:BRAND]`, such as `9.0:tesla`: one such GPU.
    fn from_str(text: &str) -> Result<Self, GpuError> {
        let (capability, brand) = match text.split_once(':') {
            Some((capability, brand)) => (capability, Some(brand)),
            None => (text, None),
        };
        let named = |brand: &str| {
            Brand::from_name(brand).ok_or_else(|| GpuError::Brand {
                brand: brand.chars().take(64).flat_map(char::escape_debug).collect(),
            })
        };
        Ok(Self {
            compute_capability: capability.parse().map_err(GpuError::ComputeCapability)?,
            brand: brand.map(named).transpose()?,
            model: None,
            count: 1,
        })
    }
}

fn one() -> u32 {
    1
}

/// What the driver of a node allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverState {
    /// No driver at all.
    Missing,
    /// Found, but not to be used yet, and why in words (being revalidated, no kernel module, stub library …).
    NotReady {
        /// The sentence, without a full stop.
        why: String,
    },
    /// Kernel module and user-space library differ: every CUDA call would end in 803.
    Mismatch {
        /// Version of the kernel module.
        kernel: DriverVersion,
        /// Version of libcuda.
        library: DriverVersion,
    },
    /// Usable.
    Ready {
        /// Version of both halves.
        version: DriverVersion,
        /// The CUDA release that libcuda reports.
        cuda: CudaVersion,
    },
}

/// All that selection looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The driver, or why there is none to use.
    pub driver: DriverState,
    /// Empty when they are not known: then code is not checked, and selection says so in a warning.
    pub gpus: Vec<Gpu>,
    /// The node's Nix system.
    pub system: System,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brands_have_one_name_and_one_number() {
        for (brand, name) in Brand::ALL {
            assert_eq!(Brand::from_name(&name.to_uppercase()), Some(brand));
            assert_eq!(Brand::from_number(brand.number().into()), Some(brand));
            assert_eq!(brand.name(), name);
        }
        assert_eq!(Brand::from_name("GeForce RTX"), Some(Brand::GeForceRtx));
        assert_eq!(Brand::from_number(17), None);
    }

    #[test]
    fn a_gpu_is_stated_by_its_capability_and_perhaps_its_brand() {
        for (text, capability, brand) in [
            ("9.0:tesla", "9.0", Some(Brand::Tesla)),
            ("8.9", "8.9", None),
            ("12.0:GeForce RTX", "12.0", Some(Brand::GeForceRtx)),
            ("99.9", "99.9", None),
        ] {
            let gpu: Gpu = text.parse().unwrap();
            assert_eq!(
                (gpu.compute_capability.to_string().as_str(), gpu.brand, gpu.count),
                (capability, brand, 1)
            );
        }
        for text in ["", "sm_90", "9", "9.0.1", ":tesla", "９.0", " 9.0", "0.0", "0.0:tesla"] {
            let error = text.parse::<Gpu>().unwrap_err();
            assert!(matches!(error, GpuError::ComputeCapability(_)), "{text}: {error}");
        }
        for text in ["9.0:", "9.0:h100", "9.0:tesla:tesla"] {
            let error = text.parse::<Gpu>().unwrap_err();
            assert!(error.to_string().contains("quadro-rtx"), "{error}");
        }
    }
}
