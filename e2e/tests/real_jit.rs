//! In the view the driver's JIT compiler is found through libcuda's own directory, and compiles real PTX.
//!
//! Programs from Nix are started by a glibc that reads neither /etc/ld.so.cache nor the system's folders; so is this one
//! (`e2e::glibc`), and ld.so's own trace says so. LD_LIBRARY_PATH is never set.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use e2e::parts::Driver;
use e2e::programs::{Ended, ended};
use e2e::stage::Stage;
use e2e::{documents, glibc, parts, skip};

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const JIT: &str = "/run/cudaenv/packages/cuda/bin/jit";
const SYSTEM_CACHE: &str = "search cache=/etc/ld.so.cache";

/// A stage whose program `jit` has a glibc of its own.
struct Own {
    drivers: Vec<Driver>,
    stage: Stage,
    /// The store path that a variant names.
    environment: String,
}

fn own(check: &str) -> Option<Own> {
    skip::without(check, skip::root())?;
    let drivers = skip::without(check, parts::drivers())?;
    let toolkits = skip::without(check, parts::toolkits())?;
    let mut environment = String::new();
    let stage = Stage::new(&toolkits[..1], |layout, closures| {
        environment = glibc::add(layout, &closures[0])?;
        Ok(())
    });
    Some(Own {
        drivers,
        stage: skip::without(check, stage)?,
        environment,
    })
}

/// Runs in the view of the oldest runtime, which fits every driver.
fn in_view(own: &Own, driver: &Driver, command: &[&str]) -> Ended {
    let stage = &own.stage;
    let variant = documents::variant("cu118", &stage.closures[0].toolkit.cuda, &own.environment);
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
    let Some(own) = own("the JIT compiler is found through libcuda's own directory") else {
        return;
    };
    for driver in &own.drivers {
        let ran = in_view(&own, driver, &[JIT, "libcuda.so.1", driver.isa, driver.isa_above]);
        let expected = format!(
            "jit /run/opengl-driver/lib/libnvidia-ptxjitcompiler.so.1\n{} 0\n{} 7\n",
            driver.isa, driver.isa_above
        );
        assert_eq!(ran.stdout, expected, "driver {}", driver.version);
    }
}

#[test]
fn the_drivers_own_libcuda_does_not_find_it() {
    let Some(own) = own("an unchanged libcuda does not find the JIT compiler") else {
        return;
    };
    for driver in &own.drivers {
        let unchanged = driver
            .libraries(&own.stage.node(driver).unwrap())
            .unwrap()
            .join("libcuda.so.1");
        assert!(
            unchanged.with_file_name("libnvidia-ptxjitcompiler.so.1").exists(),
            "it lies beside it all the same"
        );
        let ran = in_view(&own, driver, &[JIT, unchanged.to_str().unwrap(), driver.isa]);
        assert_eq!(ran.stdout, "jit -\n", "driver {}", driver.version);
    }
}

#[test]
fn its_glibc_searches_nothing_of_the_systems() {
    let Some(own) = own("a glibc of the closure leaves the system's libraries alone") else {
        return;
    };
    let driver = own.drivers.last().unwrap();
    // What is nowhere is searched for everywhere.
    let searched = |command: &str| {
        let script = format!("LD_DEBUG=libs {command} libabsent.so.1; [ $? != 0 ]");
        let trace = in_view(&own, driver, &["sh", "-c", &script]).stderr;
        let (_, search) = trace.split_once("find library=libabsent.so.1").unwrap();
        search.to_owned()
    };
    let search = searched(JIT);
    assert!(search.contains(&format!("search cache={}", glibc::CACHE)), "{search}");
    assert!(!search.contains(SYSTEM_CACHE), "{search}");
    assert!(
        !search.contains("trying file=/lib") && !search.contains("trying file=/usr"),
        "{search}"
    );
    let twin = searched(&format!("{LOADER} {JIT}"));
    assert!(twin.contains(SYSTEM_CACHE), "started by the system's it does: {twin}");
}
