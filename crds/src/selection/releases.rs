//! Tables of NVIDIA's releases: which driver branch has which CUDA, which CUDA knows which PTX, which driver starts which
//! runtime. Never extrapolates: what was neither measured nor read in NVIDIA's documents is absent.

use crate::domain::{
    cuda::{ComputeCapability, CudaVersion, PtxIsa},
    driver::DriverVersion,
};

/// Driver branch and its CUDA release. Most were measured (`cuDriverGetVersion` of the real library, the same for every
/// build of a branch); 375, 384, 396, 410, 455, 465, 495, 520, 560 and 610 are from NVIDIA's release notes, 575 and 590
/// from the ELF note of real libraries. 430 and 565 are absent: no source was found.
const BRANCHES: [(u32, CudaVersion); 32] = [
    (340, CudaVersion::new(6, 5)),
    (375, CudaVersion::new(8, 0)),
    (384, CudaVersion::new(9, 0)),
    (390, CudaVersion::new(9, 1)),
    (396, CudaVersion::new(9, 2)),
    (410, CudaVersion::new(10, 0)),
    (418, CudaVersion::new(10, 1)),
    (435, CudaVersion::new(10, 1)),
    (440, CudaVersion::new(10, 2)),
    (450, CudaVersion::new(11, 0)),
    (455, CudaVersion::new(11, 1)),
    (460, CudaVersion::new(11, 2)),
    (465, CudaVersion::new(11, 3)),
    (470, CudaVersion::new(11, 4)),
    (495, CudaVersion::new(11, 5)),
    (510, CudaVersion::new(11, 6)),
    (515, CudaVersion::new(11, 7)),
    (520, CudaVersion::new(11, 8)),
    (525, CudaVersion::new(12, 0)),
    (530, CudaVersion::new(12, 1)),
    (535, CudaVersion::new(12, 2)),
    (545, CudaVersion::new(12, 3)),
    (550, CudaVersion::new(12, 4)),
    (555, CudaVersion::new(12, 5)),
    (560, CudaVersion::new(12, 6)),
    (570, CudaVersion::new(12, 8)),
    (575, CudaVersion::new(12, 9)),
    (580, CudaVersion::new(13, 0)),
    (590, CudaVersion::new(13, 1)),
    (595, CudaVersion::new(13, 2)),
    (610, CudaVersion::new(13, 3)),
    (615, CudaVersion::new(13, 4)),
];

/// CUDA release and the PTX instruction set version of its compiler, which is also the highest that a driver of that CUDA
/// release compiles (measured on both sides: `ptxas` of 17 toolkits, the JIT library of 22 drivers).
const PTX_ISAS: [(CudaVersion, PtxIsa); 23] = [
    (CudaVersion::new(10, 1), PtxIsa::new(6, 4)),
    (CudaVersion::new(10, 2), PtxIsa::new(6, 5)),
    (CudaVersion::new(11, 0), PtxIsa::new(7, 0)),
    (CudaVersion::new(11, 2), PtxIsa::new(7, 2)),
    (CudaVersion::new(11, 4), PtxIsa::new(7, 4)),
    (CudaVersion::new(11, 6), PtxIsa::new(7, 6)),
    (CudaVersion::new(11, 7), PtxIsa::new(7, 7)),
    (CudaVersion::new(11, 8), PtxIsa::new(7, 8)),
    (CudaVersion::new(12, 0), PtxIsa::new(8, 0)),
    (CudaVersion::new(12, 1), PtxIsa::new(8, 1)),
    (CudaVersion::new(12, 2), PtxIsa::new(8, 2)),
    (CudaVersion::new(12, 3), PtxIsa::new(8, 3)),
    (CudaVersion::new(12, 4), PtxIsa::new(8, 4)),
    (CudaVersion::new(12, 5), PtxIsa::new(8, 5)),
    (CudaVersion::new(12, 6), PtxIsa::new(8, 5)),
    (CudaVersion::new(12, 8), PtxIsa::new(8, 7)),
    (CudaVersion::new(12, 9), PtxIsa::new(8, 8)),
    (CudaVersion::new(13, 0), PtxIsa::new(9, 0)),
    (CudaVersion::new(13, 1), PtxIsa::new(9, 1)),
    (CudaVersion::new(13, 2), PtxIsa::new(9, 2)),
    (CudaVersion::new(13, 3), PtxIsa::new(9, 3)),
    (CudaVersion::new(13, 4), PtxIsa::new(9, 4)),
    (CudaVersion::new(13, 5), PtxIsa::new(9, 5)),
];

/// The CUDA release of a driver branch, where one is known. Only for use where no library can be read.
pub fn cuda_of_branch(major: u32) -> Option<CudaVersion> {
    BRANCHES
        .iter()
        .find(|(branch, _)| *branch == major)
        .map(|(_, cuda)| *cuda)
}
