//! Pure planning: from snapshots to steps. Never does I/O; time is a parameter.

pub mod bridge;
pub mod collect;
pub mod document;
pub mod fetch;
pub mod outdated;
pub mod prewarm;
pub mod root;
pub mod standing;
pub mod status;
pub mod sweep;
pub mod uninstall;
pub mod view;
pub mod volume;
