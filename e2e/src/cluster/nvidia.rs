//! NVIDIA's own programs on a node: device plugin, GPU Feature Discovery, and the container toolkit, whose runtime starts the pods.
//! It must never help our agent to live with them, nor them with our agent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, built};
use crate::programs::{Ended, compile, ended, finished, source_folder};
use crate::skip;

/// What a pod asks for.
pub const GPU: &str = "nvidia.com/gpu";
/// The class of pods whose containers NVIDIA's runtime starts; where the toolkit is installed it starts all others too.
pub const CLASS: &str = "nvidia";
/// How many pods share the one device that there is.
const REPLICAS: u32 = 4;

/// NVIDIA's programs, built on the first call.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Nothing, and `check` on the record of skipped checks, where this machine cannot build them.
    pub fn find(check: &str) -> Result<Option<Self>> {
        if skip::without(check, skip::root()).is_none() {
            return Ok(None); // no node to run them on
        }
        let folder = built(check, Command::new(source_folder().join("e2e/cluster/nvidia.sh")))?;
        Ok(folder.map(|folder| Self { folder }))
    }
}

/// How the device plugin looks for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As it is deployed: it asks the driver, and waits where that cannot be had.
    Driver,
    /// As on a Tegra: it asks nobody and offers one device, here to several pods.
    Tegra,
}

/// A device plugin that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Plugin {
    process: Child,
    log: PathBuf,
}

impl Plugin {
    /// What it has said so far.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Cluster {
    /// Installs the container toolkit on a node whose driver lies below that folder, with its runtime as the default; the node starts anew
    /// with it, in the mode `cdi`.
    pub fn install_toolkit(&self, node: &str, programs: &Programs, driver_root: &str) -> Result<()> {
        let config = self.folder.join(node).join("containerd.toml");
        let config = config.to_str().context("a temporary name that is not UTF-8")?;
        self.toolkit(node, "install", programs, &[config, driver_root])?;
        self.power_off(node)?;
        self.start_kubelet(node)?;
        let class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": CLASS }, "handler": CLASS,
        });
        let taken = self.kubectl_with(&["apply"], &class)?;
        ensure!(taken.code == 0, "{taken:?}");
        Ok(())
    }

    /// How containers get their devices from now on: `cdi` or `legacy`.
    pub fn set_toolkit_mode(&self, node: &str, programs: &Programs, mode: &str) -> Result<()> {
        self.toolkit(node, "mode", programs, &[mode])
    }

    fn toolkit(&self, node: &str, word: &str, programs: &Programs, arguments: &[&str]) -> Result<()> {
        let mut script = self.on(node, source_folder().join("e2e/cluster/toolkit.sh"))?;
        finished(script.arg(word).arg(&programs.folder).args(arguments))?;
        Ok(())
    }

    /// The CDI specification that the toolkit made of a node's driver and devices.
    pub fn specification(&self, node: &str) -> Result<Value> {
        let text = finished(self.on(node, "cat")?.arg("/var/run/cdi/nvidia.yaml"))?;
        serde_saphyr::from_str(&text).context("the specification is no YAML")
    }

    /// Runs GPU Feature Discovery once, with NVML in its library path: the labels that it leaves for the node.
    pub fn discover(&self, node: &str, programs: &Programs, libraries: &str) -> Result<(Ended, String)> {
        let file = "/run/gpu-feature-discovery";
        let mut discovery = self.on(node, "env")?;
        discovery
            .arg(format!("LD_LIBRARY_PATH={libraries}"))
            .arg(programs.folder.join("gpu-feature-discovery"))
            .args([
                "--oneshot",
                "--fail-on-init-error=false",
                "--use-node-feature-api=false",
            ])
            .args(["--device-discovery-strategy=nvml", &format!("--output-file={file}")]);
        let done = ended(&mut discovery)?;
        let labels = finished(self.on(node, "cat")?.arg(file))?;
        Ok((done, labels))
    }

    /// Starts the device plugin on a node, with NVML in its library path.
    pub fn start_nvidia_plugin(
        &self,
        node: &str,
        programs: &Programs,
        strategy: Strategy,
        libraries: &str,
    ) -> Result<Plugin> {
        let log = self.folder.join(format!("log/{node}-device-plugin-{strategy:?}.log"));
        // It goes with whoever started it.
        let mut start = self.on(node, "setpriv")?;
        start
            .args(["--pdeathsig", "KILL", "env"])
            .arg(format!("LD_LIBRARY_PATH={libraries}"))
            .arg(programs.folder.join("nvidia-device-plugin"))
            .arg("--config-file")
            .arg(self.plugin_config(strategy)?);
        let process = start.stdin(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        Ok(Plugin { process, log })
    }

    fn plugin_config(&self, strategy: Strategy) -> Result<PathBuf> {
        let mut config = json!({ "version": "v1", "flags": { "failOnInitError": false } });
        if strategy == Strategy::Tegra {
            config["flags"]["deviceDiscoveryStrategy"] = "tegra".into();
            config["flags"]["plugin"]["deviceIDStrategy"] = "index".into();
            // Each is on unless said otherwise, and in the legacy mode NVIDIA's runtime then takes the device away again.
            for feature in ["gdrcopyEnabled", "gdsEnabled", "mofedEnabled"] {
                config["flags"][feature] = false.into();
            }
            config["sharing"]["timeSlicing"]["resources"] = json!([{ "name": GPU, "replicas": REPLICAS }]);
        }
        let file = self.folder.join("nvidia-device-plugin.json");
        fs::write(&file, config.to_string()).with_context(|| file.display().to_string())?;
        Ok(file)
    }

    /// How many of NVIDIA's devices kubelet can give to pods of a node.
    pub fn devices(&self, node: &str) -> Result<String> {
        self.printed(&[
            "get",
            "node",
            node,
            "-o",
            "jsonpath={.status.allocatable.nvidia\\.com/gpu}",
        ])
    }
}

/// A folder that holds what an image with CUDA of its own has: the program `bin/mapped` and the runtime `lib/<soname>`.
pub fn application(folder: &Path, runtime: &Path, soname: &str) -> Result<()> {
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("lib"))?;
    fs::copy(runtime, folder.join("lib").join(soname))?;
    let flags = [
        "-Wl,-rpath,$ORIGIN/../lib".to_owned(),
        format!("-DRUNTIME=\"{soname}\""),
    ];
    compile("mapped", &folder.join("bin/mapped"), &flags)
}
