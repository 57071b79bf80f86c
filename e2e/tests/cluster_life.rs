//! A cluster's life: a slow cache, a node that joins, the same bytes everywhere, drivers that are replaced as a preflight had said.
//! It must never help a pod along: what is late, tainted or too old is so by the site alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Context as _;
use e2e::cluster::chart::NAMESPACE;
use e2e::cluster::nodes::Place;
use e2e::cluster::site::{LATE, NODES, Site, TEAM, by_hand, injected, on_node, pod};
use e2e::cluster::watch::Watch;
use e2e::layout::{Layout, write_file};
use e2e::programs::finished;
use e2e::server::Server;
use e2e::{closure, documents, parts};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where the program of the environment is found in a pod.
const COUNT: &str = "/run/cudaenv/packages/cuda/bin/count";
const STAYS: &str = "exec sleep 3600";
/// The startup taint.
const TAINT: &str = "cudaenv.dev/agent-not-ready";

#[test]
fn slow_caches_fresh_nodes_and_new_drivers_keep_the_promises() {
    let mut heavy = None;
    let added = |layout: &mut Layout, _: &[closure::Closure]| {
        heavy = Some(Heavy::add(layout)?);
        Ok(())
    };
    let Some(site) = Site::with("a slow cache, a fresh node, new drivers", added).unwrap() else {
        return;
    };
    let seen = Seen::start(&site);
    site.apply_environment().unwrap();
    for (name, releases) in [("cuda-11", &["11.8"][..]), ("cuda-12", &["12.4", "12.8"])] {
        site.apply(&documents::environment(name, &[site.package(releases).unwrap()]))
            .unwrap();
    }
    // It takes longer than kubelet waits: everything else happens meanwhile.
    let slow = SlowFetch::start(&site, heavy.unwrap());
    the_same_selection_is_the_same_bytes(&site);
    fifty_pods_wait_for_a_fresh_node(&site, &seen);
    a_newer_driver_does_what_was_predicted(&site);
    an_older_driver_does_what_was_predicted(&site);
    slow.ends_well(&site, &seen);
}

/// What was seen of events and nodes since the start.
struct Seen {
    events: Watch,
    nodes: Watch,
}

impl Seen {
    fn start(site: &Site) -> Self {
        let event = "{.involvedObject.namespace}/{.involvedObject.name} {.reason} {.message}";
        Self {
            events: site.cluster.watch("events", event).unwrap(),
            nodes: site
                .cluster
                .watch("nodes", "{.metadata.name} {.spec.taints[*].key}")
                .unwrap(),
        }
    }

    /// Every event with that reason, of pods whose `namespace/name` begins so, as often as it was told.
    fn events(&self, of: &str, reason: &str) -> Vec<String> {
        let told = |line: &String| line.starts_with(of) && line.split(' ').nth(1) == Some(reason);
        self.events.lines().unwrap().into_iter().filter(told).collect()
    }
}

fn start(site: &Site, pod: &Value) {
    site.apply(pod).unwrap();
    let name = |field: &str| pod["metadata"][field].as_str().unwrap();
    let (pod, namespace) = (format!("pod/{}", name("name")), name("namespace"));
    site.cluster
        .wait(&["--for=condition=Ready", "-n", namespace, &pod])
        .unwrap();
}

fn sh(site: &Site, namespace: &str, pod: &str, script: &str) -> String {
    let done = site.cluster.exec(namespace, pod, script).unwrap();
    assert_eq!(done.code, 0, "{pod}: {script}: {done:?}\n{}", site.cluster.state());
    done.stdout
}

