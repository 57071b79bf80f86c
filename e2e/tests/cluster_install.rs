//! The whole of it: helm installs the chart in a cluster whose nodes have different real drivers, one environment is applied, and
//! every pod gets the build that fits its node. It must never help: no step but what a user would do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeMap;

use e2e::cluster::Cluster;
use e2e::cluster::chart::NAMESPACE;
use e2e::cluster::site::{NODES, Site};
use e2e::programs::Ended;
use e2e::stage::Stage;
use serde_json::{Value, json};

/// A pod on every node that asks its CUDA runtime for devices, then stays.
fn asking() -> Value {
    let script = "/run/cudaenv/packages/cuda/bin/count && exec sleep 3600";
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "asking", "namespace": "team-a" },
        "spec": { "selector": { "matchLabels": { "app": "asking" } }, "template": {
            "metadata": {
                "labels": { "app": "asking", "cudaenv.dev/inject": "true" },
                "annotations": { "cudaenv.dev/environment": "cuda" },
            },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main", "image": "localhost/e2e/glibc:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                }],
            },
        } },
    })
}

/// Of each node: the pod there, or on its way there.
fn pods(cluster: &Cluster) -> BTreeMap<String, Value> {
    let list = cluster.get(&["pods", "-n", "team-a"]).unwrap();
    let named = list["items"].as_array().unwrap().iter().map(|pod| {
        let terms = pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0");
        (terms.and_then(Value::as_str).unwrap().to_owned(), pod.clone())
    });
    named.collect()
}

#[test]
fn every_pod_gets_the_build_that_fits_the_driver_of_its_node() {
    let Some(site) = Site::start("an installed chart on nodes with different drivers").unwrap() else {
        return;
    };
    let (cluster, stage) = (&site.cluster, &site.stage);
    agents_say_what_their_nodes_are(cluster);
    site.apply_environment().unwrap();
    the_operator_tells_of_nodes_and_environments(cluster);
    let asked = cluster.kubectl_with(&["create"], &asking()).unwrap();
    assert_eq!(asked.code, 0, "{asked:?}");
    pods_run_what_fits(cluster, stage);
    the_pod_of_the_node_without_a_driver_is_not_placed_and_says_why(cluster);
    uninstalling_is_refused_while_a_pod_has_its_volume(cluster);
    cluster
        .printed(&["delete", "daemonset", "-n", "team-a", "asking"])
        .unwrap();
    cluster
        .until("the pods are gone", || Ok(pods(cluster).is_empty()))
        .unwrap();
    uninstalling_leaves_nothing_but_what_users_wrote(cluster);
}

fn agents_say_what_their_nodes_are(cluster: &Cluster) {
    let said = || {
        cluster.field(
            "cudanodes",
            "{range .items[*]}{.metadata.name}={.status.driver.version} {end}",
        )
    };
    let expected: Vec<_> = NODES
        .iter()
        .map(|(node, driver, _)| format!("{node}={} ", driver.unwrap_or_default()))
        .collect();
    cluster
        .until("every node has a CUDANode with its driver", || {
            Ok(said()? == expected.concat())
        })
        .unwrap();
    // helm is content where all but `maxUnavailable` of a DaemonSet are ready.
    let rollout = [
        "rollout",
        "status",
        "daemonset/cudaenv-node-agent",
        "-n",
        NAMESPACE,
        "--timeout=60s",
    ];
    let settled = cluster.kubectl(&rollout).unwrap();
    assert_eq!(settled.code, 0, "{settled:?}\n{}", cluster.state());
}

/// Class and CUDA release as labels of the nodes, closures and signatures in the environment's status.
fn the_operator_tells_of_nodes_and_environments(cluster: &Cluster) {
    let labels = "{.items[*].metadata.labels['cudaenv\\.dev/cuda']}";
    cluster
        .until("nodes are labelled", || {
            Ok(cluster.field("nodes", labels)? == "11.4 12.2 12.4")
        })
        .unwrap();
    let resolved = "{.items[*].status.conditions[?(@.type=='Resolved')].status}";
    cluster
        .until("the environment is resolved", || {
            Ok(cluster.field("cudaenvironments", resolved)? == "True")
        })
        .unwrap();
    let caches = "{.items[*].status.conditions[?(@.type=='Ready')].status}";
    cluster
        .until("the cache is ready", || {
            Ok(cluster.field("cudabinarycaches", caches)? == "True")
        })
        .unwrap();
}

