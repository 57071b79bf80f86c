//! The node agent beside a real API server, with no more rights than its role gives: what it tells of its node, what it
//! sees of environments, that it is silent while nothing happens, and that it lives through an API server that is away.
//! It must never need a kubelet: pods are another test's.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on must fail, and say what the agent said"
)]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use binary_cache::compression::Compression;
use crds::{
    catalogue::EnvironmentKey,
    domain::node::{DriverState, NodeFacts},
    v1alpha1::CUDANode,
};
use e2e::{
    cluster::{Cluster, account::Account, objects},
    made_up, node,
    parts::{self, Driver},
    programs,
    server::Server,
    skip,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use node_agent::{
    act::cluster::{create_event, update_event},
    observe::cluster::access::RULES,
    plan::prewarm,
    report::events::{EventLog, Telling},
    snapshot::{
        fetch::FetchStatus,
        happening::{Happening, Pod, What},
    },
};
use serde_json::{Value, json};

/// The agent as a process. It and its mounts are gone when this is.
struct Agent {
    process: Child,
    http: SocketAddr,
    log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(40).collect();
            println!("the agent's log, newest first:\n{}", lines.join("\n"));
        }
    }
}

/// What an agent starts with.
struct Machine<'a> {
    cluster: &'a Cluster,
    account: Account<'a>,
    name: String,
    folder: &'a Path,
}

impl Machine<'_> {
    fn start(&self) -> Agent {
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = self.folder.join("agent.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        // In a mount namespace of its own: whatever it leaves mounted goes with it.
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(programs::node_agent().unwrap())
            .args(["--log", "info,node_agent=debug", "serve"])
            .args(["--node-name", &self.name])
            .arg("--host-root")
            .arg(self.root())
            .arg("--state")
            .arg(self.folder.join("state"))
            .arg("--kubelet-dir")
            .arg(self.folder.join("kubelet"))
            .args(["--http", &http.to_string()])
            .env("KUBECONFIG", self.account.kubeconfig())
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Agent { process, http, log }
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn load(&self, driver: &Driver) {
        let _ = fs::remove_dir_all(self.root());
        node::lay_out(driver, &self.root()).unwrap();
    }

    fn object(&self) -> Option<CUDANode> {
        let answer = self
            .cluster
            .kubectl(&["get", "-o", "json", "--show-managed-fields", "cudanode", &self.name])
            .unwrap();
        (answer.code == 0).then(|| serde_json::from_str(&answer.stdout).unwrap())
    }

    /// Waits for a CUDANode that is `so`; fails with the last one there was.
    #[track_caller]
    fn until(&self, what: &str, so: impl Fn(&CUDANode) -> bool) -> CUDANode {
        let mut last = None;
        for _ in 0..300 {
            last = self.object();
            if let Some(object) = last.clone().filter(&so) {
                return object;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let shown = serde_json::to_string_pretty(&last).unwrap();
        unreachable!("not within a minute: {what}\n{shown}");
    }

    /// Waits for an environment of the status that has this phase and generation, and gives its reason.
    #[track_caller]
    fn until_phase(&self, name: &str, generation: i64, phase: &str) -> Value {
        let found = |object: &CUDANode| {
            let status = serde_json::to_value(&object.status).unwrap();
            let all = status["environments"].as_array().cloned().unwrap_or_default();
            let is = |one: &Value| one["name"] == name && one["generation"] == generation && one["phase"] == phase;
            all.into_iter().find(is)
        };
        let object = self.until(&format!("{name} {generation} {phase}"), |object| {
            found(object).is_some()
        });
        found(&object).unwrap()
    }
}

impl Agent {
    /// The body that a path is answered with, or nothing while nobody answers.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    #[track_caller]
    fn until_metric(&self, line: &str) {
        let mut metrics = String::new();
        for _ in 0..600 {
            metrics = self.get("/metrics").unwrap_or_default();
            if metrics.lines().any(|found| found == line) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        unreachable!("not within a minute: {line}\n{metrics}");
    }
}

fn condition(object: &CUDANode, kind: &str) -> String {
    let status = object.status.clone().unwrap_or_default();
    let found = status.conditions.iter().find(|one| one.type_ == kind);
    found
        .map(|one| format!("{} {}", one.status, one.reason))
        .unwrap_or_default()
}

/// A node whose environments are fetched ahead without much waiting.
fn soon(environment: &str) -> String {
    let key = EnvironmentKey {
        namespace: Some("default".to_owned()),
        name: environment.to_owned(),
    };
    let mut names = (0..).map(|number| format!("node-{number}"));
    names
        .find(|name| prewarm::pause(name, &key) < Duration::from_millis(500))
        .unwrap()
}

fn create(cluster: &Cluster, object: &Value) -> Value {
    let answer = cluster.kubectl_with(&["create", "-o", "json"], object).unwrap();
    assert_eq!(answer.code, 0, "{answer:?}");
    serde_json::from_str(&answer.stdout).unwrap()
}

/// The Node and the CSINode that kubelet would have made.
fn make_node(cluster: &Cluster, name: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "gpu"}}});
    let uid = create(cluster, &node)["metadata"]["uid"].clone();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]);
    let registry = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": name, "ownerReferences": owner}, "spec": {"drivers": []}});
    create(cluster, &registry);
}