/// A metric of the agent on a node.
fn metric(site: &Site, node: &str, name: &str) -> u64 {
    let agent = site
        .cluster
        .printed(&[
            "get",
            "pods",
            "-n",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/component=node-agent",
            &format!("--field-selector=spec.nodeName={node}"),
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ])
        .unwrap();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{agent}:9810/proxy/metrics");
    let text = site.cluster.printed(&["get", "--raw", &path]).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

// A slow cache.

/// A real runtime that no other environment has, with a file that takes its time.
struct Heavy {
    environment: String,
    weights: String,
    hash: String,
}

/// Bytes that no compression makes fewer.
const WEIGHTS: usize = 768 << 10;
/// How long they take at least: more than the two minutes that kubelet gives a call.
const SECONDS: u64 = 125;

impl Heavy {
    fn add(layout: &mut Layout) -> anyhow::Result<Self> {
        let toolkits = parts::toolkits()?;
        let toolkit = toolkits.iter().find(|kit| kit.cuda == "12.2").context("no 12.2")?;
        let made = closure::add(layout, toolkit)?;
        let mut noise = Vec::with_capacity(WEIGHTS);
        for block in 0..WEIGHTS / 32 {
            noise.extend_from_slice(&Sha256::digest(block.to_le_bytes()));
        }
        let weights = layout.add("weights", &[], |folder, _| {
            write_file(&folder.join("share/weights"), &noise, false)
        })?;
        let members = [&*made.runtime, &made.programs, &weights];
        let environment = layout.add_environment("cuda-with-weights-env", &members)?;
        let hash = Sha256::digest(&noise)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            environment,
            weights,
            hash,
        })
    }
}

/// A pod of a team of its own on node 3, whose one cache is slow.
struct SlowFetch {
    server: Server,
    heavy: Heavy,
}

