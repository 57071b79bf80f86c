//! Where NVIDIA drivers are laid on nodes, and what lies there.
//! Never leaves the root it is given; only lists directories and reads headers of libraries.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use crds::domain::{driver::DriverVersion, store_path::System};

use super::{
    ld_cache::{self, LD_CACHE},
    library,
};
use crate::{
    rooted::Root,
    snapshot::driver::{Environment, Found, Place},
};

/// Root of a GPU Operator's driver container on the node (its `hostPaths.driverInstallDir`).
pub(super) const OPERATOR_ROOT: &str = "/run/nvidia/driver";
/// Alternatives below one `<triplet>/nvidia` that are looked at.
const ALTERNATIVES_LIMIT: usize = 32;
/// Driver folders below WSL's store of Windows drivers that are looked at.
const WSL_STORE_LIMIT: usize = 256;

/// Looks at every known place. `named` is a driver root that the operator's file names.
pub(super) fn search(root: &Root, system: System, named: Option<&Path>) -> Vec<Place> {
    let slash = Path::new("/");
    let mut places = search_root(root, slash, Environment::Host, system);
    let operator = Path::new(OPERATOR_ROOT);
    let other = named.filter(|named| *named != slash && *named != operator);
    for driver_root in [Some(operator), other].into_iter().flatten() {
        match root.chroot(driver_root) {
            Ok(inner) => {
                let environment = Environment::GpuOperator;
                places.extend(search_root(&inner, driver_root, environment, system));
                search_cache(&inner, driver_root, environment, system, &mut places);
            }
            Err(error) => places.push(Place {
                environment: Environment::GpuOperator,
                root: driver_root.to_owned(),
                directory: slash.to_owned(),
                found: failed(&error),
            }),
        }
    }
    for (environment, directory) in elsewhere(root, system) {
        places.push(look(root, slash, environment, directory));
    }
    search_cache(root, slash, Environment::Host, system, &mut places);
    places
}

/// The directories that NVIDIA's own tools search in a driver's root, then Debian's alternatives.
fn search_root(root: &Root, shown: &Path, environment: Environment, system: System) -> Vec<Place> {
    let triplet = triplet(system);
    let plain = [
        "/".to_owned(),
        "/usr/lib64".to_owned(),
        format!("/usr/lib/{triplet}"),
        "/lib64".to_owned(),
        format!("/lib/{triplet}"),
    ];
    let mut places: Vec<Place> = plain
        .into_iter()
        .map(|directory| look(root, shown, environment, directory.into()))
        .collect();
    let alternatives = PathBuf::from(format!("/usr/lib/{triplet}/nvidia"));
    let debian = if environment == Environment::Host {
        Environment::DebianAlternatives
    } else {
        environment
    };
    for name in subdirectories(root, &alternatives, ALTERNATIVES_LIMIT) {
        places.push(look(root, shown, debian, alternatives.join(name)));
    }
    places
}

/// What the loader's cache of a driver's root names beyond the places looked at already; last, because anybody's
/// `ld.so.conf.d` adds to it.
fn search_cache(root: &Root, shown: &Path, environment: Environment, system: System, places: &mut Vec<Place>) {
    let of_cache = |found| Place {
        environment,
        root: shown.to_owned(),
        directory: LD_CACHE.into(),
        found,
    };
    match ld_cache::directories(root, system) {
        Ok(directories) if directories.is_empty() => places.push(of_cache(Found::Nothing)),
        Ok(directories) => {
            for directory in directories {
                let known = |place: &Place| place.root == shown && place.directory == directory;
                if !places.iter().any(known) {
                    places.push(look(root, shown, environment, directory));
                }
            }
        }
        Err(error) if error.is_absent() => places.push(of_cache(Found::Absent)),
        Err(error) => places.push(of_cache(Found::Unreadable {
            why: super::chain(&error),
        })),
    }
}

