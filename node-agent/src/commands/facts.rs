//! Gathers the facts of the node for the commands that need them: what is seen, overridden by what is said.

use std::path::Path;

use crds::domain::{
    node::{DriverState, Gpu, NodeFacts},
    store_path::System,
};

use super::inputs::{self, InputError};
use crate::{
    args::{KernelModule, NodeArgs},
    observe::{
        driver::{self, KernelSource},
        gpus::{self, Facts},
    },
    report::failure::{Failure, Reason, chain},
    snapshot::{
        driver::{Detection, DriverFiles},
        node::{GpuSource, Node},
    },
};

fn bad_request(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(Reason::BadRequest, 2, error)
}

/// What the command line says about the kernel module, for [`observe`].
pub(super) fn kernel_source(said: &KernelModule) -> KernelSource {
    match said {
        KernelModule::Observe => KernelSource::Observe,
        KernelModule::Assume => KernelSource::AssumeLibrary,
        KernelModule::Given(version) => KernelSource::Given(version.clone()),
    }
}

/// Observes the node whose files lie below `root`.
pub(super) fn observe(root: &Path, node: &NodeArgs, kernel: KernelSource) -> Result<Node, Failure> {
    let said = said(node)?;
    // A driver that was stated stands for the running kernel's module, where nothing else was said of it.
    let kernel = match (kernel, said.as_ref().and_then(|facts| facts.driver.as_ref())) {
        (KernelSource::Observe, Some(stated)) => KernelSource::Given(stated.version.clone()),
        (kernel, _) => kernel,
    };
    let options = driver::Options {
        kernel_version: kernel,
        ..driver::Options::default()
    };
    let mut detection = driver::detect(root, &options).map_err(bad_request)?;
    let stated_cuda = said.as_ref().and_then(|facts| facts.driver.as_ref()?.cuda);
    if let (DriverState::Ready { cuda, .. }, Some(stated)) = (&mut detection.state, stated_cuda) {
        *cuda = stated;
    }
    let (gpus, gpu_source) = gpus_of(root, node, said, &mut detection)?;
    let facts = NodeFacts {
        driver: detection.state.clone(),
        gpus,
        system: System::of_this_build(),
    };
    Ok(Node {
        facts,
        detection,
        gpu_source,
        searched: root.to_owned(),
    })
}

/// What the facts file says, if there is one.
fn said(node: &NodeArgs) -> Result<Option<Facts>, Failure> {
    let Some(path) = &node.facts else { return Ok(None) };
    let text = inputs::read(path)?;
    let facts = gpus::parse_facts(&text).map_err(|source| InputError::Facts {
        path: path.clone(),
        source,
    })?;
    Ok(Some(facts))
}

fn gpus_of(
    root: &Path,
    node: &NodeArgs,
    said: Option<Facts>,
    detection: &mut Detection,
) -> Result<(Vec<Gpu>, GpuSource), Failure> {
    if !node.gpus.is_empty() {
        let given = node
            .gpus
            .iter()
            .map(|text| gpus::parse_gpu(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(bad_request)?;
        return Ok((gpus::group(given), GpuSource::CommandLine));
    }
    if let Some(facts) = said {
        return Ok((gpus::group(facts.gpus), GpuSource::FactsFile));
    }
    let library = detection.driver.as_ref().and_then(|driver| nvml(root, driver));
    let (Some(module), Some(library)) = (&detection.kernel, library) else {
        return Ok((Vec::new(), GpuSource::Unknown));
    };
    match gpus::observe(&library, module) {
        Ok(observed) => {
            detection.warnings.extend(observed.faults);
            Ok((observed.gpus, GpuSource::Nvml))
        }
        Err(fault) => {
            detection
                .warnings
                .push(format!("the GPUs are not known: {}", chain(&fault)));
            Ok((Vec::new(), GpuSource::Unknown))
        }
    }
}

/// The driver's own NVML, by the path of its file.
fn nvml(root: &Path, driver: &DriverFiles) -> Option<std::path::PathBuf> {
    let library = driver
        .files
        .iter()
        .find(|file| file.soname.as_deref() == Some("libnvidia-ml.so.1"))?;
    let below = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
    Some(root.join(below(&driver.root)).join(below(&library.path)))
}
