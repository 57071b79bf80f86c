//! `CUDABinaryCache`: where closures come from, and whose signatures count.
//! Never holds a secret: credentials are named, not written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::schema;

/// A Nix binary cache, and the keys whose signatures are trusted for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "cudaenv.dev",
    version = "v1alpha1",
    kind = "CUDABinaryCache",
    plural = "cudabinarycaches",
    shortname = "cbc",
    category = "cudaenv-all",
    status = "CUDABinaryCacheStatus",
    derive = "PartialEq",
    doc = "A Nix binary cache, and the keys whose signatures are trusted for it.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn = r#"{"name": "URL", "type": "string", "jsonPath": ".spec.url"}"#,
    printcolumn = r#"{"name": "Priority", "type": "integer", "jsonPath": ".spec.priority"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CUDABinaryCacheSpec {
    /// `https://HOST/PATH`, `http://HOST/PATH` or `file:///PATH`, without user, query or fragment. Plain http is allowed, for
    /// caches inside a cluster: integrity comes from the signatures, but anybody on the way can see what is fetched and
    /// can make fetching fail.
    #[schemars(schema_with = "schema::url")]
    pub url: String,
    /// Nix public keys, `NAME:BASE64`. At least one: there is no mode without signatures.
    #[schemars(schema_with = "schema::public_keys")]
    pub public_keys: Vec<String>,
    /// The cache with the lowest number is asked first. Default: what its `nix-cache-info` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub priority: Option<i64>,
    /// Copies of the cache under the same keys, asked before `url`, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::urls")]
    pub mirrors: Vec<String>,
    /// Origins that a redirect of this cache may lead to, such as the object store behind it. Default: none but its own.
    /// Credentials are never sent there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::origins")]
    pub redirect_origins: Vec<String>,
    /// Credentials for the cache: a secret in the operator's namespace with a key `netrc` or `token`. They never enter a
    /// user's pod, and are sent to the cache's own origin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<AuthSecretRef>,
    /// Labels of the namespaces whose environments may use the cache. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<LabelSelector>,
}

/// A secret in the operator's namespace. There is no namespace to choose: one tenant must not name another's secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthSecretRef {
    /// The secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Whether a cache can be used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CUDABinaryCacheStatus {
    /// `Ready`: reachable, for the store directory `/nix/store`, with keys that parse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When it was last asked, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub last_checked: Option<String>,
}
