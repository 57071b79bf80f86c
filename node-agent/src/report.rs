//! Tells people and programs what was done and why something was not. Never acts, never observes.

pub mod events;
pub mod failure;
pub mod metrics;
pub mod node;
pub mod progress;
pub mod selection;
