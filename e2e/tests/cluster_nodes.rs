//! The nodes that the other cluster tests stand on: each with a real driver of its own, and everything that can befall one.
//! It must never use our own programs: what fails here is the ground, not they.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;

use e2e::cluster::Cluster;
use e2e::cluster::nodes::{Nodes, Place};
use e2e::{parts, skip};
use serde_json::{Value, json};

/// A pod on every node with the mounts that our agent has; it mounts something in the state folder itself.
fn probe() -> Value {
    let script = "mkdir -p /var/lib/cudaenv/mnt && mount -t tmpfs probe /var/lib/cudaenv/mnt && echo kept >/var/lib/cudaenv/record && touch /tmp/ready && exec sleep 3600";
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "probe" },
        "spec": { "selector": { "matchLabels": { "app": "probe" } }, "template": {
            "metadata": { "labels": { "app": "probe" } },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main", "image": "localhost/e2e/busybox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                    "securityContext": { "privileged": true },
                    "readinessProbe": { "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1 },
                    "volumeMounts": [
                        { "name": "host", "mountPath": "/host", "readOnly": true, "mountPropagation": "HostToContainer" },
                        { "name": "state", "mountPath": "/var/lib/cudaenv", "mountPropagation": "Bidirectional" },
                        { "name": "tmp", "mountPath": "/tmp" },
                    ],
                }],
                "volumes": [
                    { "name": "host", "hostPath": { "path": "/" } },
                    { "name": "state", "hostPath": { "path": "/var/lib/cudaenv" } },
                    { "name": "tmp", "emptyDir": {} },
                ],
            },
        } },
    })
}

/// What the shell of the probe on that node prints.
fn sh(cluster: &Cluster, node: &str, script: &str) -> String {
    let selector = format!("spec.nodeName={node}");
    let pod = cluster
        .printed(&[
            "get",
            "pods",
            "-l",
            "app=probe",
            "--field-selector",
            &selector,
            "-o",
            "name",
        ])
        .unwrap();
    let done = cluster.exec("default", pod.trim(), script).unwrap();
    assert_eq!(done.code, 0, "{script}: {done:?}");
    done.stdout
}

fn rolled_out(cluster: &Cluster) {
    cluster
        .printed(&["rollout", "status", "daemonset/probe", "--timeout=60s"])
        .unwrap();
}

const VERSION: &str = "cat /host/proc/driver/nvidia/version";
const OPERATORS: &str = "cd /host/run/nvidia/driver && find . -name 'libcuda.so.*.*'";
const HOSTS: &str = "cd /host/usr/lib/x86_64-linux-gnu/nvidia && find . -name 'libcuda.so.*.*'";

#[test]
fn nodes_have_real_drivers_of_their_own_and_survive_what_befalls_them() {
    let check = "a cluster of nodes with different drivers";
    let Some(drivers) = skip::without(check, parts::drivers()) else {
        return;
    };
    let (old, other, new) = (&drivers[1], &drivers[3], &drivers[4]);
    let nodes = Nodes {
        count: 2,
        drivers: vec![(1, old.clone(), Place::Operator), (2, new.clone(), Place::Host)],
        ..Nodes::default()
    };
    let Some(cluster) = Cluster::with(check, &nodes).unwrap() else {
        return;
    };
    let made = cluster.kubectl_with(&["create"], &probe()).unwrap();
    assert_eq!(made.code, 0, "{made:?}");
    rolled_out(&cluster);

    for (node, version, files) in [("node1", &old.version, OPERATORS), ("node2", &new.version, HOSTS)] {
        assert!(sh(&cluster, node, VERSION).contains(version.as_str()), "{node}");
        let libcuda = sh(&cluster, node, files);
        assert!(
            libcuda.trim().ends_with(&format!("libcuda.so.{version}")),
            "{node}: {libcuda}"
        );
    }
    mounts_of_a_privileged_pod_are_seen_on_its_node_alone(&cluster);
    nodes_and_pods_reach_what_is_served(&cluster);

    let freed = cluster.unload_driver("node1").unwrap();
    assert_eq!(freed.code, 0, "{freed:?}");
    assert_eq!(sh(&cluster, "node1", OPERATORS), "");
    cluster.load_driver("node1", other, Place::Operator).unwrap();
    assert!(sh(&cluster, "node1", VERSION).contains(&other.version));
    assert!(sh(&cluster, "node1", OPERATORS).contains(&other.version));

    a_paused_api_server_answers_again(&cluster);
    pods_survive_their_kubelet(&cluster);
    a_reboot_takes_processes_and_mounts_and_leaves_files(&cluster);
}

fn mounted(cluster: &Cluster, node: &str) -> bool {
    let table = cluster.mounts(node).unwrap();
    table.iter().any(|line| line.contains(" /var/lib/cudaenv/mnt "))
}

fn mounts_of_a_privileged_pod_are_seen_on_its_node_alone(cluster: &Cluster) {
    assert!(mounted(cluster, "node1") && mounted(cluster, "node2"));
    let machine = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!machine.contains("/var/lib/cudaenv/mnt"));
    sh(cluster, "node2", "umount /var/lib/cudaenv/mnt");
    assert!(mounted(cluster, "node1") && !mounted(cluster, "node2"));
}

fn nodes_and_pods_reach_what_is_served(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let server = cluster.serve(folder.path()).unwrap();
    let ask = format!("wget -qO- {}/nix-cache-info", server.url());
    assert_eq!(sh(cluster, "node2", &ask), "StoreDir: /nix/store\n");
    assert_eq!(server.log().len(), 1);
}

fn a_paused_api_server_answers_again(cluster: &Cluster) {
    cluster.pause_api().unwrap();
    let silence = cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"]);
    cluster.resume_api().unwrap();
    assert_ne!(silence.unwrap().code, 0);
    assert_eq!(cluster.printed(&["get", "--raw", "/readyz"]).unwrap(), "ok");
}

fn pods_survive_their_kubelet(cluster: &Cluster) {
    let before = cluster
        .field("pods", "{.items[*].status.containerStatuses[*].containerID}")
        .unwrap();
    cluster.stop_kubelet("node1").unwrap();
    assert!(mounted(cluster, "node1"), "the pod's mount went with kubelet");
    cluster.start_kubelet("node1").unwrap();
    // A new kubelet is what answers `exec`.
    cluster
        .until("kubelet answers again", || {
            let pod = cluster.printed(&["get", "pods", "--field-selector=spec.nodeName=node1", "-o", "name"])?;
            Ok(cluster.kubectl(&["exec", pod.trim(), "--", "true"])?.code == 0)
        })
        .unwrap();
    let after = cluster
        .field("pods", "{.items[*].status.containerStatuses[*].containerID}")
        .unwrap();
    assert_eq!(before, after);
}

fn a_reboot_takes_processes_and_mounts_and_leaves_files(cluster: &Cluster) {
    let starts = || {
        let path = "{.items[?(@.spec.nodeName=='node1')].status.containerStatuses[0].restartCount}";
        cluster.field("pods", path).unwrap()
    };
    assert_eq!(starts(), "0");
    cluster.power_off("node1").unwrap();
    assert!(!mounted(cluster, "node1"));
    let record = cluster.folder().join("node1/cudaenv/record");
    assert_eq!(fs::read_to_string(record).unwrap(), "kept\n");
    cluster.start_kubelet("node1").unwrap();
    cluster
        .until("the pod is started again", || Ok(starts() == "1"))
        .unwrap();
    rolled_out(cluster);
    assert!(mounted(cluster, "node1"));
}
