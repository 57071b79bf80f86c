//! Bridges of six real drivers: that the rewritten libcuda still works, and that its JIT compiler is found beside it.
//! It must never need a GPU or a kernel module, and never set LD_LIBRARY_PATH.
//!
//! What is proven: a program finds the bridge's libcuda and it answers with the right CUDA release; the directories that
//! ld.so searches for libcuda's own dlopen calls (asked with dlinfo, not assumed) hold the JIT compiler of the same driver
//! in the bridge and do not where libcuda was not rewritten; the compiler found that way compiles real PTX up to the
//! driver's own ISA and refuses newer PTX. What is not: that libcuda, on a GPU, makes these calls (facts: it does, by
//! bare name; without a GPU it never gets that far).

#![expect(clippy::expect_used, reason = "a test that cannot go on must fail")]

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    parts::{self, Driver},
    programs, skip,
};
use node_agent::{
    act::bridge::{Sources, build},
    observe::driver::{KernelSource, Options, compat_files, detect},
    plan::bridge::{BridgePlan, plan},
    snapshot::driver::DriverFiles,
};
use tempfile::TempDir;

struct Bridge {
    plan: BridgePlan,
    folder: TempDir,
}

impl Bridge {
    fn lib(&self) -> PathBuf {
        self.folder.path().join("driver/lib")
    }
}

fn detected(driver: &Driver) -> DriverFiles {
    let options = Options {
        kernel_version: KernelSource::AssumeLibrary,
        ..Options::default()
    };
    detect(&driver.root, &options)
        .expect("a root")
        .driver
        .expect("a driver")
}

fn bridge_of(driver: &Driver, compat: Option<&Path>) -> Bridge {
    let files = detected(driver);
    let version = driver.version.parse().expect("a version");
    let listed = compat.map(|compat| compat_files(compat).expect("compat libraries"));
    let plan = plan(&files, &version, listed.as_ref()).expect("a plan");
    let folder = tempfile::tempdir().expect("a folder");
    let sources = Sources::open(&driver.root, &files.root, compat).expect("open roots");
    let destination = File::open(folder.path()).expect("the destination");
    build(&plan, &sources, destination.as_fd()).expect("a bridge");
    Bridge { plan, folder }
}

fn compiled(folder: &TempDir, name: &str, flags: &[String]) -> PathBuf {
    let to = folder.path().join(name);
    programs::compile(name, &to, flags).expect("a compiled program");
    to
}

/// What a program prints when the environment is empty: no LD_LIBRARY_PATH, no anything.
fn printed(program: &Path, arguments: &[&str]) -> String {
    programs::finished(Command::new(program).args(arguments).env_clear()).expect("a program that runs")
}

