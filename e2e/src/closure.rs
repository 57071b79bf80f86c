//! Store paths made of real CUDA libraries, arranged as nixpkgs arranges them, and small programs that use them.
//! It must never help a program to its libraries by any means that a Nix package would not have.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use object_rewrite::Rewriter;

use crate::layout::{Layout, write_file};
use crate::parts::Toolkit;
use crate::programs::compile;

/// Where Nix packages expect the driver: nixpkgs writes it into the RUNPATH of every CUDA library.
pub const DRIVER_LINK: &str = "/run/opengl-driver/lib";

/// The store paths of one CUDA runtime and of what uses it.
#[derive(Debug, Clone)]
pub struct Closure {
    /// The runtime inside.
    pub toolkit: Toolkit,
    /// `…-cuda-runtime-<version>`: the real library.
    pub runtime: String,
    /// `…-programs-<version>`: `bin/count` and `bin/jit`, which refer to the runtime.
    pub programs: String,
    /// `…-cuda-<version>-env`: links to all of these; what a variant names.
    pub environment: String,
}

/// Adds the closure of one real runtime.
pub fn add(layout: &mut Layout, toolkit: &Toolkit) -> Result<Closure> {
    let version = &toolkit.version;
    let runtime = add_libraries(
        layout,
        &format!("cuda-runtime-{version}"),
        &[],
        &toolkit.root.join("lib"),
    )?;
    let programs = layout.add(&format!("programs-{version}"), &[&runtime], |folder, _| {
        fs::create_dir(folder.join("bin"))?;
        let runpath = format!("-Wl,-rpath,{runtime}/lib:{DRIVER_LINK}");
        compile(
            "count",
            &folder.join("bin/count"),
            &[&runpath, &format!("-DRUNTIME=\"{}\"", toolkit.soname)],
        )?;
        compile("jit", &folder.join("bin/jit"), &[&runpath])
    })?;
    let environment = layout.add_environment(&format!("cuda-{version}-env"), &[&runtime, &programs])?;
    Ok(Closure {
        toolkit: toolkit.clone(),
        runtime,
        programs,
        environment,
    })
}

/// Adds a store path with the libraries of a folder, each with the RUNPATH that nixpkgs would give it: what they refer
/// to, then the driver.
pub fn add_libraries(layout: &mut Layout, name: &str, references: &[&str], folder: &Path) -> Result<String> {
    layout.add(name, references, |to, _| {
        let mut runpath: Vec<_> = references.iter().map(|path| format!("{path}/lib")).collect();
        runpath.push(DRIVER_LINK.to_owned());
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let library = with_runpath(&fs::read(entry.path())?, &runpath.join(":"))?;
            write_file(&to.join("lib").join(entry.file_name()), &library, false)?;
        }
        Ok(())
    })
}

/// The library with that RUNPATH in place of any that it had.
pub fn with_runpath(library: &[u8], runpath: &str) -> Result<Vec<u8>> {
    let mut rewriter = Rewriter::read(library).map_err(|error| anyhow!("cannot read the library: {error}"))?;
    let set = rewriter
        .elf_delete_runpath()
        .and_then(|()| rewriter.elf_set_runpath(runpath.as_bytes().to_vec()));
    set.and_then(|()| rewriter.elf_use_runpath())
        .map_err(|error| anyhow!("cannot set the RUNPATH: {error}"))?;
    let mut rewritten = Vec::with_capacity(library.len() + 4096);
    rewriter
        .write(&mut rewritten)
        .map_err(|error| anyhow!("cannot write the library: {error}"))?;
    Ok(rewritten)
}
