//! `CUDAEnvironment` and `ClusterCUDAEnvironment`: packages, each in variants, of which every node gets the one that fits.
//! Never holds per-node truth: counts and the first failures only; the rest is in `CUDANode`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::selection;

/// CUDA packages for the pods of one namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "cudaenv.dev",
    version = "v1alpha1",
    kind = "CUDAEnvironment",
    plural = "cudaenvironments",
    shortname = "cudaenv",
    shortname = "cenv",
    category = "cudaenv-all",
    namespaced,
    status = "CUDAEnvironmentStatus",
    derive = "PartialEq",
    doc = "CUDA packages for the pods of one namespace. Every node gets, of each package, the variant that fits its driver and GPUs.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "string", "jsonPath": ".status.nodes.summary"}"#,
    printcolumn = r#"{"name": "Incompatible", "type": "integer", "jsonPath": ".status.nodes.incompatible"}"#,
    printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.size"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason", "priority": 1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CUDAEnvironmentSpec {
    /// Names of the `CUDABinaryCache` objects to ask, in this order. Default: every cache that is allowed for the namespace,
    /// by priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cache_names")]
    pub caches: Option<Vec<String>>,
    /// What the environment consists of. Packages of conflicting CUDA versions live side by side.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub packages: Vec<PackageSpec>,
    /// Labels of the nodes it is meant for. Default: every node with an NVIDIA driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// When closures are fetched.
    #[serde(default)]
    pub prewarm: Prewarm,
}

/// CUDA packages that the platform team offers to several namespaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "cudaenv.dev",
    version = "v1alpha1",
    kind = "ClusterCUDAEnvironment",
    plural = "clustercudaenvironments",
    shortname = "ccenv",
    category = "cudaenv-all",
    status = "CUDAEnvironmentStatus",
    derive = "PartialEq",
    doc = "CUDA packages that the platform team offers to several namespaces: the same as a CUDAEnvironment, for the whole cluster.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "string", "jsonPath": ".status.nodes.summary"}"#,
    printcolumn = r#"{"name": "Incompatible", "type": "integer", "jsonPath": ".status.nodes.incompatible"}"#,
    printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.size"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason", "priority": 1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCUDAEnvironmentSpec {
    /// Names of the `CUDABinaryCache` objects to ask, in this order. Default: every cache that is allowed for the pod's
    /// namespace, by priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cache_names")]
    pub caches: Option<Vec<String>>,
    /// What the environment consists of. Packages of conflicting CUDA versions live side by side.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub packages: Vec<PackageSpec>,
    /// Labels of the nodes it is meant for. Default: every node with an NVIDIA driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// When closures are fetched.
    #[serde(default)]
    pub prewarm: Prewarm,
    /// Labels of the namespaces whose pods may use it. Default: all. A namespace that may not gets the same answer as for
    /// an environment that does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<LabelSelector>,
}

/// When closures are fetched to a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Prewarm {
    /// When a pod asks for them.
    #[default]
    OnDemand,
    /// On every matching node, before a pod asks.
    Always,
}

/// A named member of an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageSpec {
    /// Unique in the environment. The selected store path is found at `packages/<name>` of the volume.
    #[schemars(schema_with = "schema::label")]
    pub name: String,
    /// Builds of the package. Of those that fit a node: native before minor-version-compat before forward-compat; SASS for
    /// every GPU before PTX; the higher CUDA release; then this order.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub variants: Vec<VariantSpec>,
}

/// One build of a package.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VariantSpec {
    /// Unique in the package.
    #[schemars(schema_with = "schema::label")]
    pub name: String,
    /// The CUDA release it was built with, in quotes: `"12.8"`.
    #[schemars(schema_with = "schema::cuda")]
    pub cuda: String,
    /// The root of its closure for each system: `x86_64-linux`, `aarch64-linux`.
    #[schemars(schema_with = "schema::store_paths")]
    pub store_paths: BTreeMap<String, String>,
    /// The GPU code it carries. Default: what a scan of the closure's files finds, once it was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeSpec>,
    /// Drivers that it may run on: narrows what the rule allows, never widens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverRangeSpec>,
    /// NVIDIA's compat libraries, to fall back on where the node's driver is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_compat: Option<ForwardCompatSpec>,
}

