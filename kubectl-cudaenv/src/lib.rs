//! The command line of cudaenv for people: `kubectl cudaenv …`.
//! Never decides anything about variants itself; `crds` does, as it does for the agent.

pub mod args;
pub mod explain;
pub mod run;
