//! The door: wire objects become domain values here, or an error that names the field.
//! Never lets through what the schema refuses: an agent also reads files that no API server has seen.

use std::{collections::BTreeSet, fmt};

use crate::domain::{
    code::CodeTarget,
    cuda::NumberError,
    driver::{DriverVersion, UnparsableDriver},
    store_path::{StorePath, StorePathError, UnknownSystem},
};

mod cache;
mod contents;
mod environment;
pub mod node;

/// An object that says something impossible: the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// The path from the root of the object, such as `spec.packages[2].variants[0].storePaths[x86_64-linux]`.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a field. Values that may hold a secret by mistake are not quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing where something must be.
    #[error("is required")]
    Missing,
    /// Fewer or more entries than allowed.
    #[error("has {found} entries; {fewest} to {most} are allowed")]
    Count {
        /// What it has.
        found: usize,
        /// The least.
        fewest: usize,
        /// The most.
        most: usize,
    },
    /// A name that is used twice in a list.
    #[error("`{0}` is used twice; names must be unique")]
    Duplicate(String),
    /// The same value twice in a set. Not quoted.
    #[error("is in the list twice")]
    Repeated,
    /// Not a DNS label.
    #[error("must be at most 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit")]
    Label,
    /// Not a DNS subdomain.
    #[error(
        "must be at most 253 lower-case letters, digits, dashes and dots, beginning and ending with a letter or digit"
    )]
    ObjectName,
    /// Not a store path.
    #[error(transparent)]
    StorePath(StorePathError),
    /// A derivation instead of its output.
    #[error("`{0}` is a derivation; name the built output, which `nix build --print-out-paths` prints")]
    Derivation(StorePath),
    /// Not a system served here.
    #[error(transparent)]
    System(UnknownSystem),
    /// Not a number of its kind.
    #[error(transparent)]
    Number(NumberError),
    /// A target in another spelling than objects use.
    #[error("write `{0}`: objects name compute capabilities with their dot")]
    Spelling(CodeTarget),
    /// Not a driver version.
    #[error(transparent)]
    Driver(UnparsableDriver),
    /// An empty range.
    #[error("no driver lies between {min} and {max}: min must not be newer than max")]
    EmptyRange {
        /// The lower end.
        min: DriverVersion,
        /// The upper end.
        max: DriverVersion,
    },
    /// Neither list of GPU code.
    #[error(
        "name sass, ptx or both; leave `code` out to have the closure scanned, or write `sass: []` for a build without GPU code"
    )]
    NoCode,
    /// Not a URL of a cache. Not quoted: it may hold a password.
    #[error(
        "must be https://HOST/PATH, http://HOST/PATH or file:///PATH of at most {longest} characters, without user, query or fragment; credentials go to authSecretRef"
    )]
    Url {
        /// The most characters.
        longest: usize,
    },
    /// Not an origin.
    #[error("must be an origin alone: https://HOST or https://HOST:PORT, with nothing behind it")]
    Origin,
    /// Not a public key. Not quoted.
    #[error("must be a public key as Nix prints it, NAME:BASE64, with 44 characters of base64 behind the colon")]
    PublicKey,
    /// A secret key where a public one belongs. Never quoted.
    #[error(
        "is a secret key: withdraw it, and give the public key that `nix key convert-secret-to-public` makes of it"
    )]
    SecretKey,
    /// Out of range.
    #[error("{found} is not between {least} and {greatest}")]
    OutOfRange {
        /// What it is.
        found: i64,
        /// The least.
        least: i64,
        /// The greatest.
        greatest: i64,
    },
}

/// Where in an object a value is. Grows as the conversion goes down; rendered only in an error.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    const fn root(field: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Field(field),
        }
    }

    const fn field(&'a self, name: &'a str) -> Self {
        self.down(Step::Field(name))
    }

    const fn index(&'a self, index: usize) -> Self {
        self.down(Step::Index(index))
    }

    const fn key(&'a self, key: &'a str) -> Self {
        self.down(Step::Key(key))
    }

    const fn down(&'a self, step: Step<'a>) -> Self {
        Self {
            parent: Some(self),
            step,
        }
    }

    /// The error that names this place.
    fn is(&self, problem: Problem) -> InvalidField {
        InvalidField {
            field: self.to_string(),
            problem,
        }
    }

    /// The length of a list, if it is allowed.
    fn count(&self, found: usize, fewest: usize, most: usize) -> Result<(), InvalidField> {
        if (fewest..=most).contains(&found) {
            return Ok(());
        }
        Err(self.is(Problem::Count { found, fewest, most }))
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Field(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{}]", key.chars().take(64).collect::<String>().escape_default()),
        }
    }
}

/// `metadata.name`: a DNS subdomain, as the API server demands.
fn object_name(name: Option<&String>) -> Result<String, InvalidField> {
    let metadata = At::root("metadata");
    let at = metadata.field("name");
    let name = name.ok_or_else(|| at.is(Problem::Missing))?;
    if is_object_name(name) {
        Ok(name.clone())
    } else {
        Err(at.is(Problem::ObjectName))
    }
}

/// `metadata.namespace`, where there is one: a DNS label.
fn object_namespace(namespace: Option<&String>) -> Result<Option<String>, InvalidField> {
    match namespace {
        Some(name) if !is_label(name) => Err(At::root("metadata").field("namespace").is(Problem::Label)),
        other => Ok(other.cloned()),
    }
}

/// Whether this can be `metadata.name`: a DNS subdomain, as the API server demands.
pub fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|part| !part.is_empty() && is_label_of(part, 253))
}

fn is_label(text: &str) -> bool {
    is_label_of(text, 63)
}

fn is_label_of(text: &str, longest: usize) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    !text.is_empty() && text.len() <= longest && ends && text.bytes().all(inner)
}

/// Names that must be unique in their list: each goes by once.
#[derive(Debug, Default)]
struct Unique<'a>(BTreeSet<&'a str>);

impl<'a> Unique<'a> {
    fn label(&mut self, at: &At<'_>, name: &'a str) -> Result<String, InvalidField> {
        if !is_label(name) {
            return Err(at.is(Problem::Label));
        }
        if !self.0.insert(name) {
            return Err(at.is(Problem::Duplicate(name.to_owned())));
        }
        Ok(name.to_owned())
    }

    fn value(&mut self, at: &At<'_>, value: &'a str) -> Result<(), InvalidField> {
        if self.0.insert(value) {
            Ok(())
        } else {
            Err(at.is(Problem::Repeated))
        }
    }
}
