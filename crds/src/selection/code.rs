//! Which GPU code runs on which GPU.
//! Never looks at drivers beyond the PTX they compile.

use crate::domain::{
    code::{CodeTarget, GpuCode, Portability, PtxCode},
    cuda::{ComputeCapability, CudaVersion, PtxIsa},
};

use super::releases::highest_ptx_isa;

/// Chips of the Tegra line: SASS crosses neither between them nor to or from the desktop and data-centre line.
const TEGRA: [ComputeCapability; 7] = [
    ComputeCapability::new(3, 2),
    ComputeCapability::new(5, 3),
    ComputeCapability::new(6, 2),
    ComputeCapability::new(7, 2),
    ComputeCapability::new(8, 7),
    ComputeCapability::new(10, 1),
    ComputeCapability::new(11, 0),
];

/// Families of the suffix `f`, in order. 10.7 is in none: no source says which.
const FAMILIES: [&[ComputeCapability]; 3] = [
    &[ComputeCapability::new(10, 0), ComputeCapability::new(10, 3)],
    &[ComputeCapability::new(11, 0)],
    &[ComputeCapability::new(12, 0), ComputeCapability::new(12, 1)],
];

/// How a build runs on one GPU. The order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coverage {
    /// It carries machine code for it.
    Sass,
    /// It carries PTX that the driver compiles at first start.
    Jit,
    /// It carries PTX for it, but only of versions that the driver does not know; this is the lowest of them.
    PtxTooNew(PtxIsa),
    /// It carries nothing for it.
    Nothing,
}

impl Coverage {
    /// Whether the program finds code to run.
    pub fn runs(self) -> bool {
        matches!(self, Self::Sass | Self::Jit)
    }
}

/// What PTX a user-mode driver compiles for a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtxLimit {
    /// The highest version it knows; `None` where its CUDA release is outside the table.
    pub isa: Option<PtxIsa>,
    /// The driver's CUDA release is the build's or newer, so it compiles what the build's compiler wrote.
    native: bool,
}

impl PtxLimit {
    /// Of a user-mode driver of CUDA release `driver`, for a build made with `build`.
    pub fn new(driver: CudaVersion, build: CudaVersion) -> Self {
        Self {
            isa: highest_ptx_isa(driver),
            native: build <= driver,
        }
    }

    fn allows(self, isa: PtxIsa) -> bool {
        self.isa.map_or(self.native, |highest| isa <= highest)
    }
}

/// How `code` runs on a GPU.
pub fn coverage(code: &GpuCode, gpu: ComputeCapability, limit: PtxLimit) -> Coverage {
    if code.sass.iter().any(|target| sass_runs(*target, gpu)) {
        return Coverage::Sass;
    }
    let usable = |ptx: &&PtxCode| ptx_compiles(ptx.target, gpu);
    match code.ptx.iter().filter(usable).map(|ptx| ptx.isa).min() {
        Some(isa) if limit.allows(isa) => Coverage::Jit,
        Some(isa) => Coverage::PtxTooNew(isa),
        None => Coverage::Nothing,
    }
}

/// SASS runs on its own major from its own minor on, `a` on exactly its own GPU, `f` on its family from itself on.
pub fn sass_runs(target: CodeTarget, gpu: ComputeCapability) -> bool {
    let own = target.capability;
    let crosses = !TEGRA.contains(&own) && !TEGRA.contains(&gpu);
    match target.portability {
        Portability::Exact => own == gpu,
        Portability::Family => in_family(own, gpu),
        Portability::Portable => own == gpu || (crosses && own.major() == gpu.major() && own.minor() <= gpu.minor()),
    }
}

/// PTX compiles for its own GPU and every later one, `a` for exactly its own, `f` for its family from itself on.
pub fn ptx_compiles(target: CodeTarget, gpu: ComputeCapability) -> bool {
    match target.portability {
        Portability::Exact => target.capability == gpu,
        Portability::Family => in_family(target.capability, gpu),
        Portability::Portable => target.capability <= gpu,
    }
}

fn in_family(own: ComputeCapability, gpu: ComputeCapability) -> bool {
    let together = FAMILIES
        .iter()
        .any(|family| family.contains(&own) && family.contains(&gpu));
    own == gpu || (together && own <= gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> CodeTarget {
        text.parse().unwrap()
    }

    #[test]
    fn sass_stays_in_its_major_its_family_and_its_line() {
        for (sass, gpu, runs) in [
            ("8.0", "8.0", true),
            ("8.0", "8.6", true),
            ("8.6", "8.0", false),
            ("8.0", "9.0", false),
            ("9.0a", "9.0", true),
            ("9.0a", "8.9", false),
            ("10.0a", "10.3", false),
            ("10.0", "10.3", true),
            ("10.0f", "10.3", true),
            ("10.3f", "10.0", false),
            ("10.0f", "10.7", false),
            ("10.0f", "12.0", false),
            ("12.0f", "12.1", true),
            ("11.0f", "11.0", true),
            ("8.6", "8.7", false),
            ("8.7", "8.7", true),
            ("8.7", "8.9", false),
            ("10.1", "11.0", false),
            ("10.0", "10.1", false),
            ("7.0", "7.2", false),
        ] {
            assert_eq!(sass_runs(target(sass), gpu.parse().unwrap()), runs, "{sass} on {gpu}");
        }
    }

    #[test]
    fn ptx_goes_forward_for_ever_unless_it_is_bound() {
        for (ptx, gpu, compiles) in [
            ("3.5", "12.0", true),
            ("8.0", "8.7", true),
            ("9.0", "8.9", false),
            ("9.0a", "9.0", true),
            ("9.0a", "10.0", false),
            ("10.0f", "10.3", true),
            ("10.0f", "12.0", false),
            ("10.3f", "10.0", false),
        ] {
            assert_eq!(
                ptx_compiles(target(ptx), gpu.parse().unwrap()),
                compiles,
                "{ptx} on {gpu}"
            );
        }
    }

    #[test]
    fn a_driver_outside_the_table_compiles_what_older_toolkits_wrote() {
        let code = GpuCode {
            ptx: [PtxCode {
                target: target("9.0"),
                isa: PtxIsa::new(9, 9),
            }]
            .into(),
            ..GpuCode::default()
        };
        let gpu = ComputeCapability::new(9, 0);
        let on = |driver, build| coverage(&code, gpu, PtxLimit::new(driver, build));
        assert_eq!(on(CudaVersion::new(14, 2), CudaVersion::new(14, 1)), Coverage::Jit);
        let too_new = Coverage::PtxTooNew(PtxIsa::new(9, 9));
        assert_eq!(on(CudaVersion::new(14, 1), CudaVersion::new(14, 2)), too_new);
        assert_eq!(on(CudaVersion::new(13, 5), CudaVersion::new(13, 5)), too_new);
    }
}
