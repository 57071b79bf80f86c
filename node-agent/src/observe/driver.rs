//! Finds the NVIDIA driver of a machine below any root, by reading files.
//! Never loads libcuda, never calls NVML, and holds nothing open below the root once it returned: an open file there
//! would block the upgrade of a driver container.

mod compat;
pub mod fingerprint;
pub mod kernel;
mod ld_cache;
mod library;
mod places;
pub mod ready;

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

use crds::{
    domain::{driver::DriverVersion, node::DriverState, store_path::System},
    selection::cuda_of_branch,
};

pub use compat::{CompatError, compat_files};
pub use library::LibraryError;

use self::{
    kernel::KernelError,
    places::OPERATOR_ROOT,
    ready::{DRIVER_READY, DriverReady, ReadyError},
};
use crate::{
    rooted::Root,
    snapshot::driver::{
        CudaSource, Detection, DriverCuda, DriverFiles, Environment, Found, KernelModule, Place, looked_in,
    },
};

/// Where the version of the kernel module comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelSource {
    /// From the running kernel, below the root. No module: not ready.
    #[default]
    Observe,
    /// Given by a person: for WSL2, and where the kernel cannot be seen.
    Given(DriverVersion),
    /// Taken to be that of the library: for tests and demonstrations without a GPU.
    AssumeLibrary,
}

/// How to detect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub kernel_version: KernelSource,
    /// Which multiarch directories to look in.
    pub system: System,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel_version: KernelSource::Observe,
            system: System::of_this_build(),
        }
    }
}

/// Why nothing could be said about a machine's driver. What can be said, bad news included, is in the [`Detection`].
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    #[error("cannot look below {}", root.display())]
    Root { root: PathBuf, source: io::Error },
}

/// What was seen before anything is concluded.
struct Seen {
    kernel: Result<Option<KernelModule>, KernelError>,
    ready: Result<Option<DriverReady>, ReadyError>,
    places: Vec<Place>,
    /// Something lies in the operator's driver root.
    operator_root_in_use: bool,
}

/// Detects the driver below `root`: `/` on a host, `/host` in a container, any folder in a test.
pub fn detect(root: &Path, options: &Options) -> Result<Detection, DetectError> {
    let opened = Root::open(root).map_err(|source| DetectError::Root {
        root: root.to_owned(),
        source,
    })?;
    let ready = ready::observe(&opened);
    let named = ready
        .as_ref()
        .ok()
        .and_then(Option::as_ref)
        .and_then(|ready| ready.root());
    let seen = Seen {
        kernel: kernel::observe(&opened),
        places: places::search(&opened, options.system, named),
        operator_root_in_use: opened
            .list(Path::new(OPERATOR_ROOT))
            .is_ok_and(|entries| !entries.is_empty()),
        ready,
    };
    let mut warnings = Vec::new();
    let choice = choose(&seen, &mut warnings);
    let driver = match &choice {
        Choice::Driver { place, .. } => files(&opened, place, &mut warnings),
        Choice::None(_) => None,
    };
    let state = conclude(&seen, choice, driver.as_ref(), options);
    let kernel = seen.kernel.ok().flatten();
    Ok(Detection {
        state,
        kernel,
        driver,
        places: seen.places,
        warnings,
    })
}

/// Which of the drivers found is the node's.
enum Choice {
    /// This one; `hold` says why it must not be used yet.
    Driver {
        place: Place,
        hold: Option<String>,
    },
    None(DriverState),
}

fn choose(seen: &Seen, warnings: &mut Vec<String>) -> Choice {
    let found = distinct_libraries(&seen.places);
    let named = match &seen.ready {
        Ok(ready) => ready.as_ref(),
        Err(error) => return Choice::None(not_ready(chain(error))),
    };
    if let Some(root) = named.and_then(|ready| ready.root()) {
        let Some(place) = found.iter().find(|place| place.root == root) else {
            let why = format!("{DRIVER_READY} names {}, and no libcuda lies there", root.display());
            return Choice::None(not_ready(why));
        };
        warn_of_others(&found, place, "named by driver-ready", warnings);
        return Choice::Driver {
            place: (*place).clone(),
            hold: None,
        };
    }
    let revalidating = named.is_none() && seen.operator_root_in_use;
    let of_operator = found.iter().find(|place| place.environment == Environment::GpuOperator);
    match (of_operator, found.first()) {
        (Some(place), _) if revalidating => {
            let hold = format!(
                "a driver lies in {OPERATOR_ROOT}, but {DRIVER_READY} is absent: it is being installed or validated"
            );
            Choice::Driver {
                place: (*place).clone(),
                hold: Some(hold),
            }
        }
        (Some(place), _) if named.is_some() => {
            warn_of_others(&found, place, "validated by the GPU Operator", warnings);
            Choice::Driver {
                place: (*place).clone(),
                hold: None,
            }
        }
        (_, Some(place)) => {
            warn_of_others(&found, place, "looked at first", warnings);
            Choice::Driver {
                place: (*place).clone(),
                hold: None,
            }
        }
        (_, None) => Choice::None(nothing_found(seen, revalidating)),
    }
}

