//! Every measured and documented vector of `tests/data`, through the public function.
//! Never adapts an expectation: the files are facts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    domain::{
        code::{GpuCode, PtxCode},
        cuda::CudaVersion,
        environment::{DriverRange, Environment, Package, Variant},
        node::{DriverState, Gpu, NodeFacts},
        store_path::{StorePath, System},
    },
    selection::{self, CompatLibrary, CompatNote, KnownContents, compat::accepts_driver, releases::highest_ptx_isa},
};

/// Rows of a CSV file by column name. Fields may be quoted; a doubled quote is one.
fn rows(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines().map(fields);
    let header = lines.next().unwrap();
    lines
        .map(|row| {
            assert_eq!(row.len(), header.len(), "{row:?}");
            header.iter().cloned().zip(row).collect()
        })
        .collect()
}

fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                fields.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(c),
        }
    }
    fields
}

fn words<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<T> {
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn environment(row: &BTreeMap<String, String>) -> Environment {
    let cuda: CudaVersion = row["variant_cuda"].parse().unwrap();
    // A row without a PTX version means what the release's own compiler writes.
    let isa = match row["variant_max_ptx_isa"].as_str() {
        "" => highest_ptx_isa(cuda).unwrap(),
        text => text.parse().unwrap(),
    };
    let ptx = words(&row["variant_ptx"])
        .into_iter()
        .map(|target| PtxCode { target, isa });
    let path = StorePath::parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-env").unwrap();
    let variant = Variant {
        name: "only".to_owned(),
        cuda,
        store_paths: [(System::X86_64Linux, path)].into(),
        code: Some(GpuCode {
            sass: words(&row["variant_sass"]).into_iter().collect(),
            ptx: ptx.collect(),
        }),
        driver: DriverRange::default(),
        forward_compat: None,
    };
    Environment {
        namespace: None,
        name: "vector".to_owned(),
        caches: None,
        packages: vec![Package {
            name: "p".to_owned(),
            variants: vec![variant],
        }],
    }
}

fn node(row: &BTreeMap<String, String>) -> NodeFacts {
    let gpu = |compute_capability| Gpu {
        compute_capability,
        brand: None,
        model: None,
        count: 1,
    };
    NodeFacts {
        driver: DriverState::Ready {
            version: row["host_driver"].parse().unwrap(),
            cuda: row["host_driver_cuda"].parse().unwrap(),
        },
        gpus: words(&row["gpu_compute_capabilities"]).into_iter().map(gpu).collect(),
        system: System::X86_64Linux,
    }
}

#[test]
fn every_match_vector_is_answered_as_measured() {
    let rows = rows(include_str!("data/match_vectors.csv"));
    assert_eq!(rows.len(), 37);
    for row in &rows {
        let selection = selection::select(&environment(row), &node(row), &KnownContents::new());
        let answer = match selection.selected.get("p") {
            Some(selected) => ("accept", selected.mode.as_str()),
            None => ("reject", selection.rejected[0].reason.as_str()),
        };
        assert_eq!(answer, (row["decision"].as_str(), row["reason"].as_str()), "{row:?}");
    }
}

#[test]
fn the_ptx_table_is_what_the_drivers_jit_was_measured_to_accept() {
    for row in rows(include_str!("data/match_vectors.csv")) {
        if let Ok(measured) = row["driver_max_ptx_isa"].parse() {
            let cuda = row["host_driver_cuda"].parse().unwrap();
            assert_eq!(highest_ptx_isa(cuda), Some(measured), "{row:?}");
        }
    }
}

#[test]
fn the_branch_table_is_what_the_drivers_were_measured_to_have() {
    for row in rows(include_str!("data/match_vectors.csv")) {
        let branch = row["host_driver"].split('.').next().unwrap().parse().unwrap();
        let cuda = row["host_driver_cuda"].parse().unwrap();
        assert_eq!(selection::cuda_of_branch(branch), Some(cuda), "{row:?}");
    }
}

#[test]
fn every_compat_vector_is_answered_as_the_library_says() {
    let rows = rows(include_str!("data/compat_vectors.csv"));
    assert_eq!(rows.len(), 14);
    for row in &rows {
        let branches: BTreeSet<u32> = words(&row["compat_note_branches"]).into_iter().collect();
        let note = || CompatNote {
            cuda: row["compat_note_cuda"].parse().unwrap(),
            base_branches: (!branches.is_empty()).then(|| branches.clone()),
            brands: None,
        };
        let library = CompatLibrary {
            version: row["compat_libcuda"].parse().ok(),
            note: (row["compat_has_note"] == "yes").then(note),
        };
        // A row that names no host driver decides on the host's CUDA release alone, and the other way round.
        let host = row["host_driver"].parse().unwrap_or_else(|_| "570.26".parse().unwrap());
        let host_cuda = row["host_cuda"].parse().unwrap_or(CudaVersion::new(12, 8));
        let answer = if accepts_driver(&library, &host, host_cuda).is_ok() {
            "yes"
        } else {
            "no"
        };
        assert_eq!(answer, row["toolkit_hook_uses_it"], "{row:?}");
    }
}
