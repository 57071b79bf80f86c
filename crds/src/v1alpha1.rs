//! The objects of group `cudaenv.dev`, version `v1alpha1`, as they go over the wire.
//! Never trusted: a value here was shaped by the API server at best; [`domain`](crate::domain) holds what was checked.
//!
//! The doc comments here are the reference: they become the descriptions in the CRDs and in `docs/reference/api.md`.

#[expect(
    unreachable_pub,
    reason = "KubeSchema derives a public twin of each struct inside a function"
)]
mod cache;
#[expect(
    unreachable_pub,
    reason = "KubeSchema derives a public twin of each struct inside a function"
)]
mod environment;
#[expect(
    unreachable_pub,
    reason = "KubeSchema derives a public twin of each struct inside a function"
)]
mod node;
#[expect(
    unreachable_pub,
    reason = "KubeSchema derives a public twin of each struct inside a function"
)]
mod preflight;
mod schema;

pub use cache::{AuthSecretRef, CUDABinaryCache, CUDABinaryCacheSpec, CUDABinaryCacheStatus};
pub use environment::{
    CUDAEnvironment, CUDAEnvironmentSpec, CUDAEnvironmentStatus, ClusterCUDAEnvironment, ClusterCUDAEnvironmentSpec,
    CodeSpec, DriverRangeSpec, ForwardCompatSpec, NodeCounts, NodeFailure, PackageSpec, PackageStatus, Prewarm,
    PtxSpec, VariantSpec, VariantStatus,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
pub use node::{
    CUDANode, CUDANodeSpec, CUDANodeStatus, EnvironmentPhase, NodeContents, NodeDriver, NodeEnvironment, NodeGpu,
    NodeStore, SelectedPackage,
};
pub use preflight::{
    CUDADriverPreflight, CUDADriverPreflightSpec, CUDADriverPreflightStatus, PreflightChange, PreflightOutcome,
};

/// The API group of every object.
pub const GROUP: &str = "cudaenv.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// As objects write it.
pub const API_VERSION: &str = "cudaenv.dev/v1alpha1";

/// The definitions of all kinds, in alphabetical order of their names.
pub fn definitions() -> [CustomResourceDefinition; 5] {
    [
        ClusterCUDAEnvironment::crd(),
        CUDABinaryCache::crd(),
        CUDADriverPreflight::crd(),
        CUDAEnvironment::crd(),
        CUDANode::crd(),
    ]
}
