//! `CUDANode`: what one node is, and what it holds. Named as the node, owned by it.
//! Never written by two sides: the spec is the operator's, the status is that node's own agent's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CodeSpec;

/// What one node is, and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "cudaenv.dev",
    version = "v1alpha1",
    kind = "CUDANode",
    plural = "cudanodes",
    shortname = "cnode",
    category = "cudaenv-all",
    status = "CUDANodeStatus",
    derive = "PartialEq",
    doc = "What one node is, and what it holds. Named as the node; written by the node's own agent.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn = r#"{"name": "Driver", "type": "string", "jsonPath": ".status.driver.version"}"#,
    printcolumn = r#"{"name": "CUDA", "type": "string", "jsonPath": ".status.driver.cuda"}"#,
    printcolumn = r#"{"name": "GPUs", "type": "string", "jsonPath": ".status.gpuSummary"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Store", "type": "string", "jsonPath": ".status.store.summary"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Class", "type": "string", "jsonPath": ".status.class", "priority": 1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CUDANodeSpec {
    /// No new volumes, and nothing is fetched ahead; what is mounted stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// The node store is kept below this many bytes. Default: the agent's own watermarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_bytes: Option<i64>,
}

/// What the node's agent found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CUDANodeStatus {
    /// `Ready`, `DriverReady`, `StoreReady`, `Registered`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The driver, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<NodeDriver>,
    /// GPUs, one entry for each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub gpus: Vec<NodeGpu>,
    /// The GPUs in a few words, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub gpu_summary: Option<String>,
    /// The Nix system: `x86_64-linux` or `aarch64-linux`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub system: Option<String>,
    /// Short hash of all that selection looks at: nodes of one class get the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub class: Option<String>,
    /// The node store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<NodeStore>,
    /// What is on the node or on its way to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub environments: Vec<NodeEnvironment>,
    /// The GPU code that the agent found in store paths of variants whose `code` nobody declared. What one node has read
    /// counts for all: it is the same everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub contents: Vec<NodeContents>,
}

/// The driver of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDriver {
    /// Version of the user-space library.
    #[schemars(length(max = 64))]
    pub version: String,
    /// Version of the kernel module; it must be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub kernel_version: Option<String>,
    /// Its CUDA release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub cuda: Option<String>,
    /// The root folder below which it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub root: Option<String>,
    /// What kind of installation that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub source: Option<String>,
}

/// GPUs of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGpu {
    /// NVML's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub model: Option<String>,
    /// NVML's brand, in lower case with dashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub brand: Option<String>,
    /// Its generation, such as `9.0`.
    #[schemars(length(max = 8))]
    pub compute_capability: String,
    /// How many of them.
    pub count: i32,
}

/// The node store in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStore {
    /// Bytes of the file system it lies on.
    pub capacity_bytes: i64,
    /// Bytes that the store takes.
    pub used_bytes: i64,
    /// Bytes that cannot be freed now: mounted or asked for.
    pub pinned_bytes: i64,
    /// Complete store paths.
    pub paths: i64,
    /// Used and capacity, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub summary: Option<String>,
}

/// An environment on a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnvironment {
    /// Its namespace; absent for a `ClusterCUDAEnvironment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The generation of its spec.
    #[serde(default)]
    pub generation: i64,
    /// How far it is.
    pub phase: EnvironmentPhase,
    /// The selected variants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub packages: Vec<SelectedPackage>,
    /// Pods of this node that have it mounted.
    #[serde(default)]
    pub pods: i32,
    /// Why it is not ready: a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// The same for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Bytes fetched so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<i64>,
    /// Bytes to fetch in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
    /// When fetching began, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub started_at: Option<String>,
    /// When it was complete, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub completed_at: Option<String>,
}

/// How far an environment is on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EnvironmentPhase {
    /// Known, nothing done yet.
    #[default]
    Pending,
    /// Its closures are being fetched.
    Fetching,
    /// Complete: publishing it is one mount.
    Ready,
    /// A package has no variant that fits the node.
    Incompatible,
    /// Something else went wrong; `reason` says what.
    Failed,
}

/// The GPU code that was found in the closure of a store path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeContents {
    /// The root of the closure.
    #[schemars(length(max = 512))]
    pub store_path: String,
    /// What its files carry together; two empty lists where they carry none.
    pub code: CodeSpec,
}

/// Which variant of a package was selected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectedPackage {
    /// The package's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The variant's name.
    #[schemars(length(max = 63))]
    pub variant: String,
}
