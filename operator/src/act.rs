//! Doing what was planned.
//! Never decides: one arm for each step.

pub mod ask;
pub mod certificates;
pub mod write;
