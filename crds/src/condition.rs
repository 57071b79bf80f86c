//! The words of conditions: their types and their reasons. One table for what the operator writes, one for what agents do.
//! Never a sentence: the message belongs to whoever sets the condition.

mod node;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use node::{NodeCondition, NodeReason};

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionType {
    /// Of an environment: pods can use it. Of a cache: it answers, and serves `/nix/store`.
    Ready,
    /// Of an environment: all closures are known, and every path in them is signed by a trusted key.
    Resolved,
    /// Of an environment: it fits at least one class of the nodes that it is meant for.
    Compatible,
    /// Of an environment: it is complete on every node that it is meant for and fits.
    Prewarmed,
    /// Of an environment: it can be used, but not all of it or not everywhere.
    Degraded,
    /// Of a preflight: the answer covers every node and environment.
    Complete,
}

/// Why a condition is as it is. Stable; see `docs/reference/reasons.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionReason {
    /// Nothing is wrong.
    AsExpected,
    /// The object says something impossible; the message names the field.
    InvalidSpec,
    /// A cache that is named is not there or not allowed, or there is none at all.
    CacheNotFound,
    /// The caches are being asked.
    Resolving,
    /// Every closure is known and signed.
    AllSigned,
    /// A path is there, but no trusted key signed it.
    SignatureUntrusted,
    /// Every cache answered, and none has the path.
    NotInAnyCache,
    /// A cache wants other credentials than its secret holds, or any at all.
    CredentialsRefused,
    /// A cache does not answer.
    CacheUnreachable,
    /// A cache answers with something that is no cache's answer.
    CacheCorrupt,
    /// A closure has more paths than are allowed.
    ClosureTooLarge,
    /// The secret that a cache names is not there, or holds nothing that can be used.
    CredentialsUnusable,
    /// No node that the environment is meant for has reported a driver that can be used yet.
    NoNodes,
    /// At least one class of nodes fits.
    FitsNodes,
    /// A package has no variant that fits any of the nodes.
    NoVariantFits,
    /// Closures are fetched when a pod asks for them.
    OnDemand,
    /// Nodes are still fetching.
    Fetching,
    /// It is complete on every node that it is meant for and fits.
    OnEveryNode,
    /// It failed on some nodes; `status.failures` names the first.
    NodesFailing,
    /// Some variants could not be resolved; each has its error.
    VariantsUnresolved,
    /// The cache answers.
    Reachable,
    /// The question is answered in full.
    Answered,
    /// There is more than fits into the answer.
    Truncated,
    /// The driver's branch is newer than the tables of this version.
    UnknownDriver,
}

impl ConditionType {
    /// As conditions write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Resolved => "Resolved",
            Self::Compatible => "Compatible",
            Self::Prewarmed => "Prewarmed",
            Self::Degraded => "Degraded",
            Self::Complete => "Complete",
        }
    }
}

impl ConditionReason {
    /// As conditions write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsExpected => "AsExpected",
            Self::InvalidSpec => "InvalidSpec",
            Self::CacheNotFound => "CacheNotFound",
            Self::Resolving => "Resolving",
            Self::AllSigned => "AllSigned",
            Self::SignatureUntrusted => "SignatureUntrusted",
            Self::NotInAnyCache => "NotInAnyCache",
            Self::CredentialsRefused => "CredentialsRefused",
            Self::CacheUnreachable => "CacheUnreachable",
            Self::CacheCorrupt => "CacheCorrupt",
            Self::ClosureTooLarge => "ClosureTooLarge",
            Self::CredentialsUnusable => "CredentialsUnusable",
            Self::NoNodes => "NoNodes",
            Self::FitsNodes => "FitsNodes",
            Self::NoVariantFits => "NoVariantFits",
            Self::OnDemand => "OnDemand",
            Self::Fetching => "Fetching",
            Self::OnEveryNode => "OnEveryNode",
            Self::NodesFailing => "NodesFailing",
            Self::VariantsUnresolved => "VariantsUnresolved",
            Self::Reachable => "Reachable",
            Self::Answered => "Answered",
            Self::Truncated => "Truncated",
            Self::UnknownDriver => "UnknownDriver",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
