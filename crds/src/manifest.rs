//! Objects from a file: YAML or JSON, one document or many, read strictly.
//! Never larger than [`LONGEST`], never expands aliases without bound, never skips a field that it does not know.

use std::fmt;

use k8s_openapi::api::core::v1::Namespace;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    convert::InvalidField,
    domain::{cache::CacheSource, environment::Environment},
    v1alpha1::{API_VERSION, CUDABinaryCache, CUDADriverPreflight, CUDAEnvironment, CUDANode, ClusterCUDAEnvironment},
};

mod choice;
mod shape;

pub use choice::{ChoiceError, choose};
pub use shape::{ShapeError, ShapeProblem};

/// The most bytes of a file that are read: 4 MiB, several times what the largest allowed objects take.
pub const LONGEST: usize = 4 << 20;

/// Events that all aliases of a file may add together.
const ALIAS_EVENTS: usize = 100_000;
/// Nesting of the deepest object is 11; beyond this a file is hostile.
const DEEPEST: usize = 64;

/// An object read from a file. Its strings are unchecked.
#[derive(Debug, Clone, PartialEq)]
pub enum Manifest {
    /// A namespace's environment.
    Environment(Box<CUDAEnvironment>),
    /// An environment of the whole cluster.
    ClusterEnvironment(Box<ClusterCUDAEnvironment>),
    /// A cache.
    BinaryCache(Box<CUDABinaryCache>),
    /// A node.
    Node(Box<CUDANode>),
    /// A what-if question.
    Preflight(Box<CUDADriverPreflight>),
    /// A namespace of Kubernetes itself: its labels say which shared environments and caches its pods may use.
    Namespace(Box<Namespace>),
}

/// Which object of a file an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number in the file, from 1; documents without content do not count.
    pub document: usize,
    /// Its kind, where it says one.
    pub kind: Option<String>,
    /// `name` or `namespace/name`, where it says one.
    pub name: Option<String>,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Too many bytes.
    #[error("the file has more than {LONGEST} bytes")]
    TooLong,
    /// Not YAML, or one of the bounds on aliases, nesting and documents was hit.
    #[error("the file is neither YAML nor JSON that is read here")]
    Syntax(#[source] Box<serde_saphyr::Error>),
    /// Nothing in it.
    #[error("the file has no object in it")]
    Empty,
    /// An object of another kind or group.
    #[error("{place} has apiVersion `{api_version}`; only the kinds of {API_VERSION} and Namespace are read here")]
    Kind {
        /// Which object.
        place: Place,
        /// What it says of itself.
        api_version: String,
    },
    /// A field that does not exist, or a value of another type than the schema's.
    #[error("{place}: {problem}")]
    Shape {
        /// Which object.
        place: Place,
        /// Field and problem.
        problem: Box<ShapeError>,
    },
    /// The right shape and still not readable (metadata).
    #[error("{place} cannot be read")]
    Decode {
        /// Which object.
        place: Place,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value that means nothing.
    #[error("{place}: {problem}")]
    Field {
        /// Which object.
        place: Place,
        /// Field and problem.
        problem: Box<InvalidField>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        match (&self.kind, &self.name) {
            (Some(kind), Some(name)) => write!(f, " ({kind} {name})"),
            (Some(kind), None) => write!(f, " ({kind})"),
            (None, _) => Ok(()),
        }
    }
}

/// Reads every object of a text. Shapes are checked, meanings are not: convert each, or use [`environments`] and [`caches`].
pub fn parse(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let objects = documents(text)?
        .into_iter()
        .enumerate()
        .map(|(index, value)| object(index + 1, value))
        .collect::<Result<Vec<Manifest>, ManifestError>>()?;
    if objects.is_empty() {
        Err(ManifestError::Empty)
    } else {
        Ok(objects)
    }
}

/// The environments of a text, of either kind, in order; other objects are read and left out.
pub fn environments(text: &str) -> Result<Vec<Environment>, ManifestError> {
    let convert = |manifest: &Manifest| match manifest {
        Manifest::Environment(object) => Some(Environment::try_from(&**object)),
        Manifest::ClusterEnvironment(object) => Some(Environment::try_from(&**object)),
        Manifest::BinaryCache(_) | Manifest::Node(_) | Manifest::Preflight(_) | Manifest::Namespace(_) => None,
    };
    converted(&parse(text)?, convert)
}

/// The caches of a text, in order; other objects are read and left out.
pub fn caches(text: &str) -> Result<Vec<CacheSource>, ManifestError> {
    let convert = |manifest: &Manifest| match manifest {
        Manifest::BinaryCache(object) => Some(CacheSource::try_from(&**object)),
        Manifest::Environment(_)
        | Manifest::ClusterEnvironment(_)
        | Manifest::Node(_)
        | Manifest::Preflight(_)
        | Manifest::Namespace(_) => None,
    };
    converted(&parse(text)?, convert)
}

fn converted<T>(
    manifests: &[Manifest],
    convert: impl Fn(&Manifest) -> Option<Result<T, InvalidField>>,
) -> Result<Vec<T>, ManifestError> {
    let numbered = manifests.iter().enumerate();
    let results = numbered.filter_map(|(index, manifest)| {
        let located = |problem| ManifestError::Field {
            place: manifest.place(index + 1),
            problem: Box::new(problem),
        };
        Some(convert(manifest)?.map_err(located))
    });
    results.collect()
}

fn documents(text: &str) -> Result<Vec<Value>, ManifestError> {
    if text.len() > LONGEST {
        return Err(ManifestError::TooLong);
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST, flow_nesting_limit: DEEPEST },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS },
        strict_booleans: true,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| ManifestError::Syntax(Box::new(error)))
}

