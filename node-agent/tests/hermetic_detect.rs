//! Driver detection below roots made for each case.
//! Never looks at the machine the tests run on.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail")]

#[path = "support/elf.rs"]
mod elf;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crds::domain::{cuda::CudaVersion, node::DriverState, store_path::System};
use elf::{ElfSpec, cuda_note};
use node_agent::{
    observe::driver::{CompatError, KernelSource, Options, compat_files, detect, fingerprint::fingerprint},
    snapshot::driver::{CudaSource, Detection, DriverCuda, Environment, Found},
};

const MULTIARCH: &str = "usr/lib/x86_64-linux-gnu";
const NOTE_580: &str =
    r#"{"format":1,"CUDA version":"13.0","driver":[535,550,565,570,575,580],"device":[1,2,7,8,9,10,11,12,13,14]}"#;

/// A folder that plays a machine's root.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, below: &str) -> PathBuf {
        assert!(!Path::new(below).is_absolute(), "{below} would leave the folder");
        self.0.path().join(below)
    }
    fn write(&self, below: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }
    fn link(&self, below: &str, target: &str) -> &Self {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }
    fn module(&self, version: &str) -> &Self {
        self.write("sys/module/nvidia/version", format!("{version}\n"))
    }
    fn driver(&self, directory: &str, version: &str) -> &Self {
        self.write(
            &format!("{directory}/libcuda.so.{version}"),
            library("libcuda.so.1", None),
        );
        self.link(&format!("{directory}/libcuda.so.1"), &format!("libcuda.so.{version}"));
        let jit = format!("libnvidia-ptxjitcompiler.so.{version}");
        self.write(
            &format!("{directory}/{jit}"),
            library("libnvidia-ptxjitcompiler.so.1", None),
        );
        self.link(&format!("{directory}/libnvidia-ptxjitcompiler.so.1"), &jit)
    }
    fn validated(&self, root: &str) -> &Self {
        let text = format!("IS_HOST_DRIVER={}\nNVIDIA_DRIVER_ROOT={root}\n", root == "/");
        self.write("run/nvidia/validations/driver-ready", text)
    }
    fn detect(&self) -> Detection {
        self.detect_with(KernelSource::Observe)
    }
    fn detect_with(&self, kernel_version: KernelSource) -> Detection {
        detect(
            self.0.path(),
            &Options {
                kernel_version,
                system: System::X86_64Linux,
            },
        )
        .unwrap()
    }
}

fn library(soname: &str, note: Option<&str>) -> Vec<u8> {
    let sections = note.map(cuda_note).into_iter().collect();
    elf::elf(&ElfSpec {
        soname: Some(soname),
        needed: &["libc.so.6"],
        sections,
        ..Default::default()
    })
}

fn by_note(major: u16, minor: u16) -> DriverCuda {
    DriverCuda {
        release: CudaVersion::new(major, minor),
        source: CudaSource::ElfNote,
    }
}

fn ready(version: &str, cuda: &str) -> DriverState {
    DriverState::Ready {
        version: version.parse().unwrap(),
        cuda: cuda.parse().unwrap(),
    }
}

