//! The nodes of a running cluster: what they show of a driver, what is mounted there, and what can happen to them.
//! It must never touch the machine's own mounts, drivers or kubelet: everything goes through the namespaces of a node.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::Cluster;
use crate::parts::Driver;
use crate::programs::{Ended, ended, finished, source_folder};
use crate::server::{Server, Terms};

/// Where nodes and pods reach what listens in the cluster's network.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);

/// What a cluster shall consist of.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    /// How many: `node1`, `node2`, …
    pub count: u32,
    /// Real drivers, each on the node of that number, which may be one that joins later.
    pub drivers: Vec<(u32, Driver, Place)>,
    /// Folder with image archives that every node's containerd gets.
    pub images: Option<PathBuf>,
    /// Where every kubelet keeps its files, below `/var`; by default `/var/lib/kubelet`.
    pub kubelet_dir: Option<String>,
}

/// Where a node shows its driver's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `/run/nvidia/driver`, as a GPU Operator's driver container.
    Operator,
    /// Among the host's own libraries.
    Host,
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Host => "host",
        }
    }
}

impl Nodes {
    /// The variables that `up.sh` takes all of it from.
    pub(super) fn variables(&self) -> Result<Vec<(&'static str, String)>> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .with_context(|| format!("{} is not UTF-8", path.display()))
        };
        let mut set = Vec::new();
        let mut table = String::new();
        for (node, driver, place) in &self.drivers {
            let (version, root) = (&driver.version, text(&driver.root)?);
            writeln!(table, "node{node} {version} {root} {}", place.word())?;
        }
        set.push(("PREPARE", text(&script())?));
        set.push(("DRIVERS", table));
        if let Some(images) = &self.images {
            set.push(("IMAGES", text(images)?));
        }
        if let Some(folder) = &self.kubelet_dir {
            set.push(("KUBELET_DIR", folder.clone()));
        }
        Ok(set)
    }
}

fn script() -> PathBuf {
    source_folder().join("e2e/cluster/driver.sh")
}

impl Cluster {
    /// A command in the mount, network and process namespaces of a node.
    pub fn on(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let cluster = self.inside.context("a cluster without nodes")?;
        let pid =
            std::fs::read_to_string(self.folder.join(node).join("pid")).with_context(|| format!("no node {node}"))?;
        let mut enter = Command::new("nsenter");
        enter
            .arg(format!("--target={cluster}"))
            .args(["--net", "--mount", "--pid", "nsenter"])
            .arg(format!("--target={}", pid.trim()))
            .arg("--mount")
            .arg(program);
        Ok(enter)
    }

