//! Environments from the wire.
//! Never guesses a missing value: what has no default is an error.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, InvalidField, Problem, Unique, is_object_name, object_name, object_namespace};
use crate::{
    domain::{
        code::{CodeTarget, GpuCode, PtxCode},
        driver::DriverVersion,
        environment::{DriverRange, Environment, ForwardCompat, Package, Variant},
        store_path::{StorePath, System},
    },
    v1alpha1::{
        CUDAEnvironment, ClusterCUDAEnvironment, CodeSpec, DriverRangeSpec, ForwardCompatSpec, PackageSpec, PtxSpec,
        VariantSpec,
    },
};

const MOST_CACHES: usize = 16;
const MOST_PACKAGES: usize = 16;
const MOST_VARIANTS: usize = 32;
const MOST_TARGETS: usize = 64;

impl TryFrom<&CUDAEnvironment> for Environment {
    type Error = InvalidField;

    fn try_from(object: &CUDAEnvironment) -> Result<Self, Self::Error> {
        Ok(Self {
            namespace: object_namespace(object.metadata.namespace.as_ref())?,
            name: object_name(object.metadata.name.as_ref())?,
            caches: caches(object.spec.caches.as_deref())?,
            packages: packages(&object.spec.packages)?,
        })
    }
}

impl TryFrom<&ClusterCUDAEnvironment> for Environment {
    type Error = InvalidField;

    fn try_from(object: &ClusterCUDAEnvironment) -> Result<Self, Self::Error> {
        Ok(Self {
            namespace: None,
            name: object_name(object.metadata.name.as_ref())?,
            caches: caches(object.spec.caches.as_deref())?,
            packages: packages(&object.spec.packages)?,
        })
    }
}

const SPEC: At<'static> = At::root("spec");

/// Every item of a list of `fewest` to `most`, each with its place.
fn each<'t, T, U, C: FromIterator<U>>(
    list: &At<'_>,
    items: &'t [T],
    (fewest, most): (usize, usize),
    mut one: impl FnMut(&At<'_>, &'t T) -> Result<U, InvalidField>,
) -> Result<C, InvalidField> {
    list.count(items.len(), fewest, most)?;
    let place = |(index, item)| one(&list.index(index), item);
    items.iter().enumerate().map(place).collect()
}

fn caches(names: Option<&[String]>) -> Result<Option<Vec<String>>, InvalidField> {
    let Some(names) = names else { return Ok(None) };
    let mut unique = Unique::default();
    each(&SPEC.field("caches"), names, (1, MOST_CACHES), |at, name| {
        if !is_object_name(name) {
            return Err(at.is(Problem::ObjectName));
        }
        unique.value(at, name)?;
        Ok(name.clone())
    })
    .map(Some)
}

fn packages(specs: &[PackageSpec]) -> Result<Vec<Package>, InvalidField> {
    let mut unique = Unique::default();
    each(&SPEC.field("packages"), specs, (1, MOST_PACKAGES), |at, spec| {
        Ok(Package {
            name: unique.label(&at.field("name"), &spec.name)?,
            variants: variants(&at.field("variants"), &spec.variants)?,
        })
    })
}

fn variants(list: &At<'_>, specs: &[VariantSpec]) -> Result<Vec<Variant>, InvalidField> {
    let mut unique = Unique::default();
    each(list, specs, (1, MOST_VARIANTS), |at, spec| {
        let name = unique.label(&at.field("name"), &spec.name)?;
        variant(at, name, spec)
    })
}

fn variant(at: &At<'_>, name: String, spec: &VariantSpec) -> Result<Variant, InvalidField> {
    let number = |problem| at.field("cuda").is(Problem::Number(problem));
    Ok(Variant {
        name,
        cuda: spec.cuda.parse().map_err(number)?,
        store_paths: store_paths(&at.field("storePaths"), &spec.store_paths)?,
        code: spec
            .code
            .as_ref()
            .map(|spec| code(&at.field("code"), spec))
            .transpose()?,
        driver: spec
            .driver
            .as_ref()
            .map_or(Ok(DriverRange::default()), |spec| range(&at.field("driver"), spec))?,
        forward_compat: spec
            .forward_compat
            .as_ref()
            .map(|spec| forward_compat(&at.field("forwardCompat"), spec))
            .transpose()?,
    })
}

