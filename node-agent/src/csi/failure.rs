//! Why a call was not answered with success, and the code that tells kubelet what to expect.
//! Never a detail in a status: the specification wants them empty; the sentence says it all.

use std::{path::PathBuf, sync::Arc};

use crds::{
    catalogue::{Denied, EnvironmentKey},
    failure::Reason,
    pod::{BadAttribute, BadReference},
};
use tokio::task::JoinError;
use tonic::{Code, Status};

use crate::{
    act::view::{TargetError, ViewError},
    plan::volume::{self, BadRequest},
    provision::{
        ProvisionError,
        reasons::{of_store, of_view},
        service::Busy,
    },
    report::{failure::chain, selection},
    snapshot::progress::Progress,
    store::StoreError,
};

/// Longest sentence of a status, in bytes.
const LONGEST: usize = 1000;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the agent of node {node} has not seen the cluster's objects yet")]
    Starting { node: String },
    #[error(
        "node {node} is being drained (spec.drain of its CUDANode): it takes no new volumes; those that are mounted stay"
    )]
    Drained { node: String },
    #[error("another call for this volume is under way")]
    UnderWay,
    #[error("this call gave way to one that takes the volume away")]
    Displaced,
    #[error("target_path: the volume was published there with other arguments")]
    OtherArguments,
    #[error("target_path: the volume is at another target, and its access mode allows one only")]
    OtherTarget,
    #[error("something that is not ours is mounted at {}: unmount it on node {node}", target.display())]
    Foreign { target: PathBuf, node: String },
    #[error("target_path on node {node}")]
    Target { node: String, source: TargetError },
    #[error("volume_path: this volume is not published at {}", path.display())]
    NotPublished { path: PathBuf },
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("{environment}: {}", told(progress))]
    Fetching {
        environment: EnvironmentKey,
        progress: Progress,
    },
    #[error("{environment} on node {node}")]
    Provision {
        environment: EnvironmentKey,
        node: String,
        source: Arc<ProvisionError>,
    },
    #[error("mounting the view on node {node}")]
    View { node: String, source: ViewError },
    #[error("taking the volume away on node {node}")]
    TakeAway { node: String, source: ViewError },
    #[error("the node store of node {node}")]
    Store { node: String, source: StoreError },
    #[error("a task of the agent died")]
    TaskDied { source: JoinError },
}

impl CallError {
    /// The word for people; nothing where work merely goes on.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::BadRequest(_) | Self::OtherArguments | Self::OtherTarget | Self::NotPublished { .. } => {
                Some(Reason::BadRequest)
            }
            Self::Denied(Denied::NotFound { .. }) => Some(Reason::EnvironmentNotFound),
            Self::Denied(Denied::Invalid { .. } | Denied::Cache { .. } | Denied::NoCache { .. }) => {
                Some(Reason::BadRequest)
            }
            Self::Starting { .. } => Some(Reason::AgentStarting),
            Self::Drained { .. } => Some(Reason::Draining),
            Self::UnderWay | Self::Displaced | Self::Busy(_) | Self::Fetching { .. } => None,
            Self::Target {
                source: TargetError::Outside { .. } | TargetError::Link { .. } | TargetError::NoFolder { .. },
                ..
            } => Some(Reason::BadRequest),
            Self::Foreign { .. } | Self::Target { .. } => Some(Reason::ViewFailed),
            Self::View { source, .. } | Self::TakeAway { source, .. } => Some(of_view(source)),
            Self::Provision { source, .. } => Some(source.reason()),
            Self::Store { source, .. } => Some(of_store(source)),
            Self::TaskDied { .. } => Some(Reason::StoreFailed),
        }
    }

    /// The code, by what kubelet makes of it (`pkg/volume/csi`): `UNAVAILABLE`, `ABORTED` and `RESOURCE_EXHAUSTED` say that
    /// work may go on and the call is to come again; any other says that nothing is left behind. It comes again in both
    /// cases, ever more rarely.
    pub fn code(&self) -> Code {
        match self {
            // A mode that is not served, unlike a request that makes no sense.
            Self::BadRequest(BadRequest {
                problem: volume::Problem::Block,
                ..
            }) => Code::FailedPrecondition,
            // What nobody may ask for, unlike what makes no sense.
            Self::BadRequest(BadRequest {
                problem:
                    volume::Problem::Attribute(BadAttribute {
                        problem: BadReference::StorePath,
                        ..
                    }),
                ..
            }) => Code::PermissionDenied,
            Self::BadRequest(_) => Code::InvalidArgument,
            Self::Denied(Denied::NotFound { .. }) | Self::NotPublished { .. } => Code::NotFound,
            Self::Denied(Denied::Invalid { .. } | Denied::Cache { .. } | Denied::NoCache { .. }) => {
                Code::FailedPrecondition
            }
            Self::Starting { .. } => of_reason(Reason::AgentStarting),
            Self::Drained { .. } => of_reason(Reason::Draining),
            Self::UnderWay | Self::Displaced | Self::Busy(_) | Self::Fetching { .. } => Code::Aborted,
            Self::OtherArguments => Code::AlreadyExists,
            Self::OtherTarget | Self::Foreign { .. } => Code::FailedPrecondition,
            Self::Target { source, .. } => of_target(source),
            Self::Provision { source, .. } => of_reason(source.reason()),
            Self::View { source, .. } | Self::TakeAway { source, .. } => of_reason(of_view(source)),
            Self::Store { source, .. } => of_reason(of_store(source)),
            Self::TaskDied { .. } => Code::Internal,
        }
    }

    /// What kubelet gets, and shows in an event of the pod.
    pub fn status(&self) -> Status {
        Status::new(self.code(), self.sentence())
    }

    /// The whole chain, cut to what an event takes. Of many variants that do not fit, the sentences go before the names.
    pub fn sentence(&self) -> String {
        let word = self.reason().map(|reason| format!("{reason:?}: ")).unwrap_or_default();
        let mut text = format!("{word}{}", chain(self));
        if let Self::Provision { source, .. } = self
            && let ProvisionError::Rejected { selection } = &**source
            && text.len() > LONGEST
        {
            text = format!("{word}{self}: {}", selection::refusal_in_brief(selection));
        }
        cut(text)
    }
}

