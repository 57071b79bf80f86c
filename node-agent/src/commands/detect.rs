//! `detect`: which driver and GPUs this machine has, where they were found, and what was looked at.

use std::fmt::Write as _;

use crds::domain::node::{DriverState, Gpu};
use serde::Serialize;

use super::{answer, facts};
use crate::{
    args::{DetectArgs, Output},
    report::failure::Failure,
    snapshot::{
        driver::{DriverFiles, Found, KernelModule, Place},
        node::{GpuSource, Node},
    },
};

/// The answer for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(flatten)]
    state: State,
    kernel_module: Option<KernelModule>,
    driver: Option<DriverFiles>,
    gpus: Vec<Gpu>,
    gpu_source: GpuSource,
    system: &'static str,
    places: Vec<Place>,
    warnings: Vec<String>,
}

/// `state` and what belongs to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
enum State {
    Missing,
    NotReady { why: String },
    Mismatch { kernel: String, library: String },
    Ready { version: String, cuda: String },
}

pub(super) fn run(args: &DetectArgs, output: Output) -> Result<u8, Failure> {
    let node = facts::observe(&args.root, &args.node, facts::kernel_source(&args.node.kernel_module))?;
    answer(output, &describe(node), text)?;
    Ok(0)
}

fn describe(node: Node) -> Answer {
    let Node {
        facts,
        detection,
        gpu_source,
        searched: _,
    } = node;
    let state = match facts.driver {
        DriverState::Missing => State::Missing,
        DriverState::NotReady { why } => State::NotReady { why },
        DriverState::Mismatch { kernel, library } => State::Mismatch {
            kernel: kernel.to_string(),
            library: library.to_string(),
        },
        DriverState::Ready { version, cuda } => State::Ready {
            version: version.to_string(),
            cuda: cuda.to_string(),
        },
    };
    Answer {
        state,
        kernel_module: detection.kernel,
        driver: detection.driver,
        gpus: facts.gpus,
        gpu_source,
        system: facts.system.as_str(),
        places: detection.places,
        warnings: detection.warnings,
    }
}

fn text(answer: &Answer) -> String {
    let mut text = match &answer.state {
        State::Missing => "no NVIDIA driver\n".to_owned(),
        State::NotReady { why } => format!("driver not ready: {why}\n"),
        State::Mismatch { kernel, library } => {
            format!(
                "kernel module {kernel}, libraries {library}: reboot or reload the module, every CUDA call would end in error 803\n"
            )
        }
        State::Ready { version, cuda } => format!("driver {version}, CUDA {cuda}\n"),
    };
    if let Some(driver) = &answer.driver {
        let _ = writeln!(
            text,
            "libraries in {} of {} ({})",
            driver.directory.display(),
            driver.root.display(),
            driver.environment
        );
    }
    match &answer.gpus[..] {
        [] => text.push_str("GPUs not known\n"),
        gpus => text.extend(gpus.iter().map(gpu_line)),
    }
    text.extend(answer.warnings.iter().map(|warning| format!("warning: {warning}\n")));
    text.push_str("looked at:\n");
    for place in answer.places.iter().filter(|place| place.found != Found::Absent) {
        let _ = writeln!(
            text,
            "  {} below {}: {}",
            place.directory.display(),
            place.root.display(),
            found(&place.found)
        );
    }
    let absent = answer
        .places
        .iter()
        .filter(|place| place.found == Found::Absent)
        .count();
    let _ = writeln!(text, "  {absent} more folders that do not exist");
    text
}

fn gpu_line(gpu: &Gpu) -> String {
    let brand = gpu.brand.map_or("brand not known", |brand| brand.name());
    let model = gpu.model.as_deref().unwrap_or("GPU");
    format!(
        "{} × {model}, compute capability {}, {brand}\n",
        gpu.count, gpu.compute_capability
    )
}

fn found(found: &Found) -> String {
    match found {
        Found::Absent => "does not exist".to_owned(),
        Found::Nothing => "no libcuda".to_owned(),
        Found::Stub { file } => format!("{file}, a stub for linking"),
        Found::Library {
            file,
            version: Some(version),
        } => format!("{}, version {version}", file.display()),
        Found::Library { file, version: None } => format!("{}, which names no version", file.display()),
        Found::Unreadable { why } => format!("cannot be read: {why}"),
    }
}
