//! What `helm uninstall` runs of the operator, against a real API server with more nodes than fit on a page.
//! It must never need a node that runs: what cleans them is made up; `cluster_install.rs` has the real ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::process::Command;

use e2e::{
    cluster::{Cluster, account::Account, chart::NAMESPACE},
    programs,
};
use serde_json::{Value, json};

/// Two pages.
const NODES: usize = 600;

/// As the hooks' account: the exit code, and what was said.
fn uninstall(account: &Account<'_>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(programs::operator().unwrap());
    command
        .arg("uninstall")
        .args(arguments)
        .env("KUBECONFIG", account.kubeconfig())
        .env("POD_NAMESPACE", NAMESPACE);
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn pod(name: &str, node: Option<&str>) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "team-a"}, "spec": {
        "nodeName": node, "automountServiceAccountToken": false,
        "containers": [{"name": "main", "image": "example.org/main"}],
        "volumes": [{"name": "cuda", "csi": {"driver": "csi.cudaenv.dev", "readOnly": true,
            "volumeAttributes": {"environment": "torch"}}}]}})
}

fn fleet(cluster: &Cluster) {
    let ours = json!([{"key": "theirs", "effect": "NoSchedule"}, {"key": "cudaenv.dev/agent-not-ready", "effect": "NoSchedule"}]);
    let items = (0..NODES).flat_map(|number| {
        let name = format!("node-{number}");
        let labels = json!({"cudaenv.dev/class": "c0ffee", "theirs": "1"});
        let taints = if number % 2 == 0 { ours.clone() } else { json!([]) };
        [
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}),
            json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": {"name": name}, "spec": {}}),
        ]
    });
    let all: Vec<_> = items.collect();
    cluster
        .apply(&json!({"apiVersion": "v1", "kind": "List", "items": all}))
        .unwrap();
}

/// The DaemonSet that cleans nodes, done on all of them.
fn cleaners(cluster: &Cluster) {
    let labels = json!({"app": "cleaner"});
    let mut set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "cudaenv-uninstall", "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "example.org/main"}]}}}});
    cluster.apply(&set).unwrap();
    set["status"] = json!({"observedGeneration": 1, "desiredNumberScheduled": NODES, "numberReady": NODES,
        "currentNumberScheduled": NODES, "numberMisscheduled": 0});
    let arguments = ["apply", "--server-side", "--force-conflicts", "--subresource=status"];
    let answer = cluster.kubectl_with(&arguments, &set).unwrap();
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn an_uninstall_is_refused_while_a_volume_is_held_and_then_cleans_all_nodes() {
    let Some(cluster) = Cluster::for_operator("the uninstall on an API server").unwrap() else {
        return;
    };
    let account = cluster.account(NAMESPACE, "cudaenv-uninstall", None).unwrap();
    let default =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "team-a"}});
    cluster.apply(&default).unwrap();
    cluster.apply(&pod("waiting", None)).unwrap();
    cluster.apply(&pod("holding", Some("node-1"))).unwrap();
    let (code, said) = uninstall(&account, &["check"]);
    assert_ne!(code, Some(0));
    assert!(
        said.contains("1 pods hold a CUDA environment") && said.contains(": team-a/holding"),
        "{said}"
    );
    let deleted = [
        "delete",
        "pod",
        "holding",
        "-n",
        "team-a",
        "--force",
        "--grace-period=0",
    ];
    assert_eq!(cluster.kubectl(&deleted).unwrap().code, 0);
    let (code, said) = uninstall(&account, &["check"]);
    assert_eq!(code, Some(0), "one that is on no node holds nothing: {said}");

    fleet(&cluster);
    cleaners(&cluster);
    let finish = [
        "finish",
        "--daemonset=cudaenv-uninstall",
        "--secret=cudaenv-webhook-certificates",
        "--lease=cudaenv-operator",
    ];
    let (code, said) = uninstall(&account, &finish);
    assert_eq!(code, Some(0), "{said}");
    let nodes = cluster.get(&["nodes"]).unwrap();
    let items = nodes["items"].as_array().unwrap();
    assert_eq!(items.len(), NODES);
    assert!(!nodes.to_string().contains("\"cudaenv.dev/class\":"), "a label is left");
    for node in items {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        assert!(
            taints
                .clone()
                .all(|taint| taint["key"] != "cudaenv.dev/agent-not-ready"),
            "{node}"
        );
        assert_eq!(node["metadata"]["labels"]["theirs"], "1", "{node}");
    }
    assert_eq!(cluster.get(&["cudanodes"]).unwrap()["items"], json!([]));
    // Again, there is nothing to do.
    assert_eq!(uninstall(&account, &finish).0, Some(0));
}
