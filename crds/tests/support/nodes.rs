//! Nodes and variants in a few words.
//! Never asserts anything.

use crds::{
    domain::{
        code::{GpuCode, PtxCode},
        environment::{DriverRange, Environment, ForwardCompat, Package, Variant},
        node::{Brand, DriverState, Gpu, NodeFacts},
        store_path::{StorePath, System},
    },
    selection::{KnownContents, Reason, Selected, Selection, cuda_of_branch, select},
};

pub(crate) fn path(name: &str) -> StorePath {
    StorePath::from_base_name(&format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}")).unwrap()
}

/// `"8.0 9.0a +9.0@8.7"`: SASS 8.0 and 9.0a, PTX 9.0 of version 8.7.
pub(crate) fn code(text: &str) -> GpuCode {
    let mut code = GpuCode::default();
    for word in text.split_whitespace() {
        match word.strip_prefix('+').and_then(|ptx| ptx.split_once('@')) {
            Some((target, isa)) => drop(code.ptx.insert(PtxCode {
                target: target.parse().unwrap(),
                isa: isa.parse().unwrap(),
            })),
            None => drop(code.sass.insert(word.parse().unwrap())),
        }
    }
    code
}

/// A variant for x86_64, named and placed after its CUDA release.
pub(crate) fn variant(cuda: &str, has: &str) -> Variant {
    Variant {
        name: format!("cu{cuda}"),
        cuda: cuda.parse().unwrap(),
        store_paths: [(System::X86_64Linux, path(cuda))].into(),
        code: Some(code(has)),
        driver: DriverRange::default(),
        forward_compat: None,
    }
}

pub(crate) fn undeclared(cuda: &str) -> Variant {
    Variant {
        code: None,
        ..variant(cuda, "")
    }
}

pub(crate) fn with_compat(variant: Variant, driver: Option<&str>) -> Variant {
    Variant {
        forward_compat: Some(ForwardCompat {
            store_path: path("compat"),
            driver: driver.map(|text| text.parse().unwrap()),
        }),
        ..variant
    }
}

/// `"8.0:tesla 9.0"`
pub(crate) fn gpus(text: &str) -> Vec<Gpu> {
    let gpu = |word: &str| {
        let (capability, brand) = word.split_once(':').unwrap_or((word, ""));
        Gpu {
            compute_capability: capability.parse().unwrap(),
            brand: Brand::from_name(brand),
            model: None,
            count: 1,
        }
    };
    text.split_whitespace().map(gpu).collect()
}

pub(crate) fn node(driver: &str, on: &str) -> NodeFacts {
    let version: crds::domain::driver::DriverVersion = driver.parse().unwrap();
    let cuda = cuda_of_branch(version.major()).unwrap();
    NodeFacts {
        driver: DriverState::Ready { version, cuda },
        gpus: gpus(on),
        system: System::X86_64Linux,
    }
}

pub(crate) fn environment(variants: &[Variant]) -> Environment {
    Environment {
        namespace: None,
        name: "e".to_owned(),
        caches: None,
        packages: vec![Package {
            name: "p".to_owned(),
            variants: variants.to_vec(),
        }],
    }
}

pub(crate) fn on(node: &NodeFacts, variants: &[Variant], known: &KnownContents) -> Selection {
    select(&environment(variants), node, known)
}

/// The one variant's mode, or its reason and detail.
pub(crate) fn verdict(
    node: &NodeFacts,
    variant: &Variant,
    known: &KnownContents,
) -> Result<Selected, (Reason, String)> {
    let mut selection = on(node, std::slice::from_ref(variant), known);
    match selection.selected.remove("p") {
        Some(selected) => Ok(selected),
        None => Err((selection.rejected[0].reason, selection.rejected[0].detail.clone())),
    }
}

pub(crate) fn nothing() -> KnownContents {
    KnownContents::new()
}
