//! Pods on nodes with different real drivers: each sees what fits its node, or is told why not.
//! It must never look at anything that a user could not see, but for the tables of mounts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use e2e::closure::Closure;
use e2e::cluster::chart::NAMESPACE;
use e2e::cluster::site::{NODES, Site, TEAM, by_hand, injected, on_node, pod};
use e2e::layout::{Layout, write_file};
use e2e::programs::{ended, finished};
use e2e::server::Server;
use e2e::{documents, glibc};
use serde_json::{Value, json};

/// Where the program of the environment is found in a pod.
const COUNT: &str = "/run/cudaenv/packages/cuda/bin/count";

#[test]
fn pods_see_what_fits_their_node_or_are_told_why_not() {
    let mut more = More::default();
    let added = |layout: &mut Layout, closures: &[Closure]| more.add(layout, closures);
    let Some(site) = Site::with("pods on nodes with different drivers", added).unwrap() else {
        return;
    };
    let classes = classes(&site);
    a_neighbour_labels_nodes_falsely(&site);
    site.apply_environment().unwrap();
    let guarded = Guarded::start(&site, &more);
    an_environment_that_is_absent_or_forbidden_gets_one_answer(&site);
    an_environment_of_the_cluster_is_for_those_whom_it_allows(&site);
    every_node_gets_the_variant_for_its_driver(&site);
    the_driverless_node_gets_none_and_the_event_says_why(&site);
    one_deployment_runs_wherever_a_variant_fits(&site);
    an_image_with_nothing_in_it_runs_what_lies_in_the_environment(&site, &more);
    a_pod_forced_onto_a_misfit_is_told_every_variant(&site);
    a_view_cannot_be_written_and_exec_sees_it_too(&site);
    a_group_for_a_pods_files_changes_nothing_in_the_store(&site);
    many_pods_at_once_fetch_each_path_once(&site);
    a_drained_node_takes_no_new_volume(&site);
    guarded.opens_to_whoever_has_its_token(&site);
    assert_eq!(self::classes(&site), classes, "labels of others count for nothing");
    let nodes = NODES.map(|(node, _, _)| node);
    site.pods_leave_nothing(&nodes).unwrap();
}

/// Store paths that no other test's site has.
#[derive(Default)]
struct More {
    /// An environment with a glibc of its own.
    alone: String,
    /// An environment with a store path that nothing else refers to.
    guarded: String,
}

impl More {
    fn add(&mut self, layout: &mut Layout, closures: &[Closure]) -> anyhow::Result<()> {
        let oldest = &closures[0];
        self.alone = glibc::add(layout, oldest)?;
        let guarded = layout.add("guarded", &[], |folder, _| {
            write_file(&folder.join("share/guarded"), b"guarded", false)
        })?;
        self.guarded = layout.add_environment("guarded-env", &[&oldest.runtime, &oldest.programs, &guarded])?;
        Ok(())
    }
}

/// An environment of the team whose one package is that store path, of the oldest release.
fn environment(name: &str, store_path: &str) -> Value {
    let variant = documents::variant("cu118", "11.8", store_path);
    documents::environment(name, &[documents::package("cuda", &[variant])])
}

fn field(site: &Site, kind: &str, path: &str) -> String {
    site.cluster.field(kind, path).unwrap()
}

/// Class and driver of every node, once the operator has labelled those that have a driver.
fn classes(site: &Site) -> String {
    let labels = "{.items[*].metadata.labels['cudaenv\\.dev/cuda']}";
    site.cluster
        .until("nodes are labelled", || {
            Ok(site.cluster.field("nodes", labels)? == "11.4 12.2 12.4")
        })
        .unwrap();
    let path = "{range .items[*]}{.metadata.name}={.status.class} {.status.driver.version} {end}";
    field(site, "cudanodes", path)
}

