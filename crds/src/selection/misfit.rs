//! Why a variant does not fit, with the numbers, as data; and the sentence a person reads.
//! Never decides.

use std::fmt::{self, Write as _};

use super::{
    compat::CompatRefusal,
    outcome::Reason,
    releases::{first_cuda_with_ptx, is_known_capability, oldest_driver},
};
use crate::domain::{
    code::GpuCode,
    cuda::{ComputeCapability, CudaVersion, PtxIsa},
    driver::DriverVersion,
    environment::DriverRange,
    store_path::System,
};

/// At most this many files are named; the rest is counted.
pub(super) const FILES_NAMED: usize = 8;

/// A variant's misfit, and what came of its forward compatibility where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) cause: Box<Cause>,
    pub(super) compat: Option<Box<CompatRefusal>>,
    /// Files that it was judged without, as they could not be read.
    pub(super) unread: Vec<String>,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    DriverMissing,
    DriverNotReady {
        why: String,
    },
    DriverMismatch {
        kernel: DriverVersion,
        library: DriverVersion,
    },
    System {
        wanted: System,
        built_for: Vec<System>,
    },
    Range {
        declared: DriverRange,
        driver: DriverVersion,
    },
    /// The runtime's own gate: `gate` is the lowest CUDA release of a driver that it accepts.
    Runtime {
        variant: CudaVersion,
        gate: CudaVersion,
        driver: UserDriver,
    },
    /// The gate lets it pass, NVIDIA's documents do not.
    Floor {
        variant: CudaVersion,
        floor: DriverVersion,
        driver: UserDriver,
    },
    NotDriven {
        driver: DriverVersion,
        gpus: Vec<(ComputeCapability, u32)>,
    },
    Code {
        gpus: Vec<ComputeCapability>,
        uncovered: Vec<ComputeCapability>,
        code: GpuCode,
    },
    Ptx {
        too_new: Vec<(ComputeCapability, PtxIsa)>,
        limit: Option<PtxIsa>,
        driver: UserDriver,
    },
}

/// The user-mode driver that a variant would run on: the node's, or a compat library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserDriver {
    pub(super) version: Option<DriverVersion>,
    pub(super) cuda: CudaVersion,
    pub(super) compat: bool,
}

impl fmt::Display for UserDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.compat { "the compat library" } else { "driver" };
        match &self.version {
            Some(version) => write!(f, "{what} {version} (CUDA {})", self.cuda),
            None => write!(f, "{what} (CUDA {})", self.cuda),
        }
    }
}

impl From<Cause> for Misfit {
    fn from(cause: Cause) -> Self {
        Self {
            cause: Box::new(cause),
            compat: None,
            unread: Vec::new(),
        }
    }
}

impl Misfit {
    /// Whether newer user-mode libraries could cure it.
    pub(super) fn may_be_lifted(&self) -> bool {
        matches!(self.reason(), Reason::DriverTooOld | Reason::PtxTooNew)
    }

    pub(super) fn reason(&self) -> Reason {
        match *self.cause {
            Cause::DriverMissing | Cause::DriverNotReady { .. } => Reason::DriverMissing,
            Cause::DriverMismatch { .. } => Reason::DriverMismatch,
            Cause::System { .. } => Reason::NoVariantForSystem,
            Cause::Range { .. } => Reason::OutsideDeclaredRange,
            Cause::Runtime { .. } | Cause::Floor { .. } => Reason::DriverTooOld,
            Cause::NotDriven { .. } | Cause::Code { .. } => Reason::NoCodeForGpu,
            Cause::Ptx { .. } => Reason::PtxTooNew,
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if let Some(refusal) = &self.compat {
            write!(f, "; its forward compatibility does not help: {refusal}")?;
        }
        if self.unread.is_empty() {
            return Ok(());
        }
        write!(
            f,
            "; judged without {}, which could not be read: declare `code` for the variant if it has more than was found",
            some_of(&self.unread)
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DriverMissing => {
                f.write_str("the node has no NVIDIA driver; install one, or run on a node that has one")
            }
            Self::DriverNotReady { why } => write!(f, "the node's driver is not ready: {why}"),
            Self::DriverMismatch { kernel, library } => write!(
                f,
                "the kernel module is {kernel} but libcuda is {library}, so every CUDA call would fail with error 803; \
                 reload the module or reboot the node"
            ),
            Self::System { wanted, built_for } => {
                write!(f, "built for {}, and the node is {wanted}", join(built_for))
            }
            Self::Range { declared, driver } => write_range(f, declared, driver),
            Self::Runtime { variant, gate, driver } => write_runtime(f, *variant, *gate, driver),
            Self::Floor { variant, floor, driver } => write!(
                f,
                "CUDA {variant} on {driver} would rely on minor version compatibility, which NVIDIA documents from driver \
                 {floor} on; needs driver {floor} or newer"
            ),
            Self::NotDriven { driver, gpus } => {
                write!(f, "driver {driver} drives none of the node's GPUs: ")?;
                let texts: Vec<String> = gpus
                    .iter()
                    .map(|(gpu, last)| format!("the last branch for compute capability {gpu} is {last}"))
                    .collect();
                f.write_str(&texts.join(", "))
            }
            Self::Code { gpus, uncovered, code } => write_code(f, gpus, uncovered, code),
            Self::Ptx { too_new, limit, driver } => write_ptx(f, too_new, *limit, driver),
        }
    }
}

fn write_range(f: &mut fmt::Formatter<'_>, declared: &DriverRange, driver: &DriverVersion) -> fmt::Result {
    let range = match (&declared.min, &declared.max) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("{min} or newer"),
        (None, Some(max)) => format!("{max} or older"),
        (None, None) => "any".to_owned(),
    };
    write!(
        f,
        "the author declared it for driver {range}, and the node has {driver}"
    )
}