    /// Moves the calling thread, and those that it starts from now on, into the cluster's own network.
    pub fn enter_network(&self) -> Result<()> {
        let cluster = self.inside.context("a cluster without a network of its own")?;
        let network = std::fs::File::open(format!("/proc/{cluster}/ns/net"))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Starts a further node, of that number, as a node pool grows: its kubelet registers it with those taints.
    pub fn join(&self, number: u32, taints: &Value) -> Result<()> {
        let mut words = self.supervisor.stdin.as_ref().context("the cluster has ended")?;
        writeln!(words, "join {number} {taints}").context("nobody reads what the cluster is told")
    }

    /// Gives a node's containerd the images of an archive, as a pull would.
    pub fn import_image(&self, node: &str, archive: &Path) -> Result<()> {
        let mut ctr = self.on(node, self.programs.join("ctr"))?;
        ctr.args([
            "--address=/run/containerd.sock",
            "--namespace=k8s.io",
            "images",
            "import",
        ]);
        finished(ctr.arg(archive))?;
        Ok(())
    }

    /// The mount table of a node, as `/proc/self/mountinfo` has it.
    pub fn mounts(&self, node: &str) -> Result<Vec<String>> {
        let table = finished(self.on(node, "cat")?.arg("/proc/self/mountinfo"))?;
        Ok(table.lines().map(str::to_owned).collect())
    }

    /// Lays that driver on a node, as one that was just loaded.
    pub fn load_driver(&self, node: &str, driver: &Driver, place: Place) -> Result<()> {
        let mut load = self.on(node, script())?;
        finished(load.args(["load", &driver.version]).arg(&driver.root).arg(place.word()))?;
        Ok(())
    }

    /// Takes a node's driver away. It fails where anybody holds anything of it, as a driver container would.
    pub fn unload_driver(&self, node: &str) -> Result<Ended> {
        ended(self.on(node, script())?.arg("unload"))
    }

    /// Ends a node's kubelet; pods go on. It starts again by `start_kubelet` alone.
    pub fn stop_kubelet(&self, node: &str) -> Result<()> {
        let folder = self.folder.join(node);
        std::fs::write(folder.join("hold"), "")?;
        let pid = std::fs::read_to_string(folder.join("kubelet.pid"))?;
        finished(self.on(node, "kill")?.arg(pid.trim()))?;
        self.until("kubelet is gone", || {
            Ok(ended(self.on(node, "kill")?.args(["-0", pid.trim()]))?.code != 0)
        })
    }

    /// Starts a node's kubelet again, and after `power_off` its container runtime.
    pub fn start_kubelet(&self, node: &str) -> Result<()> {
        std::fs::remove_file(self.folder.join(node).join("hold")).with_context(|| format!("{node} was not stopped"))
    }

    /// A node without power: its processes, pods and mounts are gone, its files are not. `start_kubelet` ends it.
    pub fn power_off(&self, node: &str) -> Result<()> {
        let mark = self.folder.join(node).join("reboot");
        std::fs::write(&mark, "")?;
        self.stop_kubelet(node)?;
        self.until("the node is off", || Ok(!mark.exists()))
    }

    /// The process of a node's agent, as the cluster counts.
    pub fn agent(&self, node: &str) -> Result<String> {
        let script = format!(
            "for one in $(grep -lzx NODE_NAME={node} /proc/[0-9]*/environ 2>/dev/null); do \
             grep -qz ^/usr/bin/node-agent ${{one%environ}}cmdline && echo ${{one//[^0-9]/}}; done; true"
        );
        let found = finished(self.on(node, "bash")?.args(["-c", &script]))?;
        let mut found = found.lines();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.to_owned()),
            other => bail!("not one agent on {node}: {other:?}"),
        }
    }

    /// Sends a process of a node a signal.
    pub fn signal(&self, node: &str, signal: &str, process: &str) -> Result<()> {
        finished(self.on(node, "kill")?.args([signal, process]))?;
        Ok(())
    }

    /// Stops the API server where it is: connections stay open and nothing is answered.
    pub fn pause_api(&self) -> Result<()> {
        self.signal_api("-STOP")
    }

    /// Lets a paused API server go on.
    pub fn resume_api(&self) -> Result<()> {
        self.signal_api("-CONT")
    }

    /// Refuses all connections to the API server, and breaks those that are there: as where it is not running.
    pub fn refuse_api(&self) -> Result<()> {
        let server = self.printed(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
        let port = server.rsplit(':').next().unwrap_or_default();
        let chain = "chain input { type filter hook input priority -10;";
        self.filter(&format!(
            "table inet outage {{ {chain} tcp dport {port} reject with tcp reset; }}; }}"
        ))
    }

    /// Ends `refuse_api`.
    pub fn accept_api(&self) -> Result<()> {
        self.filter("delete table inet outage")
    }

    /// Changes the packet filter of the cluster's own network.
    fn filter(&self, rule: &str) -> Result<()> {
        let cluster = self.inside.context("a cluster without a network of its own")?;
        let network = format!("--net=/proc/{cluster}/ns/net");
        finished(Command::new("nsenter").args([&network, "nft", rule]))?;
        Ok(())
    }

    fn signal_api(&self, signal: &str) -> Result<()> {
        let pid = std::fs::read_to_string(self.folder.join("log/kube-apiserver.pid"))?;
        let mut kill = match self.inside {
            None => Command::new("kill"),
            Some(cluster) => {
                let mut enter = Command::new("nsenter");
                enter
                    .arg(format!("--target={cluster}"))
                    .args(["--mount", "--pid", "kill"]);
                enter
            }
        };
        finished(kill.args([signal, pid.trim()]))?;
        Ok(())
    }

    /// Serves a folder to nodes and pods.
    pub fn serve(&self, folder: &Path) -> Result<Server> {
        self.serve_on(folder, Terms::default())
    }

    /// As `serve`, each connection sending at most so many bytes a second.
    pub fn serve_at_rate(&self, folder: &Path, bytes_per_second: u64) -> Result<Server> {
        let terms = Terms {
            bytes_per_second: Some(bytes_per_second),
            ..Terms::default()
        };
        self.serve_on(folder, terms)
    }

    /// As `serve`, on such terms.
    fn serve_on(&self, folder: &Path, terms: Terms) -> Result<Server> {
        let cluster = self.inside.context("a cluster without a network of its own")?;
        Server::start_in(Path::new(&format!("/proc/{cluster}/ns/net")), ADDRESS, folder, terms)
    }

    /// Serves a folder to a node's agent alone, on that agent's own loopback: credentials go to no other machine without TLS.
    pub fn serve_agent(&self, node: &str, folder: &Path, token: &str) -> Result<Server> {
        let cluster = self.inside.context("a cluster without a network of its own")?;
        let network = format!("/proc/{cluster}/root/proc/{}/ns/net", self.agent(node)?);
        let terms = Terms {
            authorization: Some(format!("Bearer {token}")),
            ..Terms::default()
        };
        Server::start_in(Path::new(&network), Ipv4Addr::LOCALHOST, folder, terms)
    }

    /// Waits for something to become so, two minutes at most.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
        for _ in 0..600 {
            if so()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("not within two minutes: {what}\n{}", self.state())
    }

    /// `kubectl exec`, with a shell's script at its end. For a moment kubelet may not know of a container that it has called ready:
    /// it is asked again then.
    pub fn exec(&self, namespace: &str, pod: &str, script: &str) -> Result<Ended> {
        let arguments = ["exec", "-n", namespace, pod, "--", "sh", "-c", script];
        let mut done = None;
        self.until("kubelet finds the container", || {
            let answer = self.kubectl(&arguments)?;
            let found = !answer.stderr.contains("container not found");
            done = Some(answer);
            Ok(found)
        })?;
        done.context("nothing was asked")
    }

    /// What a pod's container has printed, once it has printed anything.
    pub fn first_log(&self, namespace: &str, pod: &str) -> Result<String> {
        let mut log = String::new();
        self.until("the pod prints something", || {
            log = self.kubectl(&["logs", "-n", namespace, pod])?.stdout;
            Ok(log.ends_with('\n'))
        })?;
        Ok(log)
    }

    /// As `kubectl wait`, and all that can be known about the cluster where it fails.
    pub fn wait(&self, arguments: &[&str]) -> Result<()> {
        let waited = self.kubectl(&[&["wait", "--timeout=120s"], arguments].concat())?;
        ensure!(waited.code == 0, "{}\n{}", waited.stderr, self.state());
        Ok(())
    }

    /// Pods, events and the ends of all logs, for a person who wonders why a test failed.
    pub fn state(&self) -> String {
        let mut text = String::new();
        let questions: [&[&str]; 5] = [
            &["get", "nodes,cudanodes", "-o", "wide"],
            &["get", "pods", "-A", "-o", "wide"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &["get", "cudaenvironments,cudabinarycaches", "-A"],
            &[
                "logs",
                "-n",
                super::chart::NAMESPACE,
                "-l",
                "app.kubernetes.io/name=cudaenv",
                "--prefix",
                "--tail=40",
            ],
        ];
        for arguments in questions {
            let answer = self.kubectl(arguments);
            let shown = answer.map_or_else(|error| error.to_string(), |answer| answer.stdout + &answer.stderr);
            let _always_fits = writeln!(text, "--- kubectl {}\n{shown}", arguments.join(" "));
        }
        text + &self.panics()
    }

    /// Where a kubelet of a node ended by a fault of its own: the last thing it said.
    fn panics(&self) -> String {
        let mut text = String::new();
        for node in 1.. {
            let path = self.folder.join(format!("log/node{node}.log"));
            let Ok(log) = std::fs::read(&path) else { break };
            let log = String::from_utf8_lossy(&log);
            if let Some((_, end)) = log.split_once("\npanic: ") {
                let lines = end.lines().take(20).collect::<Vec<_>>().join("\n");
                let _always_fits = writeln!(text, "--- node{node}'s kubelet: panic: {lines}");
            }
        }
        text
    }
}
