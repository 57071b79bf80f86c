//! The cluster side of cudaenv: resolving, status, labels and taints, admission. See docs/architecture.md for the rooms.
//! Never fetches a closure's bytes, never touches a node but through the API.

pub mod act;
pub mod admission;
pub mod args;
pub mod client;
pub mod failure;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod readiness;
pub mod reconcile;
pub mod report;
pub mod resolver;
pub mod run;
pub mod snapshot;
pub mod telemetry;
pub mod uninstall;