fn write_runtime(
    f: &mut fmt::Formatter<'_>,
    variant: CudaVersion,
    gate: CudaVersion,
    driver: &UserDriver,
) -> fmt::Result {
    write!(f, "CUDA {variant} does not start on {driver} (error 35); needs ")?;
    match oldest_driver(variant) {
        Some(oldest) => write!(f, "driver {oldest} or newer"),
        None => write!(f, "a driver of CUDA {gate} or newer"),
    }
}

fn write_code(
    f: &mut fmt::Formatter<'_>,
    gpus: &[ComputeCapability],
    uncovered: &[ComputeCapability],
    code: &GpuCode,
) -> fmt::Result {
    write!(
        f,
        "carries no code for compute capability {} (error 209): it has {}",
        join(uncovered),
        describe(code)
    )?;
    let strange: Vec<_> = uncovered.iter().filter(|gpu| !is_known_capability(**gpu)).collect();
    if !strange.is_empty() {
        return write!(f, "; compute capability {} is not known to this version", join(strange));
    }
    if gpus.len() > uncovered.len() {
        write!(
            f,
            "; a pod may get any GPU of the node ({}), so all must be covered",
            join(gpus)
        )?;
    }
    let sm: Vec<String> = uncovered.iter().map(|gpu| format!("sm_{}", gpu.to_sm())).collect();
    let lowest = uncovered.iter().min().map(|gpu| gpu.to_sm()).unwrap_or_default();
    write!(
        f,
        "; rebuild with {} or with PTX of compute_{lowest} or lower",
        sm.join(" and ")
    )
}

fn write_ptx(
    f: &mut fmt::Formatter<'_>,
    too_new: &[(ComputeCapability, PtxIsa)],
    limit: Option<PtxIsa>,
    driver: &UserDriver,
) -> fmt::Result {
    let gpus: Vec<ComputeCapability> = too_new.iter().map(|(gpu, _)| *gpu).collect();
    let isa = too_new.iter().map(|(_, isa)| *isa).max().unwrap_or(PtxIsa::new(0, 0));
    write!(
        f,
        "its only code for compute capability {} is PTX of version {isa}, which {driver} cannot compile (error 222)",
        join(&gpus)
    )?;
    if let Some(limit) = limit {
        write!(f, ": it knows PTX up to {limit}")?;
    }
    let sm: Vec<String> = gpus.iter().map(|gpu| format!("sm_{}", gpu.to_sm())).collect();
    write!(f, "; rebuild with {}", sm.join(" and "))?;
    match first_cuda_with_ptx(isa) {
        Some(cuda) => write!(f, ", or use a driver of CUDA {cuda} or newer"),
        None => write!(f, ", or use a newer driver"),
    }
}

/// `SASS 7.5, 8.0 and PTX 9.0 (version 8.7)`.
pub(super) fn describe(code: &GpuCode) -> String {
    let mut text = String::new();
    if !code.sass.is_empty() {
        let _ = write!(text, "SASS {}", join(&code.sass));
    }
    if !code.ptx.is_empty() {
        let each: Vec<String> = code
            .ptx
            .iter()
            .map(|ptx| format!("{} (version {})", ptx.target, ptx.isa))
            .collect();
        let and = if text.is_empty() { "" } else { " and " };
        let _ = write!(text, "{and}PTX {}", each.join(", "));
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The first few, and how many more there are.
pub(super) fn some_of(files: &[String]) -> String {
    let (named, more) = files.split_at(files.len().min(FILES_NAMED));
    match more.len() {
        0 => join(named),
        more => format!("{} and {more} more files", join(named)),
    }
}

/// With commas, in the order given.
pub(super) fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    texts.join(", ")
}
