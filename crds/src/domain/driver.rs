//! NVIDIA driver versions.
//! Never accepts "nearly a version": the text reaches file names and labels.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A driver version: two or three numbers, `580.95.05`. Compared number by number ("570.26" is less than "570.124.06").
///
/// A third part that is absent counts as 0. The text is kept as NVIDIA wrote it, because the driver's file names carry it.
#[derive(Clone)]
pub struct DriverVersion {
    text: Box<str>,
    parts: [u32; 3],
}

/// Not a driver version. Quotes at most 128 characters of what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an NVIDIA driver version: two or three numbers with dots, such as 580.95.05")]
pub struct UnparsableDriver(pub String);

impl DriverVersion {
    /// The branch: the number before the first dot.
    pub fn major(&self) -> u32 {
        self.parts[0]
    }

    /// As NVIDIA wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for DriverVersion {
    type Err = UnparsableDriver;

    /// Accepts three to four digits without leading zero, then one or two parts of one to five digits. A short form such as
    /// `550` is no version: it would have to mean "some 550", and nothing here picks something.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || UnparsableDriver(text.chars().take(128).flat_map(char::escape_default).collect());
        let mut parts = [0; 3];
        let mut count = 0;
        for part in text.split('.') {
            let length = if count == 0 { 3..=4 } else { 1..=5 };
            let digits = length.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            let leading_zero = count == 0 && part.starts_with('0');
            if count == parts.len() || !digits || leading_zero {
                return Err(error());
            }
            parts[count] = part.parse().map_err(|_| error())?;
            count += 1;
        }
        if count < 2 {
            return Err(error());
        }
        Ok(Self {
            text: text.into(),
            parts,
        })
    }
}

impl PartialEq for DriverVersion {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}
impl Eq for DriverVersion {}
impl PartialOrd for DriverVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for DriverVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}
impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl Serialize for DriverVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for DriverVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries X01 to X25 of the corpus of bad driver strings.
    #[test]
    fn only_versions_are_versions() {
        let bad = include_str!("../../tests/data/bad_drivers.json");
        let refused: Vec<String> = serde_json::from_str(bad).unwrap();
        let long = [["1"; 1 << 16].join("."), "9".repeat(10_000)];
        for text in refused.into_iter().chain(long) {
            let error = text.parse::<DriverVersion>().unwrap_err().to_string();
            assert!(error.len() < 1200 && !error.contains('\n'), "{error}");
        }
        for text in ["550.54.15", "440.64", "580.95.05"] {
            assert_eq!(text.parse::<DriverVersion>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<DriverVersion>().unwrap();
        assert!(version("570.26") < version("570.124.06"));
        assert!(version("580.95.05") > version("580.82.07"));
        assert!(version("550.9.0") < version("550.54.15"));
        assert_eq!(version("550.54"), version("550.54.0"));
    }
}
