//! The API server is away, once hanging and once refusing: what goes on at a node, seen from the node, and what is caught up with after.
//! It must never ask the API server anything while it is away, nor start a process that kubelet has to start.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::cluster::nodes::Place;
use e2e::cluster::site::{NODES, READING, Site, TEAM, by_hand, injected, pod};
use e2e::programs::ended;
use e2e::{documents, parts};
use serde_json::{Value, json};

/// Where the program of the environment is found in a pod.
const COUNT: &str = "/run/cudaenv/packages/cuda/bin/count";
/// The node of all pods, whose agent is killed; the other's driver changes.
const NODE: &str = "node1";
const OTHER: &str = "node2";

#[test]
fn pods_go_on_and_go_without_an_api_server_and_all_is_caught_up_with_when_it_is_back() {
    let Some(site) = Site::start("pods while the API server is away").unwrap() else {
        return;
    };
    site.apply_environment().unwrap();
    let reads = Watched::start(&site, "reads", READING, |pod| injected(pod, "cuda"));
    an_outage(&site, "hangs", || site.cluster.pause_api().unwrap());
    nobody_is_restless_and_a_new_driver_is_seen(&site);
    site.cluster.resume_api().unwrap();
    all_is_caught_up_with(&site, "hangs");
    an_outage(&site, "refuses", || site.cluster.refuse_api().unwrap());
    site.cluster.accept_api().unwrap();
    all_is_caught_up_with(&site, "refuses");
    reads.ready(&site);
    assert_eq!(site.unread("reads").unwrap(), "");
    site.reader_is_honest("reads").unwrap();
    nothing_is_left_when_the_pods_are_gone(&site);
}

/// A pod on the node, with a folder that the test sees from outside.
struct Watched {
    name: String,
    folder: PathBuf,
}

impl Watched {
    /// Makes the pod, with a folder `/share`, and waits until kubelet has begun with it.
    fn begin(site: &Site, name: &str, script: &str, ask: impl FnOnce(Value) -> Value) -> Self {
        let mut pod = ask(pod(name, script));
        let spec = &mut pod["spec"];
        spec["nodeSelector"] = json!({ "kubernetes.io/hostname": NODE });
        // To what is there already, if the environment is asked for by hand.
        for (list, entry) in [
            ("/volumes", json!({ "name": "share", "emptyDir": {} })),
            (
                "/containers/0/volumeMounts",
                json!({ "name": "share", "mountPath": "/share" }),
            ),
        ] {
            match spec.pointer_mut(list) {
                Some(Value::Array(entries)) => entries.push(entry),
                _ if list == "/volumes" => spec["volumes"] = json!([entry]),
                _ => spec["containers"][0]["volumeMounts"] = json!([entry]),
            }
        }
        site.apply(&pod).unwrap();
        let uid = site.cluster.get(&["pod", "-n", TEAM, name]).unwrap()["metadata"]["uid"].clone();
        let folder = site
            .cluster
            .folder()
            .join(NODE)
            .join("kubelet/pods")
            .join(uid.as_str().unwrap());
        let begun = Self {
            name: name.to_owned(),
            folder,
        };
        let volumes = begun.folder.join("volumes");
        // kubelet makes the folder of our volume before it asks the agent for it.
        let asked = || Ok(volumes.join("kubernetes.io~csi").is_dir() && begun.share().is_dir());
        site.cluster.until("kubelet has begun with the pod", asked).unwrap();
        begun
    }

    fn start(site: &Site, name: &str, script: &str, ask: impl FnOnce(Value) -> Value) -> Self {
        let begun = Self::begin(site, name, script, ask);
        begun.ready(site);
        begun
    }

    fn ready(&self, site: &Site) {
        let name = format!("pod/{}", self.name);
        site.cluster
            .wait(&["--for=condition=Ready", "-n", TEAM, &name])
            .unwrap();
    }

    /// The pod's `/share`.
    fn share(&self) -> PathBuf {
        self.folder.join("volumes/kubernetes.io~empty-dir/share")
    }

    /// What the pod wrote to a file of its folder.
    fn wrote(&self, file: &str) -> String {
        std::fs::read_to_string(self.share().join(file)).unwrap_or_default()
    }

    fn tell(&self, file: &str) {
        std::fs::write(self.share().join(file), "").unwrap();
    }

    /// Whether its view is mounted.
    fn has_its_view(&self, site: &Site) -> Result<bool> {
        let uid = self
            .folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("no uid")?;
        let mounted = site.cluster.mounts(NODE)?;
        Ok(mounted
            .iter()
            .any(|line| line.contains(uid) && line.contains("kubernetes.io~csi")))
    }
}