#[track_caller]
fn assert_not_ready(found: &Detection, why_has: &[&str]) {
    let DriverState::NotReady { why } = &found.state else {
        panic!("{:?}", found.state)
    };
    for part in why_has {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn every_known_place_of_a_driver_is_found() {
    for (directory, environment) in [
        (".", Environment::Host),
        ("usr/lib64", Environment::Host),
        (MULTIARCH, Environment::Host),
        ("lib64", Environment::Host),
        (
            "usr/lib/x86_64-linux-gnu/nvidia/current",
            Environment::DebianAlternatives,
        ),
        (
            "usr/lib/x86_64-linux-gnu/nvidia/tesla-470",
            Environment::DebianAlternatives,
        ),
        ("home/kubernetes/bin/nvidia/lib64", Environment::GkeCos),
        ("usr/local/nvidia/lib64", Environment::GkeCos),
        ("run/opengl-driver/lib", Environment::NixOs),
        ("usr/local/glibc/usr/lib", Environment::Talos),
        ("opt/nvidia/current/lib64", Environment::Flatcar),
        ("opt/nvidia/current/usr/lib64", Environment::Flatcar),
        (
            "x86_64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia",
            Environment::Bottlerocket,
        ),
        (
            "x86_64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia/tesla",
            Environment::Bottlerocket,
        ),
    ] {
        let machine = Machine::new();
        machine.module("535.274.02").driver(directory, "535.274.02");
        let found = machine.detect();
        assert_eq!(found.state, ready("535.274.02", "12.2"), "{directory}");
        let driver = found.driver.unwrap();
        assert_eq!(driver.environment, environment, "{directory}");
        assert_eq!(driver.directory, Path::new("/").join(directory.trim_matches('.')));
        assert_eq!(driver.cuda.unwrap().source, CudaSource::BranchTable);
        let names: Vec<&str> = driver.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["libcuda.so.535.274.02", "libnvidia-ptxjitcompiler.so.535.274.02"]
        );
        assert_eq!(driver.files[0].soname.as_deref(), Some("libcuda.so.1"));
        assert_eq!(driver.files[0].needed, ["libc.so.6"]);
        assert_eq!(found.warnings, [""; 0]);
    }
}

#[test]
fn a_system_is_searched_in_its_own_directories_alone() {
    for (directory, environment) in [
        ("usr/lib/aarch64-linux-gnu", Environment::Host),
        ("lib/aarch64-linux-gnu", Environment::Host),
        (
            "usr/lib/aarch64-linux-gnu/nvidia/current",
            Environment::DebianAlternatives,
        ),
        (
            "aarch64-bottlerocket-linux-gnu/sys-root/usr/lib",
            Environment::Bottlerocket,
        ),
        (
            "aarch64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia",
            Environment::Bottlerocket,
        ),
        (
            "aarch64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia/tesla",
            Environment::Bottlerocket,
        ),
    ] {
        for (own, other, place) in [
            (System::Aarch64Linux, System::X86_64Linux, directory.to_owned()),
            (
                System::X86_64Linux,
                System::Aarch64Linux,
                directory.replace("aarch64", "x86_64"),
            ),
        ] {
            let machine = Machine::new();
            machine.module("535.274.02").driver(&place, "535.274.02");
            let on = |system| {
                let options = Options {
                    system,
                    ..Options::default()
                };
                detect(machine.0.path(), &options).unwrap()
            };
            assert_eq!(on(own).state, ready("535.274.02", "12.2"), "{place}");
            assert_eq!(on(own).driver.unwrap().environment, environment, "{place}");
            assert_not_ready(&on(other), &["535.274.02", "no libcuda"]);
        }
    }
}

#[test]
fn wsls_store_of_windows_drivers_is_searched() {
    let note = r#"{"format":1,"CUDA version":"12.8"}"#;
    let machine = Machine::new();
    machine.write("usr/lib/wsl/drivers/nvlt.inf_amd64_1/readme.txt", "no driver");
    let stated = || machine.detect_with(KernelSource::Given("572.16".parse().unwrap()));
    assert_eq!(stated().state, DriverState::Missing);
    let directory = "usr/lib/wsl/drivers/nvmd.inf_amd64_2";
    machine.write(
        &format!("{directory}/libcuda.so.1.1"),
        library("libcuda.so.1", Some(note)),
    );
    let found = stated();
    assert_eq!(found.state, ready("572.16", "12.8"));
    let driver = found.driver.unwrap();
    assert_eq!(
        (driver.environment, driver.directory),
        (Environment::Wsl, Path::new("/").join(directory))
    );
}

#[test]
fn a_compat_package_that_is_a_link_is_refused() {
    let machine = Machine::new();
    let version = "580.95.05";
    machine
        .driver("store/real/compat", version)
        .link("store/linked", "real");
    let found = compat_files(&machine.path("store/real")).unwrap();
    assert_eq!(found.version.map(|found| found.to_string()).as_deref(), Some(version));
    let refused = compat_files(&machine.path("store/linked")).unwrap_err();
    assert!(matches!(refused, CompatError::Root { .. }), "{refused:?}");
}

#[test]
fn a_machine_without_a_driver_has_none() {
    let found = Machine::new().detect();
    assert_eq!(found.state, DriverState::Missing);
    assert_eq!(found.looked_in(), "/");
    let absent = found.places.iter().filter(|place| place.found == Found::Absent).count();
    assert!(absent > 10 && absent == found.places.len() - 1, "{:?}", found.places);
}

#[test]
fn the_note_in_libcuda_says_its_cuda_release() {
    let machine = Machine::new();
    machine.module("580.95.05").write(
        "usr/lib64/libcuda.so.580.95.05",
        library("libcuda.so.1", Some(NOTE_580)),
    );
    let found = machine.detect();
    assert_eq!(found.state, ready("580.95.05", "13.0"));
    assert_eq!(found.driver.unwrap().cuda, Some(by_note(13, 0)));
}

#[test]
fn a_branch_in_no_table_is_not_guessed_but_its_note_counts() {
    let machine = Machine::new();
    machine.module("9999.10").driver("usr/lib64", "9999.10");
    assert_not_ready(&machine.detect(), &["9999"]);
    let machine = Machine::new();
    let note = r#"{"format":1,"CUDA version":"15.1","driver":[9999],"device":[2]}"#;
    machine
        .module("9999.10")
        .write("usr/lib64/libcuda.so.9999.10", library("libcuda.so.1", Some(note)));
    assert_eq!(machine.detect().state, ready("9999.10", "15.1"));
}

#[test]
fn kernel_module_and_library_must_be_of_one_version() {
    let machine = Machine::new();
    machine.module("550.163.01").driver(MULTIARCH, "550.54.15");
    let (kernel, library) = ("550.163.01".parse().unwrap(), "550.54.15".parse().unwrap());
    assert_eq!(machine.detect().state, DriverState::Mismatch { kernel, library });
}

#[test]
fn a_library_without_kernel_module_is_not_ready_unless_said_so() {
    let machine = Machine::new();
    machine.driver(MULTIARCH, "550.54.15");
    let found = machine.detect();
    assert_not_ready(&found, &["550.54.15", MULTIARCH, "no NVIDIA kernel module"]);
    assert_eq!(found.kernel, None);
    assert_eq!(
        machine.detect_with(KernelSource::AssumeLibrary).state,
        ready("550.54.15", "12.4")
    );
    let given = |version: &str| machine.detect_with(KernelSource::Given(version.parse().unwrap()));
    assert_eq!(given("550.54.15").state, ready("550.54.15", "12.4"));
    assert!(matches!(given("550.163.01").state, DriverState::Mismatch { .. }));
    assert_eq!(
        given("550.54.15").kernel,
        None,
        "a version that was given is no module that was seen"
    );
}

#[test]
fn the_module_banner_counts_where_sysfs_is_silent_and_both_must_agree() {
    let machine = Machine::new();
    machine.driver(MULTIARCH, "555.58.02");
    let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.58.02  Release Build  (x)\n";
    machine.write("proc/driver/nvidia/version", open);
    assert_eq!(machine.detect().state, ready("555.58.02", "12.5"));
    machine.module("555.42.06");
    assert_not_ready(&machine.detect(), &["555.42.06", "555.58.02"]);
    machine.module("TempVersion");
    assert_not_ready(&machine.detect(), &["TempVersion"]);
}

#[test]
fn a_stub_is_never_a_driver() {
    let machine = Machine::new();
    machine.write("usr/lib64/libcuda.so", library("libcuda.so.1", None));
    machine.link("usr/lib64/libcuda.so.1", "libcuda.so");
    assert_not_ready(&machine.detect(), &["/usr/lib64/libcuda.so", "stub"]);
    let machine = Machine::new();
    machine.write("opt/cuda/stubs/libcuda.so.550.54.15", library("libcuda.so.1", None));
    machine.link("usr/lib64/libcuda.so.1", "/opt/cuda/stubs/libcuda.so.550.54.15");
    assert_not_ready(&machine.detect_with(KernelSource::AssumeLibrary), &["stub"]);
    machine.driver(MULTIARCH, "550.54.15");
    assert_eq!(
        machine.detect_with(KernelSource::AssumeLibrary).state,
        ready("550.54.15", "12.4")
    );
}

#[test]
fn links_stay_below_the_root() {
    // The machine the test runs on must not answer for the one below the root.
    let outside = Machine::new();
    outside.driver("lib", "550.54.15");
    let machine = Machine::new();
    let target = outside.path("lib/libcuda.so.550.54.15");
    machine.link("usr/lib64/libcuda.so.1", target.to_str().unwrap());
    machine.link(
        "usr/lib64/libcuda.so.550.54.15",
        &format!("../../../../../../../..{}", target.display()),
    );
    machine.link("lib64", outside.path("lib").to_str().unwrap());
    assert_eq!(
        machine.detect_with(KernelSource::AssumeLibrary).state,
        DriverState::Missing
    );
    // A link that is absolute below the root, as Debian's alternatives and NixOS make them, is followed.
    machine.driver("nix/store/x-nvidia/lib", "570.124.06");
    machine.link("run/opengl-driver", "/nix/store/x-nvidia");
    let found = machine.detect_with(KernelSource::AssumeLibrary);
    assert_eq!(found.state, ready("570.124.06", "12.8"));
    let driver = found.driver.unwrap();
    assert_eq!(driver.directory, Path::new("/nix/store/x-nvidia/lib"));
    assert_eq!(driver.files.len(), 2);
}

#[test]
fn one_driver_behind_many_links_is_one_driver() {
    let machine = Machine::new();
    machine
        .module("550.163.01")
        .driver("usr/lib/x86_64-linux-gnu/nvidia/current", "550.163.01");
    machine.link("lib", "usr/lib");
    machine.link(
        "usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "/etc/alternatives/glx--libcuda.so.1",
    );
    machine.link(
        "etc/alternatives/glx--libcuda.so.1",
        "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1",
    );
    let found = machine.detect();
    assert_eq!(found.state, ready("550.163.01", "12.4"));
    assert_eq!(found.warnings, [""; 0]);
    assert_eq!(found.driver.unwrap().files.len(), 2);
}

#[test]
fn a_driver_container_counts_once_it_is_validated() {
    let machine = Machine::new();
    machine
        .module("580.95.05")
        .driver("run/nvidia/driver/usr/lib64", "580.95.05");
    assert_not_ready(&machine.detect(), &["/run/nvidia/driver", "driver-ready"]);
    machine.validated("/run/nvidia/driver");
    let found = machine.detect();
    assert_eq!(found.state, ready("580.95.05", "13.0"));
    let driver = found.driver.unwrap();
    assert_eq!(
        (driver.environment, driver.root.as_path()),
        (Environment::GpuOperator, Path::new("/run/nvidia/driver"))
    );
    assert_eq!(driver.directory, Path::new("/usr/lib64"));
    fs::remove_file(machine.path("run/nvidia/validations/driver-ready")).unwrap();
    assert_not_ready(&machine.detect(), &["driver-ready"]);
}

#[test]
fn absolute_links_of_a_driver_container_start_at_its_own_root() {
    let machine = Machine::new();
    machine
        .module("580.95.05")
        .driver("run/nvidia/driver/opt/nv", "580.95.05")
        .validated("/run/nvidia/driver");
    machine.link("run/nvidia/driver/usr/lib64", "/opt/nv");
    let driver = machine.detect().driver.unwrap();
    assert_eq!(driver.directory, Path::new("/opt/nv"));
    assert_eq!(driver.files.len(), 2);
}

#[test]
fn of_several_drivers_the_validated_one_wins_else_the_hosts() {
    let machine = Machine::new();
    machine
        .driver(MULTIARCH, "535.274.02")
        .driver("run/nvidia/driver/usr/lib64", "580.95.05");
    machine.driver("home/kubernetes/bin/nvidia/lib64", "550.54.15");
    machine.validated("/run/nvidia/driver");
    let found = machine.detect_with(KernelSource::AssumeLibrary);
    assert_eq!(found.state, ready("580.95.05", "13.0"));
    let [warning] = &found.warnings[..] else {
        panic!("{:?}", found.warnings)
    };
    for part in ["580.95.05", "535.274.02", "550.54.15", "driver-ready"] {
        assert!(warning.contains(part), "{warning}");
    }
    machine.validated("/");
    assert_eq!(
        machine.detect_with(KernelSource::AssumeLibrary).state,
        ready("535.274.02", "12.2")
    );
    fs::remove_dir_all(machine.path("run/nvidia")).unwrap();
    let found = machine.detect_with(KernelSource::AssumeLibrary);
    assert_eq!(found.state, ready("535.274.02", "12.2"));
    assert!(found.warnings[0].contains("550.54.15"), "{:?}", found.warnings);
}

#[test]
fn a_validation_file_that_lies_or_is_broken_stops_the_node() {
    let machine = Machine::new();
    machine
        .module("535.274.02")
        .driver(MULTIARCH, "535.274.02")
        .validated("/run/nvidia/driver");
    assert_not_ready(&machine.detect(), &["/run/nvidia/driver", "no libcuda"]);
    machine.validated("/../etc");
    assert_not_ready(&machine.detect(), &["NVIDIA_DRIVER_ROOT"]);
    machine.validated("/");
    assert_eq!(machine.detect().state, ready("535.274.02", "12.2"));
}

#[test]
fn wsl_names_no_driver_version_so_a_person_must() {
    let machine = Machine::new();
    let note = r#"{"format":1,"CUDA version":"12.8"}"#;
    machine.write("usr/lib/wsl/lib/libcuda.so.1.1", library("libcuda.so.1", Some(note)));
    machine.link("usr/lib/wsl/lib/libcuda.so.1", "libcuda.so.1.1");
    let found = machine.detect();
    assert_not_ready(&found, &["WSL2", "by hand"]);
    assert_eq!(found.driver.unwrap().cuda, Some(by_note(12, 8)));
    assert_eq!(
        machine
            .detect_with(KernelSource::Given("572.16".parse().unwrap()))
            .state,
        ready("572.16", "12.8")
    );
}

#[test]
fn a_broken_library_is_not_ready_and_says_which() {
    let machine = Machine::new();
    machine
        .module("550.54.15")
        .write("usr/lib64/libcuda.so.550.54.15", "not ELF");
    let found = machine.detect();
    assert_not_ready(&found, &["/usr/lib64"]);
    assert!(
        found.warnings[0].contains("libcuda.so.550.54.15"),
        "{:?}",
        found.warnings
    );
    // Any other file that only calls itself a library, such as a linker script, costs nothing but a word.
    machine
        .driver("usr/lib64", "550.54.15")
        .write("usr/lib64/libnvidia-ml.so", "INPUT(libnvidia-ml.so.1)");
    let found = machine.detect();
    assert_eq!(found.state, ready("550.54.15", "12.4"));
    assert!(found.warnings[0].contains("libnvidia-ml.so"), "{:?}", found.warnings);
}

#[test]
fn nothing_is_held_open_below_the_root() {
    let machine = Machine::new();
    machine
        .module("580.95.05")
        .driver("run/nvidia/driver/usr/lib64", "580.95.05")
        .validated("/run/nvidia/driver");
    assert_eq!(machine.detect().state, ready("580.95.05", "13.0"));
    let held: Vec<PathBuf> = (fs::read_dir("/proc/self/fd").unwrap())
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(machine.0.path()))
        .collect();
    assert_eq!(held, Vec::<PathBuf>::new());
    for file in ["/proc/self/mountinfo", "/proc/self/maps"] {
        assert!(
            !fs::read_to_string(file)
                .unwrap()
                .contains(machine.0.path().to_str().unwrap()),
            "{file}"
        );
    }
}

