//! What can befall a node under running pods: its agent, its kubelet, its power, its driver, the API server, the operator.
//! It must never repair anything itself: what comes back comes back by itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use e2e::cluster::nodes::Place;
use e2e::cluster::site::{Site, TEAM, by_hand, injected, pod};
use e2e::parts;
use serde_json::{Value, json};

/// Where the program of the environment is found in a pod.
const COUNT: &str = "/run/cudaenv/packages/cuda/bin/count";
/// Reads everything in its view again and again; `/tmp/bad` is there once something could not be read.
const READING: &str = "while :; do find /run/cudaenv /nix/store -type f -exec cat {} + >/dev/null 2>/tmp/err || cp /tmp/err /tmp/bad; done";

#[test]
fn pods_read_on_through_all_that_befalls_their_node() {
    let Some(site) = Site::start("pods through faults of their node").unwrap() else {
        return;
    };
    site.apply_environment().unwrap();
    for node in ["node1", "node2", "node3"] {
        start(
            &site,
            &on_node(injected(pod(&format!("reads-{node}"), READING), "cuda"), node),
        );
    }
    a_pod_with_a_user_namespace_gets_a_plain_view(&site);
    an_agent_that_is_killed_again_and_again_costs_no_read(&site);
    a_restarted_kubelet_knows_the_driver_again(&site);
    a_pod_starts_without_the_operator(&site);
    an_api_server_that_hangs_stops_nobody(&site);
    a_new_driver_is_for_new_pods(&site);
    a_node_whose_agent_cannot_start_is_kept_from_new_pods(&site);
    pods_come_back_after_a_reboot(&site);
}

fn on_node(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    pod
}

fn start(site: &Site, pod: &Value) {
    site.apply(pod).unwrap();
    let name = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap());
    site.cluster
        .wait(&["--for=condition=Ready", "-n", TEAM, &name])
        .unwrap();
}

fn sh(site: &Site, pod: &str, script: &str) -> String {
    let done = site.cluster.exec(TEAM, pod, script).unwrap();
    assert_eq!(done.code, 0, "{pod}: {script}: {done:?}\n{}", site.cluster.state());
    done.stdout
}

fn delete(site: &Site, pod: &str) {
    let arguments = ["delete", "pod", "-n", TEAM, pod, "--wait", "--timeout=60s"];
    site.cluster.printed(&arguments).unwrap();
}

fn reads_were_good(site: &Site, node: &str) {
    let pod = format!("reads-{node}");
    assert_eq!(sh(site, &pod, "cat /tmp/bad 2>/dev/null || true"), "", "{node}");
    assert!(sh(site, &pod, COUNT).ends_with(" 100\n"), "{node}");
}

/// The pod of the agent on a node, by name and uid.
fn agent(site: &Site, node: &str) -> anyhow::Result<Option<(String, bool)>> {
    let list = site.cluster.get(&[
        "pods",
        "-n",
        e2e::cluster::chart::NAMESPACE,
        "-l",
        "app.kubernetes.io/component=node-agent",
        &format!("--field-selector=spec.nodeName={node}"),
    ])?;
    let first = list["items"].as_array().and_then(|items| items.first()).cloned();
    Ok(first.map(|pod| {
        let statuses = pod["status"]["containerStatuses"][0].clone();
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (format!("{name} {}", statuses["containerID"]), statuses["ready"] == true)
    }))
}

