//! The language of cudaenv: Kubernetes objects, their validated meaning, and the selection of variants.
//! Never does I/O, never reads a clock, never needs an async runtime.

#![warn(missing_docs)]

pub mod catalogue;
pub mod condition;
pub mod convert;
pub mod domain;
pub mod event;
pub mod failure;
pub mod generate;
pub mod manifest;
pub mod pod;
pub mod selection;
pub mod v1alpha1;
