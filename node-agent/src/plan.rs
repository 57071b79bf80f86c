//! Pure planning: from snapshots to steps. Never does I/O; time is a parameter.

pub mod root;