/// Every start of the container is a line in `starts`; `end` ends it.
fn until_told(then: &str) -> String {
    format!("{COUNT} >>/share/starts; while [ ! -e /share/end ]; do sleep 0.2; done; {then}")
}

/// The API server goes away with a pod half published and another half gone, and the agent dies meanwhile.
fn an_outage(site: &Site, how: &str, away: impl FnOnce()) {
    let name = |what: &str| format!("{what}-{how}");
    let cuda = |pod| injected(pod, "cuda");
    let restarts = Watched::start(site, &name("restarts"), &until_told("rm /share/end"), cuda);
    let ends = Watched::start(site, &name("ends"), &until_told("exit 0"), |pod| {
        let mut pod = cuda(pod);
        pod["spec"]["restartPolicy"] = "Never".into();
        pod
    });
    let deaf = "trap 'touch /share/told' TERM; touch /share/up; while :; do sleep 0.2; done";
    let leaves = Watched::start(site, &name("leaves"), deaf, |pod| {
        let mut pod = cuda(pod);
        pod["spec"]["terminationGracePeriodSeconds"] = 15.into();
        pod
    });
    site.cluster
        .until("it listens", || Ok(leaves.share().join("up").exists()))
        .unwrap();
    let agent = site.cluster.agent(NODE).unwrap();
    site.cluster.signal(NODE, "-STOP", &agent).unwrap();
    let waits = Watched::begin(site, &name("waits"), &until_told("exit 1"), |pod| {
        let mut pod = by_hand(pod, &json!({ "environment": "cuda" }));
        // A token is kubelet's to get from the API server.
        pod["spec"]["automountServiceAccountToken"] = false.into();
        pod
    });
    let gone = ["delete", "pod", "-n", TEAM, &leaves.name, "--wait=false"];
    site.cluster.printed(&gone).unwrap();
    site.cluster
        .until("kubelet ends the pod", || Ok(leaves.share().join("told").exists()))
        .unwrap();

    away();
    assert!(leaves.has_its_view(site).unwrap() && !waits.has_its_view(site).unwrap());
    site.cluster.signal(NODE, "-KILL", &agent).unwrap();
    let answered = format!("{} 100\n", site.stage.closure("11.8").unwrap().toolkit.soname);
    let until = |what: &str, so: &dyn Fn() -> Result<bool>| site.cluster.until(&format!("{how}: {what}"), so).unwrap();
    until("another agent is ready", &|| {
        Ok(site.cluster.agent(NODE).is_ok_and(|now| now != agent) && is_ready(site, NODE)?)
    });
    until("the waiting pod runs what it asked for", &|| {
        Ok(waits.wrote("starts") == answered)
    });
    restarts.tell("end");
    until("kubelet restarts the container, which reads its view", &|| {
        Ok(restarts.wrote("starts") == answered.repeat(2))
    });
    ends.tell("end");
    until("the view of the pod that ended goes", &|| Ok(!ends.has_its_view(site)?));
    until("the view of the deleted pod goes", &|| Ok(!leaves.has_its_view(site)?));
    until("their records go", &|| {
        let records = std::fs::read_dir(site.cluster.folder().join(NODE).join("cudaenv/volumes"))?;
        Ok(records.count() == volumes(site, NODE)?)
    });
}

/// Longer than connections live without an answer: nobody is unready for it, and what happens to a node is seen.
fn nobody_is_restless_and_a_new_driver_is_seen(site: &Site) {
    for _ in 0..10 {
        std::thread::sleep(Duration::from_secs(3));
        for (node, _, _) in NODES {
            assert!(is_ready(site, node).unwrap(), "the agent of {node} is not ready");
        }
    }
    assert!(watches_fail(site).unwrap(), "an agent without an API server says so");
    let newer = parts::drivers().unwrap().pop().unwrap();
    let freed = site.cluster.unload_driver(OTHER).unwrap();
    assert_eq!(freed.code, 0, "somebody holds the driver: {freed:?}");
    site.cluster.load_driver(OTHER, &newer, Place::Operator).unwrap();
    let shown = format!("driver=\"{}\"", newer.version);
    let seen = || Ok(asked(site, OTHER, "metrics")?.contains(&shown));
    site.cluster.until("the agent sees the new driver", seen).unwrap();
}

