//! The file in which NVIDIA's GPU Operator says which driver of a node is validated.
//! Never runs it as the shell fragment it is written as: lines of `KEY=value`, read as data.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::places::OPERATOR_ROOT;
use crate::rooted::Root;

/// Written by the operator's validator, deleted while the driver is being validated again.
pub(super) const DRIVER_READY: &str = "/run/nvidia/validations/driver-ready";
const TEXT_LIMIT: u64 = 16 << 10;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverReady {
    /// `IS_HOST_DRIVER`.
    pub host_driver: Option<bool>,
    /// `NVIDIA_DRIVER_ROOT`: the driver's root on the node. Absent in files of old operators, which are empty.
    pub root: Option<PathBuf>,
}

impl DriverReady {
    /// The root of the driver that was validated, if the file says so in one way or the other.
    pub fn root(&self) -> Option<&Path> {
        let by_kind = |host: bool| Path::new(if host { "/" } else { OPERATOR_ROOT });
        self.root.as_deref().or_else(|| self.host_driver.map(by_kind))
    }
}

/// Why the file could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum ReadyError {
    #[error("cannot read {DRIVER_READY}")]
    Read(#[source] io::Error),
    #[error("line {line} of {DRIVER_READY} is not KEY=value")]
    NoAssignment { line: usize },
    #[error("{DRIVER_READY} sets {key} twice")]
    Twice { key: &'static str },
    #[error("IS_HOST_DRIVER in {DRIVER_READY} is neither true nor false")]
    NotBoolean,
    #[error("NVIDIA_DRIVER_ROOT in {DRIVER_READY} is no absolute path without `..`")]
    BadRoot,
}

/// Reads the file; `None` if it is not there.
pub(super) fn observe(root: &Root) -> Result<Option<DriverReady>, ReadyError> {
    match root.read_text(Path::new(DRIVER_READY), TEXT_LIMIT) {
        Ok(text) => parse(&text).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(ReadyError::Read(source)),
    }
}

/// Parses the file's text. Keys that are not known are left alone.
pub fn parse(text: &str) -> Result<DriverReady, ReadyError> {
    let mut ready = DriverReady::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or(ReadyError::NoAssignment { line: index + 1 })?;
        let value = value
            .strip_prefix('"')
            .and_then(|v| v.strip_suffix('"'))
            .unwrap_or(value);
        let twice = match key {
            "IS_HOST_DRIVER" => {
                let value = value.parse().map_err(|_| ReadyError::NotBoolean)?;
                ready.host_driver.replace(value).map(|_| "IS_HOST_DRIVER")
            }
            "NVIDIA_DRIVER_ROOT" => ready.root.replace(path(value)?).map(|_| "NVIDIA_DRIVER_ROOT"),
            _ => None,
        };
        if let Some(key) = twice {
            return Err(ReadyError::Twice { key });
        }
    }
    Ok(ready)
}

fn path(value: &str) -> Result<PathBuf, ReadyError> {
    let path = Path::new(value);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let good = value.len() < 4096 && !value.contains('\0') && path.is_absolute() && plain;
    good.then(|| path.components().collect()).ok_or(ReadyError::BadRoot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_file_names_the_drivers_root() {
        let text = "IS_HOST_DRIVER=false\nNVIDIA_DRIVER_ROOT=/run/nvidia/driver\nDRIVER_ROOT_CTR_PATH=/driver-root\n\
                    NVIDIA_DEV_ROOT=/run/nvidia/driver\nDEV_ROOT_CTR_PATH=/driver-root\n";
        let ready = parse(text).unwrap();
        assert_eq!(ready.host_driver, Some(false));
        assert_eq!(ready.root.as_deref(), Some(Path::new("/run/nvidia/driver")));
        assert_eq!(parse("").unwrap(), DriverReady::default());
        assert_eq!(parse("IS_HOST_DRIVER=true").unwrap().root(), Some(Path::new("/")));
        assert_eq!(
            parse("IS_HOST_DRIVER=false").unwrap().root(),
            Some(Path::new(OPERATOR_ROOT))
        );
        let slashes = parse("NVIDIA_DRIVER_ROOT=\"/run//nvidia/driver/\"").unwrap();
        assert_eq!(slashes.root.unwrap(), Path::new("/run/nvidia/driver"));
    }

    #[test]
    fn a_file_that_is_no_such_list_is_refused() {
        for (text, want) in [
            ("true", "NoAssignment"),
            ("IS_HOST_DRIVER=perhaps", "NotBoolean"),
            ("NVIDIA_DRIVER_ROOT=run/nvidia", "BadRoot"),
            ("NVIDIA_DRIVER_ROOT=", "BadRoot"),
            ("NVIDIA_DRIVER_ROOT=/run/../etc", "BadRoot"),
            ("NVIDIA_DRIVER_ROOT=/a\nNVIDIA_DRIVER_ROOT=/b", "Twice"),
        ] {
            let error = format!("{:?}", parse(text).unwrap_err());
            assert!(error.starts_with(want), "{text}: {error}");
        }
    }
}
