//! What a view is asked to hold, and the names of views and driver bridges.
//! Never holds a string that could be more than one path component.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use crds::domain::store_path::StorePath;
use serde::{Deserialize, Serialize};

/// Length of a view's digest: 128 bits of SHA-256 in hexadecimal.
pub const DIGEST_LEN: usize = 32;
/// Longest name of a driver bridge.
pub const MAX_BRIDGE_LEN: usize = 100;

/// The name of a view: equal on every node whose view holds the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ViewDigest(Box<str>);

/// The name of a driver bridge: one path component of `[a-z0-9._-]`, beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BridgeId(Box<str>);

/// A string is no name of a view or of a driver bridge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("`{0}` is no view digest: {DIGEST_LEN} lower-case hexadecimal digits")]
    Digest(String),
    #[error("`{0}` is no driver bridge: 1 to {MAX_BRIDGE_LEN} characters of [a-z0-9._-], a letter or digit first")]
    Bridge(String),
}

impl ViewDigest {
    /// The name for the first half of a SHA-256.
    pub(crate) fn from_bytes(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }
}

impl FromStr for ViewDigest {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let hexadecimal = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == DIGEST_LEN && hexadecimal {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Digest(text.chars().take(2 * DIGEST_LEN).collect()))
        }
    }
}

impl BridgeId {
    /// The version of the driver whose libraries it holds: what its name begins with.
    pub fn driver(&self) -> &str {
        self.0.split('-').next().unwrap_or(&self.0)
    }
}

impl FromStr for BridgeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = text.bytes().all(|b| plain(b) || b"._-".contains(&b)) && text.bytes().next().is_some_and(plain);
        // `<id>.json` lies beside `<id>`: no bridge may be called like another one's record.
        if good && text.len() <= MAX_BRIDGE_LEN && !text.ends_with(".json") {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Bridge(text.chars().take(2 * MAX_BRIDGE_LEN).collect()))
        }
    }
}

macro_rules! name {
    ($type:ty) => {
        impl $type {
            /// The name: one path component.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
            }
        }
    };
}
name!(ViewDigest);
name!(BridgeId);

/// How a view's files are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViewKind {
    /// A read-only overlay mount of the layers: the default, costs nothing, runs programs even from a `noexec` disk.
    Overlay,
    /// A tree of hard links: for pods with user namespaces, whose volumes must be id-mapped, which an overlay cannot be.
    Plain,
}

/// What one view shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewRequest {
    /// Overlay or plain.
    pub kind: ViewKind,
    /// Every store path of the closures of the selected packages (and of their forward-compatibility paths).
    pub paths: BTreeSet<StorePath>,
    /// The selected store path of each package, shown as `packages/<name>`.
    pub packages: BTreeMap<String, StorePath>,
    /// The layer with the driver's libraries; none on a node without a driver.
    pub bridge: Option<BridgeId>,
    /// The content of `cudaenv.json`: what was selected and why. Holds no time and no node name, or equal views differ.
    pub cudaenv_json: String,
    /// The SELinux label for the overlay's files, where SELinux is active.
    pub selinux_label: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in ["", ".", "..", "../x", "a/b", "-a", ".a", "A", "a.json", "a\0"] {
            assert!(bad.parse::<BridgeId>().is_err(), "{bad:?}");
        }
        for good in ["535.274.02", "535.274.02-x86_64-linux-0123456789abcdef"] {
            assert_eq!(good.parse::<BridgeId>().unwrap().as_str(), good);
        }
        assert!("0123456789abcdef0123456789abcdeF".parse::<ViewDigest>().is_err());
        "0123456789abcdef0123456789abcdef".parse::<ViewDigest>().unwrap();
    }
}
