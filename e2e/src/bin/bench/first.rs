//! From asking the API server for a pod to its container's first instruction, on a warm node: with an environment and without.
//! It must never count what only a first pod pays: images, closure and kernel caches are there before anything is timed.

use std::{thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use e2e::cluster::{
    chart::NAMESPACE,
    site::{Site, TEAM, by_hand, injected, on_node, pod},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, LogParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::{Value, json};

use crate::{
    measure::{clock, now, percentile},
    table::{say, table},
};

/// Pods of each kind.
const ROUNDS: usize = 20;
/// Pods of each kind before those, which are not counted.
const WARM: usize = 2;
/// A node with a driver.
const NODE: &str = "node2";
/// What the container does first. The runtime puts a time of nanoseconds before each line that a container prints.
const SCRIPT: &str = "echo started; exec sleep 3600";

/// What makes a pod of a kind from a plain one.
type Kind = fn(Value) -> Value;

/// What differs between the pods, each with its row's name; the first is what the others are compared with.
const KINDS: [(&str, Kind); 4] = [
    ("a pod without an environment", |pod| pod),
    ("the same with an emptyDir, mounted thrice", with_empty_folder),
    ("with an environment, by label", |pod| injected(pod, "cuda")),
    ("with an environment, by a volume in the pod", |pod| {
        by_hand(pod, &json!({ "environment": "cuda" }))
    }),
];

/// What pods of one kind took, in milliseconds.
#[derive(Default)]
struct Took {
    /// Until the API server had taken it, admission and all.
    taken: Vec<f64>,
    /// Until its container printed its first line.
    started: Vec<f64>,
}

pub(crate) fn run() -> Result<()> {
    let Some(site) = Site::start("the time to a pod's first instruction")? else {
        bail!("no cluster can be had here");
    };
    site.apply_environment()?;
    // The API server listens in the cluster's own network: a thread enters it, and the threads that it starts are there, too.
    thread::scope(|scope| {
        let inside = || {
            site.cluster.enter_network()?;
            tokio::runtime::Runtime::new()?.block_on(measured(&site))
        };
        let measuring = scope.spawn(inside).join();
        measuring.unwrap_or_else(|_panicked| bail!("the measuring thread panicked"))
    })
}

async fn measured(site: &Site) -> Result<()> {
    let file = Kubeconfig::read_from(site.cluster.folder().join("admin.kubeconfig"))?;
    let client = Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?;
    let agent = agent(&client).await?;
    let mut took: [Took; KINDS.len()] = Default::default();
    let mut before = (0.0, 0.0);
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            before = publishes(&client, &agent).await?;
        }
        for ((_, kind), took) in KINDS.iter().zip(&mut took) {
            let times = one(&client, *kind, round).await?;
            if round >= WARM {
                took.taken.push(times.0);
                took.started.push(times.1);
            }
        }
    }
    let (seconds, count) = publishes(&client, &agent).await?;
    say(&format!(
        "\n{ROUNDS} pods of each kind in turns, one node of a cluster on this machine, nothing to fetch\n"
    ))?;
    shown(&mut took)?;
    say(&format!(
        "Of that, the agent's answer to kubelet: {:.1} ms on average of {:.0} calls.",
        (seconds - before.0) * 1e3 / (count - before.1).max(1.0),
        count - before.1
    ))
}

/// The same pod, with one volume of kubelet's own that is mounted where an environment is.
fn with_empty_folder(pod: Value) -> Value {
    let mut pod = by_hand(pod, &json!({}));
    pod["spec"]["volumes"] = json!([{ "name": "cuda", "emptyDir": {} }]);
    pod
}

fn shown(took: &mut [Took; KINDS.len()]) -> Result<()> {
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for took in took.iter_mut() {
        let [taken, half, most] = [
            percentile(&mut took.taken, 0.5),
            percentile(&mut took.started, 0.5),
            percentile(&mut took.started, 0.9),
        ];
        figures.push((taken, half, most));
    }
    let plain = figures.first().map_or(0.0, |(_, half, _)| *half);
    let emptied = figures.get(1).map_or(0.0, |(_, half, _)| *half);
    for ((name, _), (taken, half, most)) in KINDS.iter().zip(&figures) {
        rows.push(vec![
            (*name).to_owned(),
            format!("{taken:.0}"),
            format!("{half:.0}"),
            format!("{most:.0}"),
            format!("{:+.0}", half - plain),
            format!("{:+.0}", half - emptied),
        ]);
    }
    let heads = [
        "",
        "taken by the API server, p50 ms",
        "first line printed, p50 ms",
        "p90 ms",
        "p50 against no volume",
        "against an emptyDir",
    ];
    table(&heads, &rows)
}

/// Makes a pod, waits for its first line and for its end: milliseconds until it was taken, and until that line.
async fn one(client: &Client, kind: Kind, round: usize) -> Result<(f64, f64)> {
    let api = Api::<Pod>::namespaced(client.clone(), TEAM);
    let pod: Pod = serde_json::from_value(kind(on_node(pod("first", SCRIPT), NODE)))?;
    // kubelet looks around in periods of 100 ms: the pods come at all points of them.
    tokio::time::sleep(Duration::from_millis(500 + (round as u64 * 37) % 100)).await;
    let (begun, asked) = (clock(), now());
    let made = api.create(&PostParams::default(), &pod).await.context("a pod")?;
    let taken = asked.elapsed().as_secs_f64() * 1e3;
    let version = made.metadata.resource_version.context("a pod without a version")?;
    until(&api, &version, |event| {
        let WatchEvent::Modified(pod) = event else { return false };
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    })
    .await?;
    let parameters = LogParams {
        timestamps: true,
        ..LogParams::default()
    };
    let log = api.logs("first", &parameters).await.context("its log")?;
    let (time, line) = log.split_once(' ').context("it printed nothing")?;
    ensure!(line.trim() == "started", "it printed {log}");
    let printed: Timestamp = time.parse()?;
    let started = printed.as_nanosecond() - Timestamp::try_from(begun)?.as_nanosecond();
    api.delete("first", &DeleteParams::default()).await?;
    until(&api, &version, |event| matches!(event, WatchEvent::Deleted(_))).await?;
    Ok((taken, started as f64 / 1e6))
}

/// Follows the pod from a version on until something was seen.
async fn until(api: &Api<Pod>, version: &str, seen: impl Fn(&WatchEvent<Pod>) -> bool) -> Result<()> {
    let parameters = WatchParams::default().fields("metadata.name=first").timeout(120);
    let mut events = api.watch(&parameters, version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        if seen(&event) {
            return Ok(());
        }
    }
    bail!("not within two minutes")
}

/// The pod of the node's agent.
async fn agent(client: &Client) -> Result<String> {
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let all = pods.list(&kube::api::ListParams::default()).await?;
    let on_node = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(NODE);
    let mut names = all
        .iter()
        .filter(on_node)
        .filter_map(|pod| pod.metadata.name.as_deref());
    let found = names.find(|name| name.contains("node-agent"));
    Ok(found.context("no agent")?.to_owned())
}

/// Seconds that the agent's answers to publishes took, and how many there were.
async fn publishes(client: &Client, agent: &str) -> Result<(f64, f64)> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{agent}:9810/proxy");
    let request = Request::new(path).get("metrics", &kube::api::GetParams::default())?;
    let text = client.request_text(request).await?;
    let value = |name: &str| -> Result<f64> {
        let name = format!("cudaenv_publish_duration_seconds_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        Ok(line.context("the agent counts no publishes")?.parse()?)
    };
    Ok((value("sum")?, value("count")?))
}
