//! The words of a node's conditions, which its agent writes.
//! Never a sentence.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a condition of a node is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NodeCondition {
    /// Environments can be mounted: all of the next three hold, and the node takes new volumes.
    Ready,
    /// The driver can be used.
    DriverReady,
    /// The node store can be written, and a mount was tried and succeeded.
    StoreReady,
    /// kubelet knows the driver for volumes: it is in the node's CSINode.
    Registered,
    /// Every mounted volume shows the driver that the node has. Not a part of `Ready`: new pods get the new one.
    DriverCurrent,
}

/// Why a condition of a node is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NodeReason {
    /// Environments can be mounted.
    Ready,
    /// `spec.drain` is set: mounted volumes stay, new ones are refused.
    Draining,
    /// The driver can be used.
    DriverReady,
    /// There is no driver.
    DriverMissing,
    /// There is a driver, and it cannot be used yet; the message says why.
    DriverNotReady,
    /// Kernel module and libraries are of different versions: reload the module or reboot.
    DriverMismatch,
    /// A mount was made, read, and found read-only.
    SelfTestPassed,
    /// No mount was tried yet.
    SelfTestPending,
    /// A mount was tried and failed; the message says at which step.
    SelfTestFailed,
    /// The node store cannot be read or written.
    StoreFailed,
    /// kubelet knows the driver for volumes.
    Registered,
    /// kubelet does not know the driver for volumes, or lost it.
    NotRegistered,
    /// The node's CSINode was not seen yet.
    NotObserved,
    /// No mounted volume shows another driver than the node has.
    NoOldVolumes,
    /// The driver changed under running pods, which keep the old driver's files; the message names them.
    PodsMustRestart,
}

impl NodeCondition {
    /// As conditions write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::DriverReady => "DriverReady",
            Self::StoreReady => "StoreReady",
            Self::Registered => "Registered",
            Self::DriverCurrent => "DriverCurrent",
        }
    }
}

impl NodeReason {
    /// As conditions write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Draining => "Draining",
            Self::DriverReady => "DriverReady",
            Self::DriverMissing => "DriverMissing",
            Self::DriverNotReady => "DriverNotReady",
            Self::DriverMismatch => "DriverMismatch",
            Self::SelfTestPassed => "SelfTestPassed",
            Self::SelfTestPending => "SelfTestPending",
            Self::SelfTestFailed => "SelfTestFailed",
            Self::StoreFailed => "StoreFailed",
            Self::Registered => "Registered",
            Self::NotRegistered => "NotRegistered",
            Self::NotObserved => "NotObserved",
            Self::NoOldVolumes => "NoOldVolumes",
            Self::PodsMustRestart => "PodsMustRestart",
        }
    }
}

impl fmt::Display for NodeCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for NodeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
