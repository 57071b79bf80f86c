//! The whole of it, as README.md says it: the chart is installed in a cluster whose nodes have different real drivers, one environment is
//! applied, every pod gets the build that fits its node, and in the end all is as before. It must never help: no step but what a user would do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::{BTreeMap, BTreeSet};

use e2e::cluster::Cluster;
use e2e::cluster::chart::NAMESPACE;
use e2e::cluster::site::{NODES, Site};
use e2e::programs::{Ended, finished, source_folder};
use e2e::readme::Readme;
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
fn the_readme_installs_what_gives_every_pod_the_build_for_its_node_and_takes_it_away_without_a_trace() {
    let Some(site) = Site::empty("the README's commands, on nodes with different drivers").unwrap() else {
        return;
    };
    let (cluster, stage) = (&site.cluster, &site.stage);
    every_node_runs_a_pod(cluster);
    let before = NODES.map(|(node, _, _)| traces(cluster, node));
    let objects_before = objects(cluster).unwrap();
    let readme = readme(&site);
    the_quickstart_works_as_it_stands(&site, &readme);
    agents_say_what_their_nodes_are(cluster);
    site.apply_environment().unwrap();
    the_operator_tells_of_nodes_and_environments(cluster);
    let asked = cluster.kubectl_with(&["create"], &asking()).unwrap();
    assert_eq!(asked.code, 0, "{asked:?}");
    pods_run_what_fits(cluster, stage);
    the_pod_of_the_node_without_a_driver_is_not_placed_and_says_why(cluster);
    an_agents_token_opens_no_secret(cluster);
    uninstalling_is_refused_while_a_pod_has_its_volume(cluster);
    cluster
        .printed(&["delete", "daemonset", "-n", "team-a", "asking"])
        .unwrap();
    cluster
        .until("the pods are gone", || Ok(pods(cluster).is_empty()))
        .unwrap();
    let commands = readme.commands("Uninstall").unwrap();
    assert_eq!(commands.len(), 2, "{commands:?}");
    told(cluster, &folder_of(cluster), &commands[0]);
    uninstalling_leaves_nothing_but_what_users_wrote(cluster, &objects_before);
    for ((node, _, _), before) in NODES.iter().zip(&before) {
        nodes_are_as_before(cluster, node, before);
    }
    uninstalling_can_keep_the_stores(&site);
    told(cluster, &folder_of(cluster), &commands[1]);
    let kinds = cluster.printed(&["api-resources", "-o", "name"]).unwrap();
    assert!(!kinds.contains("cudaenv.dev"), "{kinds}");
}

/// Commands of the README, by how they begin, and what of their answer says that they did what they are for.
const KNOWN: [(&str, &str); 11] = [
    ("kubectl create namespace ", " created"),
    ("kubectl label namespace ", " labeled"),
    ("helm install ", "STATUS: deployed"),
    ("kubectl rollout status ", "successfully rolled out"),
    ("kubectl get cudanodes", "550.163.01"),
    ("kubectl apply -f ", "cudaenvironment.cudaenv.dev/pytorch created"),
    ("kubectl wait ", "condition met"),
    ("kubectl logs ", "\"variant\": \"cu118\""),
    ("kubectl delete pod ", " deleted"),
    ("helm uninstall ", "uninstalled"),
    (
        "kubectl get crd -o name | grep cudaenv.dev | xargs kubectl delete",
        " deleted",
    ),
];

/// The README, with what a user puts there for what it names: a registry, an image, a cache and what is in it. One value is the
/// test's own: no GPU is here, so the agents are told of one.
fn readme(site: &Site) -> Readme {
    let path = |cuda| site.stage.closure(cuda).unwrap().environment.clone();
    Readme::with(&[
        ("REGISTRY", "localhost/cudaenv"),
        ("debian:stable-slim", "localhost/e2e/glibc:1"),
        ("https://cache.flox.dev", &site.server.url()),
        (
            "flox-cache-public-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=",
            &site.stage.public_key,
        ),
        ("/nix/store/…-pytorch-cu128", &path("12.8")),
        ("/nix/store/…-pytorch-cu118", &path("11.8")),
        ("--wait \\\n", "--wait --values one-gpu.yaml \\\n"),
    ])
    .unwrap()
}

/// Where the commands are given: the source tree, as far as they need it, and the files of the README.
fn folder_of(cluster: &Cluster) -> std::path::PathBuf {
    cluster.folder().join("reader")
}

fn the_quickstart_works_as_it_stands(site: &Site, readme: &Readme) {
    let folder = folder_of(&site.cluster);
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(source_folder().join("charts"), folder.join("charts")).unwrap();
    std::fs::write(
        folder.join("one-gpu.yaml"),
        r#"{"nodeAgent": {"extraArgs": ["--gpu", "8.0:tesla"]}}"#,
    )
    .unwrap();
    let files = readme.write_files(&folder).unwrap();
    assert_eq!(files, ["environment.yaml", "pod.yaml", "caches.yaml"]);
    for command in readme.commands("Install it in a cluster").unwrap() {
        told(&site.cluster, &folder, &command);
    }
    // The namespace is the next one's too.
    let clean = "kubectl delete namespace team-a && kubectl delete -f caches.yaml";
    assert_eq!(site.cluster.shell(&folder, clean).unwrap().code, 0);
}

