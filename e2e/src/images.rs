//! The images of the programs under test, made by the script that users make theirs with.
//! It must never build the programs: `make build` does, and a stale one would prove nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::programs::{finished, node_agent, operator, source_folder};

/// Where their names begin: no runtime asks a registry for these.
pub const PREFIX: &str = "localhost/cudaenv";

/// Makes both from the programs of this profile as they are: `<folder>/{node-agent,operator}.tar`.
pub fn make(folder: &Path) -> Result<[PathBuf; 2]> {
    let programs = [node_agent()?, operator()?];
    let profile = programs[0].parent().context("a program without a folder")?;
    let target = profile.parent().context("a profile without a folder")?;
    let taken = match profile.file_name().and_then(|name| name.to_str()) {
        Some("release") => "--built",
        _ => "--debug",
    };
    let mut script = Command::new(source_folder().join("images/build.sh"));
    script
        .args([taken, "--prefix", PREFIX, "--to"])
        .arg(folder)
        .env("CARGO_TARGET_DIR", target);
    finished(&mut script)?;
    Ok(programs.map(|program| {
        folder
            .join(program.file_name().unwrap_or_default())
            .with_extension("tar")
    }))
}
