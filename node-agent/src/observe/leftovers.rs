//! Looks for what cudaenv has left on a node: sockets, volumes that kubelet still has, mounts, the node store.
//! Never asks a mounted file system anything, and never follows a link to look for more.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    csi::REGISTRATION_SOCKET,
    snapshot::leftovers::Leftovers,
    store::{StoreError, mounts},
};

/// A file of kubelet's is small; a larger one is not its own.
const RECORD_LIMIT: u64 = 64 * 1024;

/// What could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// A folder or file could not be read.
    #[error("reading {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount table could not be read.
    #[error("reading the mount table")]
    Mounts {
        /// Why.
        source: StoreError,
    },
}

/// What kubelet writes beside the mount point of each CSI volume.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeData {
    driver_name: String,
}

/// Looks at the node store in `state` and at kubelet's folder.
///
/// # Errors
/// What could not be looked at.
pub fn observe(state: &Path, kubelet: &Path, driver: &str) -> Result<Leftovers, LeftoversError> {
    let plugin = kubelet.join("plugins").join(driver);
    let socket = plugin.join("csi.sock");
    let registration = kubelet.join("plugins_registry").join(REGISTRATION_SOCKET);
    let serving = UnixStream::connect(&socket).is_ok();
    let table = mounts::read().map_err(|source| LeftoversError::Mounts { source })?;
    let below = table
        .into_iter()
        .map(|mount| mount.at)
        .filter(|at| at != state && at.starts_with(state));
    let ours_alone = plugin.is_dir() && entries(&plugin)?.iter().all(|path| *path == socket);
    Ok(Leftovers {
        serving,
        plugin: ours_alone.then_some(plugin),
        volumes: volumes(&kubelet.join("pods"), driver)?,
        sockets: [registration, socket]
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok())
            .collect(),
        mounts: below.collect(),
        store: (!entries(state)?.is_empty()).then(|| state.to_owned()),
    })
}

/// kubelet's folders of the driver's volumes: `pods/<uid>/volumes/kubernetes.io~csi/<name>`.
fn volumes(pods: &Path, driver: &str) -> Result<Vec<PathBuf>, LeftoversError> {
    let mut found = Vec::new();
    for pod in entries(pods)? {
        for volume in entries(&pod.join("volumes/kubernetes.io~csi"))? {
            if driver_of(&volume.join("vol_data.json"))?.is_some_and(|name| name == driver) {
                found.push(volume);
            }
        }
    }
    Ok(found)
}

/// The driver that kubelet's record of a volume names. A record that is not there, or is none, names nobody.
fn driver_of(record: &Path) -> Result<Option<String>, LeftoversError> {
    let read = |source| LeftoversError::Read {
        path: record.to_owned(),
        source,
    };
    let Some(size) = absent(fs::symlink_metadata(record))
        .map_err(read)?
        .map(|found| found.len())
    else {
        return Ok(None);
    };
    if size > RECORD_LIMIT {
        return Ok(None);
    }
    let text = absent(fs::read(record)).map_err(read)?.unwrap_or_default();
    Ok(serde_json::from_slice::<VolumeData>(&text)
        .ok()
        .map(|data| data.driver_name))
}

/// Paths of what lies in a folder; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, LeftoversError> {
    let read = |source| LeftoversError::Read {
        path: folder.to_owned(),
        source,
    };
    let Some(listed) = absent(fs::read_dir(folder)).map_err(read)? else {
        return Ok(Vec::new());
    };
    listed
        .map(|entry| entry.map(|found| found.path()).map_err(read))
        .collect()
}

fn absent<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_our_driver_are_told_from_those_of_others() {
        let kubelet = tempfile::tempdir().unwrap();
        for (pod, volume, record) in [
            (
                "a",
                "cuda",
                r#"{"driverName":"csi.cudaenv.dev","volumeHandle":"csi-1"}"#,
            ),
            ("a", "secrets", r#"{"driverName":"secrets-store.csi.k8s.io"}"#),
            ("b", "broken", "{"),
        ] {
            let folder = kubelet
                .path()
                .join("pods")
                .join(pod)
                .join("volumes/kubernetes.io~csi")
                .join(volume);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("vol_data.json"), record).unwrap();
        }
        fs::create_dir_all(kubelet.path().join("pods/c/volumes")).unwrap();
        let state = kubelet.path().join("no-such-state");
        let left = observe(&state, kubelet.path(), "csi.cudaenv.dev").unwrap();
        let ours = kubelet.path().join("pods/a/volumes/kubernetes.io~csi/cuda");
        let expected = Leftovers {
            volumes: vec![ours],
            ..Leftovers::default()
        };
        assert_eq!(left, expected);
    }

    #[test]
    fn sockets_are_left_even_where_nobody_answers() {
        let kubelet = tempfile::tempdir().unwrap();
        let folder = kubelet.path().join("plugins/d");
        fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("csi.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let state = kubelet.path().join("state");
        assert!(observe(&state, kubelet.path(), "d").unwrap().serving);
        drop(listener);
        let left = observe(&state, kubelet.path(), "d").unwrap();
        assert_eq!((left.serving, left.sockets), (false, vec![socket]));
        assert_eq!(left.plugin, Some(folder.clone()));
        fs::write(folder.join("somebody-elses"), "").unwrap();
        assert_eq!(observe(&state, kubelet.path(), "d").unwrap().plugin, None);
    }
}
