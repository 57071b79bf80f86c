//! Deciding what to do about the cluster, from snapshots alone, to steps that leave no choice to execution.
//! Never a clock, a file or a network: time is a parameter; never another room but the snapshots.

pub mod admission;
pub mod caches;
pub mod certificates;
pub mod choices;
pub mod conditions;
pub mod credentials;
pub mod fleet;
pub mod lease;
pub mod nodes;
pub mod pace;
pub mod pass;
pub mod preflight;
pub mod resolve;
pub mod status;
pub mod step;
pub mod uninstall;

#[cfg(test)]
mod made_up;
