//! A site: a cluster of four nodes, three with real drivers of their own, and a cache with the closures of real runtimes.
//! The chart is installed as a user does it. It must never help: no step but what the README says.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Cluster;
use super::nodes::{Nodes, Place};
use crate::closure::Closure;
use crate::layout::Layout;
use crate::server::Server;
use crate::stage::Stage;
use crate::{documents, images, parts, skip};

/// Node, its driver (none: no driver at all), and the CUDA release of the variant that fits it.
pub const NODES: [(&str, Option<&str>, &str); 4] = [
    ("node1", Some("470.256.02"), "11.8"),
    ("node2", Some("535.274.02"), "11.8"),
    ("node3", Some("550.163.01"), "12.4"),
    ("node4", None, ""),
];

/// The node that may join later, and its driver; the variant of node 3 fits it.
pub const LATE: (u32, &str, &str) = (5, "node5", "550.163.01");

/// The namespace of the ML team.
pub const TEAM: &str = "team-a";

/// A cluster with the chart installed, and a stage whose cache is served to it.
#[derive(Debug)]
pub struct Site {
    /// The cluster. First, so that it ends before what it uses.
    pub cluster: Cluster,
    /// Serves the cache in the cluster's network.
    pub server: Server,
    /// The closures of four real runtimes, signed.
    pub stage: Stage,
    _images: TempDir,
}

impl Site {
    /// Starts the cluster and installs the chart. Nothing, and `check` on the record of skipped checks, where this machine
    /// cannot have one.
    pub fn start(check: &str) -> Result<Option<Self>> {
        Self::with(check, |_, _| Ok(()))
    }

    /// As `start`, with more store paths in the cache.
    pub fn with(check: &str, more: impl FnOnce(&mut Layout, &[Closure]) -> Result<()>) -> Result<Option<Self>> {
        let site = Self::bare(check, None, more)?;
        if let Some(site) = &site {
            site.install(&[])?;
        }
        Ok(site)
    }

    /// As `start`, with nothing installed yet.
    pub fn empty(check: &str) -> Result<Option<Self>> {
        Self::bare(check, None, |_, _| Ok(()))
    }

    /// As `empty`, but that every kubelet keeps its files in that folder.
    pub fn elsewhere(check: &str, kubelet_dir: &str) -> Result<Option<Self>> {
        Self::bare(check, Some(kubelet_dir), |_, _| Ok(()))
    }

    fn bare(
        check: &str,
        kubelet_dir: Option<&str>,
        more: impl FnOnce(&mut Layout, &[Closure]) -> Result<()>,
    ) -> Result<Option<Self>> {
        let Some(drivers) = skip::without(check, parts::drivers()) else {
            return Ok(None);
        };
        let Some(toolkits) = skip::without(check, parts::toolkits()) else {
            return Ok(None);
        };
        let wanted = ["11.8", "12.4", "12.8", "13.0"];
        let toolkits: Vec<_> = toolkits
            .into_iter()
            .filter(|kit| wanted.contains(&&*kit.cuda))
            .collect();
        let archives = tempfile::tempdir()?;
        images::make(archives.path())?;
        let known = NODES.iter().map(|(_, version, _)| *version);
        let at = |(number, version): (u32, Option<&str>)| {
            let driver = drivers.iter().find(|driver| Some(&*driver.version) == version)?;
            // The two usual places: a driver container's folder, and among the host's own libraries.
            let place = if number == 3 { Place::Host } else { Place::Operator };
            Some((number, driver.clone(), place))
        };
        let nodes = Nodes {
            count: 4,
            drivers: (1..)
                .zip(known)
                .chain([(LATE.0, Some(LATE.2))])
                .filter_map(at)
                .collect(),
            images: Some(archives.path().to_owned()),
            kubelet_dir: kubelet_dir.map(str::to_owned),
        };
        let Some(cluster) = Cluster::with(check, &nodes)? else {
            return Ok(None);
        };
        let stage = Stage::new(&toolkits, more)?;
        Ok(Some(Self {
            server: cluster.serve(&stage.cache())?,
            cluster,
            stage,
            _images: archives,
        }))
    }

    /// Installs the chart, with further arguments, and waits until what it made is ready.
    pub fn install(&self, arguments: &[&str]) -> Result<()> {
        let values = [
            "nodeAgent.image.repository=localhost/cudaenv/node-agent",
            "nodeAgent.image.pullPolicy=Never",
            "nodeAgent.extraArgs={--gpu,8.0:tesla}",
            "operator.image.repository=localhost/cudaenv/operator",
            "operator.image.pullPolicy=Never",
        ];
        let set = format!("--set={}", values.join(","));
        let installed = self.cluster.install(&[&[&*set], arguments].concat())?;
        ensure!(installed.code == 0, "{}\n{}", installed.stderr, self.cluster.state());
        Ok(())
    }