fn object(document: usize, mut value: Value) -> Result<Manifest, ManifestError> {
    let place = place_of(document, &value);
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let kind = match (api_version, place.kind.as_deref()) {
        (API_VERSION, Some(kind)) => kind.to_owned(),
        ("v1", Some("Namespace")) => return typed(place, value).map(Manifest::Namespace),
        _ => return Err(unknown_kind(place, api_version)),
    };
    // The status is the controllers': what a file says there is not read.
    value.as_object_mut().and_then(|object| object.remove("status"));
    match kind.as_str() {
        "CUDAEnvironment" => decode::<CUDAEnvironment>(place, value).map(Manifest::Environment),
        "ClusterCUDAEnvironment" => decode::<ClusterCUDAEnvironment>(place, value).map(Manifest::ClusterEnvironment),
        "CUDABinaryCache" => decode::<CUDABinaryCache>(place, value).map(Manifest::BinaryCache),
        "CUDANode" => decode::<CUDANode>(place, value).map(Manifest::Node),
        "CUDADriverPreflight" => decode::<CUDADriverPreflight>(place, value).map(Manifest::Preflight),
        _ => Err(unknown_kind(place, api_version_of(&value))),
    }
}

fn api_version_of(value: &Value) -> &str {
    value.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
}

fn unknown_kind(place: Place, api_version: &str) -> ManifestError {
    ManifestError::Kind {
        place,
        api_version: shape::quoted(api_version),
    }
}

fn decode<T: DeserializeOwned + kube::CustomResourceExt>(place: Place, value: Value) -> Result<Box<T>, ManifestError> {
    if let Err(problem) = shape::check(&value, &T::crd()) {
        let problem = Box::new(problem);
        return Err(ManifestError::Shape { place, problem });
    }
    typed(place, value)
}

fn typed<T: DeserializeOwned>(place: Place, value: Value) -> Result<Box<T>, ManifestError> {
    serde_json::from_value(value)
        .map(Box::new)
        .map_err(|source| ManifestError::Decode { place, source })
}

fn place_of(document: usize, value: &Value) -> Place {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(shape::quoted);
    let metadata = value.get("metadata");
    let field = |name| text(metadata.and_then(|metadata| metadata.get(name)));
    Place {
        document,
        kind: text(value.get("kind")),
        name: full_name(field("namespace"), field("name")),
    }
}

fn full_name(namespace: Option<String>, name: Option<String>) -> Option<String> {
    let name = name?;
    Some(namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}")))
}

impl Manifest {
    /// The object's kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Environment(_) => "CUDAEnvironment",
            Self::ClusterEnvironment(_) => "ClusterCUDAEnvironment",
            Self::BinaryCache(_) => "CUDABinaryCache",
            Self::Node(_) => "CUDANode",
            Self::Preflight(_) => "CUDADriverPreflight",
            Self::Namespace(_) => "Namespace",
        }
    }

    fn place(&self, document: usize) -> Place {
        let metadata = match self {
            Self::Environment(object) => &object.metadata,
            Self::ClusterEnvironment(object) => &object.metadata,
            Self::BinaryCache(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Preflight(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
        };
        Place {
            document,
            kind: Some(self.kind().to_owned()),
            name: full_name(metadata.namespace.clone(), metadata.name.clone()),
        }
    }
}