fn store_paths(map: &At<'_>, paths: &BTreeMap<String, String>) -> Result<BTreeMap<System, StorePath>, InvalidField> {
    if paths.is_empty() {
        return Err(map.is(Problem::Missing));
    }
    paths
        .iter()
        .map(|(system, path)| {
            let at = map.key(system);
            let system = system.parse().map_err(|error| at.is(Problem::System(error)))?;
            Ok((system, store_path(&at, path)?))
        })
        .collect()
}

pub(super) fn store_path(at: &At<'_>, text: &str) -> Result<StorePath, InvalidField> {
    let path = StorePath::parse(text).map_err(|error| at.is(Problem::StorePath(error)))?;
    if path.is_derivation() {
        return Err(at.is(Problem::Derivation(path)));
    }
    Ok(path)
}

pub(super) fn code(at: &At<'_>, spec: &CodeSpec) -> Result<GpuCode, InvalidField> {
    if spec.sass.is_none() && spec.ptx.is_none() {
        return Err(at.is(Problem::NoCode));
    }
    Ok(GpuCode {
        sass: sass(&at.field("sass"), spec.sass.as_deref().unwrap_or_default())?,
        ptx: ptx(&at.field("ptx"), spec.ptx.as_deref().unwrap_or_default())?,
    })
}

fn sass(list: &At<'_>, targets: &[String]) -> Result<BTreeSet<CodeTarget>, InvalidField> {
    let mut unique = Unique::default();
    each(list, targets, (0, MOST_TARGETS), |at, text| {
        unique.value(at, text)?;
        target(at, text)
    })
}

fn ptx(list: &At<'_>, specs: &[PtxSpec]) -> Result<BTreeSet<PtxCode>, InvalidField> {
    each(list, specs, (0, MOST_TARGETS), |at, spec| {
        let number = |problem| at.field("isa").is(Problem::Number(problem));
        Ok(PtxCode {
            target: target(&at.field("target"), &spec.target)?,
            isa: spec.isa.parse().map_err(number)?,
        })
    })
}

/// With its dot, as the schema demands: `sm_90` is for people, and `90` could be meant as either.
fn target(at: &At<'_>, text: &str) -> Result<CodeTarget, InvalidField> {
    let parsed = text.parse::<CodeTarget>();
    let spelled = text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.');
    match parsed {
        Ok(target) if spelled => Ok(target),
        Ok(target) => Err(at.is(Problem::Spelling(target))),
        Err(error) => Err(at.is(Problem::Number(error))),
    }
}

fn range(at: &At<'_>, spec: &DriverRangeSpec) -> Result<DriverRange, InvalidField> {
    let end = |name, text: Option<&String>| {
        text.filter(|text| !text.is_empty())
            .map(|text| driver(&at.field(name), text))
            .transpose()
    };
    let (min, max) = (end("min", spec.min.as_ref())?, end("max", spec.max.as_ref())?);
    match (min, max) {
        (Some(min), Some(max)) if max < min => Err(at.is(Problem::EmptyRange { min, max })),
        (min, max) => Ok(DriverRange { min, max }),
    }
}

fn forward_compat(at: &At<'_>, spec: &ForwardCompatSpec) -> Result<ForwardCompat, InvalidField> {
    Ok(ForwardCompat {
        store_path: store_path(&at.field("storePath"), &spec.store_path)?,
        driver: spec
            .driver
            .as_ref()
            .map(|text| driver(&at.field("driver"), text))
            .transpose()?,
    })
}

fn driver(at: &At<'_>, text: &str) -> Result<DriverVersion, InvalidField> {
    text.parse().map_err(|error| at.is(Problem::Driver(error)))
}
