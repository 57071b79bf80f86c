//! The device files that a real CUDA runtime creates as root even where there is no driver: `cuInit` makes `/dev/nvidiactl`.
//! It must never remove one that was there before, nor any while a kernel module is loaded.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where device files are made, and what shows that a module is there to answer them.
const DEV: &str = "/dev";
const MODULE: [&str; 2] = ["/sys/module/nvidia", "/proc/driver/nvidia"];

/// How many guards live in this process, and what the first one saw.
static WATCH: Mutex<Watch> = Mutex::new(Watch {
    guards: 0,
    before: BTreeSet::new(),
});

struct Watch {
    guards: usize,
    before: BTreeSet<PathBuf>,
}

/// While one lives, device files may appear; when the last one of the process is dropped, those that are new go.
#[derive(Debug)]
#[must_use = "dropped at once, it watches nothing"]
pub struct DeviceFiles(());

impl DeviceFiles {
    /// Remembers what is there, unless another guard of this process already did.
    pub fn watch() -> Self {
        let mut watch = locked();
        if watch.guards == 0 {
            watch.before = device_files(Path::new(DEV));
        }
        watch.guards += 1;
        Self(())
    }
}

impl Drop for DeviceFiles {
    fn drop(&mut self) {
        let mut watch = locked();
        watch.guards -= 1;
        if watch.guards == 0 && !MODULE.iter().any(|path| Path::new(path).exists()) {
            remove_new(Path::new(DEV), &watch.before);
        }
    }
}

fn locked() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `nvidia*` of a folder.
fn device_files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"nvidia"))
        .map(|entry| entry.path())
        .collect()
}

fn remove_new(folder: &Path, before: &BTreeSet<PathBuf>) {
    for path in device_files(folder).difference(before) {
        let _not_ours_or_gone = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_goes_and_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        make("nvidia0");
        let before = device_files(folder.path());
        make("nvidiactl");
        make("null");
        remove_new(folder.path(), &before);
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["null", "nvidia0"]);
    }
}
