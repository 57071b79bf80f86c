//! A real Kubernetes for tests: an API server alone, or with nodes that run pods; kubectl is the client.
//! It must never leave a process or a file behind, and never speak to any cluster but the one it started.

pub mod account;
pub mod attempts;
pub mod chart;
pub mod neighbour;
pub mod nodes;
pub mod nvidia;
pub mod objects;
pub mod operator;
pub mod site;
pub mod watch;

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::nodes::Nodes;
use crate::programs::{Ended, ended, source_folder};
use crate::skip;

/// What `build.sh` exits with where a machine cannot build the programs (no Go, no module proxy).
const CANNOT: i32 = 3;

/// Where `make generate` writes the definitions.
const DEFINITIONS: &str = "charts/cudaenv/templates/crds";

/// A running cluster; it ends when this is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct Cluster {
    supervisor: Child,
    folder: PathBuf,
    programs: PathBuf,
    /// The first process of the cluster's own namespaces, where it has them.
    inside: Option<u32>,
}

impl Cluster {
    /// One with our kinds, for all tests of a test program that need it at about the same time; it ends with the last of them.
    /// Nothing, and `check` on the record of skipped checks, where this machine cannot have one.
    pub fn shared(check: &str) -> Result<Option<Arc<Self>>> {
        static RUNNING: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = running.upgrade() {
            return Ok(Some(found));
        }
        let Some(started) = Self::start(check)? else {
            return Ok(None);
        };
        started.apply_definitions()?;
        let started = Arc::new(started);
        *running = Arc::downgrade(&started);
        Ok(Some(started))
    }

    /// An API server of its own. Nothing, and `check` on the record of skipped checks, where this machine cannot have one.
    pub fn start(check: &str) -> Result<Option<Self>> {
        let Some(programs) = programs(check, &[])? else {
            return Ok(None);
        };
        let mut script = Command::new(source_folder().join("e2e/cluster/control-plane.sh"));
        script.arg(&programs);
        Self::supervised(script, programs).map(Some)
    }

    /// A whole cluster with so many nodes, in namespaces of its own. Nothing, and `check` on the record of skipped checks,
    /// where this machine cannot have one.
    pub fn with_nodes(check: &str, count: u32) -> Result<Option<Self>> {
        let nodes = Nodes {
            count,
            ..Nodes::default()
        };
        Self::with(check, &nodes)
    }

    /// A whole cluster of such nodes, in namespaces of its own. Nothing, and `check` on the record of skipped checks, where
    /// this machine cannot have one.
    pub fn with(check: &str, nodes: &Nodes) -> Result<Option<Self>> {
        if skip::without(check, skip::root()).is_none() {
            return Ok(None);
        }
        let Some(programs) = programs(check, &["nodes"])? else {
            return Ok(None);
        };
        let mut script = Command::new(source_folder().join("e2e/cluster/up.sh"));
        script
            .arg(&programs)
            .arg(nodes.count.to_string())
            .envs(nodes.variables()?);
        let mut cluster = Self::supervised(script, programs)?;
        let pid = std::fs::read_to_string(cluster.folder.join("pid"))?;
        cluster.inside = Some(pid.trim().parse().context("the file `pid` is not a number")?);
        Ok(Some(cluster))
    }

    fn supervised(mut script: Command, programs: PathBuf) -> Result<Self> {
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut supervisor = script.spawn().with_context(|| format!("cannot start {script:?}"))?;
        let output = supervisor.stdout.take().context("no stdout")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let Some(folder) = line.trim_end().strip_prefix("ready ").map(PathBuf::from) else {
            bail!("no cluster: {script:?} ended with {}", supervisor.wait()?);
        };
        Ok(Self {
            supervisor,
            folder,
            programs,
            inside: None,
        })
    }

