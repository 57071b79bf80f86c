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
        node::{DriverState, GpuError, NodeFacts},
        store_path::UnknownSystem,
    },
    failure::Reason,
    manifest::{self, ChoiceError, ManifestError},
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
    /// No environment, or not clear which.
    #[error("in {path}")]
    Choice {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ChoiceError,
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
    /// Not a GPU.
    #[error("--gpu")]
    Gpu(#[source] GpuError),
    /// Not a system.
    #[error("--system")]
    System(#[source] UnknownSystem),
}

impl ExplainError {
    /// The word for programs.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Choice {
                source: ChoiceError::NoEnvironment | ChoiceError::NotThere { .. },
                ..
            } => Reason::EnvironmentNotFound,
            Self::Read { .. }
            | Self::Manifest { .. }
            | Self::Choice { .. }
            | Self::Driver(_)
            | Self::DriverCuda(_)
            | Self::UnknownBranch { .. }
            | Self::Gpu(_)
            | Self::System(_) => Reason::BadRequest,
        }
    }
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
        gpus: (args.gpu.iter().map(|text| text.parse()))
            .collect::<Result<_, _>>()
            .map_err(ExplainError::Gpu)?,
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

fn environment(args: &ExplainArgs, stdin: &mut dyn Read) -> Result<Environment, ExplainError> {
    let path = &args.filename;
    let text = read(path, stdin).map_err(|source| ExplainError::Read {
        path: path.clone(),
        source,
    })?;
    let environments = manifest::environments(&text).map_err(|source| ExplainError::Manifest {
        path: path.clone(),
        source,
    })?;
    manifest::choose(environments, args.name.as_deref()).map_err(|source| ExplainError::Choice {
        path: path.clone(),
        source,
    })
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
