//! Pods on nodes with different real drivers: each sees what fits its node, or is told why not.
//! It must never look at anything that a user could not see, but for the tables of mounts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use e2e::cluster::site::{NODES, Site, TEAM, by_hand, injected, on_node, pod};
use serde_json::{Value, json};

/// Where the program of the environment is found in a pod.
const COUNT: &str = "/run/cudaenv/packages/cuda/bin/count";

#[test]
fn pods_see_what_fits_their_node_or_are_told_why_not() {
    let Some(site) = Site::start("pods on nodes with different drivers").unwrap() else {
        return;
    };
    site.apply_environment().unwrap();
    an_environment_that_is_absent_or_forbidden_gets_one_answer(&site);
    every_node_gets_the_variant_for_its_driver(&site);
    the_driverless_node_gets_none_and_the_event_says_why(&site);
    a_pod_forced_onto_a_misfit_is_told_every_variant(&site);
    a_view_cannot_be_written_and_exec_sees_it_too(&site);
    many_pods_at_once_fetch_each_path_once(&site);
    a_drained_node_takes_no_new_volume(&site);
    pods_that_go_leave_nothing_mounted(&site);
}

fn ready(site: &Site, names: &[&str]) {
    let pods: Vec<_> = names.iter().map(|name| format!("pod/{name}")).collect();
    let mut arguments = vec!["--for=condition=Ready", "-n", TEAM];
    arguments.extend(pods.iter().map(String::as_str));
    site.cluster.wait(&arguments).unwrap();
}

fn every_node_gets_the_variant_for_its_driver(site: &Site) {
    let script = format!("{COUNT}; exec sleep 3600");
    for (node, _, _) in &NODES[..3] {
        let pod = injected(on_node(pod(&format!("on-{node}"), &script), node), "cuda");
        site.apply(&pod).unwrap();
    }
    ready(site, &["on-node1", "on-node2", "on-node3"]);
    for (node, _, cuda) in &NODES[..3] {
        let name = format!("on-{node}");
        let runtime = &site.stage.closure(cuda).unwrap().toolkit.soname;
        // 100: the real runtime took the real driver, and there is no GPU.
        let printed = site.cluster.first_log(TEAM, &name).unwrap();
        assert_eq!(printed, format!("{runtime} 100\n"), "{node}");
        let document = site.cluster.exec(TEAM, &name, "cat /run/cudaenv/cudaenv.json").unwrap();
        let document: Value = serde_json::from_str(&document.stdout).unwrap();
        let chosen = &document["packages"]["cuda"]["variant"];
        assert_eq!(chosen, &format!("cu{}", cuda.replace('.', "")), "{node}: {document}");
    }
}

fn the_driverless_node_gets_none_and_the_event_says_why(site: &Site) {
    let pod = injected(on_node(pod("nowhere", "exec sleep 3600"), "node4"), "cuda");
    site.apply(&pod).unwrap();
    let path = "{.items[?(@.involvedObject.name=='nowhere')].message}";
    let said = || site.cluster.field("events", path);
    site.cluster
        .until("the scheduler says why", || Ok(said()?.contains("affinity")))
        .unwrap();
    let phase = ["get", "pod", "nowhere", "-n", TEAM, "-o", "jsonpath={.status.phase}"];
    assert_eq!(site.cluster.printed(&phase).unwrap(), "Pending");
    site.cluster.printed(&["delete", "pod", "nowhere", "-n", TEAM]).unwrap();
}

/// Every message of the events of a pod.
fn events(site: &Site, pod: &str) -> anyhow::Result<String> {
    let path =
        format!("{{range .items[?(@.involvedObject.name=='{pod}')]}}{{.reason}}: {{.message}}{{\"\\n\"}}{{end}}");
    site.cluster.field("events", &path)
}

fn a_pod_forced_onto_a_misfit_is_told_every_variant(site: &Site) {
    let mut forced = by_hand(pod("forced", "exec sleep 3600"), &json!({ "environment": "cuda-new" }));
    forced["spec"]["nodeName"] = "node1".into();
    let packages = [site.package(&["12.4", "12.8", "13.0"]).unwrap()];
    site.apply(&e2e::documents::environment("cuda-new", &packages)).unwrap();
    site.apply(&forced).unwrap();
    site.cluster
        .until("kubelet says why", || {
            Ok(events(site, "forced")?.contains("DriverTooOld"))
        })
        .unwrap();
    let said = events(site, "forced").unwrap();
    for variant in ["cu124", "cu128", "cu130"] {
        assert!(said.contains(variant), "{said}");
    }
    assert!(said.contains("FailedMount"), "{said}");
    site.cluster.printed(&["delete", "pod", "forced", "-n", TEAM]).unwrap();
}

