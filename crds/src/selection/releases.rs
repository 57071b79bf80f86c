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

/// PTX instruction set version, and the first CUDA release whose compiler writes it and whose driver compiles it. From 6.4
/// on measured on both sides (`ptxas` of 17 toolkits, the JIT library of 22 drivers: each compiles exactly up to its own
/// release's version); the rest, with 7.1, 7.3, 7.5 and 8.6, from NVIDIA's PTX release history.
const PTX_ISAS: [(PtxIsa, CudaVersion); 31] = [
    (PtxIsa::new(5, 0), CudaVersion::new(8, 0)),
    (PtxIsa::new(6, 0), CudaVersion::new(9, 0)),
    (PtxIsa::new(6, 1), CudaVersion::new(9, 1)),
    (PtxIsa::new(6, 2), CudaVersion::new(9, 2)),
    (PtxIsa::new(6, 3), CudaVersion::new(10, 0)),
    (PtxIsa::new(6, 4), CudaVersion::new(10, 1)),
    (PtxIsa::new(6, 5), CudaVersion::new(10, 2)),
    (PtxIsa::new(7, 0), CudaVersion::new(11, 0)),
    (PtxIsa::new(7, 1), CudaVersion::new(11, 1)),
    (PtxIsa::new(7, 2), CudaVersion::new(11, 2)),
    (PtxIsa::new(7, 3), CudaVersion::new(11, 3)),
    (PtxIsa::new(7, 4), CudaVersion::new(11, 4)),
    (PtxIsa::new(7, 5), CudaVersion::new(11, 5)),
    (PtxIsa::new(7, 6), CudaVersion::new(11, 6)),
    (PtxIsa::new(7, 7), CudaVersion::new(11, 7)),
    (PtxIsa::new(7, 8), CudaVersion::new(11, 8)),
    (PtxIsa::new(8, 0), CudaVersion::new(12, 0)),
    (PtxIsa::new(8, 1), CudaVersion::new(12, 1)),
    (PtxIsa::new(8, 2), CudaVersion::new(12, 2)),
    (PtxIsa::new(8, 3), CudaVersion::new(12, 3)),
    (PtxIsa::new(8, 4), CudaVersion::new(12, 4)),
    (PtxIsa::new(8, 5), CudaVersion::new(12, 5)),
    (PtxIsa::new(8, 6), CudaVersion::new(12, 7)),
    (PtxIsa::new(8, 7), CudaVersion::new(12, 8)),
    (PtxIsa::new(8, 8), CudaVersion::new(12, 9)),
    (PtxIsa::new(9, 0), CudaVersion::new(13, 0)),
    (PtxIsa::new(9, 1), CudaVersion::new(13, 1)),
    (PtxIsa::new(9, 2), CudaVersion::new(13, 2)),
    (PtxIsa::new(9, 3), CudaVersion::new(13, 3)),
    (PtxIsa::new(9, 4), CudaVersion::new(13, 4)),
    (PtxIsa::new(9, 5), CudaVersion::new(13, 5)),
];

/// CUDA release up to 10.2 and the driver it shipped with, which is the oldest it starts on (NVIDIA's release notes).
const OWN_DRIVERS: [(CudaVersion, &str); 7] = [
    (CudaVersion::new(8, 0), "375.26"),
    (CudaVersion::new(9, 0), "384.81"),
    (CudaVersion::new(9, 1), "390.46"),
    (CudaVersion::new(9, 2), "396.26"),
    (CudaVersion::new(10, 0), "410.48"),
    (CudaVersion::new(10, 1), "418.39"),
    (CudaVersion::new(10, 2), "440.33"),
];

/// CUDA major and the oldest driver on which NVIDIA documents minor version compatibility for it.
const MINOR_COMPAT_FLOORS: [(u16, &str); 3] = [(11, "450.80.02"), (12, "525.60.13"), (13, "580.65.06")];

/// Branch of a compat library, and the host branches it may replace: NVIDIA's forward compatibility table (R615, R575 and
/// March 2021 editions) together with the lists in the libraries' own notes where they were read. Only for use where the
/// library cannot be read or carries no list.
const COMPAT_BASES: [(u32, &[u32]); 14] = [
    (440, &[418]),
    (450, &[418, 440]),
    (455, &[418, 440]),
    (545, &[535]),
    (550, &[535]),
    (555, &[535, 550]),
    (560, &[535, 550]),
    (570, &[470, 535, 550, 560, 565]),
    (575, &[535, 550, 560, 565, 570]),
    (580, &[535, 550, 565, 570, 575]),
    (590, &[535, 550, 570, 575, 580]),
    (595, &[535, 570, 580, 590]),
    (610, &[535, 570, 580, 590, 595]),
    (615, &[535, 570, 580, 590, 595, 610]),
];

/// Compute capability and the oldest driver branch that was seen to list such a GPU (PCI ids of driver packages).
const OLDEST_BRANCH_SEEN: [(ComputeCapability, u32); 8] = [
    (ComputeCapability::new(8, 0), 450),
    (ComputeCapability::new(8, 6), 455),
    (ComputeCapability::new(8, 9), 525),
    (ComputeCapability::new(9, 0), 525),
    (ComputeCapability::new(10, 0), 570),
    (ComputeCapability::new(10, 3), 580),
    (ComputeCapability::new(12, 0), 570),
    (ComputeCapability::new(12, 1), 580),
];

