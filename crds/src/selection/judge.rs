//! One variant on one node: how it would run, or why it would not.
//! Never compares variants; that is ranking's.

use std::collections::BTreeSet;

use super::{
    code::{Coverage, PtxLimit, coverage},
    compat::{self, Host, Replacement},
    contents::{Contents, KnownContents},
    misfit::{Cause, Misfit, UserDriver},
    outcome::Mode,
    releases::{last_branch_for, oldest_branch_seen, oldest_driver},
};
use crate::domain::{
    code::GpuCode,
    cuda::{ComputeCapability, CudaVersion},
    driver::DriverVersion,
    environment::Variant,
    node::{DriverState, Gpu, NodeFacts},
    store_path::StorePath,
};

/// A variant that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) mode: Mode,
    /// Whether a GPU must wait for the driver to compile PTX.
    pub(super) jit: bool,
    pub(super) store_path: StorePath,
    pub(super) forward_compat: Option<StorePath>,
    pub(super) warnings: Vec<String>,
    pub(super) unknown: Vec<StorePath>,
}

/// How a variant runs on a node, or why it does not.
pub(super) fn judge(variant: &Variant, node: &NodeFacts, known: &KnownContents) -> Result<Fit, Misfit> {
    let (version, cuda) = usable_driver(&node.driver)?;
    let store_path = variant.store_paths.get(&node.system).ok_or_else(|| Cause::System {
        wanted: node.system,
        built_for: variant.store_paths.keys().copied().collect(),
    })?;
    if !variant.driver.contains(version) {
        return Err(Misfit::from(Cause::Range {
            declared: variant.driver.clone(),
            driver: version.clone(),
        }));
    }
    let mut warnings = Vec::new();
    let gpus = driven(&node.gpus, version, &mut warnings)?;
    let case = Case {
        variant,
        contents: known.get(store_path),
        host: Host {
            version,
            cuda,
            gpus: &gpus,
        },
    };
    let run = case.on_own_driver().or_else(|misfit| case.on_compat(misfit, known))?;
    warnings.extend(case.warnings(&run));
    Ok(Fit {
        mode: run.mode,
        jit: !run.jit.is_empty(),
        unknown: case.unknown(&run, store_path),
        store_path: store_path.clone(),
        forward_compat: run.replacement.map(|(path, _)| path),
        warnings,
    })
}

fn usable_driver(driver: &DriverState) -> Result<(&DriverVersion, CudaVersion), Misfit> {
    Err(Misfit::from(match driver {
        DriverState::Ready { version, cuda } => return Ok((version, *cuda)),
        DriverState::Missing => Cause::DriverMissing,
        DriverState::NotReady { why } => Cause::DriverNotReady { why: why.clone() },
        DriverState::Mismatch { kernel, library } => Cause::DriverMismatch {
            kernel: kernel.clone(),
            library: library.clone(),
        },
    }))
}

/// The GPUs that the driver drives: the others no pod can get. Where none is left, nothing can run.
fn driven(gpus: &[Gpu], driver: &DriverVersion, warnings: &mut Vec<String>) -> Result<Vec<Gpu>, Misfit> {
    let branch = driver.major();
    let dropped: BTreeSet<(ComputeCapability, u32)> = gpus
        .iter()
        .filter_map(|gpu| Some((gpu.compute_capability, last_branch_for(gpu.compute_capability)?)))
        .filter(|(_, last)| *last < branch)
        .collect();
    let is_dropped = |gpu: &Gpu| {
        dropped
            .iter()
            .any(|(capability, _)| *capability == gpu.compute_capability)
    };
    let left: Vec<Gpu> = gpus.iter().filter(|gpu| !is_dropped(gpu)).cloned().collect();
    if left.is_empty() && !gpus.is_empty() {
        return Err(Misfit::from(Cause::NotDriven {
            driver: driver.clone(),
            gpus: dropped.into_iter().collect(),
        }));
    }
    for (gpu, last) in dropped {
        warnings.push(format!(
            "driver {driver} no longer drives the node's GPU of compute capability {gpu} (the last branch that does is {last})"
        ));
    }
    for gpu in capabilities(&left) {
        if let Some(oldest) = oldest_branch_seen(gpu).filter(|oldest| branch < *oldest) {
            warnings.push(format!(
                "the oldest driver branch seen to drive compute capability {gpu} is {oldest}; the node has {driver}"
            ));
        }
    }
    Ok(left)
}

pub(super) fn capabilities(gpus: &[Gpu]) -> BTreeSet<ComputeCapability> {
    gpus.iter().map(|gpu| gpu.compute_capability).collect()
}

/// A variant on a node whose driver is usable.
pub(super) struct Case<'a> {
    pub(super) variant: &'a Variant,
    pub(super) contents: Option<&'a Contents>,
    pub(super) host: Host<'a>,
}

/// How it runs.
pub(super) struct Run {
    mode: Mode,
    /// The PTX that its user-mode driver compiles.
    pub(super) limit: PtxLimit,
    /// GPUs for which it carries PTX only.
    pub(super) jit: Vec<ComputeCapability>,
    /// In mode forward-compat: where the replacing driver libraries come from.
    pub(super) replacement: Option<(StorePath, Replacement)>,
}