fn an_agent_that_is_killed_again_and_again_costs_no_read(site: &Site) {
    start(
        site,
        &on_node(injected(pod("goes", "exec sleep 3600"), "cuda"), "node1"),
    );
    for round in 0..20 {
        let before = agent(site, "node1").unwrap().unwrap().0;
        let name = before.split(' ').next().unwrap();
        let delete = [
            "delete",
            "pod",
            "-n",
            e2e::cluster::chart::NAMESPACE,
            name,
            "--force",
            "--grace-period=0",
            "--wait=false",
        ];
        site.cluster.printed(&delete).unwrap();
        if round == 2 {
            // Deleted while no agent is there: it goes as soon as one is.
            let arguments = ["delete", "pod", "-n", TEAM, "goes", "--wait=false"];
            site.cluster.printed(&arguments).unwrap();
        }
        site.cluster
            .until("another agent is ready", || {
                Ok(agent(site, "node1")?.is_some_and(|(now, ready)| ready && now != before))
            })
            .unwrap();
    }
    site.cluster
        .until("the deleted pod is gone", || {
            Ok(site.cluster.kubectl(&["get", "pod", "-n", TEAM, "goes"])?.code != 0)
        })
        .unwrap();
    reads_were_good(site, "node1");
    let volumes = volumes(site, "node1");
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    let records = site.cluster.folder().join("node1/cudaenv/volumes");
    assert_eq!(std::fs::read_dir(records).unwrap().count(), 1);
}

/// What is mounted for pods on a node.
fn volumes(site: &Site, node: &str) -> Vec<String> {
    let mounted = site.cluster.mounts(node).unwrap().into_iter();
    mounted
        .filter(|line| line.contains("kubernetes.io~csi") && line.contains("/mount "))
        .collect()
}

fn a_restarted_kubelet_knows_the_driver_again(site: &Site) {
    site.cluster.stop_kubelet("node1").unwrap();
    site.cluster.start_kubelet("node1").unwrap();
    start(
        site,
        &on_node(injected(pod("after", "exec sleep 3600"), "cuda"), "node1"),
    );
    assert!(sh(site, "after", COUNT).ends_with(" 100\n"));
    delete(site, "after");
    reads_were_good(site, "node1");
}

fn a_pod_starts_without_the_operator(site: &Site) {
    let scale = |replicas: &str| {
        let arguments = [
            "scale",
            "-n",
            e2e::cluster::chart::NAMESPACE,
            "deployment/cudaenv-operator",
            replicas,
        ];
        site.cluster.printed(&arguments).unwrap();
    };
    scale("--replicas=0");
    site.cluster
        .until("the operator is gone", || {
            let path = "{.items[?(@.metadata.labels.app\\.kubernetes\\.io/component=='operator')].metadata.name}";
            Ok(site.cluster.field("pods", path)?.is_empty())
        })
        .unwrap();
    let alone = by_hand(pod("alone", "exec sleep 3600"), &json!({ "environment": "cuda" }));
    start(site, &on_node(alone, "node2"));
    assert!(sh(site, "alone", COUNT).ends_with(" 100\n"));
    delete(site, "alone");
    scale("--replicas=2");
    let rollout = [
        "rollout",
        "status",
        "-n",
        e2e::cluster::chart::NAMESPACE,
        "deployment/cudaenv-operator",
        "--timeout=120s",
    ];
    site.cluster.printed(&rollout).unwrap();
}

fn an_api_server_that_hangs_stops_nobody(site: &Site) {
    site.cluster.pause_api().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(5));
    site.cluster.resume_api().unwrap();
    site.cluster
        .until("the API server answers", || {
            Ok(site.cluster.kubectl(&["get", "--raw", "/readyz"])?.code == 0)
        })
        .unwrap();
    for node in ["node1", "node2", "node3"] {
        reads_were_good(site, node);
    }
}

