//! The words for failures, shared by every program of the project so that they mean the same everywhere.
//! Never a sentence: the sentence belongs to whoever failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why something failed: the word that commands, conditions and events give. Stable; see `docs/reference/reasons.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// The command line, or a file named on it, is wrong.
    BadRequest,
    /// The named environment is not in the file.
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
    /// The closure does not fit on the disk.
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
