//! A glibc that looks nowhere outside its own store path, as Nix's: Debian's, with the paths in its loader changed in place.
//! It must never be taught where a test's libraries lie: whoever wants them found names them in a RUNPATH.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::closure::{Closure, DRIVER_LINK};
use crate::layout::{Layout, write_file};
use crate::programs::compile;

/// The file of Debian's loader.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// The loader's name in a store path.
const OWN: &str = "lib/ld-linux-x86-64.so.2";
/// Where the rest of Debian's glibc lies.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";
/// What programs and libcuda need of it.
const NEEDED: [&str; 5] = ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// What Debian's loader is built with, and what stands there afterwards, byte for byte as long: the cache that nixpkgs moves
/// by a patch (`dont-use-system-ld-so-cache`), and the folders that are trusted without being named, which follow `--prefix`.
const CHANGED: [(&[u8], &[u8]); 2] = [
    (b"/etc/ld.so.cache\0", b"/nix/ld.so.cache\0"),
    (
        b"/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0",
        b"/nix/x86_64-linux-gnu/\0/nix/lib/x86_64-linux-gnu/\0/nix/\0/nix/lib/\0",
    ),
];

/// The cache that this glibc would read: there is none.
pub const CACHE: &str = "/nix/ld.so.cache";

/// Adds that glibc, the programs `jit` and `count` started by it, and an environment of them: its store path.
pub fn add(layout: &mut Layout, closure: &Closure) -> Result<String> {
    let glibc = layout.add("glibc", &[], |folder, _| {
        write_file(&folder.join(OWN), &moved(&fs::read(LOADER)?)?, true)?;
        for name in NEEDED {
            let from = Path::new(LIBRARIES).join(name);
            let library = fs::read(&from).with_context(|| from.display().to_string())?;
            write_file(&folder.join("lib").join(name), &library, false)?;
        }
        Ok(())
    })?;
    let programs = layout.add("jit", &[&glibc, &closure.runtime], |folder, _| {
        fs::create_dir(folder.join("bin"))?;
        let flags = [
            format!("-Wl,--dynamic-linker={glibc}/{OWN}"),
            format!("-Wl,-rpath,{glibc}/lib:{}/lib:{DRIVER_LINK}", closure.runtime),
            // libcuda asks for these by name and has no RUNPATH that leads to them.
            "-Wl,--no-as-needed".to_owned(),
            "-l:libm.so.6".to_owned(),
            "-l:libdl.so.2".to_owned(),
            "-l:libpthread.so.0".to_owned(),
            "-l:librt.so.1".to_owned(),
        ];
        compile("load", &folder.join("bin/load"), &flags)?;
        compile("jit", &folder.join("bin/jit"), &flags)?;
        let runtime = format!("-DRUNTIME=\"{}\"", closure.toolkit.soname);
        compile("count", &folder.join("bin/count"), &[&flags[..], &[runtime]].concat())
    })?;
    layout.add_environment("jit-env", &[&closure.runtime, &programs])
}

/// The loader with its own paths. It fails where one of them is not in it: then it is another glibc, and proves nothing.
fn moved(loader: &[u8]) -> Result<Vec<u8>> {
    let mut moved = loader.to_vec();
    for (from, to) in CHANGED {
        let mut places = 0;
        for at in 0..=moved.len() - from.len() {
            if moved[at..].starts_with(from) {
                moved[at..at + to.len()].copy_from_slice(to);
                places += 1;
            }
        }
        ensure!(places > 0, "{LOADER} does not know {}", String::from_utf8_lossy(from));
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_afterwards_is_as_long() {
        assert!(CHANGED.iter().all(|(from, to)| from.len() == to.len()));
    }
}