    /// Applies the chart's definitions of our kinds, waits until they are served, and gives what was printed.
    pub fn apply_definitions(&self) -> Result<String> {
        let folder = source_folder().join(DEFINITIONS);
        let folder = folder.to_str().context("the source folder's name is not UTF-8")?;
        let printed = self.printed(&["apply", "-f", folder])?;
        self.printed(&["wait", "--for=condition=Established", "--timeout=60s", "-f", folder])?;
        Ok(printed)
    }

    /// The folder of all its state: `admin.kubeconfig`, `log/`. It goes with the cluster.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Process id of the script that started the programs and waits for us to go.
    pub fn supervisor(&self) -> u32 {
        self.supervisor.id()
    }

    /// kubectl as the cluster's administrator, with nothing of the user's own settings.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Ended> {
        ended(&mut self.command(arguments))
    }

    /// As `kubectl`, with one object on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], object: &Value) -> Result<Ended> {
        let mut file: File = tempfile::tempfile()?;
        serde_json::to_writer(&file, object)?;
        file.flush()?;
        file.rewind()?;
        ended(self.command(arguments).args(["-f", "-"]).stdin(file))
    }

    /// As `kubectl`, for a command that must succeed: what it printed.
    pub fn printed(&self, arguments: &[&str]) -> Result<String> {
        let done = self.kubectl(arguments)?;
        ensure!(done.code == 0, "kubectl {arguments:?}: {done:?}");
        Ok(done.stdout)
    }

    /// The object or list that a `kubectl get` answers with.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let printed = self.printed(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("kubectl get {arguments:?} printed no JSON"))
    }

    /// As `kubectl`, of somebody whose kubeconfig lies there.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Ended> {
        ended(self.command(arguments).env("KUBECONFIG", kubeconfig))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut kubectl = self.client("kubectl");
        kubectl.arg("--request-timeout=30s").args(arguments);
        kubectl
    }

    /// A program of the cluster's folder, as its administrator, where the API server can be reached.
    fn client(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut client = match self.inside {
            None => Command::new(program),
            Some(pid) => {
                let mut enter = Command::new("nsenter");
                enter.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
                enter
            }
        };
        client
            .env("KUBECONFIG", self.folder.join("admin.kubeconfig"))
            .env("KUBECACHEDIR", self.folder.join("discovery"))
            .stdin(Stdio::null());
        client
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The end of its input is what the supervisor waits for; when it is gone, so are all processes and files.
        drop(self.supervisor.stdin.take());
        let _ended = self.supervisor.wait();
    }
}

/// The folder of the programs, built on the first call; nothing where this machine cannot build them.
fn programs(check: &str, sets: &[&str]) -> Result<Option<PathBuf>> {
    let mut script = Command::new(source_folder().join("e2e/cluster/build.sh"));
    script.args(sets);
    built(check, script)
}

/// What a script that builds prints last.
fn built(check: &str, mut script: Command) -> Result<Option<PathBuf>> {
    let built = ended(&mut script)?;
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    match built.code {
        0 => Ok(Some(PathBuf::from(last(&built.stdout)))),
        CANNOT => Ok(skip::without(check, Err(last(&built.stderr)))),
        _ => bail!("{script:?} failed:\n{}", built.stderr),
    }
}

/// The Prometheus operator's definition of `PodMonitor`; nothing, and `check` on the record of skipped checks, where this machine
/// cannot fetch it.
pub fn pod_monitor(check: &str) -> Result<Option<PathBuf>> {
    built(check, Command::new(source_folder().join("e2e/cluster/pod-monitor.sh")))
}

/// Kubernetes' own example of a device plugin, built on the first call; nothing, and `check` on the record of skipped checks, where
/// this machine cannot build it.
pub fn device_plugin(check: &str) -> Result<Option<PathBuf>> {
    built(
        check,
        Command::new(source_folder().join("e2e/cluster/device-plugin.sh")),
    )
}

/// csi-sanity, built on the first call; nothing, and `check` on the record of skipped checks, where this machine cannot build it.
pub fn csi_sanity(check: &str) -> Result<Option<PathBuf>> {
    built(check, Command::new(source_folder().join("e2e/cluster/sanity.sh")))
}