/// An account with the rights of the list that the chart gives too.
fn account<'a>(cluster: &'a Cluster, node: &str) -> Account<'a> {
    let rules: Vec<_> = RULES
        .iter()
        .map(|rule| json!({"apiGroups": [rule.group], "resources": [rule.resource], "verbs": rule.verbs}))
        .collect();
    let named = |kind: &str, api: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "agent"}});
    let rbac = "rbac.authorization.k8s.io/v1";
    create(cluster, &named("ServiceAccount", "v1"));
    let mut role = named("ClusterRole", rbac);
    role["rules"] = json!(rules);
    create(cluster, &role);
    let mut binding = named("ClusterRoleBinding", rbac);
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent"});
    binding["subjects"] = json!([{"kind": "ServiceAccount", "name": "agent", "namespace": "default"}]);
    create(cluster, &binding);
    cluster.account("default", "agent", Some(node)).unwrap()
}

fn environment(store_path: &str) -> Value {
    json!({
        "apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDAEnvironment",
        "metadata": {"name": "tools", "namespace": "default"},
        "spec": {
            "prewarm": "Always",
            "nodeSelector": {"pool": "gpu"},
            "packages": [{"name": "tools", "variants": [
                {"name": "cu118", "cuda": "11.8", "storePaths": {"x86_64-linux": store_path},
                 "code": {"sass": ["8.0"]}}]}],
        },
    })
}

#[test]
fn an_agent_tells_of_its_node_follows_environments_and_lives_through_an_outage() {
    let check = "the node agent beside a real API server";
    let drivers = parts::available_drivers().unwrap();
    let [_, old, .., new] = &drivers[..] else {
        skip::without::<()>(check, Err("real drivers cannot be had"));
        return;
    };
    if skip::without(check, skip::root()).is_none() {
        return;
    }
    let Some(cluster) = Cluster::start(check).unwrap() else {
        return;
    };
    cluster.apply_definitions().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let name = soon("tools");
    make_node(&cluster, &name);
    let machine = Machine {
        cluster: &cluster,
        account: account(&cluster, &name),
        name,
        folder: folder.path(),
    };
    machine.load(old);
    // As kubelet has it before any plugin is there.
    fs::create_dir_all(folder.path().join("kubelet/pods")).unwrap();
    let agent = machine.start();
    the_node_is_told_of(&machine, old);
    registration_is_followed(&machine);
    let server = environments_are_followed(&machine);
    nothing_is_written_while_nothing_happens(&machine, &agent);
    let agent = the_last_catalogue_serves_while_the_api_server_is_away(&machine, agent);
    another_driver_is_noticed(&machine, new);
    a_deleted_record_comes_back(&machine);
    a_store_with_too_much_lets_the_least_recently_used_go(&machine, &agent);
    drop((agent, server));
}

fn the_node_is_told_of(machine: &Machine<'_>, driver: &Driver) {
    let object = machine.until("a status", |object| {
        condition(object, "StoreReady") == "True SelfTestPassed"
    });
    let node = machine.cluster.get(&["node", &machine.name]).unwrap();
    let owners = object.metadata.owner_references.clone().unwrap();
    assert_eq!(json!(owners[0].uid), node["metadata"]["uid"], "it goes with its Node");
    let status = object.status.clone().unwrap();
    let facts = NodeFacts::try_from(&status).unwrap();
    let DriverState::Ready { version, .. } = &facts.driver else {
        unreachable!("{facts:?}");
    };
    assert_eq!(version.to_string(), driver.version);
    assert_eq!(status.class, Some(facts.class()));
    assert_eq!(condition(&object, "Registered"), "False NotRegistered");
    assert_eq!(condition(&object, "Ready"), "False NotRegistered");
    let written_by = object.metadata.managed_fields.clone().unwrap();
    assert!(
        written_by
            .iter()
            .all(|one| one.manager.as_deref() == Some("node-agent"))
    );
}

