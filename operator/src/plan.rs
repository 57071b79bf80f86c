//! Deciding what to do about the cluster, from snapshots alone.
//! Never a clock, a file or a network; never another room but the snapshots.

pub mod admission;
pub mod certificates;