/// Gives a command of the README, and waits until it answers what it is for where its answer grows by itself.
fn told(cluster: &Cluster, folder: &std::path::Path, command: &str) {
    let known = KNOWN.iter().find(|(begin, _)| command.starts_with(begin));
    let (_, answer) = known.unwrap_or_else(|| unreachable!("what shall `{command}` answer?"));
    let mut done = cluster.shell(folder, command).unwrap();
    for _ in 0..100 {
        if done.stdout.contains(answer) || !command.starts_with("kubectl get cudanodes") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        done = cluster.shell(folder, command).unwrap();
    }
    assert_eq!(done.code, 0, "{command}: {done:?}\n{}", cluster.state());
    assert!(done.stdout.contains(answer), "{command}: {done:?}");
}

/// A plain pod on every node, and away again: what container runtime and kubelet make for a first pod is there then.
fn every_node_runs_a_pod(cluster: &Cluster) {
    let mut plain = asking();
    plain["metadata"] = json!({ "name": "plain", "namespace": "default" });
    let template = &mut plain["spec"]["template"];
    template["metadata"] = json!({ "labels": { "app": "asking" } });
    template["spec"]["containers"][0]["command"] = json!(["sleep", "3600"]);
    let made = cluster.kubectl_with(&["create"], &plain).unwrap();
    assert_eq!(made.code, 0, "{made:?}");
    let rollout = ["rollout", "status", "daemonset/plain", "--timeout=60s"];
    cluster.printed(&rollout).unwrap();
    cluster
        .printed(&["delete", "daemonset", "plain", "--cascade=foreground"])
        .unwrap();
    for (node, _, _) in NODES {
        let of_pods =
            |line: &String| line.contains("/kubelet/pods/") || line.contains("/k8s.io/") || line.contains("/netns/");
        let traces = || Ok(traces(cluster, node));
        let gone = || traces().map(|now| !now.mounts.iter().chain(&now.files).any(of_pods));
        cluster.until("the pods are gone from the node", gone).unwrap();
    }
}

/// Everything on a node that an installation could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Lines of the mount table.
    mounts: BTreeSet<String>,
    /// Name, kind, mode and owner of every file and folder.
    files: BTreeSet<String>,
}

/// Where a node keeps what is its own. The rest of it is the machine's, for all nodes the same; nothing of ours is mounted there.
const PLACES: [&str; 8] = [
    "/etc",
    "/opt",
    "/run",
    "/usr/local",
    "/var/lib",
    "/var/lib/cudaenv",
    "/var/lib/kubelet",
    "/var/log",
];

/// What is not looked at: the logs of pods that were there, which kubelet removes when its time has come.
const THEIRS: [&str; 2] = ["/var/log/containers/", "/var/log/pods/"];

fn traces(cluster: &Cluster, node: &str) -> Traces {
    let mut find = cluster.on(node, "find").unwrap();
    find.args(PLACES)
        .args(["-xdev", "-ignore_readdir_race", "-printf", "%p %y %m %u:%g\n"]);
    let found = finished(&mut find).unwrap();
    let files = found
        .lines()
        .filter(|line| !THEIRS.iter().any(|place| line.starts_with(place)));
    Traces {
        mounts: cluster.mounts(node).unwrap().into_iter().collect(),
        files: files.map(str::to_owned).collect(),
    }
}

fn nodes_are_as_before(cluster: &Cluster, node: &str, before: &Traces) {
    // Pods' own folders go a moment after the pods.
    let mut now = traces(cluster, node);
    for _ in 0..100 {
        if now == *before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        now = traces(cluster, node);
    }
    let show = |old: &BTreeSet<String>, new: &BTreeSet<String>| -> Vec<String> {
        let gone = old.difference(new).map(|line| format!("- {line}"));
        gone.chain(new.difference(old).map(|line| format!("+ {line}")))
            .collect()
    };
    let (mounts, files) = (show(&before.mounts, &now.mounts), show(&before.files, &now.files));
    assert_eq!((mounts, files), (Vec::new(), Vec::new()), "{node}");
}