/// GPU code, as `cuobjdump --list-elf --list-ptx` or a scan shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.sass) || has(self.ptx)").message(
    "name sass, ptx or both; leave `code` out to have the closure scanned, or write `sass: []` for a build without GPU code"
))]
pub struct CodeSpec {
    /// Compute capabilities with machine code: `"9.0"`, `"9.0a"`, `"10.0f"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_targets")]
    pub sass: Option<Vec<String>>,
    /// PTX, which the driver compiles at the first start if it knows the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub ptx: Option<Vec<PtxSpec>>,
}

/// PTX of one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PtxSpec {
    /// The compute capability it was made for: it compiles for this and every later one (with `a`: this one only).
    #[schemars(schema_with = "schema::target")]
    pub target: String,
    /// The PTX instruction set version, in quotes: `"8.7"`. It is not the CUDA version.
    #[schemars(schema_with = "schema::ptx_isa")]
    pub isa: String,
}

/// Drivers from `min` to `max`, both inclusive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.min) || !has(self.max) || self.min == '' || self.max == '' || \
     [self.min, self.max].map(end, end.split('.')) \
     .map(n, (int(n[0]) * 100000 + int(n[1])) * 100000 + (n.size() > 2 ? int(n[2]) : 0)).isSorted()"
).message("no driver lies between: min must not be newer than max"))]
pub struct DriverRangeSpec {
    /// The oldest driver, in full: `570.26`. Absent or empty: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::driver_or_open")]
    pub min: Option<String>,
    /// The newest driver, in full. Absent or empty: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::driver_or_open")]
    pub max: Option<String>,
}

/// The user-mode libraries of a newer driver. They run on data-centre GPUs only, and on the driver branches that they
/// name themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForwardCompatSpec {
    /// A store path that holds one `libcuda.so.*`, at its root or below `lib` or `compat`.
    #[schemars(schema_with = "schema::store_path")]
    pub store_path: String,
    /// The driver version of those libraries. Default: what a scan finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_driver")]
    pub driver: Option<String>,
}

/// What became of an environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CUDAEnvironmentStatus {
    /// `Ready`; `Resolved`: closures known, every path signed; `Compatible`: at least one class of nodes fits; `Prewarmed`;
    /// `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Per package, what its variants are made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub packages: Vec<PackageStatus>,
    /// How many nodes are in which state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// The size of everything that the environment names, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// The first failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub failures: Vec<NodeFailure>,
}

/// What the variants of a package are made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageStatus {
    /// The package's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its variants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub variants: Vec<VariantStatus>,
}

/// What a variant is made of, and where it runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VariantStatus {
    /// The variant's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Bytes of the closure, unpacked; of the largest, where there are several systems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closure_bytes: Option<i64>,
    /// Bytes to download for that closure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_bytes: Option<i64>,
    /// Store paths in that closure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<i64>,
    /// Names of the keys that signed its paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub signed_by: Vec<String>,
    /// The GPU code that was declared or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeSpec>,
    /// Nodes on which it is the selected one.
    #[serde(default)]
    pub nodes: i32,
    /// Why it could not be resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub error: Option<String>,
}

/// Nodes by state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Nodes the environment is meant for.
    pub selected: i32,
    /// Nodes on which it is complete.
    pub ready: i32,
    /// Nodes that fetch it now.
    pub fetching: i32,
    /// Nodes on which a package has no variant that fits.
    pub incompatible: i32,
    /// Nodes on which it failed for another reason.
    pub failed: i32,
    /// `ready/selected`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub summary: Option<String>,
}

/// A failure on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFailure {
    /// The node's name.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The stable word for why; see the reference of reasons.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Where selection failed: its own, finer word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<selection::Reason>,
    /// The same for a person.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// When, in RFC 3339.
    #[schemars(length(max = 40))]
    pub time: String,
}
