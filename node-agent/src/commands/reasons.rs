//! From the errors of commands to reasons: one table, every match exhaustive, so that no new error goes without a word.

use binary_cache::{closure::ClosureError, substitute::SubstituteError};
use crds::manifest::ChoiceError;

use super::{RUN_FAILED, inputs::InputError, obtain::ObtainError, run::RunError};
use crate::{
    act::fetch::FetchError,
    observe::objects::ObjectsError,
    plan::fetch::FetchRefusal,
    report::{
        failure::{Failure, Reason},
        selection,
    },
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
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let (reason, code) = match &error {
            ServeError::Runtime { .. } | ServeError::Signals { .. } => (Reason::StoreFailed, 1),
            ServeError::Objects { .. } => (Reason::BadRequest, 2),
        };
        Self::new(reason, code, error)
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Self::new(of_input(&error), 2, error)
    }
}

impl From<ObtainError> for Failure {
    fn from(error: ObtainError) -> Self {
        let reason = of_obtain(&error);
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
        | InputError::Url { .. }
        | InputError::Keys { .. }
        | InputError::Facts { .. }
        | InputError::Netrc { .. }
        | InputError::Token { .. }
        | InputError::TokenWithoutCache { .. } => Reason::BadRequest,
    }
}

fn of_obtain(error: &ObtainError) -> Reason {
    match error {
        ObtainError::Setup { .. } => Reason::BadRequest,
        ObtainError::Runtime { .. } | ObtainError::Store { .. } => Reason::StoreFailed,
        ObtainError::Closure {
            source: ClosureError::Root(source) | ClosureError::Reference { source, .. },
        } => of_substitute(source),
        // Larger than any closure that is meant to be mounted.
        ObtainError::Closure {
            source: ClosureError::TooLarge { .. },
        } => Reason::BadRequest,
        ObtainError::Refused { source } => of_refusal(source),
        ObtainError::Fetch { source } => match source {
            FetchError::Store(_) | FetchError::TaskDied { .. } | FetchError::OutsideClosure { .. } => {
                Reason::StoreFailed
            }
            FetchError::Substitute(source) => of_substitute(source),
            FetchError::Refused(source) => of_refusal(source),
            FetchError::DiskFull { .. } => Reason::InsufficientDisk,
        },
    }
}

fn of_refusal(error: &FetchRefusal) -> Reason {
    match error {
        FetchRefusal::InsufficientDisk { .. } => Reason::InsufficientDisk,
        FetchRefusal::DifferentContents { .. } => Reason::HashMismatch,
    }
}

fn of_substitute(error: &SubstituteError) -> Reason {
    match error {
        SubstituteError::NotInAnyCache { .. } => Reason::NotInAnyCache,
        SubstituteError::SignatureUntrusted { .. } => Reason::SignatureUntrusted,
        SubstituteError::HashMismatch { .. } | SubstituteError::CacheCorrupt { .. } => Reason::HashMismatch,
        SubstituteError::CacheUnreachable { .. } | SubstituteError::CacheHostile { .. } => Reason::CacheUnreachable,
        SubstituteError::Local { .. } => Reason::StoreFailed,
    }
}

fn of_run(error: &RunError) -> Reason {
    match error {
        RunError::Input(error) => of_input(error),
        RunError::Obtain(error) => of_obtain(error),
        RunError::Rejected { selection } => selection::reason(selection),
        RunError::Contents { .. } | RunError::Lease { .. } | RunError::Install { .. } | RunError::Document { .. } => {
            Reason::StoreFailed
        }
        RunError::Bridge { .. } => Reason::DriverNotReady,
        RunError::Compat { .. } => Reason::BadRequest,
        RunError::View { .. } | RunError::Host { .. } | RunError::Enter { .. } | RunError::Mount { .. } => {
            Reason::ViewFailed
        }
        RunError::Exec { .. } => Reason::ProgramFailed,
    }
}
