//! Doing what was planned.
//! Never decides: one arm for each step.

pub mod certificates;