impl Case<'_> {
    /// What the author declared, else what was found.
    pub(super) fn code(&self) -> Option<&GpuCode> {
        self.variant
            .code
            .as_ref()
            .or(self.contents.map(|contents| &contents.code))
    }

    fn on_own_driver(&self) -> Result<Run, Misfit> {
        let driver = UserDriver {
            version: Some(self.host.version.clone()),
            cuda: self.host.cuda,
            compat: false,
        };
        let mode = start(self.variant.cuda, &driver)?;
        let (limit, jit) = self.cover(&driver)?;
        Ok(Run {
            mode,
            limit,
            jit,
            replacement: None,
        })
    }

    /// With the variant's forward compatibility, where its misfit is one that this can cure.
    fn on_compat(&self, misfit: Misfit, known: &KnownContents) -> Result<Run, Misfit> {
        let Some(compat) = self.variant.forward_compat.as_ref().filter(|_| misfit.may_be_lifted()) else {
            return Err(misfit);
        };
        let read = known.get(&compat.store_path);
        let replacement = match compat::replace(compat, read, &self.host, runtime_gate(self.variant.cuda)) {
            Ok(replacement) => replacement,
            Err(refusal) => {
                let unread = read.map_or(&[][..], |contents| &contents.unreadable);
                return Err(Misfit {
                    compat: Some(Box::new(refusal)),
                    unread: [&misfit.unread, unread].concat(),
                    ..misfit
                });
            }
        };
        let driver = UserDriver {
            version: replacement.version.clone(),
            cuda: replacement.cuda,
            compat: true,
        };
        start(self.variant.cuda, &driver)?;
        let (limit, jit) = self.cover(&driver)?;
        Ok(Run {
            mode: Mode::ForwardCompat,
            limit,
            jit,
            replacement: Some((compat.store_path.clone(), replacement)),
        })
    }

    /// Whether every GPU finds code, and which of them only PTX.
    fn cover(&self, driver: &UserDriver) -> Result<(PtxLimit, Vec<ComputeCapability>), Misfit> {
        let limit = PtxLimit::new(driver.cuda, self.variant.cuda);
        let Some(code) = self.code().filter(|code| !code.is_empty()) else {
            return Ok((limit, Vec::new()));
        };
        let gpus: Vec<ComputeCapability> = capabilities(self.host.gpus).into_iter().collect();
        let (mut jit, mut too_new, mut uncovered) = (Vec::new(), Vec::new(), Vec::new());
        for gpu in &gpus {
            match coverage(code, *gpu, limit) {
                Coverage::Sass => {}
                Coverage::Jit => jit.push(*gpu),
                Coverage::PtxTooNew(isa) => too_new.push((*gpu, isa)),
                Coverage::Nothing => uncovered.push(*gpu),
            }
        }
        let cause = if !uncovered.is_empty() {
            let code = code.clone();
            Cause::Code { gpus, uncovered, code }
        } else if !too_new.is_empty() {
            Cause::Ptx {
                too_new,
                limit: limit.isa,
                driver: driver.clone(),
            }
        } else {
            return Ok((limit, jit));
        };
        Err(Misfit {
            unread: self.unread().to_vec(),
            ..Misfit::from(cause)
        })
    }

    /// The files that could not be read, where it was files that decided.
    fn unread(&self) -> &[String] {
        let found = self.contents.filter(|_| self.variant.code.is_none());
        found.map_or(&[], |contents| &contents.unreadable)
    }

    /// Store paths that must be read before the answer is certain.
    fn unknown(&self, run: &Run, store_path: &StorePath) -> Vec<StorePath> {
        let code = (self.code().is_none() && !self.host.gpus.is_empty()).then(|| store_path.clone());
        let library = run.replacement.as_ref().filter(|(_, library)| !library.read);
        code.into_iter().chain(library.map(|(path, _)| path.clone())).collect()
    }
}

/// The lowest CUDA release of a driver that a runtime starts on. Measured: 475 of 475 pairs of real libraries agree.
fn runtime_gate(runtime: CudaVersion) -> CudaVersion {
    if runtime.major() >= 11 {
        CudaVersion::new(runtime.major(), 0)
    } else {
        runtime
    }
}

/// Whether a runtime starts on a driver: its own gate, then the driver from which NVIDIA documents the mode.
fn start(runtime: CudaVersion, driver: &UserDriver) -> Result<Mode, Misfit> {
    let gate = runtime_gate(runtime);
    if driver.cuda < gate {
        return Err(Misfit::from(Cause::Runtime {
            variant: runtime,
            gate,
            driver: driver.clone(),
        }));
    }
    if driver.cuda >= runtime {
        return Ok(Mode::Native);
    }
    let below = |floor: &DriverVersion| driver.version.as_ref().is_some_and(|version| version < floor);
    match oldest_driver(runtime).filter(below) {
        Some(floor) => Err(Misfit::from(Cause::Floor {
            variant: runtime,
            floor,
            driver: driver.clone(),
        })),
        None => Ok(Mode::MinorVersionCompat),
    }
}