/// With the token that an agent's own pod holds.
fn an_agents_token_opens_no_secret(cluster: &Cluster) {
    let listed = cluster
        .get(&[
            "pods",
            "-n",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/component=node-agent",
            "--field-selector=spec.nodeName=node1",
        ])
        .unwrap();
    let agent = &listed["items"][0];
    let volumes = agent["spec"]["volumes"].as_array().unwrap();
    let secrets: Vec<_> = volumes
        .iter()
        .filter_map(|volume| volume["secret"]["secretName"].as_str())
        .collect();
    assert_eq!(secrets, ["cudaenv-cache-credentials"], "{volumes:?}");
    let projected: BTreeSet<_> = volumes
        .iter()
        .filter_map(|volume| volume["projected"]["sources"].as_array())
        .flatten()
        .flat_map(|source| source.as_object().unwrap().keys().map(String::as_str))
        .collect();
    assert_eq!(
        projected,
        ["configMap", "downwardAPI", "serviceAccountToken"].into(),
        "{volumes:?}"
    );

    let uid = agent["metadata"]["uid"].as_str().unwrap();
    let read = format!("cat /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~projected/*/token");
    let token = finished(cluster.on("node1", "sh").unwrap().args(["-c", &read])).unwrap();
    let agent = cluster.bearer("agent-of-node1", &token).unwrap();
    cluster
        .printed(&[
            "create",
            "secret",
            "generic",
            "private",
            "-n",
            "team-a",
            "--from-literal=word=swordfish",
        ])
        .unwrap();
    let kubelet = ["--server=https://10.95.0.1:10250", "get", "--raw", "/pods"];
    let ways: [&[&str]; 6] = [
        &["get", "secret", "private", "-n", "team-a", "-o", "yaml"],
        &["get", "secrets", "-A"],
        &["get", "secrets", "-n", NAMESPACE],
        &["get", "--raw", "/api/v1/nodes/node1/proxy/pods"],
        &["create", "token", "cudaenv-operator", "-n", NAMESPACE],
        &kubelet,
    ];
    for way in ways {
        let refused = agent.kubectl(way).unwrap();
        assert_ne!(refused.code, 0, "{way:?}");
        assert!(refused.stderr.contains("orbidden"), "{way:?}: {refused:?}");
        let twin = cluster.kubectl(way).unwrap();
        assert_eq!(twin.code, 0, "an administrator: {way:?}: {twin:?}");
    }
    let own = agent.kubectl(&["get", "cudanodes", "node1"]).unwrap();
    assert_eq!(own.code, 0, "the token is good: {own:?}");
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

/// For who installs again: what was verified is still there, and nothing else is.
fn uninstalling_can_keep_the_stores(site: &Site) {
    let cluster = &site.cluster;
    site.install(&["--set=uninstall.removeState=false"]).unwrap();
    let ahead = ["patch", "cudaenvironment", "-n", "team-a", "cuda", "--type=merge", "-p"];
    let ahead = [&ahead[..], &[r#"{"spec": {"prewarm": "Always"}}"#]].concat();
    cluster.printed(&ahead).unwrap();
    let state = cluster.folder().join("node1/cudaenv");
    let entries = |folder: &str| {
        let names = std::fs::read_dir(state.join(folder)).into_iter().flatten();
        names.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    cluster
        .until("the closure is fetched ahead", || {
            Ok(entries("store").len() == 3 && entries("meta").len() >= 3)
        })
        .unwrap();
    let fetched = entries("store");
    let gone = uninstall(cluster);
    assert_eq!(gone.code, 0, "{gone:?}");
    assert_eq!(entries("store"), fetched);
    let mounts = cluster.mounts("node1").unwrap();
    assert!(
        !mounts.iter().any(|line| line.contains(" /var/lib/cudaenv/")),
        "{mounts:?}"
    );
    assert!(!cluster.folder().join("node1/kubelet/plugins/csi.cudaenv.dev").exists());
}

/// Every object of any kind that is listed, as `KIND NAMESPACE/NAME`, but for records of what happened.
fn objects(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let kinds = cluster.printed(&["api-resources", "--verbs=list", "-o", "name"])?;
    let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    anyhow::ensure!(kinds.len() > 40, "{kinds:?}");
    let path = "jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    let listed = cluster.printed(&["get", &kinds.join(","), "-A", "-o", path])?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// What the user made, with what Kubernetes makes of that by itself, and the definitions.
fn is_the_users(object: &str) -> bool {
    let (kind, name) = object.split_once(' ').unwrap_or_default();
    let known = [
        "Namespace /team-a",
        "Namespace /cudaenv-system",
        "ConfigMap cudaenv-system/kube-root-ca.crt",
        "ServiceAccount cudaenv-system/default",
        "CUDABinaryCache /stage",
        "APIService /v1alpha1.cudaenv.dev",
    ];
    let definition = kind == "CustomResourceDefinition" && name.ends_with(".cudaenv.dev");
    definition || name.starts_with("team-a/") || known.contains(&object)
}

fn uninstalling_leaves_nothing_but_what_users_wrote(cluster: &Cluster, before: &BTreeSet<String>) {
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
    let left = || -> anyhow::Result<Vec<String>> {
        let mut now = objects(cluster)?;
        now.retain(|object| !before.contains(object) && !is_the_users(object));
        Ok(now.into_iter().collect())
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
