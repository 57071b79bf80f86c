//! `explain`: the environment of a file, an imagined node, and the selection between them.
//! Never asks a cluster or a cache: what was not declared is assumed to fit, and the answer says so.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crds::{
    domain::{
        cuda::NumberError,
        driver::{DriverVersion, UnparsableDriver},
        environment::Environment,
        node::{Brand, DriverState, Gpu, NodeFacts},
        store_path::UnknownSystem,
    },
    failure::Reason,
    manifest::{self, ManifestError},
    selection::{KnownContents, Selection, cuda_of_branch, select},
};

use crate::args::ExplainArgs;

pub mod table;

/// An imagined node, an environment, and what comes of them.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The environment of the file.
    pub environment: Environment,
    /// The node of the command line.
    pub node: NodeFacts,
    /// The answer.
    pub selection: Selection,
}

/// Why there is no answer. Each is the caller's to correct.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file, `-` for standard input.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no environment.
    #[error("in {path}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Objects, but no environment.
    #[error("{path} has no CUDAEnvironment or ClusterCUDAEnvironment in it")]
    NoEnvironment {
        /// The file.
        path: PathBuf,
    },
    /// Several environments, and none was named.
    #[error("{path} has several environments; choose one with --name: {}", .names.join(", "))]
    Several {
        /// The file.
        path: PathBuf,
        /// What it has.
        names: Vec<String>,
    },
    /// The named environment is not there.
    #[error("{path} has no environment `{name}`; it has {}", .names.join(", "))]
    NotFound {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What it has.
        names: Vec<String>,
    },
    /// Not a driver version.
    #[error("--driver")]
    Driver(#[source] UnparsableDriver),
    /// Not a CUDA release.
    #[error("--driver-cuda")]
    DriverCuda(#[source] NumberError),
    /// A branch that is in no table.
    #[error("the CUDA release of driver branch {branch} is not known; give it with --driver-cuda")]
    UnknownBranch {
        /// The branch.
        branch: u32,
    },
    /// Not a compute capability.
    #[error("--gpu")]
    Gpu(#[source] NumberError),
    /// Not a brand.
    #[error("--gpu: `{brand}` is not a brand known to NVML: {}", brands())]
    Brand {
        /// What was given.
        brand: String,
    },
    /// Not a system.
    #[error("--system")]
    System(#[source] UnknownSystem),
}

impl ExplainError {
    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } | Self::NoEnvironment { .. } => Reason::EnvironmentNotFound,
            Self::Read { .. }
            | Self::Manifest { .. }
            | Self::Several { .. }
            | Self::Driver(_)
            | Self::DriverCuda(_)
            | Self::UnknownBranch { .. }
            | Self::Gpu(_)
            | Self::Brand { .. }
            | Self::System(_) => Reason::BadRequest,
        }
    }
}

fn brands() -> String {
    Brand::ALL.map(|(_, name)| name).join(", ")
}

/// Reads the file (`stdin` where it is `-`) and selects.
pub fn explain(args: &ExplainArgs, stdin: &mut dyn Read) -> Result<Explanation, ExplainError> {
    let node = node(args)?;
    let environment = environment(args, stdin)?;
    let selection = select(&environment, &node, &KnownContents::new());
    Ok(Explanation {
        environment,
        node,
        selection,
    })
}

fn node(args: &ExplainArgs) -> Result<NodeFacts, ExplainError> {
    let driver = match &args.driver {
        None => DriverState::Missing,
        Some(text) => driver(text, args.driver_cuda.as_deref())?,
    };
    Ok(NodeFacts {
        driver,
        gpus: args.gpu.iter().map(|text| gpu(text)).collect::<Result<_, _>>()?,
        system: args.system.parse().map_err(ExplainError::System)?,
    })
}

fn driver(text: &str, cuda: Option<&str>) -> Result<DriverState, ExplainError> {
    let version: DriverVersion = text.parse().map_err(ExplainError::Driver)?;
    let branch = version.major();
    let cuda = match cuda {
        Some(text) => text.parse().map_err(ExplainError::DriverCuda)?,
        None => cuda_of_branch(branch).ok_or(ExplainError::UnknownBranch { branch })?,
    };
    Ok(DriverState::Ready { version, cuda })
}

fn gpu(text: &str) -> Result<Gpu, ExplainError> {
    let (capability, brand) = match text.split_once(':') {
        Some((capability, brand)) => (capability, Some(named_brand(brand)?)),
        None => (text, None),
    };
    Ok(Gpu {
        compute_capability: capability.parse().map_err(ExplainError::Gpu)?,
        brand,
        model: None,
        count: 1,
    })
}

fn named_brand(name: &str) -> Result<Brand, ExplainError> {
    Brand::from_name(name).ok_or_else(|| ExplainError::Brand {
        brand: name.chars().take(64).flat_map(char::escape_debug).collect(),
    })
}

fn environment(args: &ExplainArgs, stdin: &mut dyn Read) -> Result<Environment, ExplainError> {
    let path = &args.filename;
    let text = read(path, stdin).map_err(|source| ExplainError::Read {
        path: path.clone(),
        source,
    })?;
    let mut environments = manifest::environments(&text).map_err(|source| ExplainError::Manifest {
        path: path.clone(),
        source,
    })?;
    let names: Vec<String> = environments.iter().map(full_name).collect();
    let chosen = match &args.name {
        Some(name) => names
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| ExplainError::NotFound {
                path: path.clone(),
                name: name.chars().take(256).flat_map(char::escape_debug).collect(),
                names: names.clone(),
            })?,
        None if environments.is_empty() => return Err(ExplainError::NoEnvironment { path: path.clone() }),
        None if environments.len() > 1 => {
            return Err(ExplainError::Several {
                path: path.clone(),
                names,
            });
        }
        None => 0,
    };
    Ok(environments.swap_remove(chosen))
}

/// `namespace/name`, or `name` where there is no namespace.
pub fn full_name(environment: &Environment) -> String {
    match &environment.namespace {
        Some(namespace) => format!("{namespace}/{}", environment.name),
        None => environment.name.clone(),
    }
}

/// At most one byte more than is allowed, so that `manifest` says that it is too long.
fn read(path: &Path, stdin: &mut dyn Read) -> io::Result<String> {
    let limit = manifest::LONGEST as u64 + 1;
    let mut text = String::new();
    if path.as_os_str() == "-" {
        stdin.take(limit).read_to_string(&mut text)?;
    } else {
        File::open(path)?.take(limit).read_to_string(&mut text)?;
    }
    Ok(text)
}