/// As GPU Feature Discovery would, were the driver of every node the newest. They stay for all that follows.
fn a_neighbour_labels_nodes_falsely(site: &Site) {
    let labels = [
        "nvidia.com/gpu.present=true",
        "nvidia.com/gpu.compute.major=12",
        "nvidia.com/cuda.driver.major=580",
        "nvidia.com/cuda.driver.minor=95",
        "nvidia.com/cuda.driver-version.full=580.95.05",
        "nvidia.com/cuda.runtime.major=13",
        "nvidia.com/cuda.runtime-version.full=13.0",
    ];
    site.cluster
        .printed(&[&["label", "nodes", "--all"], &labels[..]].concat())
        .unwrap();
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

/// A Deployment of such pods.
fn deployment(name: &str, replicas: u32, mut pod: Value) -> Value {
    let (metadata, spec) = (pod["metadata"].take(), pod["spec"].take());
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": TEAM },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": metadata["labels"], "annotations": metadata["annotations"] }, "spec": spec,
        } },
    })
}

/// Of every pod of a Deployment: its name, its node and its phase.
fn replicas(site: &Site, app: &str) -> Vec<[String; 3]> {
    let list = site
        .cluster
        .get(&["pods", "-n", TEAM, "-l", &format!("app={app}")])
        .unwrap();
    let pods = list["items"].as_array().unwrap().iter();
    pods.map(|pod| {
        ["/metadata/name", "/spec/nodeName", "/status/phase"]
            .map(|at| pod.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned())
    })
    .collect()
}

fn one_deployment_runs_wherever_a_variant_fits(site: &Site) {
    let mut spread = injected(pod("spread", &format!("{COUNT}; exec sleep 3600")), "cuda");
    spread["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{
        "labelSelector": { "matchLabels": { "app": "spread" } }, "topologyKey": "kubernetes.io/hostname",
    }]);
    site.apply(&deployment("spread", 4, spread)).unwrap();
    site.cluster
        .until("three of four run", || {
            Ok(replicas(site, "spread")
                .iter()
                .filter(|pod| pod[2] == "Running")
                .count()
                == 3)
        })
        .unwrap();
    let (placed, waiting): (Vec<_>, Vec<_>) = replicas(site, "spread")
        .into_iter()
        .partition(|pod| pod[2] == "Running");
    let nodes: BTreeSet<_> = placed.iter().map(|pod| &*pod[1]).collect();
    assert_eq!(nodes, ["node1", "node2", "node3"].into(), "{placed:?}");
    for [name, node, _] in &placed {
        let (_, _, cuda) = NODES.iter().find(|(known, _, _)| known == node).unwrap();
        let runtime = &site.stage.closure(cuda).unwrap().toolkit.soname;
        assert_eq!(
            site.cluster.first_log(TEAM, name).unwrap(),
            format!("{runtime} 100\n"),
            "{node}"
        );
    }
    let [[left, _, phase]] = &waiting[..] else {
        unreachable!("{waiting:?}");
    };
    assert_eq!(phase, "Pending");
    site.cluster
        .until("the scheduler says why", || {
            let said = events(site, left, "FailedScheduling")?;
            // The node that no variant fits, and those that have their pod.
            Ok(
                said.contains("0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector")
                    && said.contains("3 node(s) didn't match pod anti-affinity rules"),
            )
        })
        .unwrap();
    let gone = ["delete", "deployment", "-n", TEAM, "spread", "--cascade=foreground"];
    site.cluster.printed(&gone).unwrap();
}

/// No shell, no loader, no library: the program's own glibc is in the environment too.
fn an_image_with_nothing_in_it_runs_what_lies_in_the_environment(site: &Site, more: &More) {
    site.apply(&environment("alone", &more.alone)).unwrap();
    let mut scratch = injected(on_node(pod("scratch", ""), "node1"), "alone");
    scratch["spec"]["restartPolicy"] = "Never".into();
    let container = &mut scratch["spec"]["containers"][0];
    container["image"] = "localhost/e2e/pause:1".into();
    container["command"] = json!([COUNT]);
    site.apply(&scratch).unwrap();
    let soname = &site.stage.closure("11.8").unwrap().toolkit.soname;
    let printed = site.cluster.first_log(TEAM, "scratch").unwrap();
    assert_eq!(printed, format!("{soname} 100\n"));
    // The twin without an environment has nothing to start.
    let bare = &mut scratch["metadata"];
    (bare["name"], bare["labels"]) = ("bare".into(), json!({}));
    bare["annotations"] = json!({});
    site.apply(&scratch).unwrap();
    site.cluster
        .until("there is no such file", || {
            let status = site.cluster.get(&["pod", "-n", TEAM, "bare"])?["status"].to_string();
            Ok(status.contains("no such file or directory"))
        })
        .unwrap();
}

