//! Planning and building driver bridges from libraries made for each case.
//! Never needs a real driver; those are in e2e.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "support/elf.rs"]
mod elf;

use std::{
    fs,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

use elf::{ElfSpec, cuda_note};
use node_agent::{
    act::{
        bridge::{BuildError, Sources, build},
        install::{self, InstallError, Origin},
    },
    elf::Elf,
    plan::bridge::{BridgePlan, BridgeRefusal, Source, plan},
    snapshot::driver::{CompatFiles, DriverFiles, Environment, LibraryFile},
    store::NodeStore,
};

const FULL: [(&str, &str); 9] = [
    ("libcuda.so.580.95.05", "libcuda.so.1"),
    ("libcudadebugger.so.580.95.05", "libcudadebugger.so.1"),
    ("libnvidia-gpucomp.so.580.95.05", "libnvidia-gpucomp.so.580.95.05"),
    ("libnvidia-ml.so.580.95.05", "libnvidia-ml.so.1"),
    ("libnvidia-nvvm.so.580.95.05", "libnvidia-nvvm.so.4"),
    ("libnvidia-nvvm70.so.4", "libnvidia-nvvm70.so.4"),
    ("libnvidia-opencl.so.580.95.05", "libnvidia-opencl.so.1"),
    ("libnvidia-ptxjitcompiler.so.580.95.05", "libnvidia-ptxjitcompiler.so.1"),
    ("libnvidia-eglcore.so.580.95.05", "libnvidia-eglcore.so.580.95.05"),
];

fn listed(files: &[(&str, &str)]) -> Vec<LibraryFile> {
    let file = |(name, soname): &(&str, &str)| LibraryFile {
        name: (*name).to_owned(),
        path: Path::new("/lib").join(name),
        size: 100,
        soname: Some((*soname).to_owned()),
        needed: Vec::new(),
        build_id: Some("ab".to_owned()),
    };
    files.iter().map(file).collect()
}

fn driver(version: &str, files: Vec<LibraryFile>) -> DriverFiles {
    DriverFiles {
        environment: Environment::Host,
        root: PathBuf::from("/"),
        directory: PathBuf::from("/lib"),
        version: version.parse().ok(),
        cuda: None,
        files,
    }
}

fn plan_of(version: &str, files: &[(&str, &str)], compat: Option<&CompatFiles>) -> Result<BridgePlan, BridgeRefusal> {
    plan(&driver(version, listed(files)), &version.parse().unwrap(), compat)
}

fn names(plan: &BridgePlan) -> Vec<&str> {
    plan.files.iter().map(|file| file.name.as_str()).collect()
}

fn warnings(plan: &BridgePlan) -> Vec<String> {
    plan.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_compute_pod_gets_the_compute_libraries_under_every_name_they_are_opened_by() {
    let plan = plan_of("580.95.05", &FULL, None).unwrap();
    let wanted: Vec<&str> = FULL
        .iter()
        .map(|file| file.0)
        .filter(|name| !name.contains("eglcore"))
        .collect();
    assert_eq!(names(&plan), wanted);
    let links: Vec<String> = plan
        .links
        .iter()
        .map(|link| format!("{} -> {}", link.name, link.target))
        .collect();
    assert_eq!(
        links,
        [
            "libcuda.so -> libcuda.so.1",
            "libcuda.so.1 -> libcuda.so.580.95.05",
            "libcudadebugger.so.1 -> libcudadebugger.so.580.95.05",
            "libnvidia-ml.so.1 -> libnvidia-ml.so.580.95.05",
            "libnvidia-nvvm.so.4 -> libnvidia-nvvm.so.580.95.05",
            "libnvidia-opencl.so.1 -> libnvidia-opencl.so.580.95.05",
            "libnvidia-ptxjitcompiler.so.1 -> libnvidia-ptxjitcompiler.so.580.95.05",
        ]
    );
    let rewritten: Vec<&str> = plan
        .files
        .iter()
        .filter(|file| file.finds_siblings)
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(
        rewritten,
        [
            "libcuda.so.580.95.05",
            "libnvidia-ml.so.580.95.05",
            "libnvidia-opencl.so.580.95.05"
        ]
    );
    assert_eq!(warnings(&plan), [""; 0]);
}

#[test]
fn what_a_driver_lacks_is_a_warning_where_its_branch_should_have_it() {
    let few = |version: &'static str| {
        let libcuda = format!("libcuda.so.{version}");
        warnings(&plan_of(version, &[(&libcuda, "libcuda.so.1")], None).unwrap()).join("; ")
    };
    for (version, lacks, has_no_word_of) in [
        (
            "435.21",
            &["libnvidia-fatbinaryloader", "libnvidia-ml", "221"][..],
            &["nvvm", "tileiras"][..],
        ),
        (
            "450.248.02",
            &["libnvidia-ptxjitcompiler"],
            &["nvvm", "fatbinaryloader"],
        ),
        ("470.256.02", &["libnvidia-nvvm:"], &["nvvm70"]),
        ("580.95.05", &["libnvidia-nvvm70"], &["tileiras", "gpucomp", "opencl"]),
        ("595.58.03", &["libnvidia-tileiras"], &[]),
    ] {
        let text = few(version);
        assert!(lacks.iter().all(|word| text.contains(word)), "{version}: {text}");
        assert!(
            !has_no_word_of.iter().any(|word| text.contains(word)),
            "{version}: {text}"
        );
    }
}

#[test]
fn the_same_driver_has_the_same_bridge_everywhere_and_another_one_has_not() {
    let id = |change: fn(&mut DriverFiles)| {
        let mut driver = driver("580.95.05", listed(&FULL));
        change(&mut driver);
        plan(&driver, &"580.95.05".parse().unwrap(), None)
            .unwrap()
            .id
            .to_string()
    };
    let usual = id(|_| ());
    assert!(usual.starts_with("580.95.05-") && usual.len() == 26, "{usual}");
    assert_eq!(
        id(|driver| driver.root = "/run/nvidia/driver".into()),
        usual,
        "wherever it lies"
    );
    assert_eq!(
        id(|driver| driver.files.reverse()),
        usual,
        "in whatever order it is listed"
    );
    assert_ne!(id(|driver| driver.files[0].size += 1), usual);
    assert_ne!(id(|driver| driver.files[0].build_id = Some("cd".into())), usual);
    assert_ne!(id(|driver| drop(driver.files.remove(1))), usual);
}

#[test]
fn leftovers_of_another_version_are_left_out() {
    let mut files = FULL.to_vec();
    files.extend([
        ("libcuda.so.535.274.02", "libcuda.so.1"),
        ("libnvidia-ml.so.535.274.02", "libnvidia-ml.so.1"),
    ]);
    assert_eq!(
        plan_of("580.95.05", &files, None).unwrap(),
        plan_of("580.95.05", &FULL, None).unwrap()
    );
}

#[test]
fn forward_compatibility_replaces_the_user_mode_half_but_never_nvml() {
    let old = [
        ("libcuda.so.535.274.02", "libcuda.so.1"),
        ("libnvidia-ml.so.535.274.02", "libnvidia-ml.so.1"),
        ("libnvidia-nvvm.so.535.274.02", "libnvidia-nvvm.so.4"),
        (
            "libnvidia-ptxjitcompiler.so.535.274.02",
            "libnvidia-ptxjitcompiler.so.1",
        ),
    ];
    let compat = |files: &[(&str, &str)]| CompatFiles {
        directory: "/compat".into(),
        version: "580.95.05".parse().ok(),
        files: listed(files),
    };
    let whole = plan_of("535.274.02", &old, Some(&compat(&FULL))).unwrap();
    let sources: Vec<(&str, Source)> = whole
        .files
        .iter()
        .map(|file| (file.name.as_str(), file.source))
        .collect();
    let wanted: Vec<(&str, Source)> = [
        ("libcuda.so.580.95.05", Source::Compat),
        ("libcudadebugger.so.580.95.05", Source::Compat),
        ("libnvidia-gpucomp.so.580.95.05", Source::Compat),
        ("libnvidia-ml.so.535.274.02", Source::Driver),
        ("libnvidia-nvvm.so.580.95.05", Source::Compat),
        ("libnvidia-nvvm70.so.4", Source::Compat),
        ("libnvidia-ptxjitcompiler.so.580.95.05", Source::Compat),
    ]
    .into();
    assert_eq!(sources, wanted);
    assert!(
        whole.id.as_str().starts_with("535.274.02-compat-580.95.05-"),
        "{}",
        whole.id
    );
    let empty = plan_of("535.274.02", &old, Some(&compat(&FULL[1..])));
    assert!(
        matches!(
            empty,
            Err(BridgeRefusal::NoLibcuda {
                from: Source::Compat,
                ..
            })
        ),
        "{empty:?}"
    );
}

#[test]
fn names_out_of_a_library_cannot_leave_the_folder_or_hide_another() {
    let refused =
        |soname: &str| plan_of("580.95.05", &[FULL[0], ("libnvidia-ml.so.580.95.05", soname)], None).unwrap_err();
    for soname in ["../libx.so", "/etc/passwd", "", "x.so", "libnvidia-ml.so.1\n"] {
        assert!(matches!(refused(soname), BridgeRefusal::BadName { .. }), "{soname:?}");
    }
    for soname in ["libcuda.so.1", "libcuda.so.580.95.05"] {
        assert!(matches!(refused(soname), BridgeRefusal::Twice { .. }), "{soname:?}");
    }
    let other = plan_of("580.95.05", &[("libcuda.so.580.95.05", "libfoo.so.1")], None);
    assert!(matches!(other, Err(BridgeRefusal::NotLibcuda { .. })), "{other:?}");
    plan_of("580.95.05", &FULL[..1], None).unwrap();
}

/// A driver's folder with libcuda and its JIT compiler, and an empty one for the bridge.
struct Folders {
    folder: tempfile::TempDir,
    driver: DriverFiles,
}

impl Folders {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("driver/lib"), folder.path().join("bridge"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(to).unwrap();
        let mut files = listed(&[FULL[0], FULL[7]]);
        for file in &mut files {
            let note = cuda_note(r#"{"format":1,"CUDA version":"13.0","driver":[535,580],"device":[2]}"#);
            let soname = file.soname.as_deref();
            let bytes = elf::elf(&ElfSpec {
                soname,
                needed: &["libc.so.6"],
                sections: vec![note],
                ..Default::default()
            });
            fs::write(from.join(&file.name), &bytes).unwrap();
            file.size = bytes.len() as u64;
        }
        let driver = driver("580.95.05", files);
        Self { folder, driver }
    }
    fn plan(&self) -> BridgePlan {
        plan(&self.driver, &"580.95.05".parse().unwrap(), None).unwrap()
    }
    fn build(&self, plan: &BridgePlan) -> Result<u64, BuildError> {
        let sources = Sources::open(&self.folder.path().join("driver"), Path::new("/"), None).unwrap();
        let destination = fs::File::open(self.folder.path().join("bridge")).unwrap();
        build(plan, &sources, destination.as_fd()).map(|built| built.bytes)
    }
    fn install(&self, store: &NodeStore, compat: Option<&Path>) -> Result<bool, InstallError> {
        let origin = Origin {
            searched: &self.folder.path().join("driver"),
            driver_root: Path::new("/"),
            compat,
        };
        install::bridge(store, &self.plan(), origin)
    }
    fn bridge(&self, name: &str) -> PathBuf {
        self.folder.path().join("bridge/driver/lib").join(name)
    }
}

#[test]
fn a_bridge_is_a_canonical_copy_in_which_libcuda_finds_its_siblings() {
    let folders = Folders::new();
    let bytes = folders.build(&folders.plan()).unwrap();
    let original = fs::read(folders.folder.path().join("driver/lib/libcuda.so.580.95.05")).unwrap();
    assert_ne!(
        fs::read(folders.bridge("libcuda.so")).unwrap(),
        original,
        "reached through two links, and rewritten"
    );
    let mut libcuda = Elf::open(fs::File::open(folders.bridge("libcuda.so.1")).unwrap()).unwrap();
    let dynamic = libcuda.dynamic().unwrap().unwrap();
    assert_eq!(dynamic.runpath.as_deref(), Some("$ORIGIN"));
    assert_eq!(dynamic.soname.as_deref(), Some("libcuda.so.1"));
    assert_eq!(dynamic.needed, ["libc.so.6"]);
    let note = node_agent::elf_note::compat_note(&mut libcuda).unwrap().unwrap();
    assert_eq!(note.cuda.to_string(), "13.0");
    let jit = "libnvidia-ptxjitcompiler.so.580.95.05";
    let same = fs::read(folders.folder.path().join("driver/lib").join(jit)).unwrap();
    assert_eq!(fs::read(folders.bridge(jit)).unwrap(), same);
    let mut total = 0;
    for (name, mode) in [
        ("", 0o555),
        ("..", 0o555),
        (jit, 0o444),
        ("libcuda.so.580.95.05", 0o444),
    ] {
        let found = fs::symlink_metadata(folders.bridge(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, 1), "{name}");
        total += if found.is_file() { found.len() } else { 0 };
    }
    assert_eq!(fs::symlink_metadata(folders.bridge("libcuda.so.1")).unwrap().mtime(), 1);
    assert_eq!(total, bytes);
}

#[test]
fn two_builds_of_one_plan_are_equal_byte_by_byte() {
    let [one, two] = [(); 2].map(|()| {
        let folders = Folders::new();
        folders.build(&folders.plan()).unwrap();
        fs::read(folders.bridge("libcuda.so.1")).unwrap()
    });
    assert_eq!(one, two);
}

#[test]
fn a_driver_that_changes_under_the_copy_is_noticed() {
    let folders = Folders::new();
    let plan = folders.plan();
    let jit = folders
        .folder
        .path()
        .join("driver/lib/libnvidia-ptxjitcompiler.so.580.95.05");
    fs::write(&jit, b"shorter").unwrap();
    let error = folders.build(&plan).unwrap_err();
    assert!(matches!(error, BuildError::Changed { found: 7, .. }), "{error:?}");
    assert!(error.to_string().contains("being replaced"), "{error}");
}

#[test]
fn what_stands_in_the_destination_is_not_written_through() {
    let folders = Folders::new();
    let outside = folders.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, folders.folder.path().join("bridge/driver")).unwrap();
    let error = folders.build(&folders.plan()).unwrap_err();
    assert!(matches!(error, BuildError::Write { .. }), "{error:?}");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn a_libcuda_that_cannot_be_rewritten_is_an_error_not_a_copy() {
    let mut folders = Folders::new();
    let path = folders.folder.path().join("driver/lib/libcuda.so.580.95.05");
    fs::write(&path, b"\x7fELF but not for long").unwrap();
    folders.driver.files[0].size = fs::metadata(&path).unwrap().len();
    let error = folders.build(&folders.plan()).unwrap_err();
    assert!(matches!(error, BuildError::Rewrite { .. }), "{error:?}");
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_bridge_is_installed_once_and_a_copy_that_fails_leaves_nothing_behind() {
    let folders = Folders::new();
    let state = tempfile::tempdir().unwrap();
    let store = NodeStore::open(state.path()).unwrap();
    let jit = folders.folder.path().join("driver/lib").join(FULL[7].0);
    let whole = fs::read(&jit).unwrap();
    fs::write(&jit, b"shorter").unwrap();
    for _ in 0..3 {
        let error = folders.install(&store, None).unwrap_err();
        let InstallError::Build { source } = &error else {
            unreachable!("{error:?}")
        };
        assert!(matches!(source, BuildError::Changed { .. }), "{source:?}");
        assert_eq!(count(&store.layout().staging()), 0);
        assert_eq!(count(&store.layout().drivers()), 0);
    }
    fs::write(&jit, whole).unwrap();
    assert!(folders.install(&store, None).unwrap(), "built");
    assert!(!folders.install(&store, None).unwrap(), "there already");
    assert_eq!(count(&store.layout().staging()), 0);
    assert_eq!(count(&store.layout().drivers()), 1);
}

#[test]
fn a_bridge_that_lost_files_in_a_power_cut_is_built_again() {
    let folders = Folders::new();
    let state = tempfile::tempdir().unwrap();
    let store = NodeStore::open(state.path()).unwrap();
    folders.install(&store, None).unwrap();
    let home = store.layout().bridge(&folders.plan().id);
    let lib = home.join("driver/lib");
    let files = [FULL[0].0, FULL[7].0, "libcuda.so.1"];
    let read = || files.map(|name| fs::read(lib.join(name)).unwrap());
    let before = read();
    let breakages: [fn(&Path); 4] = [
        |home| fs::remove_dir_all(home.join("driver")).unwrap(),
        |home| fs::remove_file(home.join("driver/lib").join(FULL[7].0)).unwrap(),
        |home| fs::remove_file(home.join("driver/lib/libcuda.so.1")).unwrap(),
        |home| fs::write(home.join("driver/lib").join(FULL[0].0), "").unwrap(),
    ];
    for (number, damage) in breakages.into_iter().enumerate() {
        damage(&home);
        assert!(folders.install(&store, None).unwrap(), "{number}: built again");
        assert_eq!(read(), before, "{number}");
        assert!(!folders.install(&store, None).unwrap(), "{number}: and then whole");
        assert_eq!(count(&store.layout().staging()), 0, "{number}");
    }
}

#[test]
fn compat_libraries_are_not_taken_through_a_store_path_that_is_a_link() {
    let folders = Folders::new();
    let state = tempfile::tempdir().unwrap();
    let store = NodeStore::open(state.path()).unwrap();
    let (compat, link) = (folders.folder.path().join("compat"), folders.folder.path().join("link"));
    fs::create_dir(&compat).unwrap();
    symlink(&compat, &link).unwrap();
    let error = folders.install(&store, Some(&link)).unwrap_err();
    let InstallError::Build { source } = &error else {
        unreachable!("{error:?}")
    };
    assert!(
        matches!(source, BuildError::OpenCompat { path, .. } if *path == link),
        "{source:?}"
    );
    assert!(folders.install(&store, Some(&compat)).unwrap());
}
