//! What can befall a node under running pods: its agent, its kubelet, its power, its driver, the API server, the operator.
//! It must never repair anything itself: what comes back comes back by itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::fs;

use e2e::cluster::nodes::Place;
use e2e::cluster::site::{READING, Site, TEAM, by_hand, injected, on_node, pod};
use e2e::parts;
use serde_json::{Value, json};

/// Where the program of the environment is found in a pod.
const COUNT: &str = "/run/cudaenv/packages/cuda/bin/count";

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
    pods_that_go_while_kubelet_is_away_leave_nothing(&site);
    a_driver_that_csinode_has_lost_is_registered_again(&site);
    a_pod_starts_without_the_operator(&site);
    a_new_driver_is_for_new_pods(&site);
    a_node_whose_agent_cannot_start_is_kept_from_new_pods(&site);
    pods_come_back_after_a_reboot(&site);
    pods_come_back_with_the_new_driver_after_a_reboot_with_another(&site);
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
    assert_eq!(site.unread(&pod).unwrap(), "", "{node}");
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

/// So many times, each time with a pod deleted while no agent is there.
const KILLS: usize = 20;

fn an_agent_that_is_killed_again_and_again_costs_no_read(site: &Site) {
    for more in ["reads-too", "reads-as-well"] {
        start(site, &on_node(injected(pod(more, READING), "cuda"), "node1"));
    }
    let leaving: Vec<_> = (0..KILLS).map(|round| format!("leaves-{round}")).collect();
    for name in &leaving {
        site.apply(&on_node(injected(pod(name, "exec sleep 3600"), "cuda"), "node1"))
            .unwrap();
    }
    for name in &leaving {
        let pod = format!("pod/{name}");
        site.cluster.wait(&["--for=condition=Ready", "-n", TEAM, &pod]).unwrap();
    }
    for name in &leaving {
        let before = agent(site, "node1").unwrap().unwrap().0;
        let process = site.cluster.agent("node1").unwrap();
        site.cluster.signal("node1", "-KILL", &process).unwrap();
        let gone = ["delete", "pod", "-n", TEAM, name, "--wait=false"];
        site.cluster.printed(&gone).unwrap();
        site.cluster
            .until("the agent is started again", || {
                Ok(agent(site, "node1")?.is_some_and(|(now, ready)| ready && now != before))
            })
            .unwrap();
    }
    let all = || -> anyhow::Result<usize> {
        Ok(site.cluster.get(&["pods", "-n", TEAM])?["items"]
            .as_array()
            .map_or(0, Vec::len))
    };
    site.cluster
        .until("the deleted pods are gone", || Ok(all()? == 5))
        .unwrap();
    for pod in ["reads-node1", "reads-too", "reads-as-well"] {
        assert_eq!(site.unread(pod).unwrap(), "", "{pod}");
    }
    only_what_is_there_is_on_the_node(site, 3);
    site.reader_is_honest("reads-too").unwrap();
    for more in ["reads-too", "reads-as-well"] {
        delete(site, more);
    }
}