impl SlowFetch {
    fn start(site: &Site, heavy: Heavy) -> Self {
        let rate = WEIGHTS as u64 / SECONDS;
        let server = site.cluster.serve_at_rate(&site.stage.cache(), rate).unwrap();
        site.cluster.printed(&["create", "namespace", "team-slow"]).unwrap();
        let mut cache = documents::cache("slow", &server.url(), &[&site.stage.public_key]);
        cache["spec"]["allowedNamespaces"] = json!({ "matchLabels": { "kubernetes.io/metadata.name": "team-slow" } });
        site.apply(&cache).unwrap();
        let variant = documents::variant("cu122", "12.2", &heavy.environment);
        let mut environment = documents::environment("heavy", &[documents::package("cuda", &[variant])]);
        environment["metadata"]["namespace"] = "team-slow".into();
        environment["spec"]["caches"] = json!(["slow"]);
        environment["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "node3" });
        site.apply(&environment).unwrap();
        let mut pod = injected(on_node(pod("slow", &format!("{COUNT}; {STAYS}")), "node3"), "heavy");
        pod["metadata"]["namespace"] = "team-slow".into();
        site.apply(&pod).unwrap();
        Self { server, heavy }
    }

    fn ends_well(&self, site: &Site, seen: &Seen) {
        site.cluster
            .wait(&["--for=condition=Ready", "-n", "team-slow", "pod/slow"])
            .unwrap();
        assert_eq!(
            site.cluster.first_log("team-slow", "slow").unwrap(),
            "libcudart.so.12 100\n"
        );
        let script = format!("sha256sum <{}/share/weights", self.heavy.weights);
        let hash = sh(site, "team-slow", "slow", &script);
        assert_eq!(hash.split(' ').next(), Some(&*self.heavy.hash));
        // The first call was answered before its two minutes were over; the pod was mounted by a later one.
        let answers = seen.events("team-slow/slow", "FailedMount");
        assert!(
            answers.iter().any(|text| text.contains("code = Aborted")),
            "{answers:?}"
        );
        assert!(answers.iter().all(|text| text.contains("it goes on")), "{answers:?}");
        self.no_byte_came_twice(site);
        let told = seen.events("team-slow/slow", "Fetching");
        let percent = |note: &String| note.split_once(" %)")?.0.rsplit_once('(')?.1.parse::<u8>().ok();
        let told: Vec<_> = told.iter().map(|note| percent(note).unwrap()).collect();
        assert!(
            told.is_sorted() && told.iter().collect::<BTreeSet<_>>().len() > 3,
            "{told:?}"
        );
    }

    fn no_byte_came_twice(&self, site: &Site) {
        let log = self.server.log();
        let archives: Vec<_> = log.iter().filter(|access| access.path.starts_with("/nar/")).collect();
        let size = |path: &str| fs::metadata(site.stage.cache().join(&path[1..])).unwrap().len();
        for access in &archives {
            assert_eq!((access.status, access.bytes), (200, size(&access.path)), "{access:?}");
        }
        let once: BTreeSet<_> = archives.iter().map(|access| &access.path).collect();
        assert_eq!((once.len(), archives.len()), (4, 4), "{archives:?}");
        let served = archives.iter().map(|access| access.bytes).sum::<u64>();
        assert_eq!(metric(site, "node3", "cudaenv_fetch_bytes_total"), served);
    }
}

// The same bytes everywhere.

/// One line for everything below the folders: name, kind and mode, owner, time, then what a link says or the hash of what is in a file.
fn listing(folders: &str) -> String {
    format!(
        "busybox find {folders} | busybox sort | while read -r p; do echo \"$p $(busybox stat -c '%f %u %g %Y' \"$p\") $(\
         if [ -L \"$p\" ]; then busybox readlink \"$p\"; elif [ -f \"$p\" ]; then busybox sha256sum <\"$p\"; fi)\"; done"
    )
}

/// What was selected, and what the node's driver brings along.
const SELECTED: &str = "/nix/store/* /run/cudaenv/packages";
const DRIVER: &str = "/run/opengl-driver /run/cudaenv/cudaenv.json";

fn the_same_selection_is_the_same_bytes(site: &Site) {
    let pods = [
        ("same-node1", "node1", "auto"),
        ("same-node2", "node2", "auto"),
        ("plain-node2", "node2", "plain"),
    ];
    for (name, node, view) in pods {
        let attributes = json!({ "environment": "cuda", "view": view });
        start(site, &on_node(by_hand(pod(name, STAYS), &attributes), node));
    }
    let seen = |folders: &str| pods.map(|(name, _, _)| sh(site, TEAM, name, &listing(folders)));
    let (selected, driver) = (seen(SELECTED), seen(DRIVER));
    let closure = site.stage.closure("11.8").unwrap();
    for path in [&closure.environment, &closure.programs, &closure.runtime] {
        assert!(selected[0].contains(&format!("{path} ")), "{}", selected[0]);
    }
    assert_eq!(selected[0], selected[1], "on nodes with different drivers");
    assert_eq!(selected[1], selected[2], "an overlay and a tree of links");
    assert_ne!(driver[0], driver[1], "the driver's files are the node's");
    let package = site.package(&["13.0", "12.8", "12.4", "11.8"]).unwrap();
    let environment = site.stage.environment("cuda", &[package]).unwrap();
    for (place, (_, version, _)) in NODES[..2].iter().enumerate() {
        let drivers = parts::drivers().unwrap();
        let found = drivers
            .iter()
            .find(|driver| Some(&*driver.version) == *version)
            .unwrap();
        let root = site.stage.node(found).unwrap();
        let ran = |folders: &str| {
            let mut run = site
                .stage
                .run(&environment, &root, &site.stage.state("laptop"))
                .unwrap();
            finished(run.args(["busybox", "sh", "-c", &listing(folders)])).unwrap()
        };
        assert_eq!(ran(SELECTED), selected[place], "on a laptop with {version:?}");
        assert_eq!(ran(DRIVER), driver[place], "on a laptop with {version:?}");
    }
}

// A fresh node.

fn fifty_pods_wait_for_a_fresh_node(site: &Site, seen: &Seen) {
    let (number, node, _) = LATE;
    let mut template = injected(on_node(pod("waiting", STAYS), node), "cuda");
    let (metadata, spec) = (template["metadata"].take(), template["spec"].take());
    site.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "waiting", "namespace": TEAM },
        "spec": { "replicas": 50, "selector": { "matchLabels": { "app": "waiting" } }, "template": {
            "metadata": { "labels": metadata["labels"], "annotations": metadata["annotations"] }, "spec": spec,
        } },
    }))
    .unwrap();
    // The agent's image takes its time to come, as on any new machine.
    let folder = site.cluster.folder();
    let (here, later) = (folder.join("images/node-agent.tar"), folder.join("node-agent.tar"));
    fs::rename(&here, &later).unwrap();
    site.cluster
        .join(number, &json!([{ "key": TAINT, "effect": "NoSchedule" }]))
        .unwrap();
    site.cluster
        .until("the node is there", || {
            Ok(site.cluster.kubectl(&["get", "node", node])?.code == 0)
        })
        .unwrap();
    // Past the scheduler, and so past the taint: what the others are spared.
    let mut forced = by_hand(pod("forced", STAYS), &json!({ "environment": "cuda" }));
    forced["spec"]["nodeName"] = node.into();
    site.apply(&forced).unwrap();
    site.cluster
        .wait(&["--for=condition=Ready", &format!("node/{node}")])
        .unwrap();
    site.cluster
        .until("a pod that does not wait for the agent fails", || {
            Ok(!seen.events("team-a/forced", "FailedMount").is_empty())
        })
        .unwrap();
    assert_eq!(waiting(site, "{.status.phase}"), vec!["Pending"; 50]);
    assert_eq!(waiting(site, "{.spec.nodeName}"), vec![""; 50]);
    assert!(taints(site, node).contains(TAINT));
    site.cluster.import_image(node, &later).unwrap();
    for pods in [&["pod", "-l", "app=waiting"][..], &["pod/forced"]] {
        let ready = ["--for=condition=Ready", "-n", TEAM];
        site.cluster.wait(&[&ready, pods].concat()).unwrap();
    }
    assert_eq!(waiting(site, "{.status.phase}"), vec!["Running"; 50]);
    assert!(!taints(site, node).contains(TAINT));
    let waited = seen.events("team-a/waiting-", "FailedMount");
    assert!(waited.is_empty(), "{waited:?}");
    the_taint_went_when_the_agent_was_ready(site, seen);
    let names = "{.items[?(@.spec.nodeName=='node5')].metadata.name}";
    let first = site.cluster.field("pods", names).unwrap();
    let first = first
        .split(' ')
        .find(|name| name.starts_with("waiting-"))
        .unwrap()
        .to_owned();
    assert_eq!(sh(site, TEAM, &first, COUNT), "libcudart.so.12 100\n");
    let gone = ["delete", "-n", TEAM, "deployment/waiting", "pod/forced", "--wait=false"];
    site.cluster.printed(&gone).unwrap();
}

