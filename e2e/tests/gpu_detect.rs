//! On a machine with a GPU: what NVML says of it, held against nvidia-smi, and a real CUDA program that finds the device.
//! It must never load or unload a module, nor change a setting of the GPU.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crds::domain::node::Brand;
use e2e::programs::{Ended, ended, finished, node_agent};
use e2e::stage::Stage;
use e2e::{documents, glibc, parts, skip};
use node_agent::observe::{driver, gpus};
use node_agent::snapshot::driver::{Detection, LibraryFile};

#[test]
fn nvml_names_the_gpus_that_nvidia_smi_names() {
    if !skip::gpu("GPUs by NVML, beside nvidia-smi") {
        return;
    }
    let query = ["--query-gpu=compute_cap,name", "--format=csv,noheader"];
    let listed = finished(Command::new("nvidia-smi").args(query)).unwrap();
    // Brands stand in the long report alone, in the same order.
    let report = finished(Command::new("nvidia-smi").arg("-q")).unwrap();
    let brands: Vec<&str> = report
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("Product Brand")?.split_once(": "))
        .map(|(_, brand)| brand.trim())
        .collect();
    assert_eq!(brands.len(), listed.lines().count(), "{report}");
    let mut expected = BTreeMap::new();
    for (line, brand) in listed.lines().zip(brands) {
        let (capability, model) = line.split_once(", ").unwrap();
        let brand = Brand::from_name(brand).map(|brand| brand.name().to_owned());
        *expected
            .entry((capability.to_owned(), model.to_owned(), brand))
            .or_insert(0) += 1;
    }
    let detected =
        ended(Command::new(node_agent().unwrap()).args(["detect", "--root", "/", "--output", "json"])).unwrap();
    let detected = detected.json().unwrap();
    assert_eq!(detected["gpuSource"], "nvml", "{detected}");
    let gpus = detected["gpus"].as_array().unwrap().iter();
    let seen: BTreeMap<_, _> = gpus
        .map(|gpu| {
            let word = |field: &str| gpu[field].as_str().unwrap().to_owned();
            (
                (
                    word("computeCapability"),
                    word("model"),
                    gpu["brand"].as_str().map(str::to_owned),
                ),
                gpu["count"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, expected);
    let version = ["--query-gpu=driver_version", "--format=csv,noheader"];
    let version = finished(Command::new("nvidia-smi").args(version)).unwrap();
    assert_eq!(detected["version"], version.lines().next().unwrap(), "{detected}");
}

#[test]
fn a_program_in_the_view_finds_the_device() {
    let check = "a real CUDA runtime in a view that finds a real device";
    if !skip::gpu(check) || skip::without(check, skip::root()).is_none() {
        return;
    }
    let Some(toolkits) = skip::without(check, parts::toolkits()) else {
        return;
    };
    let stage = Stage::new(&toolkits[..1], |_, _| Ok(())).unwrap();
    let closure = &stage.closures[0];
    let variant = documents::variant("oldest", &closure.toolkit.cuda, &closure.environment);
    let environment = stage
        .environment("cuda", &[documents::package("cuda", &[variant])])
        .unwrap();
    let mut run = Command::new(node_agent().unwrap());
    run.arg("run").arg("--environment").arg(environment);
    run.arg("--caches").arg(stage.caches_file());
    run.arg("--state").arg(stage.state("gpu"));
    run.args(["--", "/run/cudaenv/packages/cuda/bin/count"]);
    let counted = ended(&mut run).unwrap();
    assert!(counted.stdout.ends_with(" 0\n"), "0: cudaSuccess; {counted:?}");
}

/// What is detected of this machine, and where one of the driver's libraries lies.
fn detected() -> (Detection, impl Fn(&str) -> PathBuf) {
    let found = driver::detect(Path::new("/"), &driver::Options::default()).unwrap();
    let files = found.driver.clone().unwrap();
    let place = move |soname: &str| {
        let named = |file: &&LibraryFile| file.soname.as_deref() == Some(soname);
        let file = files.files.iter().find(named).unwrap();
        files.root.join(file.path.strip_prefix("/").unwrap_or(&file.path))
    };
    (found, place)
}

#[test]
fn nothing_of_the_driver_stays_open_or_mapped_once_nvml_was_asked() {
    if !skip::gpu("NVML is let go after it was asked") {
        return;
    }
    let (found, place) = detected();
    let library = place("libnvidia-ml.so.1");
    let folder = library.parent().unwrap().to_owned();
    let held = || {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mapped = maps.lines().filter_map(|line| line.split_once('/'));
        let mut held: Vec<String> = mapped.map(|(_, path)| format!("/{path}")).collect();
        for entry in fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap) {
            // The descriptor that this listing itself had is gone by now.
            held.extend(fs::read_link(entry.path()).map(|path| path.display().to_string()));
        }
        held.retain(|path| path.contains("nvidia") || path.starts_with("/dev/nv"));
        held
    };
    assert_eq!(held(), [""; 0], "before");
    let observed = gpus::observe(&library, found.kernel.as_ref().unwrap()).unwrap();
    assert!(!observed.gpus.is_empty(), "{observed:?}");
    assert_eq!(held(), [""; 0], "after NVML of {}", folder.display());
}

#[test]
fn libcuda_itself_compiles_ptx_in_the_view_and_not_without_the_bridge() {
    let check = "libcuda's own JIT compiler, in a view without LD_LIBRARY_PATH";
    if !skip::gpu(check) || skip::without(check, skip::root()).is_none() {
        return;
    }
    let Some(toolkits) = skip::without(check, parts::toolkits()) else {
        return;
    };
    let mut root = String::new();
    let stage = Stage::new(&toolkits[..1], |layout, closures| {
        root = glibc::add(layout, &closures[0])?;
        Ok(())
    });
    let stage = stage.unwrap();
    let variant = documents::variant("cu118", &stage.closures[0].toolkit.cuda, &root);
    let environment = stage
        .environment("cuda", &[documents::package("cuda", &[variant])])
        .unwrap();
    let loaded = |libcuda: &str| -> Ended {
        let mut run = Command::new(node_agent().unwrap());
        run.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
        run.arg("run").arg("--environment").arg(&environment);
        run.arg("--caches")
            .arg(stage.caches_file())
            .arg("--state")
            .arg(stage.state("gpu"));
        run.args(["--", "/run/cudaenv/packages/cuda/bin/load", libcuda, "7.0"]);
        ended(&mut run).unwrap()
    };
    let with_bridge = loaded("libcuda.so.1");
    assert_eq!(with_bridge.stdout, "load 0\n", "{with_bridge:?}");
    // The driver's own file finds no sibling from a glibc that reads none of the system's folders:
    // 221, CUDA_ERROR_JIT_COMPILER_NOT_FOUND.
    let (_, place) = detected();
    let unchanged = loaded(&place("libcuda.so.1").display().to_string());
    assert_eq!(unchanged.stdout, "load 221\n", "{unchanged:?}");
}
