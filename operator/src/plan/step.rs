//! The steps of a plan: what is to be written, with all that execution needs.
//! Never a choice: a step is done as it is, or fails as a whole.

use std::collections::BTreeMap;

use crds::{
    catalogue::EnvironmentKey,
    v1alpha1::{CUDABinaryCacheStatus, CUDADriverPreflightStatus, CUDAEnvironmentStatus},
};
use json_patch::Patch;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::snapshot::{secret::SecretBytes, world::Written};

/// Something to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The status of an environment, of either kind.
    Environment(EnvironmentKey, Change<CUDAEnvironmentStatus>),
    /// The status of a cache.
    Cache(String, Change<CUDABinaryCacheStatus>),
    /// The status of a preflight.
    Preflight(String, Change<CUDADriverPreflightStatus>),
    /// Labels and taints of a node. The patch tests what it was decided by.
    Node(String, Patch),
    /// The copies of the caches' credentials.
    Credentials(Copies),
}

/// A status to be written in place of another.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<S> {
    /// What it was decided by: written over nothing else.
    pub before: Written<S>,
    /// The new status.
    pub after: S,
}

/// The contents of the secret with copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Copies {
    /// The version of the secret that is there; `None`: there is none.
    pub over: Option<String>,
    /// All of its keys.
    pub data: BTreeMap<String, SecretBytes>,
}

/// What a status step changes, told apart for pacing and for events.
pub trait HasConditions {
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
}

impl HasConditions for CUDAEnvironmentStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl HasConditions for CUDABinaryCacheStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl HasConditions for CUDADriverPreflightStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl Step {
    /// The kind of object that is written: a label of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Environment(key, _) => key.kind(),
            Self::Cache(..) => "CUDABinaryCache",
            Self::Preflight(..) => "CUDADriverPreflight",
            Self::Node(..) => "Node",
            Self::Credentials(..) => "Secret",
        }
    }

    /// What tells the object apart from all others.
    pub fn object(&self) -> String {
        match self {
            Self::Environment(key, _) => key.to_string(),
            Self::Cache(name, _) => format!("CUDABinaryCache {name}"),
            Self::Preflight(name, _) => format!("CUDADriverPreflight {name}"),
            Self::Node(name, _) => format!("Node {name}"),
            Self::Credentials(..) => "Secret of credentials".to_owned(),
        }
    }
}
