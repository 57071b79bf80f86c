//! Reading the cluster into snapshots.
//! Never decides what to do about what it reads.

pub mod certificates;
pub mod kinds;
pub mod world;