fn pods_run_what_fits(cluster: &Cluster, stage: &Stage) {
    cluster
        .until("four pods are made", || Ok(pods(cluster).len() == 4))
        .unwrap();
    for (node, driver, cuda) in NODES {
        if driver.is_none() {
            continue;
        }
        let pod = pods(cluster)[node]["metadata"]["name"].as_str().unwrap().to_owned();
        cluster
            .wait(&["pod", &pod, "-n", "team-a", "--for=condition=Ready"])
            .unwrap();
        let soname = &stage.closure(cuda).unwrap().toolkit.soname;
        let printed = cluster.first_log("team-a", &pod).unwrap();
        assert_eq!(printed, format!("{soname} 100\n"), "{node}");
    }
}

fn the_pod_of_the_node_without_a_driver_is_not_placed_and_says_why(cluster: &Cluster) {
    let pod = &pods(cluster)["node4"];
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["spec"]["nodeName"], Value::Null);
    let about = format!(
        "--field-selector=involvedObject.name={}",
        pod["metadata"]["name"].as_str().unwrap()
    );
    let message = || {
        cluster.printed(&[
            "get",
            "events",
            "-n",
            "team-a",
            &about,
            "-o",
            "jsonpath={.items[*].message}",
        ])
    };
    cluster
        .until("the scheduler says why", || {
            Ok(message()?.contains("node affinity/selector"))
        })
        .unwrap();
}

/// `helm uninstall`, which waits for its hooks.
fn uninstall(cluster: &Cluster) -> Ended {
    cluster
        .helm(&["uninstall", "cudaenv", "-n", NAMESPACE, "--wait", "--timeout=120s"])
        .unwrap()
}

fn uninstalling_is_refused_while_a_pod_has_its_volume(cluster: &Cluster) {
    let refused = uninstall(cluster);
    assert_ne!(refused.code, 0, "{refused:?}");
    let said = cluster
        .printed(&["logs", "-n", NAMESPACE, "-l", "job-name=cudaenv-uninstall-check"])
        .unwrap();
    assert!(
        said.contains("3 pods hold a CUDA environment") && said.contains("team-a/asking-"),
        "{said}"
    );
    assert_eq!(
        cluster.field("csidrivers", "{.items[*].metadata.name}").unwrap(),
        "csi.cudaenv.dev"
    );
}

fn uninstalling_leaves_nothing_but_what_users_wrote(cluster: &Cluster) {
    let done = uninstall(cluster);
    assert_eq!(done.code, 0, "{done:?}\n{}", cluster.state());
    for (node, _, _) in NODES {
        let ours = |line: &&String| line.contains(" /var/lib/cudaenv/");
        let mounts = cluster.mounts(node).unwrap();
        assert_eq!(mounts.iter().filter(ours).collect::<Vec<_>>(), [""; 0], "{node}");
        let kept = ["plugins/csi.cudaenv.dev", "plugins_registry/reg@csi.cudaenv.dev.sock"];
        for file in kept.map(|name| cluster.folder().join(node).join("kubelet").join(name)) {
            assert!(!file.exists(), "{} is left", file.display());
        }
        let store = cluster.folder().join(node).join("cudaenv");
        assert_eq!(
            std::fs::read_dir(store).unwrap().count(),
            0,
            "{node}: the node store is left"
        );
    }
    let nodes = cluster.printed(&["get", "nodes", "-o", "json"]).unwrap();
    assert!(!nodes.contains("cudaenv.dev/"), "{nodes}");
    assert_eq!(cluster.field("cudanodes", "{.items[*].metadata.name}").unwrap(), "");
    let ours = "all,secrets,leases,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,csidrivers,\
                mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,poddisruptionbudgets";
    let left = || -> anyhow::Result<Vec<String>> {
        let names = cluster.printed(&["get", ours, "-A", "-o", "name"])?;
        Ok(names
            .lines()
            .filter(|name| name.contains("cudaenv"))
            .map(str::to_owned)
            .collect())
    };
    // The hooks' own pods have a moment to end.
    cluster
        .until("nothing of ours is left", || Ok(left()?.is_empty()))
        .unwrap();
    let written = cluster
        .field("cudaenvironments,cudabinarycaches", "{.items[*].metadata.name}")
        .unwrap();
    assert_eq!(written, "cuda stage");
}
