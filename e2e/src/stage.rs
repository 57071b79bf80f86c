//! A stage: one work folder with store paths of real runtimes, a signed cache of them served over HTTP, and nodes.
//! It must never share state between stages, nor leave anything behind when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::closure::{self, Closure};
use crate::device_files::DeviceFiles;
use crate::layout::Layout;
use crate::parts::{Driver, Toolkit};
use crate::real_nix::RealNix;
use crate::server::Server;
use crate::{documents, node, our_writer, programs};

/// Everything that a run of the node agent needs, made of real parts. Dropping it stops the server and removes it all.
#[derive(Debug)]
pub struct Stage {
    /// Serves the cache.
    pub server: Server,
    /// What the cache is signed with, `name:base64`.
    pub public_key: String,
    /// Who packed and signed the cache: real Nix with its version, or our own writer.
    pub packed_by: String,
    /// The store paths, as they were before anything packed them.
    pub layout: Layout,
    /// One closure for each runtime, in the order asked for.
    pub closures: Vec<Closure>,
    work: TempDir,
    /// What runs on a stage are real CUDA runtimes: the device files that they leave in `/dev` go with it.
    _devices: DeviceFiles,
}

impl Stage {
    /// Lays out the closures of the runtimes, lets `more` add store paths, and has real Nix publish all of it.
    pub fn new(toolkits: &[Toolkit], more: impl FnOnce(&mut Layout, &[Closure]) -> Result<()>) -> Result<Self> {
        let devices = DeviceFiles::watch();
        let work = tempfile::Builder::new().prefix("cudaenv-stage-").tempdir()?;
        let mut layout = Layout::new(&work.path().join("laid-out"))?;
        let closures: Vec<_> = toolkits
            .iter()
            .map(|toolkit| closure::add(&mut layout, toolkit))
            .collect::<Result<_>>()?;
        more(&mut layout, &closures)?;
        let cache = work.path().join("cache");
        let (packed_by, public_key) = publish(&layout, &cache)?;
        let server = Server::start(&cache)?;
        documents::write(
            &work.path().join("caches.yaml"),
            &[documents::cache("stage", &server.url(), &[&public_key])],
        )?;
        Ok(Self {
            server,
            public_key,
            packed_by,
            layout,
            closures,
            work,
            _devices: devices,
        })
    }

    /// The work folder.
    pub fn folder(&self) -> &Path {
        self.work.path()
    }

    /// The folder that the server serves.
    pub fn cache(&self) -> PathBuf {
        self.folder().join("cache")
    }

    /// The file with the one `CUDABinaryCache`.
    pub fn caches_file(&self) -> PathBuf {
        self.folder().join("caches.yaml")
    }

    /// The closure whose runtime has this `major.minor`.
    pub fn closure(&self, cuda: &str) -> Result<&Closure> {
        self.closures
            .iter()
            .find(|c| c.toolkit.cuda == cuda)
            .with_context(|| format!("no runtime {cuda} on this stage"))
    }

    /// Lays out a node with that driver, once.
    pub fn node(&self, driver: &Driver) -> Result<PathBuf> {
        let folder = self.folder().join("nodes").join(&driver.version);
        if folder.is_dir() {
            Ok(folder)
        } else {
            node::lay_out(driver, &folder)
        }
    }

    /// Writes an environment file.
    pub fn environment(&self, name: &str, packages: &[Value]) -> Result<PathBuf> {
        let file = self.folder().join(format!("{name}.yaml"));
        documents::write(&file, &[documents::environment(name, packages)])?;
        Ok(file)
    }

    /// A node store of that name; it need not exist yet.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder().join("state").join(name)
    }

    /// `node-agent run` of the environment on the node, up to and including `--`; the program is still to be added.
    pub fn run(&self, environment: &Path, node: &Path, state: &Path) -> Result<Command> {
        fs::create_dir_all(state)?;
        let mut run = Command::new(programs::node_agent()?);
        run.arg("run")
            .arg("--environment")
            .arg(environment)
            .arg("--caches")
            .arg(self.caches_file());
        run.arg("--driver-root").arg(node).arg("--state").arg(state).args([
            "--output",
            "json",
            "--gpu",
            "8.0:tesla",
            "--",
        ]);
        run.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
        Ok(run)
    }
}

/// Publishes the layout, signed with the key `stage-1`: who did it, and the public key.
fn publish(layout: &Layout, cache: &Path) -> Result<(String, String)> {
    let Ok(nix) = RealNix::find() else {
        our_writer::publish(layout, &our_writer::key("stage-1")?, "zstd", cache)?;
        return Ok((
            "our own writer (no real Nix here)".to_owned(),
            our_writer::public_key("stage-1")?,
        ));
    };
    let key = nix.key("stage-1")?;
    nix.register(layout)?;
    nix.publish(layout, &key, "zstd", cache)?;
    Ok((nix.version()?, key.public))
}
