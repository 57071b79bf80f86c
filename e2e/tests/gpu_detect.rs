//! On a machine with a GPU: what NVML says of it, held against nvidia-smi, and a real CUDA program that finds the device.
//! It must never load or unload a module, nor change a setting of the GPU.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::programs::{ended, finished, node_agent};
use e2e::stage::Stage;
use e2e::{documents, parts, skip};

#[test]
fn nvml_names_the_gpus_that_nvidia_smi_names() {
    if !skip::gpu("GPUs by NVML, beside nvidia-smi") {
        return;
    }
    let query = ["--query-gpu=compute_cap,name", "--format=csv,noheader"];
    let mut expected = BTreeMap::new();
    for line in finished(Command::new("nvidia-smi").args(query)).unwrap().lines() {
        let (capability, model) = line.split_once(", ").unwrap();
        *expected.entry((capability.to_owned(), model.to_owned())).or_insert(0) += 1;
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
                (word("computeCapability"), word("model")),
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
