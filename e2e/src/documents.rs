//! The files that people write: environments and caches, as text.
//! It must never use the crates' own types: what is tested is that the programs understand the text.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One variant of a package for x86_64-linux. More fields may be set on it.
pub fn variant(name: &str, cuda: &str, store_path: &str) -> Value {
    json!({"name": name, "cuda": cuda, "storePaths": {"x86_64-linux": store_path}})
}

/// One package.
pub fn package(name: &str, variants: &[Value]) -> Value {
    json!({"name": name, "variants": variants})
}

/// A `CUDAEnvironment` of that name.
pub fn environment(name: &str, packages: &[Value]) -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
        "metadata": {"name": name, "namespace": "team-a"}, "spec": {"packages": packages},
    })
}

/// A `CUDABinaryCache` of that name.
pub fn cache(name: &str, url: &str, keys: &[&str]) -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache",
        "metadata": {"name": name}, "spec": {"url": url, "publicKeys": keys},
    })
}

/// Writes documents into one file (JSON is YAML), separated as YAML separates them.
pub fn write(file: &Path, documents: &[Value]) -> Result<()> {
    let texts = documents
        .iter()
        .map(serde_json::to_string_pretty)
        .collect::<Result<Vec<_>, _>>()?;
    fs::write(file, texts.join("\n---\n")).with_context(|| format!("cannot write {}", file.display()))
}
