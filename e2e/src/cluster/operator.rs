//! The operator as a process beside an API server, with the rights that the chart grants it.
//! It must never have others: the administrator's certificate stays with the tests.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Cluster;
use super::chart::{self, NAMESPACE};
use crate::programs::{self, finished};

/// What the chart installs that gives somebody rights.
const RIGHTS: [&str; 5] = [
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];

impl Cluster {
    /// An API server with our kinds, the chart's accounts and roles, and the namespaces of the operator and of a team. Nothing, and
    /// `check` on the record of skipped checks, where this machine cannot have one.
    pub fn for_operator(check: &str) -> Result<Option<Self>> {
        let Some(helm) = chart::helm(check)? else {
            return Ok(None);
        };
        let Some(cluster) = Self::start(check)? else {
            return Ok(None);
        };
        cluster.apply_definitions()?;
        for name in [NAMESPACE, "team-a"] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            cluster.apply(&namespace)?;
        }
        let objects = helm.objects(&[])?;
        for object in objects
            .iter()
            .filter(|object| RIGHTS.iter().any(|kind| object["kind"] == *kind))
        {
            cluster.apply(object)?;
        }
        Ok(Some(cluster))
    }

    /// Applies one object on the server's side, which must be taken.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let answer = self.kubectl_with(&["apply", "--server-side"], object)?;
        ensure!(answer.code == 0, "{object}: {answer:?}");
        Ok(())
    }
}

/// A running operator; it goes when this is dropped.
#[derive(Debug)]
pub struct Operator<'c> {
    /// Whose API server it speaks to.
    pub cluster: &'c Cluster,
    process: Child,
    name: String,
    port: u16,
}

impl<'c> Operator<'c> {
    /// Starts a replica of that name.
    pub fn start(cluster: &'c Cluster, name: &str) -> Result<Self> {
        Self::with(cluster, name, None)
    }

    /// As `start`, but that of caches it trusts those alone whose certificate is in that file.
    pub fn start_trusting(cluster: &'c Cluster, name: &str, certificates: &Path) -> Result<Self> {
        Self::with(cluster, name, Some(certificates))
    }

    fn with(cluster: &'c Cluster, name: &str, certificates: Option<&Path>) -> Result<Self> {
        let (port, webhook) = (free_port()?, free_port()?);
        let account = cluster.account(NAMESPACE, "cudaenv-operator", None)?;
        let mut command = Command::new(programs::operator()?);
        command
            .args(["run", "--namespace", NAMESPACE, "--pod-name", name])
            .args(["--webhook-service", "webhook", "--webhook-configuration", "cudaenv"])
            .arg(format!("--http=127.0.0.1:{port}"))
            .arg(format!("--webhook-address=127.0.0.1:{webhook}"))
            .env("KUBECONFIG", account.kubeconfig())
            .env("CUDAENV_LOG", "operator=debug,info")
            .stdin(Stdio::null())
            .stderr(File::create(log(cluster, name))?);
        if let Some(file) = certificates {
            command.env("SSL_CERT_FILE", file);
        }
        Ok(Self {
            cluster,
            process: command.spawn().context("cannot start the operator")?,
            name: name.to_owned(),
            port,
        })
    }

    /// The sum of all lines of a metric; nothing where it does not answer.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = "GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let values = text.lines().filter(|line| line.starts_with(name));
        Some(
            values
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum(),
        )
    }

    /// How often it wrote.
    pub fn writes(&self) -> f64 {
        self.metric("cudaenv_operator_writes_total").unwrap_or_default()
    }

    /// Whether it is the one that writes.
    pub fn leads(&self) -> bool {
        self.metric("cudaenv_operator_leader") == Some(1.0)
    }

    /// Asks until the answer is there, for a minute at most.
    #[expect(clippy::disallowed_methods, reason = "the test's own deadline")]
    pub fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = ask() {
                return Ok(found);
            }
            if Instant::now() > end {
                bail!("not within a minute: {what}\n{}", self.log()?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks for an object until it is as wanted.
    pub fn until_object(&self, what: &str, arguments: &[&str], so: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until(what, || self.cluster.get(arguments).ok().filter(|object| so(object)))
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        let file = log(self.cluster, &self.name);
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    /// Tells it to end, and waits until it did.
    pub fn end(mut self) -> Result<ExitStatus> {
        finished(Command::new("kill").arg(self.process.id().to_string()))?;
        Ok(self.process.wait()?)
    }
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

fn log(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    cluster.folder().join(format!("log/{name}.log"))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
