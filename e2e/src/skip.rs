//! What happens where a check cannot run: one line in `target/skipped.txt`, printed again at the end of `make test`.
//! It must never let a check vanish without a word; in CI (`CI=true`) it must never let it vanish at all.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use crate::programs::{self, ended};

/// The thing a check needs, or nothing and the reason on record. `check` is what is lost, as a sentence.
///
/// # Panics
/// Where `CI=true`: there every part can be had, so its absence is a failure.
#[expect(clippy::panic, reason = "a check that cannot run in CI fails there")]
pub fn without<T>(check: &str, needed: Result<T, impl std::fmt::Display>) -> Option<T> {
    match needed {
        Ok(thing) => Some(thing),
        Err(reason) if in_ci() => panic!("{check}: cannot run in CI: {reason}"),
        Err(reason) => {
            record(&format!("{check}: {reason}"));
            None
        }
    }
}

/// `without` for a plain condition: true where the check can run.
pub fn unless(condition: bool, check: &str, reason: &str) -> bool {
    without(check, condition.then_some(()).ok_or(reason)).is_some()
}

/// Whether we are root: mounts and other people's files need it.
pub fn root() -> Result<(), &'static str> {
    rustix::process::geteuid().is_root().then_some(()).ok_or("needs root")
}

/// Whether this machine has a GPU whose driver runs: what the gpu tier needs. The one absence that CI may have too; it is on
/// record there as everywhere.
pub fn gpu(check: &str) -> bool {
    let listed = ended(Command::new("nvidia-smi").arg("-L"));
    let found = listed.is_ok_and(|listed| listed.code == 0 && listed.stdout.starts_with("GPU "));
    if !found {
        record(&format!("{check}: no GPU here (`nvidia-smi -L` lists none)"));
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "the test tiers have no args.rs")]
fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

#[expect(clippy::print_stderr, reason = "a skipped check must be seen")]
fn record(line: &str) {
    eprintln!("SKIPPED {line}");
    let file = programs::target_folder().join("skipped.txt");
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        // In one piece: tests of one program write at the same time.
        .and_then(|mut open| open.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("{}: {error}", file.display());
    }
}
