//! Secrets of the operator's own namespace, as far as caches' credentials go.
//! Never shown: not in `Debug`, not in an error.

use std::{collections::BTreeMap, fmt};

/// The label of a secret that the operator made.
pub const OURS: &str = "cudaenv.dev/copied-credentials";

/// The contents of one key of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Takes the contents.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The contents, to be used and not to be shown.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

/// The keys of a secret that a cache names.
pub const KEYS: [&str; 2] = ["netrc", "token"];

/// A secret that holds credentials, or copies of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthSecret {
    /// `metadata.resourceVersion`: tells a changed secret without looking into it.
    pub resource_version: String,
    /// Whether the operator made it: it carries the operator's label.
    pub ours: bool,
    /// Whether it is the token of a service account: a right in this cluster, which no cache may be sent.
    pub of_service_account: bool,
    /// The keys that matter here; none of a service account's: `netrc`, `token`, and copies such as `flox.token`.
    pub data: BTreeMap<String, SecretBytes>,
}
