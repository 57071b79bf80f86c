//! Reads the machine. Never decides, never changes anything.

pub mod driver;
pub mod host_root;