/// Systems that keep the driver outside the usual library directories. Bottlerocket's path was seen in images of its
/// vendor, Flatcar's in the sources of its installers and of NVIDIA's tools, neither on a node. WSL2 is told by its
/// libraries: `/dev/dxg` says nothing of where they are, nor of their version.
fn elsewhere(root: &Root, system: System) -> Vec<(Environment, PathBuf)> {
    let bottlerocket = match system {
        System::X86_64Linux => "/x86_64-bottlerocket-linux-gnu/sys-root/usr/lib",
        System::Aarch64Linux => "/aarch64-bottlerocket-linux-gnu/sys-root/usr/lib",
    };
    let mut places: Vec<(Environment, PathBuf)> = [
        (Environment::GkeCos, "/home/kubernetes/bin/nvidia/lib64"),
        (Environment::GkeCos, "/usr/local/nvidia/lib64"),
        (Environment::NixOs, "/run/opengl-driver/lib"),
        (Environment::Talos, "/usr/local/glibc/usr/lib"),
        (Environment::Flatcar, "/opt/nvidia/current/lib64"),
        (Environment::Flatcar, "/opt/nvidia/current/usr/lib64"),
        (Environment::Bottlerocket, bottlerocket),
    ]
    .map(|(environment, directory)| (environment, directory.into()))
    .into();
    for below in ["nvidia", "nvidia/tesla"] {
        places.push((Environment::Bottlerocket, Path::new(bottlerocket).join(below)));
    }
    let drivers = Path::new("/usr/lib/wsl/drivers");
    let store = subdirectories(root, drivers, WSL_STORE_LIMIT)
        .into_iter()
        .map(|name| drivers.join(name));
    let with_cuda = store.filter(|folder| root.resolve(&folder.join("libcuda.so.1.1")).is_ok());
    places.extend(
        std::iter::once("/usr/lib/wsl/lib".into())
            .chain(with_cuda)
            .map(|place| (Environment::Wsl, place)),
    );
    places
}

fn triplet(system: System) -> &'static str {
    match system {
        System::X86_64Linux => "x86_64-linux-gnu",
        System::Aarch64Linux => "aarch64-linux-gnu",
    }
}

fn subdirectories(root: &Root, path: &Path, limit: usize) -> Vec<std::ffi::OsString> {
    let entries = root.list(path).unwrap_or_default();
    entries
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| root.list(&path.join(name)).is_ok())
        .take(limit)
        .collect()
}

fn look(root: &Root, shown: &Path, environment: Environment, directory: PathBuf) -> Place {
    let found = libcuda_in(root, &directory).unwrap_or_else(|error| failed(&error));
    Place {
        environment,
        root: shown.to_owned(),
        directory,
        found,
    }
}

fn failed(error: &io::Error) -> Found {
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        Found::Absent
    } else {
        Found::Unreadable { why: error.to_string() }
    }
}

/// The libcuda of a directory: where `libcuda.so.1` leads, else the highest version that lies there.
///
/// A driver's libcuda is a regular file that carries its version in its name. A plain `libcuda.so` (nixpkgs' and the
/// toolkit's stubs), and anything in a directory called `stubs`, is none.
pub(super) fn libcuda_in(root: &Root, directory: &Path) -> io::Result<Found> {
    let names: Vec<String> = (root.list(directory)?.into_iter())
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("libcuda.so"))
        .collect();
    let mut candidates = vec!["libcuda.so.1"];
    let mut versions: Vec<&String> = names.iter().filter(|name| name.as_str() != "libcuda.so.1").collect();
    versions.sort_by_key(|name| std::cmp::Reverse(library::version_of(name)));
    candidates.extend(versions.iter().map(|name| name.as_str()));
    let mut stub = None;
    for name in candidates
        .into_iter()
        .filter(|name| names.iter().any(|found| found == name))
    {
        let Ok(file) = root.resolve(&directory.join(name)) else {
            continue;
        };
        if root.open_file(&file).is_err() {
            continue;
        }
        match driver_library(&file) {
            Some(version) => return Ok(Found::Library { file, version }),
            None => stub = stub.or_else(|| Some(file.to_string_lossy().into_owned())),
        }
    }
    Ok(stub.map_or(Found::Nothing, |file| Found::Stub { file }))
}

/// Whether a resolved file is a driver's libcuda, and of which version, both by its name.
fn driver_library(file: &Path) -> Option<Option<DriverVersion>> {
    let name = file.file_name().and_then(OsStr::to_str)?;
    if file.components().any(|part| part.as_os_str() == "stubs") {
        return None;
    }
    match library::version_of(name) {
        Some(version) => Some(Some(version)),
        None => (name == "libcuda.so.1.1").then_some(None),
    }
}