fn registration_is_followed(machine: &Machine<'_>) {
    let drivers = json!({"spec": {"drivers": [{"name": "csi.cudaenv.dev", "nodeID": machine.name}]}}).to_string();
    machine
        .cluster
        .printed(&["patch", "csinode", &machine.name, "-p", &drivers])
        .unwrap();
    machine.until("registered", |object| condition(object, "Ready") == "True Ready");
    let object = machine.object().unwrap();
    assert_eq!(condition(&object, "Registered"), "True Registered");
}

fn environments_are_followed(machine: &Machine<'_>) -> Server {
    let closure = made_up::Closure::new("tools", 3, 2000).unwrap();
    let cache = machine.folder.join("cache");
    closure.cache(&cache, Compression::None).unwrap();
    let server = Server::start(&cache).unwrap();
    let mut object = objects::cache();
    object["spec"] = json!({"url": server.url(), "publicKeys": [made_up::key().unwrap().public_key().to_string()]});
    create(machine.cluster, &object);
    let missing = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-missing";
    create(machine.cluster, &environment(missing));
    let told = machine.until_phase("tools", 1, "Failed");
    assert_eq!(told["reason"], "NotInAnyCache", "{told}");
    assert!(told["message"].as_str().unwrap().contains(missing), "{told}");
    let better = environment(&closure.root().to_string());
    let answer = machine.cluster.kubectl_with(&["apply"], &better).unwrap();
    assert_eq!(answer.code, 0, "{answer:?}");
    let told = machine.until_phase("tools", 2, "Ready");
    assert_eq!(told["packages"], json!([{"name": "tools", "variant": "cu118"}]));
    let store = |object: &CUDANode| object.status.clone().unwrap_or_default().store.unwrap_or_default();
    machine.until("three paths", |object| store(object).paths == 3);
    server
}

