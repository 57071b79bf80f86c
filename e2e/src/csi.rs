//! One node without a cluster: the real agent as a process, kubelet's folder, and calls over the agent's socket as kubelet
//! makes them. It must never mount anything outside the private mount namespace that it is in.

mod agent;
pub mod shim;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use binary_cache::compression::Compression;
use node_agent::{
    act::enter,
    csi::messages::csi::{
        NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
        volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    },
    store::mounts::{self, Mount},
};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use serde_json::json;
use tempfile::TempDir;

pub use agent::{Agent, Client};

use crate::{
    documents,
    made_up::{self, Closure},
    node, parts, programs,
    server::Server,
    skip,
};

/// The namespace of every pod.
pub const NAMESPACE: &str = "team-a";

/// A node: a folder with kubelet's folder, the node store and a driver in it. The first two are shared with whatever
/// mount namespace is made from ours, as `mountPropagation: Bidirectional` has it; nothing else is.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
}

/// A volume of a pod, as kubelet would name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// What kubelet calls it.
    pub id: String,
    /// The uid of its pod.
    pub uid: String,
    /// Where it goes.
    pub target: PathBuf,
}

/// Runs `work` on a new node, in a thread with a mount namespace of its own, which takes all mounts with it. Does nothing
/// but put `check` on the record of skipped checks where this machine cannot do that.
pub fn on_a_machine(check: &str, work: impl FnOnce(&Machine) + Send) -> Result<()> {
    if skip::without(check, skip::root()).is_none() {
        return Ok(());
    }
    let drivers = parts::available_drivers()?;
    let Some(driver) = skip::without(check, drivers.last().ok_or("no real driver can be had")) else {
        return Ok(());
    };
    let outside = mounts::read()?;
    thread::scope(|scope| {
        let inside = || -> Result<()> {
            enter::private_namespace()?;
            let machine = Machine::new()?;
            node::lay_out(driver, &machine.path("root"))?;
            work(&machine);
            Ok(())
        };
        match scope.spawn(inside).join() {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
    })?;
    ensure!(mounts::read()? == outside, "mounts leaked out of the namespace");
    Ok(())
}

impl Machine {
    fn new() -> Result<Self> {
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        let machine = Self {
            folder: tempfile::Builder::new().prefix("cudaenv-csi-").tempdir()?,
        };
        for folder in ["kubelet", "state"] {
            let path = machine.path(folder);
            fs::create_dir(&path)?;
            mount_bind(&path, &path)?;
            mount_change(&path, MountPropagationFlags::SHARED)?;
        }
        fs::create_dir(machine.pods())?;
        Ok(machine)
    }

    /// A path in the node's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// kubelet's folder of pods.
    pub fn pods(&self) -> PathBuf {
        self.path("kubelet/pods")
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("kubelet/plugins/csi.cudaenv.dev/csi.sock")
    }

    /// Serves a signed cache with closures, each connection at `rate` bytes a second where one is given, and lets the agent
    /// know of an environment for each, by name.
    pub fn offer(&self, closures: &[(&str, &Closure)], rate: Option<u64>) -> Result<Server> {
        let cache = self.path("cache");
        for (_, closure) in closures {
            closure.cache(&cache, Compression::None)?;
        }
        let server = Server::start_at_rate(&cache, rate)?;
        let key = made_up::key()?.public_key().to_string();
        let environment = |(name, closure): &(&str, &Closure)| {
            let mut variant = documents::variant("cu110", "11.0", &closure.root().to_string());
            variant["code"] = json!({"sass": ["8.0"]});
            documents::environment(name, &[documents::package("tools", &[variant])])
        };
        let mut objects = vec![documents::cache("here", &server.url(), &[&key])];
        objects.extend(closures.iter().map(environment));
        documents::write(&self.path("objects.yaml"), &objects)?;
        Ok(server)
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&self) -> Result<Agent> {
        self.start_in(&self.path("kubelet"))
    }

    /// As `start`, with that name for kubelet's folder.
    pub fn start_in(&self, kubelet: &Path) -> Result<Agent> {
        self.start_with(kubelet, ("--objects", &self.path("objects.yaml")))
    }

    /// As `start`, where an API server is to say what there is, and does not answer.
    pub fn start_without_answer(&self) -> Result<Agent> {
        // Nobody listens there once this is over.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let kubeconfig = self.path("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "away", "users": [{"name": "agent", "user": {}}],
            "clusters": [{"name": "away", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "away", "context": {"cluster": "away", "user": "agent"}}],
        });
        fs::write(&kubeconfig, text.to_string())?;
        self.start_with(&self.path("kubelet"), ("--kubeconfig", &kubeconfig))
    }

    fn start_with(&self, kubelet: &Path, (source, file): (&str, &Path)) -> Result<Agent> {
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "unchanged"])
            .arg(programs::node_agent()?)
            .args([
                "--log",
                "info,node_agent=debug",
                "serve",
                "--node-name",
                "node1",
                "--gpu",
                "8.0:tesla",
            ])
            .args(["--http", &http.to_string()])
            .arg(source)
            .arg(file)
            .arg("--host-root")
            .arg(self.path("root"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--kubelet-dir")
            .arg(kubelet);
        Agent::start(command, self.socket(), self.path("agent.log"))
    }

    /// What kubelet makes before it asks for a volume: the folder of the pod, and the parent of the target.
    pub fn volume(&self, uid: &str) -> Result<Volume> {
        let parent = self.pods().join(uid).join("volumes/kubernetes.io~csi/cuda");
        fs::create_dir_all(&parent)?;
        use sha2::Digest;
        let hash = sha2::Sha256::digest(uid.as_bytes());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Volume {
            id: format!("csi-{hash}"),
            uid: uid.to_owned(),
            target: parent.join("mount"),
        })
    }

    /// What kubelet does when the volume is taken away: removes its folders, which must be empty.
    pub fn remove(&self, volume: &Volume) -> Result<()> {
        let mut folder = volume.target.as_path();
        while let Some(parent) = folder.parent().filter(|parent| *parent != self.pods()) {
            fs::remove_dir(parent).with_context(|| format!("cannot remove {}", parent.display()))?;
            folder = parent;
        }
        Ok(())
    }

    /// Everything mounted below kubelet's folder of pods.
    pub fn mounted(&self) -> Result<Vec<Mount>> {
        let mut all = mounts::read()?;
        all.retain(|mount| mount.at.starts_with(self.pods()));
        Ok(all)
    }

    /// What is mounted at the target of a volume, lowest first.
    pub fn mounted_at(&self, target: &Path) -> Result<Vec<Mount>> {
        let mut all = self.mounted()?;
        all.retain(|mount| mount.at == target);
        Ok(all)
    }

    /// The names of the volumes' records.
    pub fn records(&self) -> Result<Vec<String>> {
        names(&self.path("state/volumes"))
    }

    /// Waits for something that comes by itself, and fails where it does not within a minute.
    #[track_caller]
    pub fn until(&self, what: &str, so: impl Fn() -> bool) {
        for _ in 0..600 {
            if so() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        unreachable!("not within a minute: {what}");
    }

    /// That no mount, record or folder of a pod is left, nor, after a while, a staged file: the agent tests itself there.
    pub fn is_tidy(&self) -> Result<()> {
        let (mounts, records, pods) = (self.mounted()?, self.records()?, names(&self.pods())?);
        ensure!(
            mounts.is_empty() && records.is_empty() && pods.is_empty(),
            "left behind: {mounts:?}, records {records:?}, pods {pods:?}"
        );
        let staging = self.path("state/staging");
        self.until("nothing is staged", || {
            names(&staging).is_ok_and(|names| names.is_empty())
        });
        Ok(())
    }
}

impl Drop for Machine {
    /// A folder with something mounted on it would stay.
    fn drop(&mut self) {
        let here = self.folder.path();
        let all = mounts::read().unwrap_or_default();
        for mount in all.iter().rev().filter(|mount| mount.at.starts_with(here)) {
            let _ = unmount(&mount.at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

impl Volume {
    /// As kubelet asks for an inline volume of this pod that names an environment.
    pub fn publish(&self, environment: &str) -> NodePublishVolumeRequest {
        let context = [
            ("environment", environment),
            ("csi.storage.k8s.io/pod.namespace", NAMESPACE),
            ("csi.storage.k8s.io/pod.name", "train-0"),
            ("csi.storage.k8s.io/pod.uid", &self.uid),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: shown(&self.target),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(MountVolume::default())),
                access_mode: Some(AccessMode {
                    mode: Mode::SingleNodeWriter.into(),
                }),
            }),
            readonly: true,
            volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..NodePublishVolumeRequest::default()
        }
    }

    /// As kubelet takes it away.
    pub fn unpublish(&self) -> NodeUnpublishVolumeRequest {
        NodeUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: shown(&self.target),
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
