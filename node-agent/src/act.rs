//! Effects, one small arm per step of a plan. Never decides, never observes.

pub mod bridge;
pub mod cluster;
pub mod collect;
pub mod contents;
pub mod enter;
pub mod fetch;
pub mod install;
pub mod uninstall;
pub mod verify;
pub mod view;
