//! Nodes made of real driver files: a driver root with the kernel module's version file where `/sys` has it.
//! It must never touch the machine's own `/sys`, `/dev` or driver.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::parts::Driver;

/// Lays out `<folder>` as the root of a node with that driver loaded: its files, and `sys/module/nvidia/version`.
pub fn lay_out(driver: &Driver, folder: &Path) -> Result<PathBuf> {
    copy_tree(&driver.root, folder)?;
    let module = folder.join("sys/module/nvidia");
    fs::create_dir_all(&module)?;
    fs::write(module.join("version"), format!("{}\n", driver.version))?;
    Ok(folder.to_owned())
}

/// Copies a folder with its links. Real copies: a test that damages a file must not damage the shelf.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (kind, source, target) = (entry.file_type()?, entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target).with_context(|| format!("cannot copy to {}", target.display()))?;
        }
    }
    Ok(())
}