fn the_taint_went_when_the_agent_was_ready(site: &Site, seen: &Seen) {
    let of_node = |line: &String| line.split(' ').next() == Some(LATE.1);
    let states: Vec<_> = seen.nodes.lines().unwrap().into_iter().filter(of_node).collect();
    let tainted: Vec<_> = states.iter().map(|line| line.contains(TAINT)).collect();
    assert!(tainted[0] && tainted.is_sorted_by_key(|tainted| !tainted), "{states:?}");
    let registered = site
        .cluster
        .printed(&["get", "csinode", LATE.1, "-o", "jsonpath={.spec.drivers[*].name}"])
        .unwrap();
    assert_eq!(registered, "csi.cudaenv.dev");
    // When a pod was placed, the agent had said for two seconds that it is registered and that a mount succeeded.
    let since = |kind: &str| {
        let path = format!("{{.status.conditions[?(@.type=='{kind}')].lastTransitionTime}}");
        site.cluster
            .printed(&["get", "cudanode", LATE.1, "-o", &format!("jsonpath={path}")])
            .unwrap()
    };
    let placed = "{.status.conditions[?(@.type=='PodScheduled')].lastTransitionTime}";
    let first = waiting(site, placed).into_iter().min().unwrap();
    for kind in ["Registered", "StoreReady"] {
        let since = since(kind);
        assert!(!since.is_empty() && since < first, "{kind} since {since}: {first}");
    }
}

