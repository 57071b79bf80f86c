//! Thousands of pods on those nodes, half of them with a volume of their own, half by label, and what agents report of them.
//! It must never let a pod be more than an object: nothing runs.

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};

use super::{ENVIRONMENTS, NODES, TEAM, all, create, status};

/// Pods in all.
pub(super) const PODS: usize = 20_000;
/// Pods of one node.
const EACH: usize = PODS / NODES;

/// Makes all of them, each on its node.
pub(super) async fn fill(client: &Client) -> Result<()> {
    let collection = format!("/api/v1/namespaces/{TEAM}/pods");
    all((0..PODS).map(|number| {
        let mut pod = if number % 2 == 0 {
            labelled(number)
        } else {
            by_hand(number)
        };
        pod["spec"]["nodeName"] = format!("node-{}", number % NODES).into();
        create(client, &collection, pod)
    }))
    .await
}

/// What each node's agent says once its pods have their volumes.
pub(super) async fn report(client: &Client) -> Result<()> {
    all((0..NODES).map(|node| async move {
        let mut mounted: Vec<_> = (0..EACH).map(|turn| environment(node + turn * NODES)).collect();
        mounted.sort();
        mounted.dedup();
        let environments: Vec<_> = mounted
            .iter()
            .map(|name| {
                json!({"namespace": TEAM, "name": name, "generation": 1, "phase": "Ready", "pods": EACH / mounted.len(),
                       "packages": [{"name": "torch", "variant": "cu118"}]})
            })
            .collect();
        status(client, &format!("node-{node}"), json!({"environments": environments})).await
    }))
    .await
}

/// Neighbours have different ones.
fn environment(pod: usize) -> String {
    format!("environment-{}", (pod + pod / NODES) % ENVIRONMENTS)
}

/// A pod that asks for its environment by label.
pub(super) fn labelled(number: usize) -> Value {
    let mut pod = plain(number);
    pod["metadata"]["labels"]["cudaenv.dev/inject"] = "true".into();
    pod["metadata"]["annotations"] = json!({"cudaenv.dev/environment": environment(number)});
    pod
}

fn by_hand(number: usize) -> Value {
    let mut pod = plain(number);
    let attributes = json!({"environment": environment(number)});
    pod["spec"]["volumes"] = json!([
        {"name": "cuda", "csi": {"driver": "csi.cudaenv.dev", "readOnly": true, "volumeAttributes": attributes}},
    ]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "cuda", "mountPath": "/nix/store", "subPath": "nix/store", "readOnly": true},
        {"name": "cuda", "mountPath": "/run/opengl-driver", "subPath": "driver", "readOnly": true},
        {"name": "cuda", "mountPath": "/run/cudaenv", "readOnly": true},
    ]);
    pod
}

/// As a job's pod looks, environment aside.
fn plain(number: usize) -> Value {
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("train-{number}"), "namespace": TEAM, "labels": {"app": "train", "job": format!("job-{}", number / 8)}},
        "spec": {
            "automountServiceAccountToken": false, "restartPolicy": "Never",
            "containers": [{
                "name": "main", "image": "registry.example.org/team-a/train:1", "command": ["python3", "train.py"],
                "env": [variable("RANK", "0"), variable("WORLD_SIZE", "8"), variable("MASTER_ADDR", "train-0")],
                "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}},
            }],
        },
    })
}
