//! A whole real cluster of two nodes: pods are placed, run, speak with each other and with the API server.
//! Afterwards the machine is as before: no process, mount, network device, packet filter, control group or file is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::cluster::Cluster;
use e2e::programs::finished;
use serde_json::{Value, json};

/// What a cluster could leave behind on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: String,
    files: BTreeSet<String>,
    network: BTreeSet<String>,
    packet_filter: String,
    control_groups: BTreeSet<String>,
    settings: Vec<String>,
}

fn traces() -> Traces {
    let names = |folder: &str| -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(folder) else {
            return BTreeSet::new();
        };
        entries
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect()
    };
    let settings = [
        "vm/overcommit_memory",
        "kernel/panic",
        "kernel/panic_on_oops",
        "net/ipv4/ip_forward",
    ];
    let places = [
        "/",
        "/run",
        "/var/lib",
        "/var/log",
        "/var/lib/kubelet",
        "/run/netns",
        "/run/containerd",
        "/etc/cni",
        "/opt",
    ];
    let temporary = names("/tmp")
        .into_iter()
        .filter(|name| name.contains("cudaenv-cluster") || name.contains("containerd"));
    let groups = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/k8s.io",
        "/sys/fs/cgroup/memory/k8s.io",
    ];
    Traces {
        mounts: fs::read_to_string("/proc/1/mountinfo").unwrap(),
        files: places.into_iter().flat_map(names).chain(temporary).collect(),
        network: names("/sys/class/net"),
        packet_filter: finished(Command::new("nft").args(["list", "ruleset"])).unwrap(),
        control_groups: groups
            .into_iter()
            .flat_map(names)
            .filter(|name| Path::new(name).is_dir())
            .collect(),
        settings: settings
            .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap())
            .to_vec(),
    }
}

/// Programs of a cluster anywhere on the machine, by the folder that they were started with.
fn programs_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let lines = processes.filter_map(|process| fs::read_to_string(process.join("cmdline")).ok());
    lines
        .filter(|line| line.contains(folder))
        .map(|line| line.replace('\0', " "))
        .collect()
}

fn pod(name: &str, node: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "localhost/e2e/busybox:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            }],
        },
    })
}

#[test]
fn two_nodes_run_pods_that_speak_with_each_other_and_leave_nothing() {
    let before = traces();
    let Some(cluster) = Cluster::with_nodes("a whole cluster of two nodes", 2).unwrap() else {
        return;
    };
    let folder = cluster.folder().to_owned();
    assert!(!programs_of(&folder).is_empty());
    let serve = "mkdir /www && echo hello from $HOSTNAME >/www/index.html && exec httpd -f -p 8080 -h /www";
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    for object in [
        pod("web", "node1", serve),
        pod("client", "node2", "echo started; exec sleep 3600"),
        service,
    ] {
        let answer = cluster.kubectl_with(&["create"], &object).unwrap();
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    let ready = cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=60s",
            "pod/web",
            "pod/client",
        ])
        .unwrap();
    assert_eq!(
        ready.code,
        0,
        "{ready:?}\n{}",
        cluster.printed(&["describe", "pods"]).unwrap()
    );

    let nodes = cluster
        .printed(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])
        .unwrap();
    assert_eq!(nodes, "node2 node1");
    assert_eq!(cluster.printed(&["logs", "client"]).unwrap(), "started\n");
    let address = cluster.get(&["service", "web"]).unwrap()["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_owned();
    let ask = format!("for i in $(seq 50); do wget -qO- http://{address}/ && exit; sleep 0.2; done; exit 1");
    assert_eq!(
        cluster.printed(&["exec", "client", "--", "sh", "-c", &ask]).unwrap(),
        "hello from web\n"
    );
    let ask = "wget -qO- --no-check-certificate https://$KUBERNETES_SERVICE_HOST/version";
    let version = cluster.printed(&["exec", "client", "--", "sh", "-c", ask]).unwrap();
    assert!(version.contains("gitVersion"), "{version}");

    drop(cluster);
    assert_eq!(programs_of(&folder), [""; 0]);
    // A network namespace is taken down a moment after its last process.
    let settled = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        traces() == before
    });
    assert!(settled, "left behind:\nbefore {before:#?}\nafter {:#?}", traces());
}
