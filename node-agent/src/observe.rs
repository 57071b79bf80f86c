//! Reads the machine. Never decides, never changes anything.

pub mod cluster;
pub mod driver;
pub mod gpus;
pub mod host_root;
pub mod leftovers;
pub mod objects;
