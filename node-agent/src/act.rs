//! Effects, one small arm per step of a plan. Never decides, never observes.

pub mod bridge;
pub mod enter;
pub mod view;