fn nothing_found(seen: &Seen, revalidating: bool) -> DriverState {
    let stub = seen.places.iter().find_map(|place| match &place.found {
        Found::Stub { file } => Some(file),
        Found::Absent | Found::Nothing | Found::Library { .. } | Found::Unreadable { .. } => None,
    });
    match (&seen.kernel, stub) {
        (Err(error), _) => not_ready(chain(error)),
        (Ok(Some(module)), _) => not_ready(format!(
            "kernel module {} is loaded, but no libcuda was found; looked in {}",
            module.version(),
            looked_in(&seen.places)
        )),
        (Ok(None), _) if revalidating => not_ready(format!("{OPERATOR_ROOT} is in use, but holds no libcuda yet")),
        (Ok(None), Some(file)) => not_ready(format!("{file} is a stub for linking, not a driver")),
        (Ok(None), None) => DriverState::Missing,
    }
}

/// Kernel module, library and CUDA release together.
fn conclude(seen: &Seen, choice: Choice, driver: Option<&DriverFiles>, options: &Options) -> DriverState {
    let (place, hold) = match choice {
        Choice::None(state) => return state,
        Choice::Driver { place, hold } => (place, hold),
    };
    if let Some(why) = hold {
        return not_ready(why);
    }
    let Some(driver) = driver else {
        return not_ready(format!("the driver in {} cannot be read", place.below().display()));
    };
    let kernel = match (&options.kernel_version, &seen.kernel) {
        (KernelSource::Given(version), _) => Some(version.clone()),
        (KernelSource::AssumeLibrary, _) => driver.version.clone(),
        (KernelSource::Observe, Ok(module)) => module.as_ref().map(|module| module.version().clone()),
        (KernelSource::Observe, Err(error)) => return not_ready(chain(error)),
    };
    let Some(kernel) = kernel else {
        return not_ready(no_kernel(&place, driver));
    };
    if let Some(library) = driver.version.clone().filter(|library| *library != kernel) {
        return DriverState::Mismatch { kernel, library };
    }
    let of_branch = || cuda_of_branch(kernel.major());
    match driver.cuda.map(|cuda| cuda.release).or_else(of_branch) {
        Some(cuda) => DriverState::Ready { version: kernel, cuda },
        None => not_ready(format!(
            "the CUDA release of driver {kernel} is unknown: libcuda carries no note, and branch {} is in no table",
            kernel.major()
        )),
    }
}

fn no_kernel(place: &Place, driver: &DriverFiles) -> String {
    let directory = place.below();
    match (&driver.version, driver.environment) {
        (Some(version), _) => format!(
            "libcuda {version} lies in {}, but no NVIDIA kernel module is loaded",
            directory.display()
        ),
        (None, Environment::Wsl) => format!(
            "WSL2's libcuda in {} names no driver version, and there is no kernel module to ask; give the version by hand",
            directory.display()
        ),
        (None, _) => format!(
            "libcuda in {} names no driver version, and no NVIDIA kernel module is loaded",
            directory.display()
        ),
    }
}

/// Describes the chosen driver's files; what fails becomes a warning, and the driver is then not ready.
fn files(root: &Root, place: &Place, warnings: &mut Vec<String>) -> Option<DriverFiles> {
    let Found::Library { file, version } = &place.found else {
        return None;
    };
    let inner = match root.chroot(&place.root) {
        Ok(inner) => inner,
        Err(error) => {
            warnings.push(format!("cannot look below {}: {error}", place.root.display()));
            return None;
        }
    };
    let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
    let mut noted = |error: LibraryError| warnings.push(chain(&error));
    let listing = library::list(&inner, &directory).map_err(&mut noted).ok()?;
    listing.broken.into_iter().for_each(&mut noted);
    if listing.files.iter().all(|library| library.path != *file) {
        return None;
    }
    let note = library::note(&inner, file).map_err(&mut noted).ok().flatten();
    let known = |source| move |release| DriverCuda { release, source };
    let of_branch = || cuda_of_branch(version.as_ref()?.major()).map(known(CudaSource::BranchTable));
    let of_note = note.map(|note| note.cuda).map(known(CudaSource::ElfNote));
    Some(DriverFiles {
        environment: place.environment,
        root: place.root.clone(),
        directory,
        version: version.clone(),
        cuda: of_note.or_else(of_branch),
        files: listing.files,
    })
}

/// Every driver once: the same file can be reached through several directories.
fn distinct_libraries(places: &[Place]) -> Vec<&Place> {
    let mut distinct: Vec<&Place> = Vec::new();
    for place in places {
        let Found::Library { file, .. } = &place.found else {
            continue;
        };
        let known = |other: &&Place| matches!(&other.found, Found::Library { file: seen, .. } if seen == file && other.root == place.root);
        if !distinct.iter().any(known) {
            distinct.push(place);
        }
    }
    distinct
}

fn warn_of_others(found: &[&Place], chosen: &Place, why: &str, warnings: &mut Vec<String>) {
    let others: Vec<String> = found
        .iter()
        .filter(|place| **place != chosen)
        .map(|place| describe(place))
        .collect();
    if !others.is_empty() {
        warnings.push(format!(
            "several drivers: {} is used ({why}), not {}",
            describe(chosen),
            others.join(", ")
        ));
    }
}

fn describe(place: &Place) -> String {
    let directory = place.below();
    if let Found::Library {
        version: Some(version), ..
    } = &place.found
    {
        format!("{version} in {}", directory.display())
    } else {
        format!("the one in {}", directory.display())
    }
}

fn not_ready(why: String) -> DriverState {
    DriverState::NotReady { why }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