/// A field of each of the waiting pods.
fn waiting(site: &Site, path: &str) -> Vec<String> {
    let path = format!("jsonpath={{range .items[*]}}{path}{{\"\\n\"}}{{end}}");
    let arguments = ["get", "pods", "-n", TEAM, "-l", "app=waiting", "-o", &path];
    let printed = site.cluster.printed(&arguments).unwrap();
    printed.lines().map(str::to_owned).collect()
}

fn taints(site: &Site, node: &str) -> String {
    let path = "jsonpath={.spec.taints[*].key}";
    site.cluster.printed(&["get", "node", node, "-o", path]).unwrap()
}

// Other drivers.

/// What becomes of an environment: the variant before, and after.
type Variants = BTreeMap<String, Result<String, String>>;

/// A pod for each environment on the node, past the scheduler: its variant, or why there is none.
fn variants(site: &Site, node: &str, environments: &[&str], round: &str) -> Variants {
    let name = |environment: &str| format!("{environment}-{node}-{round}");
    for environment in environments {
        let mut pod = by_hand(pod(&name(environment), STAYS), &json!({ "environment": environment }));
        pod["spec"]["nodeName"] = node.into();
        site.apply(&pod).unwrap();
    }
    let of = |environment: &&str| {
        let name = name(environment);
        let mut variant = None;
        site.cluster
            .until("the pod runs, or kubelet says why not", || {
                variant = ended_up(site, &name)?;
                Ok(variant.is_some())
            })
            .unwrap();
        ((*environment).to_owned(), variant.unwrap())
    };
    environments.iter().map(of).collect()
}

fn ended_up(site: &Site, name: &str) -> anyhow::Result<Option<Result<String, String>>> {
    let pod = site.cluster.get(&["pod", name, "-n", TEAM])?;
    if pod["status"]["phase"] == "Running" {
        let document = site.cluster.exec(TEAM, name, "cat /run/cudaenv/cudaenv.json")?;
        let document: Value = serde_json::from_str(&document.stdout)?;
        let variant = document["packages"]["cuda"]["variant"].as_str();
        return Ok(Some(Ok(variant.unwrap_or_default().to_owned())));
    }
    let path = format!("{{.items[?(@.involvedObject.name=='{name}')].message}}");
    let said = site.cluster.field("events", &path)?;
    Ok(said.contains("code = FailedPrecondition").then_some(Err(said)))
}

/// The answer of a preflight for one node.
fn predicted(site: &Site, node: &str, driver: &str) -> Value {
    let name = format!("{node}-to-{driver}");
    site.apply(&json!({
        "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDADriverPreflight", "metadata": { "name": name },
        "spec": { "driver": driver, "nodeSelector": { "kubernetes.io/hostname": node } },
    }))
    .unwrap();
    site.cluster
        .wait(&["--for=condition=Complete", &format!("cudadriverpreflight/{name}")])
        .unwrap();
    site.cluster.get(&["cudadriverpreflight", &name]).unwrap()["status"].clone()
}