fn number(cuda: &str) -> u32 {
    cuda.parse::<crds::domain::cuda::CudaVersion>()
        .expect("a CUDA release")
        .to_driver_api()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_program_finds_the_bridge_and_libcuda_finds_its_compiler_in_it() {
    let Some(drivers) = skip::without("bridges of six real drivers work", parts::drivers()) else {
        return;
    };
    for driver in drivers {
        let bridge = bridge_of(&driver, None);
        let programs = tempfile::tempdir().expect("a folder");
        // As nixpkgs builds programs: RUNPATH with the folder of the driver's libraries.
        let runpath = [format!("-Wl,-rpath,{}", bridge.lib().display())];
        let version = compiled(&programs, "version", &runpath);
        let jit = compiled(&programs, "jit", &runpath);
        let every_library: Vec<String> = (bridge.plan.files.iter())
            .map(|file| bridge.lib().join(&file.name).display().to_string())
            .collect();
        let mut arguments = vec!["libcuda.so.1"];
        arguments.extend(every_library.iter().map(String::as_str));
        assert_eq!(
            printed(&version, &arguments).trim(),
            number(driver.cuda).to_string(),
            "{}",
            driver.version
        );

        let said = printed(&jit, &["libcuda.so.1", driver.isa, driver.isa_above]);
        let found = bridge.lib().join("libnvidia-ptxjitcompiler.so.1");
        let wanted = format!("jit {}\n{} 0\n{} 7\n", found.display(), driver.isa, driver.isa_above);
        assert_eq!(said, wanted, "{}", driver.version);

        // The accepted twin's opposite: the driver's own libcuda, not rewritten, has no such directory to search.
        let original = detected(&driver);
        let libcuda = driver
            .root
            .join(original.directory.strip_prefix("/").expect("absolute"))
            .join("libcuda.so.1");
        assert_eq!(
            printed(&jit, &[path(&libcuda), driver.isa]),
            "jit -\n",
            "{}",
            driver.version
        );
    }
}

#[test]
fn a_bridge_changes_nothing_but_search_paths() {
    let Some(drivers) = skip::without("bridges of real drivers keep every other byte", parts::drivers()) else {
        return;
    };
    for driver in drivers {
        let bridge = bridge_of(&driver, None);
        let directory = detected(&driver).directory;
        let from = driver.root.join(directory.strip_prefix("/").expect("absolute"));
        for file in &bridge.plan.files {
            let (copy, original) = (bridge.lib().join(&file.name), from.join(&file.name));
            if file.finds_siblings {
                // Every section that is loaded and not about linking is where it was and what it was.
                let code = |path: &Path| -> Vec<Vec<u8>> {
                    let mut elf = node_agent::elf::Elf::open(File::open(path).expect("opened")).expect("ELF");
                    let sections = elf
                        .sections(&[".text", ".rodata", ".data", ".plt", ".eh_frame"])
                        .expect("sections");
                    let read = |(_, span): (usize, node_agent::elf::Span)| {
                        elf.read_span("a section", span.offset, span.size, 1 << 30)
                            .expect("read")
                    };
                    sections.into_iter().map(read).collect()
                };
                let (before, after) = (code(&original), code(&copy));
                assert!(before.len() >= 3, "{} sections", before.len());
                assert!(before == after, "{}", file.name);
            } else {
                assert!(
                    fs::read(original).expect("read") == fs::read(copy).expect("read"),
                    "{}",
                    file.name
                );
            }
        }
        assert_eq!(bridge.plan.id, bridge_of(&driver, None).plan.id);
    }
}

#[test]
fn forward_compatibility_puts_a_newer_libcuda_and_compiler_over_an_older_driver() {
    // The user-mode files of 550 stand in for a compat package: it is the same set of libraries of one driver version.
    let Some(drivers) = skip::without("a forward-compatibility bridge works", parts::drivers()) else {
        return;
    };
    let (old, new) = (&drivers[3], &drivers[4]);
    let store_path = tempfile::tempdir().expect("a folder");
    let from = new
        .root
        .join(detected(new).directory.strip_prefix("/").expect("absolute"));
    e2e::node::copy_tree(&from, &store_path.path().join("compat")).expect("a compat folder");
    let bridge = bridge_of(old, Some(store_path.path()));
    let programs = tempfile::tempdir().expect("a folder");
    let runpath = [format!("-Wl,-rpath,{}", bridge.lib().display())];
    let (version, jit) = (
        compiled(&programs, "version", &runpath),
        compiled(&programs, "jit", &runpath),
    );
    assert_eq!(
        printed(&version, &["libcuda.so.1"]).trim(),
        number(new.cuda).to_string()
    );
    let said = printed(&jit, &["libcuda.so.1", new.isa, new.isa_above]);
    assert!(
        said.ends_with(&format!("{} 0\n{} 7\n", new.isa, new.isa_above)),
        "{said}"
    );
    let nvml = fs::read_link(bridge.lib().join("libnvidia-ml.so.1")).expect("a link");
    assert_eq!(
        nvml,
        Path::new(&format!("libnvidia-ml.so.{}", old.version)),
        "NVML stays the kernel module's"
    );
}
