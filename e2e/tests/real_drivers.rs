//! Detection of six real drivers, as their distribution lays them out.
//! It must never look at the machine's own driver, and never load one of these.

#![expect(clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::{fs, path::Path};

use crds::domain::node::DriverState;
use e2e::{node, parts, skip};
use node_agent::{
    observe::{
        driver::{KernelSource, Options, detect},
        gpus::{self, NvmlFault},
    },
    snapshot::driver::{CudaSource, Detection, Environment},
};

fn detect_with(root: &Path, kernel_version: KernelSource) -> Detection {
    let options = Options {
        kernel_version,
        ..Options::default()
    };
    detect(root, &options).expect("the root is a folder")
}

fn ready(version: &str, cuda: &str) -> DriverState {
    DriverState::Ready {
        version: version.parse().expect("a driver version"),
        cuda: cuda.parse().expect("a CUDA release"),
    }
}

#[test]
fn every_real_driver_is_found_with_its_version_and_cuda_release() {
    let check = "six real drivers are detected";
    let Some(drivers) = skip::without(check, parts::drivers()) else {
        return;
    };
    let device = Path::new("/dev/nvidiactl");
    let device_before = device.exists();
    for driver in drivers {
        let version = &driver.version;
        let found = detect_with(&driver.root, KernelSource::AssumeLibrary);
        assert_eq!(found.state, ready(version, driver.cuda), "{version}");
        assert_eq!(found.warnings, [""; 0], "{version}");
        let files = found.driver.expect("a driver");
        assert_eq!(files.environment, Environment::DebianAlternatives);
        assert_eq!(
            files.cuda.expect("a CUDA release").source,
            CudaSource::BranchTable,
            "no note up to 555"
        );
        let wanted = |stem: &str, soname: &str| {
            let name = format!("{stem}.so.{version}");
            let soname = Some(soname);
            assert!(
                files
                    .files
                    .iter()
                    .any(|file| file.name == name && file.soname.as_deref() == soname && file.size > 1 << 20),
                "{name} of {:?}",
                files.files
            );
        };
        wanted("libcuda", "libcuda.so.1");
        wanted("libnvidia-ml", "libnvidia-ml.so.1");
        wanted("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1");
        // Without being told, a library alone is no driver; and a module of another version is a mismatch.
        let alone = detect_with(&driver.root, KernelSource::Observe);
        assert!(matches!(alone.state, DriverState::NotReady { .. }), "{:?}", alone.state);
        let other = detect_with(&driver.root, KernelSource::Given("999.1".parse().expect("a version")));
        assert!(matches!(other.state, DriverState::Mismatch { .. }), "{:?}", other.state);
    }
    assert_eq!(device.exists(), device_before, "detection initialises nothing");
}

#[test]
fn a_node_is_ready_once_its_module_is_loaded_and_again_after_an_upgrade() {
    let check = "a node with a real driver is detected, upgraded and detected again";
    let Some(drivers) = skip::without(check, parts::drivers()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (&drivers[0], &drivers[5]);
    let root = node::lay_out(old, folder.path()).expect("a node");
    let found = detect_with(&root, KernelSource::Observe);
    assert_eq!(found.state, ready(&old.version, old.cuda));
    let module = found.kernel.expect("a module");
    assert_eq!(module.version().as_str(), old.version);
    // Its version file is an ordinary one: real NVML, which lies there, must not be initialised on this machine.
    let files = found.driver.expect("a driver").files;
    let nvml = files
        .iter()
        .find(|file| file.name.starts_with("libnvidia-ml.so."))
        .expect("NVML");
    let nvml = root.join(nvml.path.strip_prefix("/").expect("absolute"));
    let device_before = Path::new("/dev/nvidiactl").exists();
    let refused = gpus::observe(&nvml, &module);
    assert!(matches!(refused, Err(NvmlFault::NotRunning { .. })), "{refused:?}");
    assert_eq!(Path::new("/dev/nvidiactl").exists(), device_before);
    // The driver's files are replaced, the module is not reloaded yet; then it is.
    fs::remove_dir_all(root.join("usr")).expect("removed: nothing holds the driver's files");
    node::copy_tree(&new.root, &root).expect("the new files");
    let mismatch = detect_with(&root, KernelSource::Observe).state;
    assert!(
        matches!(&mismatch, DriverState::Mismatch { kernel, library } if kernel < library),
        "{mismatch:?}"
    );
    fs::write(root.join("sys/module/nvidia/version"), format!("{}\n", new.version)).expect("a new module");
    assert_eq!(
        detect_with(&root, KernelSource::Observe).state,
        ready(&new.version, new.cuda)
    );
}