/// Replaces a node's driver under its pods, starts the same pods anew, and compares what happened with what was predicted.
/// Returns the predicted changes: environment, outcome, variant before and after.
fn replaced(site: &Site, node: &str, driver: &str, environments: &[&str]) -> Vec<[String; 4]> {
    let before = variants(site, node, environments, "before");
    let path = format!("{{.items[?(@.spec.nodeName=='{node}')].metadata.name}}");
    let pods = site
        .cluster
        .printed(&["get", "pods", "-n", TEAM, "-o", &format!("jsonpath={path}")]);
    let pods = pods.unwrap();
    let in_use = in_use(site, node);
    held(site, node, &in_use, environments);
    let prediction = predicted(site, node, driver);
    what_agents_have_read_is_not_guessed(site, &before, &prediction);
    let answers = site.server.log().len();
    let bytes = metric(site, node, "cudaenv_fetch_bytes_total");

    exchange(site, node, driver);
    let after = variants(site, node, environments, "after");

    let changes = changes(&before, &after);
    assert_eq!(told(&prediction), changes, "{prediction}");
    for (count, outcome) in [("breaks", "Breaks"), ("switches", "Switches")] {
        let found = changes.iter().filter(|change| change[1] == outcome).count();
        assert_eq!(prediction[count], found, "{prediction}");
    }
    assert_eq!(prediction["nodes"], 1, "{prediction}");
    for change in prediction["changes"].as_array().unwrap() {
        let environment = change["environment"].as_str().unwrap();
        assert_eq!(
            (&change["nodes"], &change["nodesInUse"], &change["pods"]),
            (&json!(1), &json!(1), &json!(in_use[environment])),
            "{change}"
        );
        if let Err(said) = &after[environment] {
            for part in change["detail"].as_str().unwrap().split("; cu") {
                let detail = part.split_once(": ").unwrap().1;
                assert!(said.contains(detail), "{detail}: {said}");
            }
            assert!(said.contains(change["reason"].as_str().unwrap()), "{change}: {said}");
        }
    }
    let served = site.server.log().split_off(answers).into_iter();
    let served = served.filter(|access| access.path.starts_with("/nar/"));
    let served: u64 = served.map(|access| access.bytes).sum();
    assert_eq!(prediction["downloadBytes"], served, "{prediction}");
    assert_eq!(metric(site, node, "cudaenv_fetch_bytes_total") - bytes, served);
    named(site, node, &pods);
    changes
}

/// Nobody declared the code of these variants; their agents read it, and tell. The others are named as guessed.
fn what_agents_have_read_is_not_guessed(site: &Site, before: &Variants, prediction: &Value) {
    let nodes = site.cluster.get(&["cudanodes"]).unwrap();
    let statuses = nodes["items"].as_array().unwrap().iter().map(|node| &node["status"]);
    let read: BTreeSet<_> = statuses
        .flat_map(|status| status["contents"].as_array().into_iter().flatten())
        .map(|contents| {
            assert_eq!(
                contents["code"],
                json!({"sass": [], "ptx": []}),
                "a runtime has none: {contents}"
            );
            contents["storePath"].as_str().unwrap().to_owned()
        })
        .collect();
    let warnings = prediction["warnings"].as_array().cloned().unwrap_or_default();
    let mut in_use = 0;
    for environment in before.keys() {
        let object = site.cluster.get(&["cudaenvironment", "-n", TEAM, environment]).unwrap();
        for variant in object["spec"]["packages"][0]["variants"].as_array().unwrap() {
            let name = variant["name"].as_str().unwrap();
            let was_read = read.contains(variant["storePaths"]["x86_64-linux"].as_str().unwrap());
            let guessed = format!("{TEAM}/{environment}: cuda/{name} counts as fitting unread");
            let is_guessed = warnings
                .iter()
                .any(|warning| warning.as_str().unwrap().contains(&guessed));
            assert!(!(was_read && is_guessed), "{guessed}: {prediction}");
            if before[environment].as_deref() == Ok(name) {
                assert!(was_read, "{environment}/{name} is in use: {read:?}");
                in_use += 1;
            }
        }
    }
    assert!(in_use > 0);
}

/// How many pods of a node have a volume of each environment, by what they say themselves.
fn in_use(site: &Site, node: &str) -> BTreeMap<String, usize> {
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let pods = site.cluster.get(&["pods", "-n", TEAM, &on_node]).unwrap();
    let mut in_use = BTreeMap::new();
    for pod in pods["items"].as_array().unwrap() {
        for volume in pod["spec"]["volumes"].as_array().unwrap() {
            if let Some(environment) = volume["csi"]["volumeAttributes"]["environment"].as_str() {
                *in_use.entry(environment.to_owned()).or_default() += 1;
            }
        }
    }
    in_use
}

/// The agent says that it holds all of them, and for how many pods; the prediction counts what agents say.
fn held(site: &Site, node: &str, in_use: &BTreeMap<String, usize>, environments: &[&str]) {
    site.cluster
        .until("the agent says what it holds", || {
            let said = site.cluster.get(&["cudanode", node])?;
            let said = said["status"]["environments"].as_array().cloned().unwrap_or_default();
            let held = |name: &str| {
                let mut ready = said
                    .iter()
                    .filter(|said| said["phase"] == "Ready" && said["name"] == name);
                ready.any(|said| said["pods"] == json!(in_use[name]))
            };
            Ok(environments.iter().all(|environment| held(environment)))
        })
        .unwrap();
}

