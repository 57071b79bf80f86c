//! Plain data between observing and planning.
//! Never a clock, a file or a network; never another room.

pub mod certificates;
pub mod probe;
pub mod reading;
pub mod resolution;
pub mod secret;
pub mod settled;
pub mod world;
