//! What people state of GPUs, and what is made of NVML's answers where no GPU is: a library with NVML's functions that
//! answers what the test says. Never in place of the gpu tier, which asks the real one.

use std::{fs, process::Command};

use super::*;

#[test]
fn facts_are_json_or_yaml_and_nothing_unknown() {
    let json = r#"{"driver": {"version": "535.274.02"}, "gpus": [{"computeCapability": "9.0", "brand": "tesla", "count": 8}]}"#;
    let yaml = "driver:\n  version: 535.274.02\ngpus:\n- computeCapability: \"9.0\"\n  brand: tesla\n  count: 8\n";
    let facts = parse_facts(json).unwrap();
    assert_eq!(parse_facts(yaml).unwrap(), facts);
    assert_eq!(facts.driver.unwrap().version.as_str(), "535.274.02");
    assert_eq!((facts.gpus[0].count, facts.gpus[0].brand), (8, Some(Brand::Tesla)));
    for text in [
        r#"{"gpu": []}"#,
        r#"{"gpus": [{"computeCapability": "9.0", "brnad": "tesla"}]}"#,
        r#"{"gpus": [{"computeCapability": "9.0", "brand": "h100"}]}"#,
        r#"{"gpus": [{"computeCapability": "0.0"}]}"#,
        r#"{"driver": {"version": "535"}}"#,
        r#"{"gpus": [{}]}"#,
        "[1, 2",
    ] {
        assert!(matches!(parse_facts(text), Err(FactsError::Form(_))), "{text}");
    }
    let none = r#"{"gpus": [{"computeCapability": "9.0", "count": 0}]}"#;
    assert!(matches!(parse_facts(none), Err(FactsError::NoCount { index: 0 })));
}

#[test]
fn gpus_of_one_kind_are_counted() {
    let kinds = group(["9.0:tesla", "8.0:tesla", "9.0:tesla", "9.0"].map(|text| parse_gpu(text).unwrap()));
    let shown: Vec<String> = kinds
        .iter()
        .map(|gpu| format!("{}x{:?}", gpu.count, gpu.compute_capability))
        .collect();
    assert_eq!(shown, ["2x9.0", "1x8.0", "1x9.0"]);
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let module = KernelModule::observed("550.54.15".parse().unwrap(), true);
    let error = observe(Path::new("/nonexistent/libnvidia-ml.so.550.54.15"), &module).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/libnvidia-ml.so.550.54.15"),
        "{error}"
    );
}

#[test]
fn nvml_is_not_touched_for_a_module_that_does_not_run_here() {
    let module = KernelModule::observed("550.54.15".parse().unwrap(), false);
    let error = observe(Path::new("/nonexistent/libnvidia-ml.so.550.54.15"), &module).unwrap_err();
    assert!(matches!(error, NvmlFault::NotRunning { .. }), "{error}");
}

/// `NVML_ERROR_GPU_IS_LOST`.
const LOST: u32 = 15;

/// What is observed of GPUs of these rows: brand, capability, name, what asking for the GPU is answered.
fn observed(gpus: &[(u32, &str, &str, u32)]) -> Observed {
    let folder = tempfile::tempdir().unwrap();
    let rows = gpus.iter().map(|(brand, capability, name, answer)| {
        let capability = capability.replace('.', ", ");
        format!("{{ {brand}, {capability}, \"{name}\", {answer} }},")
    });
    let library = folder.path().join("libnvidia-ml.so.550.54.15");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&library);
    gcc.arg(format!("-DGPUS={}", rows.collect::<String>()));
    gcc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/nvml.c"));
    let compiled = gcc.output().unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    let module = KernelModule::observed("550.54.15".parse().unwrap(), true);
    let observed = observe(&library, &module).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(library.to_str().unwrap()), "it is let go");
    observed
}

#[test]
fn a_machines_gpus_are_counted_by_kind_and_a_lost_one_is_told_of() {
    let h100 = (2, "9.0", "NVIDIA H100 80GB HBM3", 0);
    let ada = (13, "8.9", "NVIDIA RTX 6000 Ada Generation", 0);
    let found = observed(&[h100, ada, h100, (2, "9.0", "lost", LOST)]);
    let shown: Vec<_> = found
        .gpus
        .iter()
        .map(|gpu| {
            (
                gpu.count,
                gpu.compute_capability.to_string(),
                gpu.brand,
                gpu.model.as_deref().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (2, "9.0".to_owned(), Some(Brand::Tesla), h100.2),
            (1, "8.9".to_owned(), Some(Brand::NvidiaRtx), ada.2),
        ]
    );
    assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
    assert!(
        found.faults[0].starts_with("GPU 3 does not answer: "),
        "{:?}",
        found.faults
    );
}

#[test]
fn every_brand_goes_by_its_number_and_one_that_is_not_known_is_none() {
    let rows: Vec<_> = (0..=99).map(|number| (number, "8.0", "a", 0)).collect();
    let found = observed(&rows);
    assert_eq!(found.faults, [""; 0]);
    let known: Vec<_> = (0..=99).filter_map(Brand::from_number).collect();
    let seen: Vec<_> = found.gpus.iter().filter_map(|gpu| gpu.brand).collect();
    assert_eq!(seen, known);
    let unknown: Vec<_> = found.gpus.iter().filter(|gpu| gpu.brand.is_none()).collect();
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].count as usize, rows.len() - known.len());
}