/// What an event takes.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST - 4)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or_default();
        text.truncate(end);
        text.push_str(" …");
    }
    text
}

fn of_target(error: &TargetError) -> Code {
    match error {
        TargetError::Outside { .. } | TargetError::Link { .. } | TargetError::NoFolder { .. } => Code::InvalidArgument,
        // Somebody must make the folder, or take away what is not ours.
        TargetError::NoParent { .. } | TargetError::Full { .. } => Code::FailedPrecondition,
        TargetError::Reach { .. }
        | TargetError::Make { .. }
        | TargetError::Unmount { .. }
        | TargetError::Remove { .. } => Code::Internal,
    }
}

fn of_reason(reason: Reason) -> Code {
    match reason {
        Reason::BadRequest => Code::FailedPrecondition,
        Reason::EnvironmentNotFound => Code::NotFound,
        Reason::DriverTooOld
        | Reason::PtxTooNew
        | Reason::NoCodeForGPU
        | Reason::NoVariantForSystem
        | Reason::OutsideDeclaredRange
        | Reason::SignatureUntrusted => Code::FailedPrecondition,
        // The next attempt may find another driver, or a cache that is well again.
        Reason::DriverNotReady
        | Reason::DriverMismatch
        | Reason::AgentStarting
        | Reason::Draining
        | Reason::HashMismatch
        | Reason::CredentialsRefused
        | Reason::CacheUnreachable
        | Reason::NotInAnyCache => Code::Unavailable,
        Reason::InsufficientDisk => Code::ResourceExhausted,
        Reason::StoreCorrupt | Reason::StoreFailed | Reason::ViewFailed | Reason::ProgramFailed => Code::Internal,
    }
}

/// How far a fetch is, for a person.
fn told(progress: &Progress) -> String {
    let fetch = &progress.fetch;
    if progress.queued {
        return "waits for other environments that are being fetched".to_owned();
    }
    if fetch.paths_total == 0 {
        return "is being resolved".to_owned();
    }
    let percent = (fetch.bytes_done.saturating_mul(100))
        .checked_div(fetch.bytes_total)
        .unwrap_or(100);
    let source = fetch
        .source
        .as_deref()
        .map(|name| format!(" from {name}"))
        .unwrap_or_default();
    format!(
        "fetched {percent} % ({} of {} bytes, {} of {} store paths) at {} bytes/s{source}; it goes on",
        fetch.bytes_done, fetch.bytes_total, fetch.paths_done, fetch.paths_total, progress.bytes_per_second
    )
}

#[cfg(test)]
mod tests;