    /// The cache, and the environment `cuda` of the team with a variant for each runtime, newest first.
    pub fn apply_environment(&self) -> Result<()> {
        self.cluster.printed(&["create", "namespace", TEAM])?;
        self.apply(&documents::cache(
            "stage",
            &self.server.url(),
            &[&self.stage.public_key],
        ))?;
        self.apply(&documents::environment(
            "cuda",
            &[self.package(&["13.0", "12.8", "12.4", "11.8"])?],
        ))
    }

    /// The package `cuda` with a variant for each of these runtimes.
    pub fn package(&self, releases: &[&str]) -> Result<Value> {
        let variants = releases.iter().map(|cuda| {
            let closure = self.stage.closure(cuda)?;
            let name = format!("cu{}", cuda.replace('.', ""));
            Ok(documents::variant(&name, cuda, &closure.environment))
        });
        Ok(documents::package("cuda", &variants.collect::<Result<Vec<_>>>()?))
    }

    /// Applies one object, which must be taken.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let answer = self.cluster.kubectl_with(&["apply"], object)?;
        ensure!(answer.code == 0, "{answer:?}\n{}", self.cluster.state());
        Ok(())
    }
}

/// A pod of the team's, with an image that has no CUDA in it, whose command runs in a shell.
pub fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": TEAM, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "localhost/e2e/glibc:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            }],
        },
    })
}

/// For one node alone, by its label: the scheduler still decides.
pub fn on_node(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    pod
}

/// Asks for an environment of the team as a user does: one label, one annotation.
pub fn injected(mut pod: Value, environment: &str) -> Value {
    pod["metadata"]["labels"]["cudaenv.dev/inject"] = "true".into();
    pod["metadata"]["annotations"]["cudaenv.dev/environment"] = environment.into();
    pod
}

/// Asks for an environment by a hand-written volume at `/run/cudaenv`, with the three mounts.
pub fn by_hand(mut pod: Value, attributes: &Value) -> Value {
    let spec = &mut pod["spec"];
    spec["volumes"] = json!([{
        "name": "cuda", "csi": { "driver": "csi.cudaenv.dev", "readOnly": true, "volumeAttributes": attributes },
    }]);
    spec["containers"][0]["volumeMounts"] = json!([
        { "name": "cuda", "mountPath": "/nix/store", "subPath": "nix/store", "readOnly": true },
        { "name": "cuda", "mountPath": "/run/opengl-driver", "subPath": "driver", "readOnly": true },
        { "name": "cuda", "mountPath": "/run/cudaenv", "readOnly": true },
    ]);
    pod
}

/// Reads everything in its view again and again: `/tmp/rounds` grows each time, `/tmp/bad` once something could not be read. What
/// `/tmp/more` names is read too.
pub const READING: &str = "mkdir -p /tmp; while :; do \
    find /run/cudaenv /nix/store $(cat /tmp/more 2>/dev/null) -type f -exec cat {} + >/dev/null 2>/tmp/err \
    || { cat /tmp/err; echo in round $(wc -l </tmp/rounds); } >>/tmp/bad; echo >>/tmp/rounds; sleep 0.2; done";

impl Site {
    /// Deletes all pods of the team, and waits until nothing of them is mounted on the nodes; nothing is on record there either.
    pub fn pods_leave_nothing(&self, nodes: &[&str]) -> Result<()> {
        self.cluster
            .printed(&["delete", "pods", "--all", "-n", TEAM, "--wait", "--timeout=100s"])?;
        for node in nodes {
            self.cluster.until("nothing is mounted for pods", || {
                let mounted = self.cluster.mounts(node)?;
                Ok(!mounted.iter().any(|line| line.contains("kubernetes.io~csi")))
            })?;
            let records = self.cluster.folder().join(node).join("cudaenv/volumes");
            let left = std::fs::read_dir(records).map(Iterator::count).unwrap_or_default();
            ensure!(left == 0, "{node} has {left} volumes on record");
        }
        Ok(())
    }

    /// What a pod that is `READING` could not read since it started. It fails where the pod does not read at all.
    pub fn unread(&self, pod: &str) -> Result<String> {
        let said = |script: &str| -> Result<String> { Ok(self.cluster.exec(TEAM, pod, script)?.stdout) };
        let before = said("wc -l </tmp/rounds")?;
        let reads = || Ok(said("wc -l </tmp/rounds")? != before);
        self.cluster.until("the pod reads on", reads)?;
        said("cat /tmp/bad 2>/dev/null")
    }

    /// Gives a pod that is `READING` a file that nobody can read, and waits until it says so: one that is silent has read all.
    pub fn reader_is_honest(&self, pod: &str) -> Result<()> {
        let done = self.cluster.exec(TEAM, pod, "echo /proc/1/mem >/tmp/more")?;
        ensure!(done.code == 0, "{pod}: {done:?}");
        let says = || Ok(self.unread(pod)?.contains("Input/output error"));
        self.cluster.until("the pod says what it cannot read", says)
    }
}
