//! Pure planning: from snapshots to steps. Never does I/O; time is a parameter.

pub mod bridge;
pub mod collect;
pub mod document;
pub mod fetch;
pub mod root;
pub mod view;
