//! In the view the driver's JIT compiler is found through libcuda's own directory, and compiles real PTX.
//!
//! Programs from Nix use a glibc that never reads /etc/ld.so.cache. That glibc is not to be had here, so the program is
//! started by the machine's own ld.so with --inhibit-cache, which leaves out the same step of the same search; that the
//! step is left out is read from ld.so's own trace. LD_LIBRARY_PATH is never set.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::path::Path;

use e2e::parts::Driver;
use e2e::programs::{Ended, ended};
use e2e::stage::Stage;
use e2e::{documents, parts, skip};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const JIT: &str = "/run/cudaenv/packages/cuda/bin/jit";
const READS_CACHE: &str = "search cache=/etc/ld.so.cache";

fn stage(check: &str) -> Option<(Vec<Driver>, Stage)> {
    skip::without(check, skip::root())?;
    let drivers = skip::without(check, parts::drivers())?;
    let toolkits = skip::without(check, parts::toolkits())?;
    Some((
        drivers,
        skip::without(check, Stage::new(&toolkits[..1], |_, _| Ok(())))?,
    ))
}

/// Runs in the view of the oldest runtime, which fits every driver.
fn in_view(stage: &Stage, driver: &Driver, command: &[&str]) -> Ended {
    let closure = &stage.closures[0];
    let variant = documents::variant("cu118", &closure.toolkit.cuda, &closure.environment);
    let environment = stage
        .environment("cuda", &[documents::package("cuda", &[variant])])
        .unwrap();
    let mut run = stage
        .run(&environment, &stage.node(driver).unwrap(), &stage.state("shared"))
        .unwrap();
    let ran = ended(run.args(command)).unwrap();
    assert_eq!(ran.code, 0, "driver {}: {ran:?}", driver.version);
    ran
}

#[test]
fn the_jit_compiler_is_found_beside_libcuda_and_compiles_up_to_the_drivers_ptx() {
    let Some((drivers, stage)) = stage("the JIT compiler is found through libcuda's own directory") else {
        return;
    };
    for driver in &drivers {
        let ran = in_view(
            &stage,
            driver,
            &[
                LOADER,
                "--inhibit-cache",
                JIT,
                "libcuda.so.1",
                driver.isa,
                driver.isa_above,
            ],
        );
        let expected = format!(
            "jit /run/opengl-driver/lib/libnvidia-ptxjitcompiler.so.1\n{} 0\n{} 7\n",
            driver.isa, driver.isa_above
        );
        assert_eq!(ran.stdout, expected, "driver {}", driver.version);
    }
}

#[test]
fn the_drivers_own_libcuda_does_not_find_it() {
    let Some((drivers, stage)) = stage("an unchanged libcuda does not find the JIT compiler") else {
        return;
    };
    for driver in &drivers {
        let unchanged = driver
            .libraries(&stage.node(driver).unwrap())
            .unwrap()
            .join("libcuda.so.1");
        assert!(
            unchanged.with_file_name("libnvidia-ptxjitcompiler.so.1").exists(),
            "it lies beside it all the same"
        );
        let ran = in_view(
            &stage,
            driver,
            &[LOADER, "--inhibit-cache", JIT, unchanged.to_str().unwrap(), driver.isa],
        );
        let on_the_machine = Path::new("/usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1").exists();
        let found_elsewhere = on_the_machine && !ran.stdout.contains(&stage.folder().display().to_string());
        assert!(
            ran.stdout == "jit -\n" || found_elsewhere,
            "driver {}: {}",
            driver.version,
            ran.stdout
        );
    }
}

#[test]
fn the_loader_left_the_cache_out_indeed() {
    let Some((drivers, stage)) = stage("ld.so is told to leave its cache out") else {
        return;
    };
    let driver = drivers.last().unwrap();
    let trace = |arguments: &[&str]| {
        let command: Vec<_> = ["env", "LD_DEBUG=libs"].iter().chain(arguments).copied().collect();
        in_view(&stage, driver, &command).stderr
    };
    assert!(!trace(&[LOADER, "--inhibit-cache", JIT, "libcuda.so.1"]).contains(READS_CACHE));
    assert!(
        trace(&[LOADER, JIT, "libcuda.so.1"]).contains(READS_CACHE),
        "the twin does read it"
    );
}
