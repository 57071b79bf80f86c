//! One operator on a real API server with thousands of made-up nodes: its memory, what it writes, how soon it is done.
//! It must never let a node be anything but objects: what agents report is put there.

mod admission;
mod operator;
mod pods;

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, bail};
use binary_cache::compression::Compression;
use e2e::{
    cluster::{Cluster, chart::NAMESPACE},
    documents, made_up,
    made_up::Closure,
    server::Server,
};
use futures_util::{StreamExt as _, stream};
use kube::{
    Client, Config,
    api::{GetParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::operator::{Operator, QUIET};
use crate::{
    measure::{cpu_seconds_of, now, percentile},
    table::{say, table},
};

const NODES: usize = 5000;
const CLASSES: usize = 50;
const ENVIRONMENTS: usize = 200;
/// Requests under way at the same time while the cluster is filled.
const AT_ONCE: usize = 48;
/// Reports of agents in a second: five thousand of them, one each five minutes.
const REPORTS: usize = 17;
/// Environments that are changed, one after another.
const CHANGES: usize = 20;
const OURS: &str = "/apis/cudaenv.dev/v1alpha1";
/// The namespace of all environments and pods.
const TEAM: &str = "team-a";
/// The name of the webhooks' configuration.
const CONFIGURATION: &str = "cudaenv";

pub(crate) fn run() -> Result<()> {
    let Some(cluster) = Cluster::start("the fleet benchmark")? else {
        bail!("no API server can be had here");
    };
    cluster.apply_definitions()?;
    let folder = tempfile::tempdir()?;
    let closure = Closure::new("torch", 20, 100)?;
    closure.cache(&folder.path().join("cache"), Compression::Zstd)?;
    let server = Server::start(&folder.path().join("cache"))?;
    let runtime = Runtime::new()?;
    let filled = now();
    let client = runtime.block_on(async {
        let file = Kubeconfig::read_from(cluster.folder().join("admin.kubeconfig"))?;
        let client = Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?;
        fill(&client, &server.url(), &closure.root().to_string()).await?;
        anyhow::Ok(client)
    })?;
    say(&format!(
        "\n{NODES} nodes of {CLASSES} classes and {ENVIRONMENTS} environments, put there in {:.0} s\n",
        filled.elapsed().as_secs_f64()
    ))?;
    let operator = Operator::start(&cluster)?;
    let mut rows = started(&operator)?;
    let authority = runtime.block_on(admission::configure(&cluster, &client, operator.webhook))?;
    rows.extend(crowded(&operator, &runtime, &client)?);
    rows.extend(changed(&operator, &runtime, &client)?);
    rows.extend(idle(&operator, &runtime, &client)?);
    table(&["operator (one replica)", ""], &rows)?;
    let asked = runtime.block_on(admission::measured(&cluster, &authority, operator.webhook))?;
    let heads = ["admission, 50 a second", "p50 ms", "p90 ms", "p99 ms", "largest ms"];
    table(&heads, &asked)
}

fn row<const N: usize>(what: &str, figures: [String; N]) -> Vec<String> {
    let mut row = vec![what.to_owned()];
    row.extend(figures);
    row
}

/// It comes to a cluster that has never seen it.
fn started(operator: &Operator) -> Result<Vec<Vec<String>>> {
    let start = now();
    let settled = operator.settled(0.0, 300)?;
    let seconds = start.elapsed().as_secs_f64() - QUIET;
    Ok(vec![
        row("from its start to the last write, s", [format!("{seconds:.1}")]),
        row("writes for all of it", [format!("{settled:.0}")]),
        row("highest resident memory, MiB", [format!("{:.0}", operator.memory()?)]),
    ])
}

/// Pods come, and agents tell of them.
fn crowded(operator: &Operator, runtime: &Runtime, client: &Client) -> Result<Vec<Vec<String>>> {
    let before = operator.writes()?;
    let start = now();
    runtime.block_on(pods::fill(client)).context("the pods")?;
    let made = start.elapsed().as_secs_f64();
    runtime.block_on(pods::report(client)).context("the agents' reports")?;
    let settled = operator.settled(before, 300)?;
    say(&format!(
        "{} pods, half of them by label, made in {made:.0} s, and reported by {NODES} agents in {:.0} s\n",
        pods::PODS,
        start.elapsed().as_secs_f64() - made - QUIET
    ))?;
    let memory = operator.memory()?;
    Ok(vec![
        row("writes for 20,000 pods", [format!("{:.0}", settled - before)]),
        row("highest resident memory with them, MiB", [format!("{memory:.0}")]),
    ])
}

/// Environments change, one after another.
fn changed(operator: &Operator, runtime: &Runtime, client: &Client) -> Result<Vec<Vec<String>>> {
    let before = operator.writes()?;
    let mut took = Vec::new();
    for number in 0..CHANGES {
        took.push(runtime.block_on(change(client, number))?);
    }
    let after = operator.settled(before, 60)?;
    let half = percentile(&mut took, 0.5);
    let most = percentile(&mut took, 1.0);
    let planned = operator.below("cudaenv_operator_plan_duration_seconds", 0.99)?;
    let written = operator.below("cudaenv_operator_write_duration_seconds", 0.99)?;
    Ok(vec![
        row(
            "writes for one changed environment",
            [format!("{:.2}", (after - before) / CHANGES as f64)],
        ),
        row("from a change to its status, p50 s", [format!("{half:.2}")]),
        row(&format!("the slowest of {CHANGES}, s"), [format!("{most:.2}")]),
        row("planning all of it once, p99 below ms", [format!("{planned:.0}")]),
        row("one write, p99 below ms", [format!("{written:.0}")]),
    ])
}

/// Nothing happens; then agents tell how full their stores are.
fn idle(operator: &Operator, runtime: &Runtime, client: &Client) -> Result<Vec<Vec<String>>> {
    let before = operator.writes()?;
    let cpu = cpu_seconds_of(operator.id())?;
    sleep(Duration::from_secs(60));
    let (quiet, idle) = (operator.writes()?, cpu_seconds_of(operator.id())?);
    runtime.block_on(report(client, 30))?;
    let (reported, busy) = (operator.writes()?, cpu_seconds_of(operator.id())?);
    let what = format!("CPU seconds in half a minute of {REPORTS} agents' reports a second");
    Ok(vec![
        row("writes in an idle minute", [format!("{:.0}", quiet - before)]),
        row("CPU seconds in an idle minute", [format!("{:.2}", idle - cpu)]),
        row(&what, [format!("{:.2}", busy - idle)]),
        row("writes for those", [format!("{:.0}", reported - quiet)]),
    ])
}

async fn fill(client: &Client, url: &str, path: &str) -> Result<()> {
    for name in [NAMESPACE, TEAM] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(client, "/api/v1/namespaces", namespace).await?;
        // No controller is there to make it.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        create(client, &format!("/api/v1/namespaces/{name}/serviceaccounts"), account).await?;
    }
    let key = made_up::key()?.public_key().to_string();
    let cache = documents::cache("here", url, &[&key]);
    create(client, &format!("{OURS}/cudabinarycaches"), cache).await?;
    let collection = format!("{OURS}/namespaces/{TEAM}/cudaenvironments");
    let environments = (0..ENVIRONMENTS).map(|number| {
        let mut variants: Vec<_> = ["11.8", "12.8"]
            .iter()
            .map(|cuda| documents::variant(&format!("cu{}", cuda.replace('.', "")), cuda, path))
            .collect();
        for variant in &mut variants {
            variant["code"] = json!({"sass": ["7.0", "8.0", "9.0"]});
        }
        let packages = [documents::package("torch", &variants)];
        let environment = documents::environment(&format!("environment-{number}"), &packages);
        create(client, &collection, environment)
    });
    all(environments).await?;
    all((0..NODES).map(|number| node(client, number))).await
}

/// A node with what kubelet and an agent say of it.
async fn node(client: &Client, number: usize) -> Result<()> {
    let name = format!("node-{number}");
    let metadata = json!({"name": name});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}});
    let drivers = json!([{"name": "csi.cudaenv.dev", "nodeID": name}]);
    let csi = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": metadata, "spec": {"drivers": drivers}});
    let cuda = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": metadata, "spec": {}});
    create(client, "/api/v1/nodes", node).await?;
    create(client, "/apis/storage.k8s.io/v1/csinodes", csi).await?;
    create(client, &format!("{OURS}/cudanodes"), cuda).await?;
    let class = number % CLASSES;
    let (driver, cuda) = [
        ("470.256.02", "11.4"),
        ("535.274.02", "12.2"),
        ("550.163.01", "12.4"),
        ("570.124.06", "12.8"),
        ("580.65.06", "13.0"),
    ][class % 5];
    let capability = ["7.0", "7.5", "8.0", "8.6", "9.0"][class / 5 % 5];
    let brand = ["tesla", "quadro"][class / 25];
    let ready = |type_: &str| {
        json!({"type": type_, "status": "True", "reason": "AsExpected", "message": "",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let said = json!({
        "system": "x86_64-linux",
        "driver": {"version": driver, "kernelVersion": driver, "cuda": cuda},
        "gpus": [{"computeCapability": capability, "brand": brand, "count": 8}],
        "conditions": [ready("StoreReady"), ready("Registered")],
    });
    status(client, &name, said).await
}

/// Changes an environment; seconds until its status is about that.
async fn change(client: &Client, number: usize) -> Result<f64> {
    let change = json!([{"op": "replace", "path": "/spec/packages/0/variants/0/name", "value": "renamed"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(change)?);
    let (all, name) = (
        Request::new(format!("{OURS}/namespaces/{TEAM}/cudaenvironments")),
        format!("environment-{number}"),
    );
    let request = all.patch(&name, &PatchParams::default(), &patch)?;
    let start = now();
    client.request::<Value>(request).await.context("the change")?;
    while start.elapsed().as_secs() < 60 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let found: Value = client.request(all.get(&name, &GetParams::default())?).await?;
        if found["status"]["observedGeneration"] == found["metadata"]["generation"] {
            return Ok(start.elapsed().as_secs_f64());
        }
    }
    bail!("{name} keeps its old status")
}

/// Agents tell how full their stores are.
async fn report(client: &Client, seconds: usize) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for second in 0..seconds {
        tick.tick().await;
        let reports = (0..REPORTS).map(|agent| async move {
            let store = json!({"capacityBytes": 1_u64 << 40, "usedBytes": second + 1, "pinnedBytes": 0, "paths": 20});
            let name = format!("node-{}", second * REPORTS + agent);
            status(client, &name, json!({"store": store})).await
        });
        all(reports).await?;
    }
    Ok(())
}

async fn all(work: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    let mut done = stream::iter(work).buffer_unordered(AT_ONCE);
    while let Some(done) = done.next().await {
        done?;
    }
    Ok(())
}

async fn create(client: &Client, collection: &str, object: Value) -> Result<()> {
    let request = Request::new(collection).create(&PostParams::default(), serde_json::to_vec(&object)?)?;
    client.request::<Value>(request).await.context(collection.to_owned())?;
    Ok(())
}

/// Merges into the status of a CUDANode.
async fn status(client: &Client, name: &str, status: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"status": status}));
    let request = Request::new(format!("{OURS}/cudanodes"));
    let request = request.patch_subresource("status", name, &PatchParams::default(), &patch)?;
    client.request::<Value>(request).await.context(name.to_owned())?;
    Ok(())
}
