//! From the errors of provisioning to reasons: every match exhaustive, so that no new error goes without a word.
//! Never a sentence.

use binary_cache::{closure::ClosureError, substitute::SubstituteError};
use crds::failure::Reason;

use super::{ProvisionError, supply::SupplyError};
use crate::{act::fetch::FetchError, plan::fetch::FetchRefusal, report::selection, store::StoreError};

impl ProvisionError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Supply(error) => error.reason(),
            Self::Caches(_) | Self::Compat { .. } => Reason::BadRequest,
            Self::Rejected { selection } => selection::reason(selection),
            Self::Contents { .. }
            | Self::Lease { .. }
            | Self::Install { .. }
            | Self::Document { .. }
            | Self::Abandoned
            | Self::TaskDied { .. } => Reason::StoreFailed,
            Self::Bridge { .. } => Reason::DriverNotReady,
            Self::View { .. } | Self::Build { .. } => Reason::ViewFailed,
        }
    }
}

impl SupplyError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Setup { .. } => Reason::BadRequest,
            Self::Store { .. } | Self::TaskDied { .. } => Reason::StoreFailed,
            Self::Closure {
                source: ClosureError::Root(source) | ClosureError::Reference { source, .. },
            } => of_substitute(source),
            // Larger than any closure that is meant to be mounted.
            Self::Closure {
                source: ClosureError::TooLarge { .. },
            } => Reason::BadRequest,
            Self::Refused { source } => of_refusal(source),
            Self::Fetch { source } => match source {
                // As where the plan refuses it: only when it was noticed differs.
                FetchError::Store(StoreError::InUse { .. }) => Reason::StoreCorrupt,
                FetchError::Store(_) | FetchError::TaskDied { .. } | FetchError::OutsideClosure { .. } => {
                    Reason::StoreFailed
                }
                FetchError::Substitute(source) => of_substitute(source),
                FetchError::Refused(source) => of_refusal(source),
                FetchError::DiskFull { .. } => Reason::InsufficientDisk,
            },
        }
    }
}

fn of_refusal(error: &FetchRefusal) -> Reason {
    match error {
        FetchRefusal::InsufficientDisk { .. } => Reason::InsufficientDisk,
        FetchRefusal::DifferentContents { .. } => Reason::HashMismatch,
        FetchRefusal::InUse { .. } => Reason::StoreCorrupt,
    }
}

fn of_substitute(error: &SubstituteError) -> Reason {
    match error {
        SubstituteError::NotInAnyCache { .. } => Reason::NotInAnyCache,
        SubstituteError::SignatureUntrusted { .. } => Reason::SignatureUntrusted,
        SubstituteError::HashMismatch { .. } | SubstituteError::CacheCorrupt { .. } => Reason::HashMismatch,
        SubstituteError::CredentialsRefused { .. } => Reason::CredentialsRefused,
        SubstituteError::CacheUnreachable { .. } | SubstituteError::CacheHostile { .. } => Reason::CacheUnreachable,
        SubstituteError::Local { .. } => Reason::StoreFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_use_has_one_reason_whenever_it_was_noticed() {
        let path = || {
            "/nix/store/00000000000000000000000000000000-x"
                .parse()
                .unwrap_or_else(|_| unreachable!())
        };
        let reason = |source| SupplyError::Fetch { source }.reason();
        let early = reason(FetchError::Refused(FetchRefusal::InUse { path: path() }));
        let late = reason(FetchError::Store(StoreError::InUse { path: path() }));
        assert_eq!((early, late), (Reason::StoreCorrupt, Reason::StoreCorrupt));
        let other = StoreError::NotAFolder { path: "/x".into() };
        assert_eq!(reason(FetchError::Store(other)), Reason::StoreFailed);
    }
}