/// Every message of the events of a pod with that reason.
fn events(site: &Site, pod: &str, reason: &str) -> anyhow::Result<String> {
    let of_pod =
        format!("{{range .items[?(@.involvedObject.name=='{pod}')]}}{{.reason}}: {{.message}}{{\"\\n\"}}{{end}}");
    let all = site.cluster.field("events", &of_pod)?;
    let told = all
        .lines()
        .filter_map(|line| line.strip_prefix(reason)?.strip_prefix(": "));
    Ok(told.collect::<Vec<_>>().join("\n"))
}

fn a_pod_forced_onto_a_misfit_is_told_every_variant(site: &Site) {
    let mut forced = by_hand(pod("forced", "exec sleep 3600"), &json!({ "environment": "cuda-new" }));
    forced["spec"]["nodeName"] = "node1".into();
    let packages = [site.package(&["12.4", "12.8", "13.0"]).unwrap()];
    site.apply(&documents::environment("cuda-new", &packages)).unwrap();
    site.apply(&forced).unwrap();
    site.cluster
        .until("kubelet says why", || {
            Ok(events(site, "forced", "FailedMount")?.contains("DriverTooOld"))
        })
        .unwrap();
    let said = events(site, "forced", "FailedMount").unwrap();
    for variant in ["cu124", "cu128", "cu130"] {
        assert!(said.contains(&format!("{variant}: driver-too-old")), "{said}");
    }
    site.cluster.printed(&["delete", "pod", "forced", "-n", TEAM]).unwrap();
}

/// Absent, of another namespace, and a cluster's that is not for this one: the same words but for the name.
fn an_environment_that_is_absent_or_forbidden_gets_one_answer(site: &Site) {
    site.cluster.printed(&["create", "namespace", "team-b"]).unwrap();
    let packages = [site.package(&["11.8"]).unwrap()];
    for name in ["others", "forged"] {
        let mut other = documents::environment(name, &packages);
        other["metadata"]["namespace"] = "team-b".into();
        site.apply(&other).unwrap();
    }
    let mut forbidden = documents::environment("gold", &packages);
    forbidden["kind"] = "ClusterCUDAEnvironment".into();
    forbidden["metadata"] = json!({ "name": "gold" });
    forbidden["spec"]["allowedNamespaces"] = json!({ "matchLabels": { "tier": "gold" } });
    site.apply(&forbidden).unwrap();
    let attributes = [
        ("absent", json!({ "environment": "absent" })),
        ("others", json!({ "environment": "others" })),
        // What kubelet says of a pod is kubelet's to say.
        (
            "forged",
            json!({ "environment": "forged", "csi.storage.k8s.io/pod.namespace": "team-b" }),
        ),
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
                Ok(events(site, name, "FailedMount")?.contains(&expected))
            })
            .unwrap();
        site.cluster.printed(&["delete", "pod", name, "-n", TEAM]).unwrap();
    }
}

/// kubelet gives the files of other volumes to such a group. The store is everybody's.
fn a_group_for_a_pods_files_changes_nothing_in_the_store(site: &Site) {
    let state = site.cluster.folder().join("node2/cudaenv");
    let inodes = || {
        let mut find = Command::new("find");
        find.args(["store", "drivers"]).current_dir(&state);
        finished(find.args(["-printf", "%p %i %U:%G %m\n"])).unwrap()
    };
    let before = inodes();
    assert!(before.contains(" 0:0 "), "{before}");
    for view in ["auto", "plain"] {
        let name = format!("group-{view}");
        let attributes = json!({ "environment": "cuda", "view": view });
        let mut grouped = on_node(by_hand(pod(&name, "exec sleep 3600"), &attributes), "node2");
        grouped["spec"]["securityContext"] = json!({ "fsGroup": 2000, "runAsUser": 1000, "runAsNonRoot": true });
        site.apply(&grouped).unwrap();
        ready(site, &[&name]);
        let ran = site
            .cluster
            .exec(TEAM, &name, &format!("id -u; id -G; {COUNT}"))
            .unwrap();
        assert_eq!(ran.stdout, "1000\n0 2000\nlibcudart.so.11.0 100\n", "{ran:?}");
    }
    assert_eq!(inodes(), before);
    for view in ["auto", "plain"] {
        let gone = ["delete", "pod", "-n", TEAM, &format!("group-{view}")];
        site.cluster.printed(&gone).unwrap();
    }
}