fn exchange(site: &Site, node: &str, driver: &str) {
    let freed = site.cluster.unload_driver(node).unwrap();
    assert_eq!(freed.code, 0, "somebody holds the driver: {freed:?}");
    let drivers = parts::drivers().unwrap();
    let wanted = drivers.iter().find(|found| found.version == driver).unwrap();
    site.cluster.load_driver(node, wanted, Place::Operator).unwrap();
    let version = "jsonpath={.status.driver.version}";
    site.cluster
        .until("the new driver is seen", || {
            Ok(site.cluster.printed(&["get", "cudanode", node, "-o", version])? == driver)
        })
        .unwrap();
}

/// What a preflight says, as `changes` has it.
fn told(prediction: &Value) -> Vec<[String; 4]> {
    let text = |change: &Value, field: &str| change[field].as_str().unwrap_or_default().to_owned();
    let all = prediction["changes"].as_array().unwrap().iter();
    let mut all: Vec<_> = all
        .map(|change| ["environment", "outcome", "from", "to"].map(|field| text(change, field)))
        .collect();
    all.sort();
    all
}

fn changes(before: &Variants, after: &Variants) -> Vec<[String; 4]> {
    let outcome = |name: &String| {
        let (from, to) = (before[name].as_ref().ok(), after[name].as_ref().ok());
        let outcome = match (from, to) {
            (Some(_), None) => "Breaks",
            (None, Some(_)) => "Heals",
            (Some(from), Some(to)) if from != to => "Switches",
            _ => return None,
        };
        let variant = |of: Option<&String>| of.cloned().unwrap_or_default();
        Some([name.clone(), outcome.to_owned(), variant(from), variant(to)])
    };
    before.keys().filter_map(outcome).collect()
}

/// Exactly these pods are named as those that must restart.
fn named(site: &Site, node: &str, pods: &str) {
    let path = "jsonpath={.status.conditions[?(@.type=='DriverCurrent')].message}";
    let expected: BTreeSet<_> = pods.split(' ').map(|name| format!("{TEAM}/{name}")).collect();
    let expected = expected.into_iter().collect::<Vec<_>>().join(", ");
    site.cluster
        .until("the pods with the old driver are named", || {
            let said = site.cluster.printed(&["get", "cudanode", node, "-o", path])?;
            Ok(said
                .split_once(": restart ")
                .is_some_and(|(_, named)| named == expected))
        })
        .unwrap();
}

fn change(environment: &str, outcome: &str, from: &str, to: &str) -> [String; 4] {
    [environment, outcome, from, to].map(str::to_owned)
}

fn a_newer_driver_does_what_was_predicted(site: &Site) {
    let changes = replaced(site, "node2", "555.58.02", &["cuda", "cuda-11", "cuda-12"]);
    let expected = [
        change("cuda", "Switches", "cu118", "cu124"),
        // Both need the same bytes: they are counted once, and come once.
        change("cuda-12", "Switches", "cu128", "cu124"),
    ];
    assert_eq!(changes, expected);
}

fn an_older_driver_does_what_was_predicted(site: &Site) {
    site.cluster
        .until("the pods that waited are gone", || {
            let left = ["get", "pods", "-n", TEAM, "-o", "name"];
            let left = site.cluster.printed(&left)?;
            Ok(!left.contains("pod/waiting-") && !left.contains("pod/forced"))
        })
        .unwrap();
    let changes = replaced(site, LATE.1, "470.256.02", &["cuda", "cuda-12"]);
    let expected = [
        change("cuda", "Switches", "cu124", "cu118"),
        change("cuda-12", "Breaks", "cu124", ""),
    ];
    assert_eq!(changes, expected);
}
