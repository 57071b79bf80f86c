//! Store paths of the Nix store directory `/nix/store`, and the systems they are built for.
//! Never accepts a string that could mean a place outside the store directory.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The only store directory there is here: binaries carry it inside, so it cannot be another (Nix manual, "Store directory").
pub const STORE_DIR: &str = "/nix/store";
/// Characters of the hash part: 160 bits in Nix's base 32.
pub const HASH_LEN: usize = 32;
/// Longest name part that Nix accepts (`StorePath::MaxPathLen`).
pub const MAX_NAME_LEN: usize = 211;
/// Nix's base-32 alphabet: digits and letters without `e`, `o`, `u` and `t`.
pub const NIX_BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// A store path: `/nix/store/<hash>-<name>`, checked once, here.
///
/// The hash part is 32 characters of Nix's base 32; the name has 1 to 211 characters of `[0-9a-zA-Z+-._?=]`, is neither
/// `.` nor `..` and begins with neither `.-` nor `..-` (Nix, `path.cc`). So neither part can ever leave a directory it is
/// joined to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    base_name: Box<str>,
}

/// Why a string is no store path. The text of the variants is the operand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// Another store directory, or no path at all.
    #[error("`{0}` is not below {STORE_DIR}/")]
    OutsideStoreDir(String),
    /// A file inside a store path.
    #[error("`{0}` points below a store path; name the store path alone")]
    SubPath(String),
    /// The hash part is not one.
    #[error("`{0}` is not <hash>-<name>: the hash takes {HASH_LEN} characters of Nix's base 32 (no e, o, u, t)")]
    BadHash(String),
    /// The name part is not one.
    #[error(
        "`{0}` has no name part of 1 to {MAX_NAME_LEN} characters of [0-9a-zA-Z+-._?=], or it begins like `.` or `..`"
    )]
    BadName(String),
}

impl StorePath {
    /// Parses the absolute form `/nix/store/<hash>-<name>`.
    pub fn parse(text: &str) -> Result<Self, StorePathError> {
        let base = text
            .strip_prefix(STORE_DIR)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| StorePathError::OutsideStoreDir(shorten(text)))?;
        if base.contains('/') {
            return Err(StorePathError::SubPath(shorten(text)));
        }
        Self::from_base_name(base)
    }

    /// Parses the base name `<hash>-<name>`, as a narinfo's `References` lists it.
    pub fn from_base_name(base: &str) -> Result<Self, StorePathError> {
        let bytes = base.as_bytes();
        let hash_is_good = bytes.len() > HASH_LEN && bytes[HASH_LEN] == b'-' && is_hash(&bytes[..HASH_LEN]);
        if !hash_is_good {
            return Err(StorePathError::BadHash(shorten(base)));
        }
        let name = &bytes[HASH_LEN + 1..];
        let characters = name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(b));
        let dots = matches!(name, b"." | b"..") || name.starts_with(b".-") || name.starts_with(b"..-");
        if name.is_empty() || name.len() > MAX_NAME_LEN || !characters || dots {
            return Err(StorePathError::BadName(shorten(base)));
        }
        Ok(Self { base_name: base.into() })
    }

    /// The 32 characters before the first dash: unique in a store, and the narinfo's file name in a cache.
    pub fn hash(&self) -> &str {
        &self.base_name[..HASH_LEN]
    }

    /// The human part, behind the hash and the dash.
    pub fn name(&self) -> &str {
        &self.base_name[HASH_LEN + 1..]
    }

    /// `<hash>-<name>`: a single path component.
    pub fn base_name(&self) -> &str {
        &self.base_name
    }

    /// A derivation's own path ends in `.drv`; it is a recipe, never something to mount.
    pub fn is_derivation(&self) -> bool {
        self.name().ends_with(".drv")
    }
}

/// Whether `text` is exactly a hash part of a store path.
pub fn is_hash(text: &[u8]) -> bool {
    text.len() == HASH_LEN && text.iter().all(|b| NIX_BASE32.contains(b))
}

/// Hostile input may be megabytes; an error quotes at most this much of it.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 256;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE_DIR}/{}", self.base_name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for StorePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A Nix system that NVIDIA has a Linux driver for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum System {
    /// Intel and AMD servers.
    #[serde(rename = "x86_64-linux")]
    X86_64Linux,
    /// Arm servers (NVIDIA's sbsa).
    #[serde(rename = "aarch64-linux")]
    Aarch64Linux,
}

/// Not a system that this software serves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a system served here: x86_64-linux or aarch64-linux")]
pub struct UnknownSystem(pub String);

impl System {
    /// The name Nix uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64Linux => "x86_64-linux",
            Self::Aarch64Linux => "aarch64-linux",
        }
    }

    /// The system that this program was compiled for.
    pub const fn of_this_build() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64Linux
        } else {
            Self::X86_64Linux
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for System {
    type Err = UnknownSystem;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "x86_64-linux" => Ok(Self::X86_64Linux),
            "aarch64-linux" => Ok(Self::Aarch64Linux),
            _ => Err(UnknownSystem(shorten(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60_p20170221182432";

    #[test]
    fn a_store_path_round_trips() {
        let path = StorePath::parse(&format!("/nix/store/{GOOD}")).unwrap();
        assert_eq!(path.hash(), "00bgd045z0d4icpbc2yyz4gx48ak44la");
        assert_eq!(path.name(), "net-tools-1.60_p20170221182432");
        assert_eq!(path.to_string(), format!("/nix/store/{GOOD}"));
    }

    #[test]
    fn whatever_could_leave_the_store_is_refused() {
        let hash = &GOOD[..32];
        for (text, want) in [
            ("/nix/store/..".to_owned(), "BadHash"),
            (format!("/nix/store/{GOOD}/bin/sh"), "SubPath"),
            (format!("/gnu/store/{GOOD}"), "OutsideStoreDir"),
            (format!("/nix/store/{}e-x", &hash[..31]), "BadHash"),
            (format!("/nix/store/{hash}-"), "BadName"),
            (format!("/nix/store/{hash}-."), "BadName"),
            (format!("/nix/store/{hash}-.."), "BadName"),
            (format!("/nix/store/{hash}-.-a"), "BadName"),
            (format!("/nix/store/{hash}-..-a"), "BadName"),
            (format!("/nix/store/{hash}-{}", "a".repeat(212)), "BadName"),
            (format!("/nix/store/{hash}-ä"), "BadName"),
        ] {
            let error = StorePath::parse(&text).unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{text}: {error:?}");
        }
        StorePath::parse(&format!("/nix/store/{hash}-{}", "a".repeat(211))).unwrap();
        StorePath::parse(&format!("/nix/store/{hash}-.gitignore")).unwrap();
    }
}
