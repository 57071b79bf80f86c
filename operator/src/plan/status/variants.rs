//! What is known of the closures of an environment's variants.
//! Never lets one variant's failure hide what is known of the others.

use crds::{
    catalogue::EnvironmentKey,
    domain::code::GpuCode,
    domain::environment::{Environment, Variant},
    v1alpha1::{CodeSpec, PackageStatus, VariantStatus},
};

use super::{Inputs, nodes::Tally};
use crate::{
    plan::{
        conditions::shortened,
        resolve::{Known, bytes_together, cache_set, known, roots},
    },
    snapshot::resolution::{Resolved, Unresolved},
};

/// Longest error of a variant.
const LONGEST_ERROR: usize = 1024;
/// Most keys that a variant's status names.
const MOST_KEYS: usize = 16;
/// Most targets of declared code.
const MOST_TARGETS: usize = 64;

/// What is known, variant by variant.
#[derive(Debug)]
pub(super) struct Closures<'a> {
    /// Why no cache can be asked at all.
    refused: Option<Unresolved>,
    /// In the environment's order: package by package, variant by variant.
    variants: Vec<VariantClosures<'a>>,
}

#[derive(Debug)]
struct VariantClosures<'a> {
    package: &'a str,
    variant: &'a str,
    /// The closures of its systems, as far as they are known.
    systems: Vec<&'a Resolved>,
    /// Those, and the one of its compat libraries.
    all: Vec<&'a Resolved>,
    waiting: bool,
    failed: Option<&'a Unresolved>,
}

/// What is known of the closures of `environment`.
pub(super) fn closures<'a>(inputs: &Inputs<'a>, key: &EnvironmentKey, environment: &'a Environment) -> Closures<'a> {
    let caches = match cache_set(inputs.world, key, environment) {
        Ok(caches) => caches,
        Err(refused) => {
            return Closures {
                refused: Some(refused),
                variants: Vec::new(),
            };
        }
    };
    let mut variants = Vec::new();
    for package in &environment.packages {
        for variant in &package.variants {
            let mut found = VariantClosures {
                package: &package.name,
                variant: &variant.name,
                systems: Vec::new(),
                all: Vec::new(),
                waiting: false,
                failed: None,
            };
            for (index, path) in roots(variant).enumerate() {
                match known(inputs.answers, &caches, path) {
                    Known::Waiting => found.waiting = true,
                    Known::Failed(failed) => found.failed = found.failed.or(Some(failed)),
                    Known::Good(resolved) => {
                        found.all.push(resolved);
                        if index < variant.store_paths.len() {
                            found.systems.push(resolved);
                        }
                    }
                }
            }
            variants.push(found);
        }
    }
    Closures {
        refused: None,
        variants,
    }
}

impl Closures<'_> {
    /// The first failure, in the environment's order.
    pub(super) fn first_failure(&self) -> Option<&Unresolved> {
        let of_variant = self.variants.iter().find_map(|variant| variant.failed);
        self.refused.as_ref().or(of_variant)
    }

    /// Whether nobody has answered yet for some variant.
    pub(super) fn any_waiting(&self) -> bool {
        self.variants.iter().any(|variant| variant.waiting)
    }

    /// Names of the keys that signed something.
    pub(super) fn signed_by(&self) -> impl Iterator<Item = &str> {
        let closures = self.variants.iter().flat_map(|variant| &variant.all);
        closures.flat_map(|closure| closure.signed_by.iter().map(String::as_str))
    }

    /// A package of which no variant's closures are all known.
    pub(super) fn package_without_variant<'e>(&self, environment: &'e Environment) -> Option<&'e str> {
        let whole = |name: &str| {
            let of_package = |variant: &&VariantClosures<'_>| variant.package == name;
            let complete = |variant: &VariantClosures<'_>| !variant.waiting && variant.failed.is_none();
            self.variants.iter().filter(of_package).any(complete)
        };
        let names = environment.packages.iter().map(|package| package.name.as_str());
        names.into_iter().find(|name| !whole(name))
    }

    /// Bytes of all closures together, every path once; nothing until all are known.
    pub(super) fn bytes(&self) -> Option<u64> {
        let unknown = |variant: &VariantClosures<'_>| variant.waiting || variant.failed.is_some();
        if self.refused.is_some() || self.variants.iter().any(unknown) {
            return None;
        }
        let closures = self.variants.iter().flat_map(|variant| variant.all.iter().copied());
        Some(bytes_together(closures))
    }

    fn of(&self, package: &str, variant: &str) -> Option<&VariantClosures<'_>> {
        let same = |found: &&VariantClosures<'_>| (found.package, found.variant) == (package, variant);
        self.variants.iter().find(same)
    }
}

/// What is written of every variant.
pub(super) fn packages(environment: &Environment, closures: &Closures<'_>, tally: &Tally) -> Vec<PackageStatus> {
    let packages = environment.packages.iter().map(|package| {
        let variants = package.variants.iter().map(|variant| {
            let found = closures.of(&package.name, &variant.name);
            let error = closures.refused.as_ref().or(found.and_then(|found| found.failed));
            VariantStatus {
                error: error.map(|failed| shortened(&failed.message, LONGEST_ERROR)),
                nodes: tally.nodes_with(&package.name, &variant.name),
                ..variant_status(variant, found)
            }
        });
        PackageStatus {
            name: package.name.clone(),
            variants: variants.collect(),
        }
    });
    packages.collect()
}

/// Sizes are those of the largest system: a node holds one of them.
fn variant_status(variant: &Variant, found: Option<&VariantClosures<'_>>) -> VariantStatus {
    let systems = found.map_or(&[][..], |found| &found.systems);
    let largest = systems.iter().max_by_key(|closure| closure.closure_bytes);
    let number = |of: fn(&Resolved) -> u64| largest.map(|closure| i64::try_from(of(closure)).unwrap_or(i64::MAX));
    let mut keys: Vec<String> = found
        .into_iter()
        .flat_map(|found| &found.all)
        .flat_map(|closure| closure.signed_by.iter().cloned())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(MOST_KEYS);
    VariantStatus {
        name: variant.name.clone(),
        closure_bytes: number(|closure| closure.closure_bytes),
        download_bytes: number(|closure| closure.download_bytes),
        paths: number(|closure| closure.members.len() as u64),
        signed_by: keys,
        code: variant.code.as_ref().map(code),
        nodes: 0,
        error: None,
    }
}

/// As declared, as far as there is room for it.
fn code(code: &GpuCode) -> CodeSpec {
    let mut code = CodeSpec::from(code);
    code.sass.get_or_insert_default().truncate(MOST_TARGETS);
    code.ptx.get_or_insert_default().truncate(MOST_TARGETS);
    code
}