/// Views, records and kubelet's own folders: of so many pods with an environment, and of no pod that is gone.
fn only_what_is_there_is_on_the_node(site: &Site, pods: usize) {
    let folder = site.cluster.folder().join("node1");
    let names = |below: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(folder.join(below)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    };
    let uids = site
        .cluster
        .field(
            "pods",
            "{range .items[?(@.spec.nodeName=='node1')]}{.metadata.uid} {end}",
        )
        .unwrap();
    let uids: BTreeSet<_> = uids.split_whitespace().map(str::to_owned).collect();
    site.cluster
        .until("kubelet keeps no folder of a pod that is gone", || {
            Ok(names("kubelet/pods") == uids)
        })
        .unwrap();
    let mounted = volumes(site, "node1");
    assert_eq!(
        (mounted.len(), names("cudaenv/volumes").len()),
        (pods, pods),
        "{mounted:?}"
    );
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

/// Nobody but the agent can see that, and no restart helps it.
fn a_driver_that_csinode_has_lost_is_registered_again(site: &Site) {
    let drivers = ["get", "csinode", "node1", "-o", "jsonpath={.spec.drivers[*].name}"];
    let before = agent(site, "node1").unwrap();
    assert_eq!(site.cluster.printed(&drivers).unwrap(), "csi.cudaenv.dev");
    let lose = r#"[{"op": "remove", "path": "/spec/drivers"}]"#;
    let patch = [
        "patch",
        "csinode",
        "node1",
        "--type=json",
        "-p",
        lose,
        "-o",
        "jsonpath={.spec.drivers[*].name}",
    ];
    assert_eq!(site.cluster.printed(&patch).unwrap(), "");
    site.cluster
        .until("the driver is named again", || {
            Ok(site.cluster.printed(&drivers)? == "csi.cudaenv.dev")
        })
        .unwrap();
    start(
        site,
        &on_node(injected(pod("again", "exec sleep 3600"), "cuda"), "node1"),
    );
    assert!(sh(site, "again", COUNT).ends_with(" 100\n"));
    delete(site, "again");
    assert_eq!(agent(site, "node1").unwrap(), before, "it was not started again");
    reads_were_good(site, "node1");
}

/// Taken away when nobody looks: what they had goes when kubelet is there again.
fn pods_that_go_while_kubelet_is_away_leave_nothing(site: &Site) {
    let ways: [(&str, &[&str]); 2] = [
        ("told", &["--wait=false"]),
        ("forced", &["--force", "--grace-period=0"]),
    ];
    for (name, _) in ways {
        let mut going = on_node(injected(pod(name, "exec sleep 3600"), "cuda"), "node1");
        // With no time at all to end, the API server asks no kubelet.
        going["spec"]["terminationGracePeriodSeconds"] = 1.into();
        start(site, &going);
    }
    site.cluster
        .until("those before them are gone", || Ok(volumes(site, "node1").len() == 3))
        .unwrap();
    site.cluster.stop_kubelet("node1").unwrap();
    for (name, way) in ways {
        let delete = [&["delete", "pod", "-n", TEAM, name], way].concat();
        site.cluster.printed(&delete).unwrap();
    }
    assert_eq!(volumes(site, "node1").len(), 3, "both still have theirs");
    site.cluster.start_kubelet("node1").unwrap();
    let gone = || Ok(site.cluster.kubectl(&["get", "pod", "-n", TEAM, "told"])?.code != 0);
    site.cluster.until("the pod is gone", gone).unwrap();
    site.cluster
        .until("what they had is gone", || Ok(volumes(site, "node1").len() == 1))
        .unwrap();
    only_what_is_there_is_on_the_node(site, 1);
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
    runs_for_the_time(site, "reads-node3", "1");
}

/// What a container is started with is what its node has now, and so is what it is told of it.
fn pods_come_back_with_the_new_driver_after_a_reboot_with_another(site: &Site) {
    let newer = parts::drivers().unwrap().pop().unwrap();
    assert_ne!(newer.version, "470.256.02");
    site.cluster.power_off("node1").unwrap();
    let freed = site.cluster.unload_driver("node1").unwrap();
    assert_eq!(freed.code, 0, "{freed:?}");
    site.cluster.load_driver("node1", &newer, Place::Operator).unwrap();
    site.cluster.start_kubelet("node1").unwrap();
    runs_for_the_time(site, "reads-node1", "1");
    let document: Value = serde_json::from_str(&sh(site, "reads-node1", "cat /run/cudaenv/cudaenv.json")).unwrap();
    assert_eq!(document["driver"]["version"], newer.version);
    let library = sh(
        site,
        "reads-node1",
        "busybox readlink -f /run/opengl-driver/lib/libcuda.so.1",
    );
    assert!(
        library.ends_with(&format!("/libcuda.so.{}\n", newer.version)),
        "{library}"
    );
    assert_eq!(site.unread("reads-node1").unwrap(), "");
}

/// Waits until kubelet has restarted the pod's container so often, and its program runs.
fn runs_for_the_time(site: &Site, pod: &str, restarts: &str) {
    let path = format!("{{.items[?(@.metadata.name=='{pod}')].status.containerStatuses[0].restartCount}}");
    site.cluster
        .until("the pod runs again", || {
            let again = site.cluster.field("pods", &path)? == restarts;
            let exec = ["exec", "-n", TEAM, pod, "--", COUNT];
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
