//! The version of the NVIDIA kernel module, from what the kernel shows.
//! Never picks a word that merely looks like a version: `TempVersion` or a packaging suffix is an error that shows the line.

use std::{io, path::Path};

use crds::domain::driver::{DriverVersion, UnparsableDriver};
use rustix::fs::FsWord;

use crate::{rooted::Root, snapshot::driver::KernelModule};

const SYS: &str = "/sys/module/nvidia/version";
const PROC: &str = "/proc/driver/nvidia/version";
/// Both files are a few lines.
const TEXT_LIMIT: u64 = 4096;

/// Why the version of a loaded module is not known.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cannot read {file}")]
    Read { file: &'static str, source: io::Error },
    #[error("{SYS} holds no driver version")]
    Sys(#[source] UnparsableDriver),
    #[error("{PROC} does not begin with a line that names a driver version")]
    Proc(#[source] UnparsableDriver),
    #[error("{SYS} says {sys}, {PROC} says {proc}")]
    Disagree { sys: DriverVersion, proc: DriverVersion },
}

/// The version of the loaded module; `None` if none is loaded. Both sources must agree where both are there.
pub(super) fn observe(root: &Root) -> Result<Option<KernelModule>, KernelError> {
    let sys = read(root, SYS)?.map(|text| of_sysfs(&text)).transpose()?;
    let proc = read(root, PROC)?.map(|text| of_procfs(&text)).transpose()?;
    match (sys, proc) {
        (Some(sys), Some(proc)) if sys != proc => Err(KernelError::Disagree { sys, proc }),
        (Some(version), _) => Ok(Some(KernelModule::observed(version, of_kernel(root, SYS)))),
        (None, Some(version)) => Ok(Some(KernelModule::observed(version, of_kernel(root, PROC)))),
        (None, None) => Ok(None),
    }
}

/// Whether a file lies in the kernel's own sysfs or procfs (their numbers: Linux, `linux/magic.h`).
fn of_kernel(root: &Root, file: &str) -> bool {
    const SYSFS: FsWord = 0x6265_6572;
    const PROCFS: FsWord = 0x9fa0;
    let status = root
        .open_file(Path::new(file))
        .and_then(|file| Ok(rustix::fs::fstatfs(&file)?));
    status.is_ok_and(|status| [SYSFS, PROCFS].contains(&status.f_type))
}

fn read(root: &Root, file: &'static str) -> Result<Option<String>, KernelError> {
    match root.read_text(Path::new(file), TEXT_LIMIT) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(KernelError::Read { file, source }),
    }
}

/// `/sys/module/nvidia/version`: one line with the version alone.
pub fn of_sysfs(text: &str) -> Result<DriverVersion, KernelError> {
    text.strip_suffix('\n')
        .unwrap_or(text)
        .parse()
        .map_err(KernelError::Sys)
}

/// `/proc/driver/nvidia/version`: the first line is `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.127.05  …` or
/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.58.02  Release Build  …`. The version is its first word
/// that is one; the words before it never are.
pub fn of_procfs(text: &str) -> Result<DriverVersion, KernelError> {
    let line = text.lines().next().unwrap_or_default();
    let banner = line.starts_with("NVRM version:");
    let version = line
        .split_ascii_whitespace()
        .filter(|_| banner)
        .find_map(|word| word.parse().ok());
    version.ok_or_else(|| {
        KernelError::Proc(UnparsableDriver(
            line.chars().take(128).flat_map(char::escape_default).collect(),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.127.05  Tue Oct  8 16:30:26 UTC 2024\nGCC version:  12.2\n";
    const OPEN: &str = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.58.02  Release Build  (dvs-builder@U16-I3-B03-4-3)  Tue Jun 25 01:26:03 UTC 2024\n";

    #[test]
    fn both_banners_of_the_module_are_read() {
        assert_eq!(of_procfs(CLOSED).unwrap().as_str(), "550.127.05");
        assert_eq!(of_procfs(OPEN).unwrap().as_str(), "555.58.02");
        assert_eq!(of_sysfs("580.95.05\n").unwrap().as_str(), "580.95.05");
    }

    #[test]
    fn what_is_no_version_is_an_error_that_shows_it() {
        let bad = include_str!("../../../../crds/tests/data/bad_drivers.json");
        let mut refused: Vec<String> = serde_json::from_str(bad).unwrap();
        refused.push("TempVersion".to_owned());
        // Blanks around it are none of a version's, and the kernel ends its file with one.
        refused.retain(|text| text.trim().parse::<DriverVersion>().is_err());
        for text in &refused {
            assert!(matches!(of_sysfs(text), Err(KernelError::Sys(_))), "{text:?}");
            let banner =
                format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {text}  Tue Oct  8 16:30:26 UTC 2024");
            let first_line_has_one = text.starts_with("550.54.15\n");
            assert_eq!(of_procfs(&banner).is_ok(), first_line_has_one, "{text:?}");
        }
        assert!(matches!(of_procfs(&CLOSED[5..]), Err(KernelError::Proc(_))));
        let long = format!("NVRM version: {}", "9".repeat(10_000));
        let KernelError::Proc(shown) = of_procfs(&long).unwrap_err() else {
            panic!()
        };
        assert!(shown.0.len() <= 128);
    }
}
