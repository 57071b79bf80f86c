//! A node as it was last detected.
//! Never looks for itself; `observe` fills it in.

use std::path::PathBuf;

use crds::domain::node::NodeFacts;
use serde::Serialize;

use super::driver::Detection;

/// A node: what selection looks at, and what that was concluded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What selection looks at.
    pub facts: NodeFacts,
    /// The driver's files, and everywhere it was looked for.
    pub detection: Detection,
    /// Where the GPUs are known from.
    pub gpu_source: GpuSource,
    /// The folder below which everything was looked for: `/`, or the host's root in a container.
    pub searched: PathBuf,
}

/// Where the GPUs are known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuSource {
    /// Stated on the command line.
    CommandLine,
    /// Stated in a file.
    FactsFile,
    /// The driver's own NVML.
    Nvml,
    /// Nobody said.
    Unknown,
}
