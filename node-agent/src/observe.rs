//! Reads the machine. Never decides, never changes anything.

pub mod host_root;
