//! GPU code: what a build carries for which GPU.
//! Never decides whether it runs; that is selection's.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::cuda::{ComputeCapability, NumberError, PtxIsa};

/// How widely code for one compute capability may be used (facts: NVIDIA's `ptxas` help).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Portability {
    /// No suffix: SASS for this and later minors of its major, PTX for everything later.
    Portable,
    /// Suffix `f`: the family, this and later minors that NVIDIA counts to it.
    Family,
    /// Suffix `a`: exactly this compute capability.
    Exact,
}

/// A code generation target: `9.0`, `9.0a`, `10.0f`; `sm_90a`, `compute_100f` and `90a` are read too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodeTarget {
    /// The GPU generation it was generated for.
    pub capability: ComputeCapability,
    /// Its suffix.
    pub portability: Portability,
}

impl CodeTarget {
    /// A target without suffix.
    pub const fn portable(capability: ComputeCapability) -> Self {
        Self {
            capability,
            portability: Portability::Portable,
        }
    }
}

impl fmt::Display for CodeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.portability {
            Portability::Portable => "",
            Portability::Family => "f",
            Portability::Exact => "a",
        };
        write!(f, "{}{suffix}", self.capability)
    }
}

impl fmt::Debug for CodeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CodeTarget {
    type Err = NumberError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NumberError {
            text: text.chars().take(64).collect(),
            wanted: "a code target such as 9.0, 9.0a or sm_90a",
        };
        let bare = text
            .strip_prefix("sm_")
            .or_else(|| text.strip_prefix("compute_"))
            .unwrap_or(text);
        let (number, portability) = match bare.as_bytes().last() {
            Some(b'a') => (&bare[..bare.len() - 1], Portability::Exact),
            Some(b'f') => (&bare[..bare.len() - 1], Portability::Family),
            _ => (bare, Portability::Portable),
        };
        let capability = if number.contains('.') {
            number.parse().map_err(|_| error())?
        } else {
            let digits = (2..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
            ComputeCapability::from_sm(digits.then(|| number.parse().ok()).flatten().ok_or_else(error)?)
        };
        Ok(Self {
            capability,
            portability,
        })
    }
}

impl Serialize for CodeTarget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CodeTarget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// PTX in a build: compiled by the driver when the program starts, if the driver knows the instruction set version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PtxCode {
    /// The GPU generation it was written for.
    pub target: CodeTarget,
    /// Its instruction set version, which the driver must know.
    pub isa: PtxIsa,
}

/// All GPU code of one build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuCode {
    /// Machine code.
    pub sass: BTreeSet<CodeTarget>,
    /// Code that the driver compiles at the first start.
    pub ptx: BTreeSet<PtxCode>,
}

impl GpuCode {
    /// A build without device code runs on any GPU: it brings nothing that could fail to load.
    pub fn is_empty(&self) -> bool {
        self.sass.is_empty() && self.ptx.is_empty()
    }

    /// Takes in what another file of the same build carries.
    pub fn extend(&mut self, other: &Self) {
        self.sass.extend(&other.sass);
        self.ptx.extend(&other.ptx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_target_is_one_target() {
        for (text, want) in [
            ("sm_90a", "9.0a"),
            ("compute_100f", "10.0f"),
            ("9.0", "9.0"),
            ("75", "7.5"),
            ("12.0a", "12.0a"),
            ("sm_103", "10.3"),
        ] {
            assert_eq!(text.parse::<CodeTarget>().unwrap().to_string(), want);
        }
        for text in ["", "sm_", "sm_9", "9", "sm_90b", "9.0aa", "sm_1200", "-7.5"] {
            text.parse::<CodeTarget>().unwrap_err();
        }
    }
}
