//! The words for failures, shared by every program of the project so that they mean the same everywhere.
//! Never a sentence: the sentence belongs to whoever failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why something failed: the word that commands, conditions and events give. Stable; see `docs/reference/reasons.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// What was asked makes no sense: the command line, a file named on it, an object, or what a volume says.
    BadRequest,
    /// The named environment is not in the file; in a cluster: it is absent, or pods of the namespace may not use it.
    EnvironmentNotFound,
    /// Every variant of a package is refused, and at least one for its CUDA release.
    DriverTooOld,
    /// Every variant of a package is refused, and at least one for its PTX.
    PtxTooNew,
    /// Every variant of a package is refused: none has code for every GPU of the node.
    NoCodeForGPU,
    /// No variant was built for this system.
    NoVariantForSystem,
    /// The author's own driver range leaves this driver out.
    OutsideDeclaredRange,
    /// There is no usable driver, or none yet.
    DriverNotReady,
    /// Kernel module and libraries are of different versions.
    DriverMismatch,
    /// The node's agent has not seen the cluster's objects yet; kubelet asks again.
    AgentStarting,
    /// The node takes no new volumes: its CUDANode says `spec.drain`.
    Draining,
    /// A path is there, but no trusted key signed it.
    SignatureUntrusted,
    /// What came is not what was signed.
    HashMismatch,
    /// A cache wants other credentials than it was given, or any at all.
    CredentialsRefused,
    /// No cache answered.
    CacheUnreachable,
    /// Every cache answered, none has the path.
    NotInAnyCache,
    /// The closure does not fit on the disk, or the disk is full.
    InsufficientDisk,
    /// Stored bytes are no longer what was signed.
    StoreCorrupt,
    /// The node store could not be read or written.
    StoreFailed,
    /// A mount could not be made.
    ViewFailed,
    /// The program could not be started.
    ProgramFailed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 21] = [
        Self::BadRequest,
        Self::EnvironmentNotFound,
        Self::DriverTooOld,
        Self::PtxTooNew,
        Self::NoCodeForGPU,
        Self::NoVariantForSystem,
        Self::OutsideDeclaredRange,
        Self::DriverNotReady,
        Self::DriverMismatch,
        Self::AgentStarting,
        Self::Draining,
        Self::SignatureUntrusted,
        Self::HashMismatch,
        Self::CacheUnreachable,
        Self::CredentialsRefused,
        Self::NotInAnyCache,
        Self::InsufficientDisk,
        Self::StoreCorrupt,
        Self::StoreFailed,
        Self::ViewFailed,
        Self::ProgramFailed,
    ];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_reasons_are_all_words_of_the_schema() {
        let schema = schemars::schema_for!(Reason);
        let words = schema.get("oneOf").unwrap().as_array().unwrap().iter();
        let words: BTreeSet<_> = words.map(|word| word["const"].as_str().unwrap().to_owned()).collect();
        let all: BTreeSet<_> = Reason::ALL.iter().map(|reason| format!("{reason:?}")).collect();
        assert_eq!(words, all);
    }
}