/// The twin of the one that was refused: the same pod, once its namespace is among those that may.
fn an_environment_of_the_cluster_is_for_those_whom_it_allows(site: &Site) {
    site.cluster
        .printed(&["label", "namespace", TEAM, "tier=gold"])
        .unwrap();
    let attributes = json!({ "environment": "gold", "kind": "ClusterCUDAEnvironment" });
    let mut allowed = by_hand(pod("gold", "exec sleep 3600"), &attributes);
    allowed["spec"]["nodeName"] = "node1".into();
    site.apply(&allowed).unwrap();
    let mut asking = injected(on_node(pod("asks-gold", "exec sleep 3600"), "node1"), "gold");
    asking["metadata"]["annotations"]["cudaenv.dev/environment-kind"] = "ClusterCUDAEnvironment".into();
    site.apply(&asking).unwrap();
    ready(site, &["gold", "asks-gold"]);
    for name in ["gold", "asks-gold"] {
        let asked = site.cluster.exec(TEAM, name, COUNT).unwrap();
        assert_eq!(asked.stdout, "libcudart.so.11.0 100\n", "{name}: {asked:?}");
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

/// How long the fetch of the closure takes at least.
const SECONDS: u64 = 40;

/// The node has never seen this closure, and its one cache is slow: all of them wait for one fetch.
fn many_pods_at_once_fetch_each_path_once(site: &Site) {
    let closure = site.stage.closure("12.8").unwrap();
    let largest = [&closure.runtime, &closure.programs, &closure.environment].map(|path| archive(site, path));
    let largest = largest.map(|name| fs::metadata(site.stage.cache().join(name)).unwrap().len());
    let rate = largest.into_iter().max().unwrap() / SECONDS;
    let server = site.cluster.serve_at_rate(&site.stage.cache(), rate).unwrap();
    site.apply(&documents::cache("slow", &server.url(), &[&site.stage.public_key]))
        .unwrap();
    let variant = documents::variant("cu128", "12.8", &closure.environment);
    let mut written = documents::environment("cuda-slow", &[documents::package("cuda", &[variant])]);
    written["spec"]["caches"] = json!(["slow"]);
    site.apply(&written).unwrap();
    let many = injected(on_node(pod("many", "exec sleep 3600"), "node3"), "cuda-slow");
    site.apply(&deployment("many", 40, many)).unwrap();
    let pods = site.cluster.folder().join("node3/kubelet/pods");
    // And the one pod that was there before.
    let begun = || {
        Ok(fs::read_dir(&pods)?
            .filter(|pod| pod.as_ref().is_ok_and(has_begun))
            .count()
            == 41)
    };
    site.cluster.until("kubelet has begun with all of them", begun).unwrap();
    let archives = || {
        let log = server.log().into_iter();
        log.map(|access| access.path)
            .filter(|path| path.starts_with("/nar/"))
            .collect::<Vec<_>>()
    };
    assert!(
        archives().len() < 3,
        "all of them asked before it was fetched: {:?}",
        archives()
    );
    site.cluster
        .wait(&["--for=condition=Ready", "-n", TEAM, "pod", "-l", "app=many"])
        .unwrap();
    let once: BTreeSet<_> = archives().into_iter().collect();
    assert_eq!(
        (once.len(), archives().len()),
        (3, 3),
        "the runtime, its programs, the environment: {:?}",
        archives()
    );
    let gone = ["delete", "deployment", "-n", TEAM, "many", "--cascade=foreground"];
    site.cluster.printed(&gone).unwrap();
}

/// Whether kubelet has made the folder of our volume in this folder of a pod.
fn has_begun(pod: &fs::DirEntry) -> bool {
    pod.path().join("volumes/kubernetes.io~csi/cudaenv").is_dir()
}

/// Where a cache has the archive of a store path.
fn archive(site: &Site, store_path: &str) -> String {
    let hash = store_path.trim_start_matches("/nix/store/").split('-').next().unwrap();
    let narinfo = fs::read_to_string(site.stage.cache().join(format!("{hash}.narinfo"))).unwrap();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
    url.unwrap().to_owned()
}

/// A cache that answers whoever has its token, and the same cache with a token that is none.
struct Guarded {
    server: Server,
}

const TOKEN: &str = "Swordfish-0451";

impl Guarded {
    fn start(site: &Site, more: &More) -> Self {
        let server = site.cluster.serve_agent("node1", &site.stage.cache(), TOKEN).unwrap();
        for (name, token) in [("guarded", TOKEN), ("mistaken", "Sardine-0451")] {
            let literal = format!("--from-literal=token={token}");
            let secret = ["create", "secret", "generic", "-n", NAMESPACE, name, &literal];
            site.cluster.printed(&secret).unwrap();
            let mut cache = documents::cache(name, &server.url(), &[&site.stage.public_key]);
            cache["spec"]["authSecretRef"] = json!({ "name": name });
            site.apply(&cache).unwrap();
            let mut written = environment(name, &more.guarded);
            written["spec"]["caches"] = json!([name]);
            site.apply(&written).unwrap();
        }
        Self { server }
    }

    fn opens_to_whoever_has_its_token(&self, site: &Site) {
        // kubelet brings the files of running pods up to date about once a minute.
        let copies = "cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~secret/credentials/guarded.token";
        site.cluster
            .until("the running agent has the token", || {
                let mut read = site.cluster.on("node1", "sh")?;
                Ok(ended(read.args(["-c", copies]))?.stdout == TOKEN)
            })
            .unwrap();
        for name in ["mistaken", "guarded"] {
            let asking = by_hand(pod(name, "exec sleep 3600"), &json!({ "environment": name }));
            site.apply(&on_node(asking, "node1")).unwrap();
        }
        ready(site, &["guarded"]);
        site.cluster
            .until("kubelet says that the cache refuses", || {
                let said = events(site, "mistaken", "FailedMount")?;
                Ok(said.contains("asks for credentials, or refuses the ones it got (HTTP 401)"))
            })
            .unwrap();
        assert!(
            self.server
                .log()
                .iter()
                .any(|access| access.status == 200 && access.path.starts_with("/nar/"))
        );
        the_pod_holds_no_token(site);
        site.cluster
            .printed(&["delete", "pod", "-n", TEAM, "mistaken"])
            .unwrap();
    }
}

/// In no file that it sees, nor in what its process was started with.
fn the_pod_holds_no_token(site: &Site) {
    // Spelled in two parts, so that the search does not find itself.
    let search = |first: &str, rest: &str| {
        let script = format!(
            "w={first}; w=$w{rest}; grep -rlF \"$w\" /run/cudaenv /nix/store /run/opengl-driver /etc /tmp /run/secrets /proc/1/environ; true"
        );
        site.cluster.exec(TEAM, "guarded", &script).unwrap().stdout
    };
    assert_eq!(search("Swordfish", "-0451"), "");
    assert!(
        search("guard", "ed").contains("/share/guarded"),
        "what is there is found"
    );
    assert!(
        search("CUDA", "ENV=").contains("/proc/1/environ"),
        "what is there is found"
    );
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
            Ok(events(site, "late", "FailedMount")?.contains("node node2 is being drained"))
        })
        .unwrap();
    let old = site.cluster.exec(TEAM, "on-node2", COUNT).unwrap();
    assert!(old.stdout.ends_with(" 100\n"), "what is mounted stays: {old:?}");
    drain("false");
    ready(site, &["late"]);
}