/// Every compute capability that a compiler of CUDA 10 to 13.5 has a target for, and 3.0 and 3.2, which CUDA 11 dropped
/// (`ptxas` of each release; NVIDIA's release notes).
const KNOWN_CAPABILITIES: [(u16, &[u16]); 9] = [
    (3, &[0, 2, 5, 7]),
    (5, &[0, 2, 3]),
    (6, &[0, 1, 2]),
    (7, &[0, 2, 5]),
    (8, &[0, 6, 7, 8, 9]),
    (9, &[0]),
    (10, &[0, 1, 3, 7]),
    (11, &[0]),
    (12, &[0, 1]),
];

/// Whether a GPU is of a kind that the tables here know.
pub fn is_known_capability(gpu: ComputeCapability) -> bool {
    let of_major = KNOWN_CAPABILITIES.iter().find(|(major, _)| *major == gpu.major());
    of_major.is_some_and(|(_, minors)| minors.contains(&gpu.minor()))
}

/// The CUDA release of a driver branch, where one is known. Only for use where no library can be read.
pub fn cuda_of_branch(major: u32) -> Option<CudaVersion> {
    BRANCHES
        .iter()
        .find(|(branch, _)| *branch == major)
        .map(|(_, cuda)| *cuda)
}

/// The newest driver branch in the tables here. What a newer one does is not known.
pub fn newest_known_branch() -> u32 {
    BRANCHES.iter().map(|(branch, _)| *branch).max().unwrap_or_default()
}

/// The highest PTX version that a driver of a CUDA release compiles. `None` outside the table (before 8.0, after 13.5).
pub fn highest_ptx_isa(cuda: CudaVersion) -> Option<PtxIsa> {
    let (_, newest) = PTX_ISAS.last()?;
    let known = PTX_ISAS.iter().rev().find(|(_, first)| *first <= cuda);
    known.filter(|_| cuda <= *newest).map(|(isa, _)| *isa)
}

/// The first CUDA release that compiles a PTX version.
pub fn first_cuda_with_ptx(isa: PtxIsa) -> Option<CudaVersion> {
    PTX_ISAS.iter().find(|(known, _)| *known == isa).map(|(_, cuda)| *cuda)
}

/// The oldest driver that a CUDA release is documented to start on.
pub fn oldest_driver(cuda: CudaVersion) -> Option<DriverVersion> {
    let own = OWN_DRIVERS
        .iter()
        .find(|(release, _)| *release == cuda)
        .map(|(_, driver)| *driver);
    let floor = MINOR_COMPAT_FLOORS
        .iter()
        .find(|(major, _)| *major == cuda.major())
        .map(|(_, driver)| *driver);
    own.or(floor)?.parse().ok()
}

/// Whether a compat library of one branch may replace the user-mode half of another. `None`: the branch is not in the table.
pub(super) fn compat_table(library: u32, host: u32) -> Option<bool> {
    let (_, bases) = COMPAT_BASES.iter().find(|(branch, _)| *branch == library)?;
    Some(bases.contains(&host))
}

/// The last driver branch that drives a GPU, where it is known to have ended: Kepler with 470, Maxwell to Volta with 580
/// (PCI ids vanish from the packages, and the JIT library of 595 no longer lists the targets).
pub fn last_branch_for(gpu: ComputeCapability) -> Option<u32> {
    match (gpu.major(), gpu.minor()) {
        (3, _) => Some(470),
        (5 | 6, _) | (7, 0..=4) => Some(580),
        _ => None,
    }
}

/// The oldest driver branch that was seen to drive a GPU. Older ones may, too: seen, not documented.
pub fn oldest_branch_seen(gpu: ComputeCapability) -> Option<u32> {
    OLDEST_BRANCH_SEEN
        .iter()
        .find(|(known, _)| *known == gpu)
        .map(|(_, branch)| *branch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_in_the_tables_is_one() {
        for (text, cuda) in OWN_DRIVERS.iter().map(|(cuda, text)| (text, *cuda)).chain(
            MINOR_COMPAT_FLOORS
                .iter()
                .map(|(major, text)| (text, CudaVersion::new(*major, 3))),
        ) {
            assert_eq!(oldest_driver(cuda).unwrap().as_str(), *text);
        }
        assert_eq!(oldest_driver(CudaVersion::new(14, 0)), None);
    }

    #[test]
    fn tables_are_ordered_and_without_doubles() {
        assert!(BRANCHES.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        assert!(PTX_ISAS.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1));
        assert!(COMPAT_BASES.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(
            COMPAT_BASES
                .iter()
                .all(|(own, bases)| bases.iter().all(|base| base < own))
        );
    }

    #[test]
    fn outside_the_tables_nothing_is_guessed() {
        let isa = |major, minor| highest_ptx_isa(CudaVersion::new(major, minor));
        assert_eq!(isa(12, 6), Some(PtxIsa::new(8, 5)));
        assert_eq!(isa(13, 5), Some(PtxIsa::new(9, 5)));
        assert_eq!((isa(13, 6), isa(7, 5)), (None, None));
        assert_eq!(cuda_of_branch(565), None);
        assert_eq!(cuda_of_branch(535), Some(CudaVersion::new(12, 2)));
        assert_eq!(compat_table(620, 535), None);
    }
}
