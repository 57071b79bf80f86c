//! One good object of each kind, and a way to change one thing in it.
//! It must never know what is allowed: that is what the API server is asked.

use serde_json::{Value, json};

/// A store path of the given name.
pub fn store_path(name: &str) -> String {
    format!("/nix/store/0c0sdjxm8qa3aiazwvf8dhkp0qlcx9ay-{name}")
}

/// The shape of a public key.
pub const PUBLIC_KEY: &str = "cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=";

/// Every field that a `CUDAEnvironment` can have, filled in.
pub fn environment() -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1",
        "kind": "CUDAEnvironment",
        "metadata": { "name": "pytorch", "namespace": "default" },
        "spec": environment_spec(),
    })
}

/// Every field that a `ClusterCUDAEnvironment` can have, filled in.
pub fn cluster_environment() -> Value {
    let mut spec = environment_spec();
    spec["allowedNamespaces"] = json!({ "matchLabels": { "team": "a" } });
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1",
        "kind": "ClusterCUDAEnvironment",
        "metadata": { "name": "catalogue" },
        "spec": spec,
    })
}

fn environment_spec() -> Value {
    json!({
        "caches": ["flox", "nixos"],
        "packages": [{
            "name": "pytorch",
            "variants": [
                {
                    "name": "cu128",
                    "cuda": "12.8",
                    "storePaths": { "x86_64-linux": store_path("env-12.8"), "aarch64-linux": store_path("env-12.8-arm") },
                    "code": { "sass": ["8.0", "9.0a"], "ptx": [{ "target": "9.0", "isa": "8.7" }] },
                    "driver": { "min": "570.26", "max": "" },
                    "forwardCompat": { "storePath": store_path("cuda-compat"), "driver": "570.86.15" },
                },
                { "name": "cu118", "cuda": "11.8", "storePaths": { "x86_64-linux": store_path("env-11.8") } },
            ],
        }],
        "nodeSelector": { "pool": "gpu" },
        "prewarm": "Always",
    })
}

/// Every field that a `CUDABinaryCache` can have, filled in.
pub fn cache() -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1",
        "kind": "CUDABinaryCache",
        "metadata": { "name": "flox" },
        "spec": {
            "url": "https://cache.example.org/nix",
            "publicKeys": [PUBLIC_KEY],
            "priority": 40,
            "mirrors": ["https://mirror.example.org"],
            "redirectOrigins": ["https://objects.example.org:8443"],
            "authSecretRef": { "name": "flox-token" },
            "allowedNamespaces": { "matchLabels": { "team": "a" } },
        },
    })
}

/// Every field of the spec that a `CUDANode` can have, filled in.
pub fn node() -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1",
        "kind": "CUDANode",
        "metadata": { "name": "node1" },
        "spec": { "drain": true, "maxBytes": 500_000_000_000_u64 },
    })
}

/// Every field that a `CUDADriverPreflight` can have, filled in.
pub fn preflight() -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1",
        "kind": "CUDADriverPreflight",
        "metadata": { "name": "to-580" },
        "spec": { "driver": "580.95.05", "nodeSelector": { "pool": "gpu" } },
    })
}

/// All five.
pub fn all() -> [Value; 5] {
    [environment(), cluster_environment(), cache(), node(), preflight()]
}

/// The object with the value at a JSON pointer replaced or added.
///
/// # Panics
/// Where nothing above the pointer's last step exists: the table that says so is wrong.
#[expect(clippy::panic, reason = "a wrong table must not look like a refusal")]
pub fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.insert(last.to_owned(), value)),
        Some(Value::Array(entries)) => match last.parse::<usize>() {
            Ok(index) if index < entries.len() => entries[index] = value,
            _ => entries.push(value),
        },
        _ => panic!("nothing at `{parent}` to hold `{last}`"),
    }
    object
}
