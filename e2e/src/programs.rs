//! The programs under test, and the small C programs that ask real libraries: where they are, and one way to run them.
//! It must never build the programs under test: `make build` does, and a stale one would prove nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The `node-agent` that `make build` made.
pub fn node_agent() -> Result<PathBuf> {
    built("node-agent")
}

/// The `operator` that `make build` made.
pub fn operator() -> Result<PathBuf> {
    built("operator")
}

/// The `kubectl-cudaenv` that `make build` made.
pub fn kubectl_cudaenv() -> Result<PathBuf> {
    built("kubectl-cudaenv")
}

/// The folder `target`, above the profile's folder that this test or program was built into.
pub fn target_folder() -> PathBuf {
    let mut folder = profile_folder();
    folder.pop();
    folder
}

/// The root of the source tree.
pub fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Builds `e2e/programs/<name>.c` to the file `to`, with extra compiler flags such as a RUNPATH.
pub fn compile(name: &str, to: &Path, flags: &[impl AsRef<OsStr>]) -> Result<()> {
    let source = source_folder().join("e2e/programs").join(name).with_extension("c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-Wl,--enable-new-dtags", "-o"])
        .arg(to)
        .args(flags)
        .arg(&source)
        .arg("-ldl");
    finished(&mut gcc)?;
    Ok(())
}

/// Runs a command that must succeed, and gives what it printed.
pub fn finished(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed something that is not UTF-8"))
}

/// How one of our own programs ended: exit code, the JSON document it printed (null if none), and both streams.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; 128 + n for a program ended by signal n, as shells count.
    pub code: i32,
    /// What stdout held.
    pub stdout: String,
    /// What stderr held.
    pub stderr: String,
}

impl Ended {
    /// The one JSON document on stdout.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not one JSON document: {self:?}"))
    }

    /// The error document `{"error":{"reason","message"}}`, which a failed command prints: `(reason, message)`.
    pub fn error(&self) -> Result<(String, String)> {
        ensure!(self.code != 0, "an error was expected: {self:?}");
        let found = [&self.stdout, &self.stderr]
            .into_iter()
            .flat_map(|stream| stream.lines())
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .chain(
                [&self.stdout, &self.stderr]
                    .into_iter()
                    .filter_map(|stream| serde_json::from_str(stream).ok()),
            )
            .find_map(|value| {
                Some((
                    value.pointer("/error/reason")?.as_str()?.to_owned(),
                    value.pointer("/error/message")?.as_str()?.to_owned(),
                ))
            });
        found.with_context(|| format!("no error document: {self:?}"))
    }
}

/// Runs a command to its end, whatever that is.
pub fn ended(command: &mut Command) -> Result<Ended> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let code = status
        .code()
        .or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
    Ok(Ended {
        code: code.context("neither exit code nor signal")?,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

fn built(name: &str) -> Result<PathBuf> {
    let path = profile_folder().join(name);
    ensure!(path.is_file(), "{} is missing: run `make build`", path.display());
    Ok(path)
}

/// `target/<profile>`: this executable lies in it, or in `deps` or `examples` below it.
fn profile_folder() -> PathBuf {
    let mut folder = std::env::current_exe().unwrap_or_default();
    folder.pop();
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.pop();
    }
    folder
}