/// What people look at is true again, what happened meanwhile is told, and what is written now is followed.
fn all_is_caught_up_with(site: &Site, how: &str) {
    let cluster = &site.cluster;
    let until = |what: &str, so: &dyn Fn() -> Result<bool>| cluster.until(&format!("{how}: {what}"), so).unwrap();
    until("the API server answers", &|| {
        Ok(cluster.kubectl(&["get", "--raw", "/readyz"])?.code == 0)
    });
    let of = |pod: &str, field: &str| -> Result<String> {
        cluster.field("pods", &format!("{{.items[?(@.metadata.name=='{pod}-{how}')]{field}}}"))
    };
    until("pods are told of as they are", &|| {
        let started = of("restarts", ".status.containerStatuses[0].restartCount")?;
        Ok(started == "1"
            && of("ends", ".status.phase")? == "Succeeded"
            && of("leaves", ".metadata.name")?.is_empty()
            && of("waits", ".status.containerStatuses[0].ready")? == "true")
    });
    until("the events of what was mounted meanwhile are told", &|| {
        let about = format!("{{.items[?(@.involvedObject.name=='waits-{how}')].reason}}");
        Ok(cluster.field("events", &about)?.contains("Mounted"))
    });
    until("the agent follows the cluster again", &|| Ok(!watches_fail(site)?));
    until("the new driver is told of", &|| {
        let version = format!("{{.items[?(@.metadata.name=='{OTHER}')].status.driver.version}}");
        Ok(cluster.field("cudanodes", &version)? == parts::drivers()?.pop().context("no driver")?.version)
    });
    until("every node is ready, and known to have the driver", &|| {
        let ready = cluster.field("nodes", "{.items[*].status.conditions[?(@.type=='Ready')].status}")?;
        let ours = cluster.field("csinodes", "{.items[*].spec.drivers[*].name}")?;
        Ok(ready == "True True True True" && ours == ["csi.cudaenv.dev"; 4].join(" "))
    });
    let closure = site.stage.closure("11.8").unwrap();
    let variant = documents::variant("cu118", "11.8", &closure.environment);
    let written = documents::environment(&format!("after-{how}"), &[documents::package("cuda", &[variant])]);
    site.apply(&written).unwrap();
    until("the operator resolves what is written now", &|| {
        let resolved = "{.items[*].status.conditions[?(@.type=='Resolved')].status}";
        let all = cluster.get(&["cudaenvironments", "-n", TEAM])?["items"]
            .as_array()
            .map_or(0, Vec::len);
        Ok(cluster.field("cudaenvironments", resolved)? == vec!["True"; all].join(" "))
    });
    Watched::start(site, &format!("after-{how}"), &until_told("exit 1"), |pod| {
        injected(pod, &format!("after-{how}"))
    });
}

fn nothing_is_left_when_the_pods_are_gone(site: &Site) {
    let all = ["delete", "pods", "--all", "-n", TEAM, "--wait", "--timeout=100s"];
    site.cluster.printed(&all).unwrap();
    let records = site.cluster.folder().join(NODE).join("cudaenv/volumes");
    site.cluster
        .until("nothing is mounted and no record is left", || {
            Ok(volumes(site, NODE)? == 0 && std::fs::read_dir(&records)?.count() == 0)
        })
        .unwrap();
}

/// How many views are mounted for pods of a node.
fn volumes(site: &Site, node: &str) -> Result<usize> {
    let mounted = site.cluster.mounts(node)?;
    Ok(mounted.iter().filter(|line| line.contains("kubernetes.io~csi")).count())
}

/// What a node's agent answers over HTTP, asked in its own network.
fn asked(site: &Site, node: &str, path: &str) -> Result<String> {
    let network = format!("--net=/proc/{}/ns/net", site.cluster.agent(node)?);
    let script =
        format!("exec 3<>/dev/tcp/127.0.0.1/9810; printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 cat <&3");
    let mut ask = site.cluster.on(node, "nsenter")?;
    let answer = ended(ask.args([&network, "bash", "-c", &script]))?.stdout;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok(if head.contains(" 200 ") {
        body.to_owned()
    } else {
        String::new()
    })
}

/// Whether the agent of the pods' node says that it cannot follow some kind of object.
fn watches_fail(site: &Site) -> Result<bool> {
    let metrics = asked(site, NODE, "metrics")?;
    anyhow::ensure!(metrics.contains("cudaenv_agent_info"), "no metrics: {metrics}");
    Ok(metrics.contains("cudaenv_watch_failing{"))
}

fn is_ready(site: &Site, node: &str) -> Result<bool> {
    Ok(asked(site, node, "healthz")? == "ok\n" && asked(site, node, "readyz")? == "ok\n")
}