fn a_new_driver_is_for_new_pods(site: &Site) {
    let newer = parts::drivers().unwrap().pop().unwrap();
    let freed = site.cluster.unload_driver("node2").unwrap();
    assert_eq!(freed.code, 0, "somebody holds the driver: {freed:?}");
    site.cluster.load_driver("node2", &newer, Place::Operator).unwrap();
    let version = "{.items[?(@.metadata.name=='node2')].status.driver.version}";
    site.cluster
        .until("the new driver is seen", || {
            Ok(site.cluster.field("cudanodes", version)? == newer.version)
        })
        .unwrap();
    start(
        site,
        &on_node(injected(pod("newer", "exec sleep 3600"), "cuda"), "node2"),
    );
    let shows = |pod: &str| -> Value { serde_json::from_str(&sh(site, pod, "cat /run/cudaenv/cudaenv.json")).unwrap() };
    let (old, new) = (shows("reads-node2"), shows("newer"));
    assert_eq!(old["driver"]["version"], "535.274.02");
    assert_eq!(old["packages"]["cuda"]["variant"], "cu118");
    assert_eq!(new["driver"]["version"], newer.version);
    assert_eq!(new["packages"]["cuda"]["variant"], "cu124");
    reads_were_good(site, "node2");
    let current = "{.items[?(@.metadata.name=='node2')].status.conditions[?(@.type=='DriverCurrent')].message}";
    site.cluster
        .until("the pod with the old driver is named", || {
            Ok(site.cluster.field("cudanodes", current)?.contains("team-a/reads-node2"))
        })
        .unwrap();
}

/// An agent that is gone cannot say so: its last word was that it is ready.
fn a_node_whose_agent_cannot_start_is_kept_from_new_pods(site: &Site) {
    let namespace = e2e::cluster::chart::NAMESPACE;
    let daemonset = "daemonset/cudaenv-node-agent";
    let of_agents = |arguments: &[&str]| {
        let arguments = [arguments, &["-n", namespace, daemonset]].concat();
        site.cluster.printed(&arguments).unwrap();
    };
    let tainted = || {
        let path = "{.items[?(@.spec.taints[*].key=='cudaenv.dev/agent-not-ready')].metadata.name}";
        site.cluster.field("nodes", path)
    };
    assert_eq!(tainted().unwrap(), "");
    of_agents(&[
        "patch",
        "--type=json",
        "-p",
        r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "localhost/absent:1"}]"#,
    ]);
    site.cluster
        .until("the node is tainted", || Ok(!tainted()?.is_empty()))
        .unwrap();
    let nodes = tainted().unwrap();
    assert!(!nodes.contains(' '), "an upgrade that fails goes no further: {nodes}");
    let (_, ready) = agent(site, &nodes).unwrap().unwrap();
    assert!(!ready);
    of_agents(&["rollout", "undo"]);
    site.cluster
        .until("the taint is gone", || Ok(tainted()?.is_empty()))
        .unwrap();
    let (_, ready) = agent(site, &nodes).unwrap().unwrap();
    assert!(ready);
}

fn pods_come_back_after_a_reboot(site: &Site) {
    site.cluster.power_off("node3").unwrap();
    assert_eq!(volumes(site, "node3"), [""; 0]);
    site.cluster.start_kubelet("node3").unwrap();
    let path = "{.items[?(@.metadata.name=='reads-node3')].status.containerStatuses[0].restartCount}";
    site.cluster
        .until("the pod runs again", || {
            let again = site.cluster.field("pods", path)? == "1";
            let exec = ["exec", "-n", TEAM, "reads-node3", "--", COUNT];
            Ok(again && site.cluster.kubectl(&exec)?.stdout.ends_with(" 100\n"))
        })
        .unwrap();
}

fn a_pod_with_a_user_namespace_gets_a_plain_view(site: &Site) {
    let mut pod = on_node(injected(pod("mapped", "exec sleep 3600"), "cuda"), "node1");
    pod["spec"]["hostUsers"] = false.into();
    start(site, &pod);
    let map = sh(site, "mapped", "cat /proc/self/uid_map");
    assert!(!map.trim_start().starts_with("0          0"), "{map}");
    assert!(sh(site, "mapped", COUNT).ends_with(" 100\n"));
    let kind = volumes(site, "node1")
        .into_iter()
        .filter(|line| !line.contains(" - overlay "))
        .count();
    assert_eq!(kind, 1, "one view is no overlay");
    delete(site, "mapped");
}