/// Absent, of another namespace, and a cluster's that is not for this one: the same words but for the name.
fn an_environment_that_is_absent_or_forbidden_gets_one_answer(site: &Site) {
    site.cluster.printed(&["create", "namespace", "team-b"]).unwrap();
    let packages = [site.package(&["11.8"]).unwrap()];
    let mut other = e2e::documents::environment("others", &packages);
    other["metadata"]["namespace"] = "team-b".into();
    site.apply(&other).unwrap();
    let mut forbidden = e2e::documents::environment("gold", &packages);
    forbidden["kind"] = "ClusterCUDAEnvironment".into();
    forbidden["metadata"] = json!({ "name": "gold" });
    forbidden["spec"]["allowedNamespaces"] = json!({ "matchLabels": { "tier": "gold" } });
    site.apply(&forbidden).unwrap();
    let attributes = [
        ("absent", json!({ "environment": "absent" })),
        ("others", json!({ "environment": "others" })),
        (
            "gold",
            json!({ "environment": "gold", "kind": "ClusterCUDAEnvironment" }),
        ),
        (
            "nocluster",
            json!({ "environment": "nocluster", "kind": "ClusterCUDAEnvironment" }),
        ),
    ];
    for (name, attributes) in &attributes {
        let mut pod = by_hand(pod(name, "exec sleep 3600"), attributes);
        pod["spec"]["nodeName"] = "node1".into();
        site.apply(&pod).unwrap();
    }
    for (name, attributes) in &attributes {
        let kind = attributes["kind"].as_str().unwrap_or("CUDAEnvironment");
        let expected = format!("EnvironmentNotFound: namespace `{TEAM}` has no {kind} `{name}` that its pods may use");
        site.cluster
            .until("kubelet says that there is none", || {
                Ok(events(site, name)?.contains(&expected))
            })
            .unwrap();
        site.cluster.printed(&["delete", "pod", name, "-n", TEAM]).unwrap();
    }
}

fn a_view_cannot_be_written_and_exec_sees_it_too(site: &Site) {
    let sh = |script: &str| site.cluster.exec(TEAM, "on-node2", script).unwrap();
    assert_eq!(sh(&format!("{COUNT}; id -u")).stdout, "libcudart.so.11.0 100\n0\n");
    for write in [
        "touch /nix/store/x",
        "echo x >>/run/cudaenv/cudaenv.json",
        "rm -r /run/opengl-driver/lib",
        "mkdir /run/cudaenv/nix/store/x",
        "chmod 777 /nix/store",
    ] {
        let done = sh(write);
        assert!(
            done.code != 0 && done.stderr.contains("Read-only file system"),
            "{write}: {done:?}"
        );
    }
    assert_eq!(
        sh("echo $CUDAENV; ls /run/cudaenv/packages").stdout,
        "/run/cudaenv\ncuda\n"
    );
}

/// The node has never seen this closure.
fn many_pods_at_once_fetch_each_path_once(site: &Site) {
    let closure = site.stage.closure("11.8").unwrap();
    let variant = e2e::documents::variant("cu118", "11.8", &closure.environment);
    let packages = [e2e::documents::package("cuda", &[variant])];
    site.apply(&e2e::documents::environment("cuda-old", &packages)).unwrap();
    let before = site.server.log().len();
    let names: Vec<_> = (0..40).map(|number| format!("many-{number}")).collect();
    for name in &names {
        site.apply(&injected(on_node(pod(name, "exec sleep 3600"), "node3"), "cuda-old"))
            .unwrap();
    }
    ready(site, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let asked = site.server.log().split_off(before);
    let mut archives: Vec<_> = asked
        .iter()
        .filter(|request| request.path.starts_with("/nar/"))
        .map(|request| request.path.clone())
        .collect();
    archives.sort();
    let all = archives.len();
    archives.dedup();
    assert_eq!(archives.len(), all, "asked for twice: {asked:?}");
    assert_eq!(all, 3, "the runtime, its programs, the environment: {asked:?}");
    let mounted = site.cluster.mounts("node3").unwrap();
    let volumes = mounted.iter().filter(|line| line.contains("kubernetes.io~csi")).count();
    assert_eq!(volumes, 41);
}

fn a_drained_node_takes_no_new_volume(site: &Site) {
    let drain = |value: &str| {
        let patch = format!("{{\"spec\":{{\"drain\":{value}}}}}");
        let arguments = ["patch", "cudanode", "node2", "--type=merge", "-p", &patch];
        site.cluster.printed(&arguments).unwrap();
    };
    drain("true");
    let condition = "{.items[?(@.metadata.name=='node2')].status.conditions[?(@.type=='Ready')].reason}";
    site.cluster
        .until("the node says so", || {
            Ok(site.cluster.field("cudanodes", condition)? == "Draining")
        })
        .unwrap();
    let late = by_hand(pod("late", "exec sleep 3600"), &json!({ "environment": "cuda" }));
    let mut late = on_node(late, "node2");
    late["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
    site.apply(&late).unwrap();
    site.cluster
        .until("kubelet says why", || {
            let said = events(site, "late")?;
            Ok(said.contains("FailedMount") && said.contains("node node2 is being drained"))
        })
        .unwrap();
    let old = site.cluster.exec(TEAM, "on-node2", COUNT).unwrap();
    assert!(old.stdout.ends_with(" 100\n"), "what is mounted stays: {old:?}");
    drain("false");
    ready(site, &["late"]);
}

fn pods_that_go_leave_nothing_mounted(site: &Site) {
    site.cluster
        .printed(&["delete", "pods", "--all", "-n", TEAM, "--wait", "--timeout=100s"])
        .unwrap();
    for (node, _, _) in NODES {
        site.cluster
            .until("nothing is mounted for pods", || {
                let mounted = site.cluster.mounts(node)?;
                Ok(!mounted.iter().any(|line| line.contains("kubernetes.io~csi")))
            })
            .unwrap();
        let records = site.cluster.folder().join(node).join("cudaenv/volumes");
        let left = std::fs::read_dir(records).map(Iterator::count).unwrap_or_default();
        assert_eq!(left, 0, "{node}");
    }
}
