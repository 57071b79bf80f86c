//! Store paths of every shape that the format allows, for both directions of the traffic with real Nix.
//! It must never contain what a store cannot hold: each shape is one that real Nix itself packs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Result;

use crate::layout::{Layout, write_file};

/// Everything that a store path may hold: files of many shapes, links of many kinds, odd but legal names.
fn fill(folder: &Path, referred: &str) -> Result<()> {
    write_file(&folder.join("bin/program"), b"#!/bin/sh\nexit 0\n", true)?;
    write_file(&folder.join("share/empty"), b"", false)?;
    fs::create_dir(folder.join("share/nothing"))?;
    for size in [1_usize, 7, 8, 9, 65_535, 65_536, 3 << 20] {
        let bytes: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
        write_file(&folder.join(format!("data/{size}")), &bytes, size % 2 == 0)?;
    }
    for name in [
        "a",
        "A",
        "a-b",
        "a.b",
        "a b",
        "ä",
        "~nix~case~hack~1",
        "x'\"\\$`",
        "-",
        "...",
    ] {
        write_file(&folder.join("names").join(name), name.as_bytes(), false)?;
    }
    write_file(
        &folder.join("deep").join(["d"; 50].join("/")).join("end"),
        b"end",
        false,
    )?;
    symlink("../share/empty", folder.join("bin/relative"))?;
    symlink(format!("{referred}/lib"), folder.join("lib"))?;
    symlink("/nowhere/at all", folder.join("dangling"))?;
    Ok(())
}

/// Lays out four store paths: a library, a folder of many shapes that refers to it, a lone file, a lone link.
pub fn lay_out(root: &Path) -> Result<Layout> {
    let mut layout = Layout::new(root)?;
    let library = layout.add("library-1.0", &[], |folder, _| {
        write_file(&folder.join("lib/libx.so"), &[7; 4096], true)
    })?;
    layout.add("many-shapes", &[&library], |folder, _| fill(folder, &library))?;
    layout.add("one-file", &[], |path, _| {
        fs::remove_dir(path)?;
        write_file(path, b"a store path may be a file", true)
    })?;
    layout.add("one-link", &[&library], |path, _| {
        fs::remove_dir(path)?;
        Ok(symlink(&library, path)?)
    })?;
    Ok(layout)
}
