//! The agent as a process, and calls over its socket.
//! It must never outlive its owner, nor speak to another socket than the one that it was given.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use node_agent::csi::messages::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, ProbeRequest, identity_client::IdentityClient,
    node_client::NodeClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// The agent as a process with a mount namespace of its own; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// A client of the agent's socket.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Agent {
    /// Starts it and waits until it answers at `socket`.
    pub(super) fn start(mut command: Command, socket: PathBuf, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        let process = command.stdin(Stdio::null()).stderr(file).spawn()?;
        let mut agent = Self { process, socket, log };
        for _ in 0..600 {
            if agent.answers()? {
                return Ok(agent);
            }
            let ended = agent.process.try_wait()?;
            ensure!(ended.is_none(), "the agent ended\n{}", agent.log_text());
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the agent does not answer\n{}", agent.log_text())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it wrote to its log, and those before it on this node.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A client of its socket.
    pub fn client(&self) -> Result<Client> {
        Client::at(&self.socket)
    }

    /// Whether it ended by itself, given ten seconds.
    pub fn is_gone(&mut self) -> Result<bool> {
        for _ in 0..200 {
            if self.process.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(false)
    }

    /// Ends it without a chance to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Ends it as kubelet does.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process id")?, Signal::TERM)?;
        let status = self.process.wait()?;
        ensure!(status.signal().is_none(), "{status}\n{}", self.log_text());
        Ok(status)
    }

    fn answers(&self) -> Result<bool> {
        // The socket of an agent that was killed answers nobody.
        Ok(self.client()?.probe().is_ok())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = self.log_text();
            let lines: Vec<_> = log.lines().rev().take(40).collect();
            tell(&lines.join("\n"));
        }
    }
}

#[expect(clippy::print_stdout, reason = "a failing test says what the agent said")]
fn tell(log: &str) {
    println!("the agent's log, newest first:\n{log}");
}

impl Client {
    /// A client of the socket of any agent.
    pub fn at(socket: &Path) -> Result<Self> {
        let runtime = runtime()?;
        let inside = runtime.enter();
        let channel = channel(socket)?;
        drop(inside);
        Ok(Self { runtime, channel })
    }

    /// `Probe`: whether it is ready, where it says so.
    pub fn probe(&self) -> Result<Option<bool>, Status> {
        let mut identity = IdentityClient::new(self.channel.clone());
        let answer = self.wait(identity.probe(ProbeRequest {}))?.into_inner();
        Ok(answer.ready.map(|ready| ready.value))
    }

    /// The Node service, for calls at the same time.
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    /// The connection, for calls of any kind.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for calls.
    pub fn wait<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }

    /// `NodePublishVolume`.
    pub fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.wait(self.node().node_publish_volume(request)).map(drop)
    }

    /// `NodeUnpublishVolume`.
    pub fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), Status> {
        self.wait(self.node().node_unpublish_volume(request)).map(drop)
    }
}

/// One thread of its own, which is in the mount namespace of ours.
pub(super) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// Connects when it is used. Made within a runtime, whose task it is.
pub(super) fn channel(socket: &Path) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect_lazy())
}
