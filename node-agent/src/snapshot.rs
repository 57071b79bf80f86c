//! Plain data that was observed. Never does I/O, never reads a clock.

pub mod cluster;
pub mod driver;
pub mod fetch;
pub mod happening;
pub mod host_root;
pub mod known;
pub mod leftovers;
pub mod node;
pub mod progress;
pub mod status;
pub mod store;
pub mod view;
pub mod volume;
