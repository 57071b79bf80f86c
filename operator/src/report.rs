//! Telling people: events.
//! Never decides anything.

pub mod event;
