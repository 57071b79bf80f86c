//! One operator on a real API server with thousands of made-up nodes: its memory, what it writes, how soon it is done.
//! It must never let a node be anything but objects: what agents report is put there.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use binary_cache::compression::Compression;
use e2e::{
    cluster::{Cluster, chart::NAMESPACE},
    documents, made_up,
    made_up::Closure,
    programs,
    server::Server,
};
use futures_util::{StreamExt as _, stream};
use kube::{
    Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    measure::{cpu_seconds_of, now, status_mib},
    table::{say, table},
};

const NODES: usize = 5000;
const CLASSES: usize = 50;
const ENVIRONMENTS: usize = 200;
/// Requests under way at the same time while the cluster is filled.
const AT_ONCE: usize = 24;
/// Reports of agents in a second: five thousand of them, one each five minutes.
const REPORTS: usize = 17;
const OURS: &str = "/apis/cudaenv.dev/v1alpha1";

/// A running operator; it goes when this is dropped.
struct Operator {
    process: Child,
    port: u16,
}

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
        "\n{NODES} nodes of {CLASSES} classes and {ENVIRONMENTS} environments, put there in {:.0} s",
        filled.elapsed().as_secs_f64()
    ))?;
    table(&["operator (one replica)", ""], &measured(&cluster, &runtime, &client)?)
}

fn measured(cluster: &Cluster, runtime: &Runtime, client: &Client) -> Result<Vec<Vec<String>>> {
    let start = now();
    let operator = Operator::start(cluster)?;
    let settled = operator.settled(300)?;
    let row = |what: &str, figure: String| vec![what.to_owned(), figure];
    let mut rows = vec![
        row(
            "from its start to the last write, s",
            format!("{:.1}", start.elapsed().as_secs_f64() - QUIET),
        ),
        row("writes for all of it", format!("{settled:.0}")),
    ];
    let changed = now();
    runtime.block_on(change(client))?;
    let after = operator.settled(60)?;
    rows.push(row(
        "writes for one changed environment",
        format!("{:.0}", after - settled),
    ));
    rows.push(row(
        "from the change to the last write, s",
        format!("{:.1}", (changed.elapsed().as_secs_f64() - QUIET).max(0.0)),
    ));
    let cpu = cpu_seconds_of(operator.process.id())?;
    sleep(Duration::from_secs(60));
    rows.push(row(
        "writes in an idle minute",
        format!("{:.0}", operator.writes()? - after),
    ));
    rows.push(row(
        "CPU seconds in an idle minute",
        format!("{:.2}", cpu_seconds_of(operator.process.id())? - cpu),
    ));
    let cpu = cpu_seconds_of(operator.process.id())?;
    runtime.block_on(report(client, 30))?;
    rows.push(row(
        &format!("CPU seconds in half a minute of {REPORTS} agents' reports a second"),
        format!("{:.2}", cpu_seconds_of(operator.process.id())? - cpu),
    ));
    rows.push(row("writes for those", format!("{:.0}", operator.writes()? - after)));
    let memory = status_mib(operator.process.id(), "VmHWM:").context("no memory figure")?;
    rows.push(row("highest resident memory, MiB", format!("{memory:.0}")));
    Ok(rows)
}

/// Seconds without a write after which it counts as settled.
const QUIET: f64 = 5.0;

async fn fill(client: &Client, url: &str, path: &str) -> Result<()> {
    for name in [NAMESPACE, "team-a"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(client, "/api/v1/namespaces", namespace).await?;
    }
    let key = made_up::key()?.public_key().to_string();
    let cache = documents::cache("here", url, &[&key]);
    create(client, &format!("{OURS}/cudabinarycaches"), cache).await?;
    let collection = format!("{OURS}/namespaces/team-a/cudaenvironments");
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

async fn change(client: &Client) -> Result<()> {
    let change = json!([{"op": "replace", "path": "/spec/packages/0/variants/0/name", "value": "renamed"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(change)?);
    let request = Request::new(format!("{OURS}/namespaces/team-a/cudaenvironments"));
    let request = request.patch("environment-7", &PatchParams::default(), &patch)?;
    client.request::<Value>(request).await.context("the change")?;
    Ok(())
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

impl Operator {
    fn start(cluster: &Cluster) -> Result<Self> {
        let free = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let (port, webhook) = (free()?, free()?);
        let process = Command::new(programs::operator()?)
            .args(["run", "--namespace", NAMESPACE, "--pod-name", "operator-0"])
            .args(["--webhook-service", "webhook", "--webhook-configuration", "cudaenv"])
            .arg(format!("--http=127.0.0.1:{port}"))
            .arg(format!("--webhook-address=127.0.0.1:{webhook}"))
            .env("KUBECONFIG", cluster.folder().join("admin.kubeconfig"))
            .stdin(Stdio::null())
            .stderr(File::create(cluster.folder().join("log/operator.log"))?)
            .spawn()?;
        Ok(Self { process, port })
    }

    /// How much it has written when it had written something, and then nothing for a while.
    fn settled(&self, seconds: u64) -> Result<f64> {
        let start = now();
        let (mut written, mut since) = (0.0, now());
        loop {
            sleep(Duration::from_millis(250));
            let found = self.writes().unwrap_or_default();
            if found != written {
                (written, since) = (found, now());
            }
            if written > 0.0 && since.elapsed().as_secs_f64() > QUIET {
                return Ok(written);
            }
            if start.elapsed().as_secs() > seconds {
                bail!("the operator does not settle within {seconds} s");
            }
        }
    }

    fn writes(&self) -> Result<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let values = text
            .lines()
            .filter(|line| line.starts_with("cudaenv_operator_writes_total"));
        Ok(values
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
