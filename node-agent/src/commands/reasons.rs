//! From the errors of commands to reasons: one table, every match exhaustive, so that no new error goes without a word.

use crds::manifest::ChoiceError;

use super::{RUN_FAILED, inputs::InputError, obtain::RuntimeError, run::RunError, serve::ClientError};
use crate::{
    csi::server::SocketError,
    observe::objects::ObjectsError,
    provision::supply::SupplyError,
    report::failure::{Failure, Reason},
};

/// Which step of starting the daemon failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("starting the daemon's threads")]
    Runtime { source: std::io::Error },
    #[error("listening for signals")]
    Signals { source: std::io::Error },
    #[error("the objects to serve")]
    Objects { source: ObjectsError },
    #[error("the API server")]
    Client { source: ClientError },
    #[error("the sockets that kubelet uses")]
    Sockets { source: SocketError },
    #[error("registering metrics")]
    Metrics { source: prometheus::Error },
    #[error("listening on {address} for health and metrics")]
    Http {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let (reason, code) = match &error {
            ServeError::Runtime { .. } | ServeError::Signals { .. } | ServeError::Metrics { .. } => {
                (Reason::StoreFailed, 1)
            }
            ServeError::Objects { .. }
            | ServeError::Client { .. }
            | ServeError::Sockets { .. }
            | ServeError::Http { .. } => (Reason::BadRequest, 2),
        };
        Self::new(reason, code, error)
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Self::new(of_input(&error), 2, error)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::new(Reason::StoreFailed, 1, error)
    }
}

impl From<SupplyError> for Failure {
    fn from(error: SupplyError) -> Self {
        let reason = error.reason();
        Self::new(reason, if reason == Reason::BadRequest { 2 } else { 1 }, error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let code = if let RunError::Exec { source, .. } = &error {
            if source.kind() == std::io::ErrorKind::NotFound {
                127
            } else {
                126
            }
        } else {
            RUN_FAILED
        };
        Self::new(of_run(&error), code, error)
    }
}

fn of_input(error: &InputError) -> Reason {
    match error {
        InputError::Choice {
            source: ChoiceError::NoEnvironment | ChoiceError::NotThere { .. },
            ..
        } => Reason::EnvironmentNotFound,
        InputError::Read { .. }
        | InputError::Manifest { .. }
        | InputError::Choice {
            source: ChoiceError::Several { .. },
            ..
        }
        | InputError::NoCaches { .. }
        | InputError::UnknownCache { .. }
        | InputError::Cache(_)
        | InputError::Facts { .. }
        | InputError::TokenWithoutCache { .. } => Reason::BadRequest,
    }
}

fn of_run(error: &RunError) -> Reason {
    match error {
        RunError::Input(error) => of_input(error),
        RunError::Provision(error) => error.reason(),
        RunError::Lease { .. } | RunError::Runtime(_) => Reason::StoreFailed,
        RunError::Host { .. } | RunError::Enter { .. } | RunError::Mount { .. } => Reason::ViewFailed,
        RunError::Exec { .. } => Reason::ProgramFailed,
    }
}
