//! The node side of cudaenv: driver detection, node store, views. See docs/architecture.md for the rooms.
//! Never executes a program of a pod or of a cache; never decides in `act`, never acts in `plan`.

pub mod act;
pub mod args;
pub mod commands;
pub mod csi;
pub mod elf;
pub mod elf_note;
pub mod fatbin;
pub mod http;
pub mod observe;
pub mod plan;
pub mod provision;
pub mod report;
pub mod rooted;
pub mod snapshot;
pub mod store;
pub mod telemetry;
