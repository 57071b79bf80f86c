//! CUDA release numbers and GPU compute capabilities.
//! Never guesses: a number that cannot be one is an error that shows the number.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is no number of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct NumberError {
    /// What it was given, at most 64 characters.
    pub text: String,
    /// What it should have been.
    pub wanted: &'static str,
}

/// Parses `<major>.<minor>`, decimal digits only, each at most 999, the major at least `lowest`.
fn two_numbers(text: &str, lowest: u16, wanted: &'static str) -> Result<(u16, u16), NumberError> {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    text.split_once('.')
        .and_then(|(major, minor)| Some((number(major)?, number(minor)?)))
        .filter(|(major, _)| *major >= lowest)
        .ok_or_else(|| NumberError {
            text: text.chars().take(64).collect(),
            wanted,
        })
}

/// Two numbers with a dot, ordered as numbers.
macro_rules! two_part_number {
    ($(#[$doc:meta])* $name:ident, $lowest:literal, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            major: u16,
            minor: u16,
        }
        impl $name {
            /// Of its two parts.
            pub const fn new(major: u16, minor: u16) -> Self {
                Self { major, minor }
            }
            /// The number before the dot.
            pub const fn major(self) -> u16 {
                self.major
            }
            /// The number behind the dot.
            pub const fn minor(self) -> u16 {
                self.minor
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.major, self.minor)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = NumberError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                two_numbers(text, $lowest, $wanted).map(|(major, minor)| Self { major, minor })
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

two_part_number!(
    /// A CUDA release, as `12.8`.
    CudaVersion,
    0,
    "a CUDA version such as 12.8"
);
two_part_number!(
    /// A PTX instruction set version, as `8.7`. It equals no CUDA version: 12.5 and 12.6 share 8.5.
    PtxIsa,
    0,
    "a PTX instruction set version such as 8.7"
);
two_part_number!(
    /// The generation of one GPU, as `9.0`.
    ComputeCapability,
    1,
    "a compute capability such as 9.0 (there is none of major 0)"
);

impl CudaVersion {
    /// From the number that `cuDriverGetVersion` answers: 1000 × major + 10 × minor.
    pub const fn from_driver_api(number: u32) -> Self {
        Self {
            major: (number / 1000) as u16,
            minor: (number % 1000 / 10) as u16,
        }
    }

    /// As `cuDriverGetVersion` would answer it.
    pub const fn to_driver_api(self) -> u32 {
        self.major as u32 * 1000 + self.minor as u32 * 10
    }
}

impl ComputeCapability {
    /// From the number behind `sm_`: 90 is 9.0, 120 is 12.0, 103 is 10.3.
    pub const fn from_sm(sm: u16) -> Self {
        Self {
            major: sm / 10,
            minor: sm % 10,
        }
    }

    /// The number behind `sm_`.
    pub const fn to_sm(self) -> u16 {
        self.major * 10 + self.minor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let version = |text: &str| text.parse::<CudaVersion>().unwrap();
        assert!(version("12.10") > version("12.8"));
        assert_eq!(version("12.8").to_driver_api(), 12080);
        assert_eq!(CudaVersion::from_driver_api(11040), version("11.4"));
        assert_eq!(ComputeCapability::from_sm(103).to_string(), "10.3");
    }

    #[test]
    fn no_compute_capability_has_major_0() {
        for text in ["0.0", "0.9", "00.1"] {
            let error = text.parse::<ComputeCapability>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`{text}` is not a compute capability such as 9.0 (there is none of major 0)")
            );
        }
        assert_eq!("1.0".parse(), Ok(ComputeCapability::new(1, 0)));
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_text() {
        for text in [
            "",
            "12",
            "12.",
            ".8",
            "12.8.1",
            "v12.8",
            "12.-8",
            " 12.8",
            "12.8\n",
            "1234.0",
            "１２.８",
        ] {
            assert!(
                text.parse::<CudaVersion>().unwrap_err().to_string().contains(text),
                "{text}"
            );
        }
    }
}