/// The only way to see that nothing is written is to look for a while.
fn nothing_is_written_while_nothing_happens(machine: &Machine<'_>, agent: &Agent) {
    let versions = || {
        let listed = machine
            .cluster
            .get(&["cudanodes,events,cudaenvironments,nodes", "-A"])
            .unwrap();
        let items = listed["items"].as_array().unwrap().clone();
        items
            .into_iter()
            .map(|one| one["metadata"]["resourceVersion"].clone())
            .collect::<Vec<_>>()
    };
    let before = versions();
    let status = machine.object().unwrap().status;
    thread::sleep(Duration::from_secs(15));
    assert_eq!(versions(), before);
    assert_eq!(machine.object().unwrap().status, status);
    agent.until_metric("cudaenv_catalogue_synced 1");
    agent.until_metric(r#"cudaenv_environments{phase="Ready"} 1"#);
    assert!(agent.get("/healthz").unwrap().starts_with("HTTP/1.1 200 "));
}

fn the_last_catalogue_serves_while_the_api_server_is_away(machine: &Machine<'_>, agent: Agent) -> Agent {
    let kept = machine.folder.join("state/catalogue.json");
    assert!(fs::read_to_string(&kept).unwrap().contains("\"tools\""));
    machine.cluster.pause_api().unwrap();
    drop(agent);
    let agent = machine.start();
    // Nobody answers, and yet what is wanted is known and made.
    agent.until_metric(r#"cudaenv_environments{phase="Ready"} 1"#);
    agent.until_metric("cudaenv_catalogue_synced 0");
    agent.until_metric(r#"cudaenv_ready{part="store"} 1"#);
    machine.cluster.resume_api().unwrap();
    agent.until_metric("cudaenv_catalogue_synced 1");
    machine.until_phase("tools", 2, "Ready");
    agent
}

fn another_driver_is_noticed(machine: &Machine<'_>, driver: &Driver) {
    let before = machine.object().unwrap().status.unwrap();
    machine.load(driver);
    let version = |object: &CUDANode| {
        object
            .status
            .clone()
            .unwrap_or_default()
            .driver
            .map(|driver| driver.version)
    };
    let object = machine.until("the new driver", |object| {
        version(object).as_deref() == Some(&driver.version)
    });
    assert_eq!(condition(&object, "Ready"), "True Ready");
    assert_ne!(object.status.unwrap().class, before.class);
    fs::remove_dir_all(machine.root().join("usr")).unwrap();
    let object = machine.until("no driver", |object| {
        condition(object, "DriverReady").starts_with("False")
    });
    assert_eq!(condition(&object, "Ready"), "False DriverNotReady");
    machine.load(driver);
    machine.until("the driver again", |object| condition(object, "Ready") == "True Ready");
}

fn a_deleted_record_comes_back(machine: &Machine<'_>) {
    let old = machine.object().unwrap().metadata.uid;
    machine.cluster.printed(&["delete", "cudanode", &machine.name]).unwrap();
    machine.until("another record", |object| {
        object.metadata.uid != old && condition(object, "Ready") == "True Ready"
    });
}

fn a_store_with_too_much_lets_the_least_recently_used_go(machine: &Machine<'_>, agent: &Agent) {
    let gone = ["delete", "cudaenvironment", "tools", "--namespace", "default", "--wait"];
    machine.cluster.printed(&gone).unwrap();
    let store = |object: &CUDANode| object.status.clone().unwrap_or_default().store.unwrap_or_default();
    let before = store(&machine.object().unwrap());
    assert_eq!(before.paths, 3);
    // An hour passes, for the paths and for the view that was made ahead of any pod.
    let state = machine.folder.join("state");
    let views = fs::read_dir(state.join("views")).unwrap();
    let folders = views.map(|view| view.unwrap().path()).chain([state.join("meta")]);
    for file in folders.flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = file.unwrap().path();
        if path.is_file() {
            let file = File::options().append(true).open(path).unwrap();
            let before = file.metadata().unwrap().modified().unwrap() - Duration::from_secs(3600);
            file.set_modified(before).unwrap();
        }
    }
    let patch = json!({"spec": {"maxBytes": before.used_bytes - 1}}).to_string();
    let arguments = ["patch", "cudanode", &machine.name, "--type=merge", "-p", &patch];
    machine.cluster.printed(&arguments).unwrap();
    // One path less is enough, unless this machine's disk is short too.
    let object = machine.until("less than that", |object| store(object).paths < 3);
    let left = store(&object).used_bytes;
    agent.until_metric(&format!("cudaenv_gc_freed_bytes_total {}", before.used_bytes - left));
}

/// What a fetch of a pod's volume looks like at one moment.
fn fetching(percent: u64) -> Happening {
    let status = FetchStatus {
        bytes_done: percent << 20,
        bytes_total: 100 << 20,
        paths_done: percent,
        paths_total: 100,
        source: Some("flox".to_owned()),
        ..FetchStatus::default()
    };
    Happening {
        pod: Some(Pod {
            namespace: "default".to_owned(),
            name: "trainer".to_owned(),
            uid: "6f9d2f2e-0000-4000-8000-000000000000".to_owned(),
        }),
        environment: Some(EnvironmentKey {
            namespace: Some("default".to_owned()),
            name: "tools".to_owned(),
        }),
        what: What::Fetching {
            status,
            bytes_per_second: 1 << 20,
        },
    }
}

#[tokio::test]
async fn a_long_fetch_is_one_event_whose_note_and_count_move_with_the_agents_own_rights() {
    let Some(cluster) = Cluster::start("events on a real API server").unwrap() else {
        return;
    };
    make_node(&cluster, "node-1");
    let account = account(&cluster, "node-1");
    let file = Kubeconfig::read_from(account.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    let mut log = EventLog::new("node-1");
    let begun = Timestamp::now();
    for (second, percent) in [(0, 10), (5, 20), (20, 40), (40, 90)] {
        match log.tell(&fetching(percent), begun + SignedDuration::from_secs(second)) {
            Some(Telling::Create(event)) => create_event(&client, &event).await.unwrap(),
            Some(Telling::Update(event)) => update_event(&client, &event).await.unwrap(),
            None => assert_eq!(second, 5, "too soon for another note"),
        }
    }
    let events = cluster.get(&["events.v1.events.k8s.io", "-n", "default"]).unwrap();
    // The API server tells of its own service in this namespace too, when it gets to it.
    let of_pods = |event: &&Value| event["regarding"]["kind"] == "Pod";
    let [event] = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(of_pods)
        .collect::<Vec<_>>()[..]
    else {
        unreachable!("{events}");
    };
    assert_eq!(event["reason"], "Fetching");
    assert_eq!(event["series"]["count"], 3);
    assert_eq!(event["regarding"]["name"], "trainer");
    assert_eq!(event["related"]["kind"], "CUDAEnvironment");
    let note = event["note"].as_str().unwrap();
    assert!(
        note.contains("(90 %), 1.00 MiB/s from flox, 10 of 100 paths missing"),
        "{note}"
    );
    // An event that is no longer there is said to be gone, so that it can be made anew.
    cluster
        .printed(&["delete", "events", "--all", "-n", "default"])
        .unwrap();
    let late = log.tell(&fetching(95), begun + SignedDuration::from_secs(100));
    let Some(Telling::Update(event)) = late else {
        unreachable!("{late:?}");
    };
    assert!(update_event(&client, &event).await.unwrap_err().is_gone());
    create_event(&client, &event).await.unwrap();
}
