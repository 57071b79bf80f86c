//! The words of events that tell of something going well. What fails is told by the word of `failure::Reason`, and what became
//! of an object by its condition.
//! Never a sentence: the note belongs to whoever tells.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened to a pod's volume. Stable; see `docs/reference/reasons.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventReason {
    /// Variants were chosen for the node; the note names them.
    VariantSelected,
    /// The closure is being fetched; the note says how far, how fast and from where.
    Fetching,
    /// The volume is mounted; the note says how long that took.
    Mounted,
}

impl EventReason {
    /// As events write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VariantSelected => "VariantSelected",
            Self::Fetching => "Fetching",
            Self::Mounted => "Mounted",
        }
    }
}