#[test]
fn a_glance_notices_every_change_that_a_look_would_find_and_no_other() {
    let machine = Machine::new();
    let glance = |seen: &Detection| fingerprint(machine.0.path(), seen).unwrap();
    let changed = |what: &str, change: &dyn Fn()| {
        let seen = machine.detect();
        let before = glance(&seen);
        assert_eq!(glance(&seen), before, "{what}: nothing happened yet");
        change();
        assert_ne!(glance(&seen), before, "{what}");
    };
    changed("a module is loaded", &|| {
        machine.module("535.274.02");
    });
    changed("a driver comes", &|| {
        machine.driver(MULTIARCH, "535.274.02");
    });
    changed("another module is loaded", &|| {
        machine.module("550.54.14");
    });
    let file = format!("{MULTIARCH}/libcuda.so.535.274.02");
    changed("its file is written again", &|| {
        machine.write(&file, library("libcuda.so.1", Some(NOTE_580)));
    });
    changed("another driver lies there", &|| {
        fs::remove_file(machine.path(&format!("{MULTIARCH}/libcuda.so.1"))).unwrap();
        fs::remove_file(machine.path(&format!("{MULTIARCH}/libnvidia-ptxjitcompiler.so.1"))).unwrap();
        machine.driver(MULTIARCH, "550.54.14");
    });
    changed("the operator validates its own", &|| {
        machine
            .driver(&format!("run/nvidia/driver/{MULTIARCH}"), "550.54.14")
            .validated("/run/nvidia/driver");
    });
    changed("the operator takes it back", &|| {
        fs::remove_file(machine.path("run/nvidia/validations/driver-ready")).unwrap();
    });
    let seen = machine.detect();
    let before = glance(&seen);
    machine.write("sys/module/nvidia/refcnt", "1");
    assert_eq!(glance(&seen), before, "a file that has nothing to do with it");
}
