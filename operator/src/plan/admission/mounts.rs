//! What a container gets: the three mounts and the variable.
//! Never moves or hides a mount of the user's.

use k8s_openapi::api::core::v1::{Container, EnvVar, VolumeMount};

use super::{
    refusal::{MountProblem, Refusal},
    warning,
};

/// Where the whole volume is mounted, and what [`VARIABLE`] says.
const ROOT: &str = "/run/cudaenv";
/// Tells programs where their environment is.
const VARIABLE: &str = "CUDAENV";

/// Where what part of the volume goes.
const MOUNTS: [(&str, Option<&str>); 3] = [
    ("/nix/store", Some("nix/store")),
    ("/run/opengl-driver", Some("driver")),
    (ROOT, None),
];

/// Gives a container the mounts of `volume` that it lacks, and the variable; with what a person should know. `place` is where
/// the container is in the pod.
///
/// # Errors
/// A mount at one of our places, or below one.
pub fn equip(container: &mut Container, place: &str, volume: &str) -> Result<Option<String>, Refusal> {
    for (path, sub_path) in MOUNTS {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        if !is_there(mounts, &wanted(volume, path, sub_path)).map_err(|(index, problem)| Refusal::Mount {
            container: place.to_owned(),
            index,
            problem,
        })? {
            let mounts = container.volume_mounts.get_or_insert_default();
            mounts.push(wanted(volume, path, sub_path));
        }
    }
    Ok(tell(container, place))
}

fn wanted(volume: &str, path: &'static str, sub_path: Option<&str>) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        sub_path: sub_path.map(str::to_owned),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// Whether the mount is there already.
fn is_there(mounts: &[VolumeMount], wanted: &VolumeMount) -> Result<bool, (usize, MountProblem)> {
    let ours = parts(&wanted.mount_path);
    let place = MOUNTS
        .iter()
        .map(|(path, _)| *path)
        .find(|path| *path == wanted.mount_path);
    let place = place.unwrap_or(ROOT);
    let mut there = false;
    for (index, mount) in mounts.iter().enumerate() {
        let theirs = parts(&mount.mount_path);
        if !theirs.starts_with(&ours) {
            continue;
        }
        if theirs.len() > ours.len() {
            let problem = MountProblem::Below {
                volume: mount.name.clone(),
                path: mount.mount_path.clone(),
                ours: place,
            };
            return Err((index, problem));
        }
        if !same(mount, wanted) {
            let volume = mount.name.clone();
            return Err((index, MountProblem::Taken { volume, path: place }));
        }
        there = true;
    }
    Ok(there)
}

/// Whether a mount at the same place shows the same.
fn same(mount: &VolumeMount, wanted: &VolumeMount) -> bool {
    let sub_path = |mount: &VolumeMount| parts(mount.sub_path.as_deref().unwrap_or_default()).join("/");
    let computed = mount.sub_path_expr.as_ref().is_some_and(|path| !path.is_empty());
    mount.name == wanted.name && sub_path(mount) == sub_path(wanted) && !computed
}

/// The parts of a path, as the runtime resolves it before anything is mounted.
fn parts(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts
}

/// Sets the variable, unless the container has its own: the user's word is the last.
fn tell(container: &mut Container, place: &str) -> Option<String> {
    let found = container
        .env
        .iter()
        .flatten()
        .find(|variable| variable.name == VARIABLE);
    match found {
        Some(variable) if variable.value.as_deref() == Some(ROOT) => None,
        Some(_) => Some(warning(&format!(
            "{place} keeps its own {VARIABLE}; the environment is at {ROOT}"
        ))),
        None => {
            container.env.get_or_insert_default().push(EnvVar {
                name: VARIABLE.to_owned(),
                value: Some(ROOT.to_owned()),
                value_from: None,
            });
            None
        }
    }
}
