//! A neighbour on a node: a real device plugin whose devices containerd makes by CDI, as a container toolkit has it.
//! It must never be more than a neighbour: what it gives a pod has nothing to do with what the agent gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use serde_json::json;

use super::Cluster;
use crate::programs::finished;

/// What a pod asks for.
pub const RESOURCE: &str = "example.com/resource";
/// Device file and library of the neighbour in a pod.
pub const DEVICE: &str = "/dev/neighbours-gpu";
/// Where a container toolkit shows the driver's library.
pub const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libcuda.so.1";
/// Where the plugin and containerd look for what its devices are.
const SPECIFICATION: &str = "/var/run/cdi/example.com.json";
/// Files that the plugin makes for its devices.
const FILES: [&str; 2] = ["/tmp/Dev-1", "/tmp/Dev-2"];

/// A device plugin that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct DevicePlugin {
    process: Child,
}

impl Cluster {
    /// Starts the plugin on a node, and waits until kubelet has its devices. Each is a device file and the library of that path there.
    pub fn start_device_plugin(&self, node: &str, program: &Path, libcuda: &Path) -> Result<DevicePlugin> {
        finished(self.on(node, "mkdir")?.args(["-p", "/run/cdi"]))?;
        let log = fs::File::create(self.folder.join("log/device-plugin.log"))?;
        // It goes with whoever started it.
        let mut start = self.on(node, "setpriv")?;
        start.args(["--pdeathsig", "KILL"]).arg(program).env("CDI_ENABLED", "1");
        let process = start.stdin(Stdio::null()).stderr(log).spawn()?;
        let plugin = DevicePlugin { process };
        let allocatable = [
            "get",
            "node",
            node,
            "-o",
            "jsonpath={.status.allocatable.example\\.com/resource}",
        ];
        self.until("kubelet has the plugin's devices", || {
            Ok(self.printed(&allocatable)? == "2")
        })?;
        let file = self.written(&specification(libcuda)?)?;
        finished(self.on(node, "cp")?.arg(&file).arg(SPECIFICATION))?;
        Ok(plugin)
    }

    fn written(&self, text: &str) -> Result<PathBuf> {
        let file = self.folder.join("cdi.json");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        Ok(file)
    }
}

/// As `nvidia-ctk cdi generate` writes it, of a device that does nothing.
fn specification(libcuda: &Path) -> Result<String> {
    let devices = ["CDI-Dev-1", "CDI-Dev-2"].map(|name| {
        json!({ "name": name, "containerEdits": {
            "env": [format!("NEIGHBOUR={name}")],
            "deviceNodes": [{ "path": DEVICE, "hostPath": "/dev/null" }],
            "mounts": [{ "hostPath": libcuda, "containerPath": LIBRARY, "options": ["ro", "nosuid", "nodev", "bind"] }],
        } })
    });
    let specification = json!({ "cdiVersion": "0.5.0", "kind": RESOURCE, "devices": devices });
    Ok(serde_json::to_string(&specification)?)
}

impl Drop for DevicePlugin {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
        for file in FILES {
            let _absent = fs::remove_file(file);
        }
    }
}
