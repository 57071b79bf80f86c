//! `CUDADriverPreflight`: what would change if nodes got another driver.
//! Never changes anything itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use crate::selection;

/// A question: what if these nodes got this driver?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "cudaenv.dev",
    version = "v1alpha1",
    kind = "CUDADriverPreflight",
    plural = "cudadriverpreflights",
    shortname = "cpf",
    category = "cudaenv-all",
    status = "CUDADriverPreflightStatus",
    derive = "PartialEq",
    doc = "A question: what would change if nodes got another driver? The answer is in the status.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn = r#"{"name": "Driver", "type": "string", "jsonPath": ".spec.driver"}"#,
    printcolumn = r#"{"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"}"#,
    printcolumn = r#"{"name": "Breaks", "type": "integer", "jsonPath": ".status.breaks"}"#,
    printcolumn = r#"{"name": "Switches", "type": "integer", "jsonPath": ".status.switches"}"#,
    printcolumn = r#"{"name": "Keeps", "type": "integer", "jsonPath": ".status.keeps"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CUDADriverPreflightSpec {
    /// The driver version to try, in full: `580.95.05`.
    #[schemars(schema_with = "schema::driver")]
    pub driver: String,
    /// Labels of the nodes that would get it. Default: every node with an NVIDIA driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: BTreeMap<String, String>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CUDADriverPreflightStatus {
    /// `Complete`: the answer covers every node and environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that would get the driver.
    #[serde(default)]
    pub nodes: i32,
    /// Packages that would have no variant any more.
    #[serde(default)]
    pub breaks: i32,
    /// Packages that would get another variant.
    #[serde(default)]
    pub switches: i32,
    /// Packages that run now and would go on with the variant that they have, on all of these nodes.
    #[serde(default)]
    pub keeps: i32,
    /// Bytes that would have to be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_bytes: Option<i64>,
    /// What changes, worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub changes: Vec<PreflightChange>,
    /// Variants that count as fitting though nobody read their files, as with those that declare no `code`: a node reads them, and
    /// may find that they do not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    pub warnings: Vec<String>,
}

/// What would become of one package: one entry for all classes of nodes on which the same would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreflightChange {
    /// The environment's namespace; absent for a `ClusterCUDAEnvironment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// The environment's name.
    #[schemars(length(max = 253))]
    pub environment: String,
    /// The package's name.
    #[schemars(length(max = 63))]
    pub package: String,
    /// What happens to it.
    pub outcome: PreflightOutcome,
    /// The variant it has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub from: Option<String>,
    /// The variant it would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub to: Option<String>,
    /// Where it breaks: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<selection::Reason>,
    /// The same for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub detail: Option<String>,
    /// Nodes that it concerns.
    #[serde(default)]
    pub nodes: i32,
    /// Of those, the nodes that hold the environment or fetch it now: where a pod asked for it, or it is fetched ahead.
    #[serde(default)]
    pub nodes_in_use: i32,
    /// Pods on the nodes it concerns that have the environment mounted, as their agents said last: at most half a
    /// minute old. They keep the files they have until they are restarted.
    #[serde(default)]
    pub pods: i32,
}

/// What another driver would do to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PreflightOutcome {
    /// It runs now and would not.
    Breaks,
    /// It would get another variant.
    Switches,
    /// It does not run now and would.
    Heals,
}
