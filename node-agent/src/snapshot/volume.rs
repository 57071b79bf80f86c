//! What is on record about the volumes of pods.
//! Never holds a path made of a volume's name: names are hashed.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use crds::catalogue::EnvironmentKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    happening::Pod,
    view::{BridgeId, ViewDigest, ViewKind},
};

/// The name of a volume as a file name: a hash of what kubelet calls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeId(Box<str>);

impl VolumeId {
    /// For the name that kubelet gave.
    pub fn new(name: &str) -> Self {
        Self(hexadecimal(name.as_bytes()).into())
    }

    /// Lower-case hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 128 bits of SHA-256.
fn hexadecimal(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// One volume at one target: the file `volumes/<volume>-<target>.json`. It is durable before the mount is made, and as long
/// as it is there garbage collection leaves the view alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// Which volume.
    pub volume: VolumeId,
    /// Where it is.
    pub target: PathBuf,
    /// Equal for equal requests.
    pub fingerprint: String,
    /// The view that it shows.
    pub view: ViewDigest,
    /// How the view is made.
    pub kind: ViewKind,
    /// The driver's files in it.
    pub bridge: Option<BridgeId>,
    /// Whose it is.
    pub pod: Pod,
    /// Of which environment.
    pub environment: EnvironmentKey,
    /// The variant of each package.
    pub variants: BTreeMap<String, String>,
}

impl VolumeRecord {
    /// Its file's name.
    pub fn file_name(&self) -> String {
        file_name(&self.volume, &self.target)
    }
}

/// The name of the record of a volume at a target.
pub fn file_name(volume: &VolumeId, target: &std::path::Path) -> String {
    let target = hexadecimal(target.as_os_str().as_encoded_bytes());
    format!("{volume}-{target}.json")
}
