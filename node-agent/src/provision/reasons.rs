//! From the errors of provisioning to reasons: every match exhaustive, so that no new error goes without a word.
//! Never a sentence.

use binary_cache::{closure::ClosureError, substitute::SubstituteError};
use crds::failure::Reason;

use super::{ProvisionError, supply::SupplyError};
use crate::{
    act::{
        fetch::{FetchError, is_full},
        view::ViewError,
    },
    plan::fetch::FetchRefusal,
    report::selection,
    store::StoreError,
};

impl ProvisionError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Supply(error) => error.reason(),
            Self::Caches(_) | Self::Compat { .. } => Reason::BadRequest,
            Self::Rejected { selection } => selection::reason(selection),
            Self::Contents { source } if is_full(source) => Reason::InsufficientDisk,
            Self::Install { source } if is_full(source) => Reason::InsufficientDisk,
            Self::Lease { source } => of_store(source),
            Self::Contents { .. }
            | Self::Install { .. }
            | Self::Document { .. }
            | Self::Abandoned
            | Self::TaskDied { .. } => Reason::StoreFailed,
            Self::Bridge { .. } => Reason::DriverNotReady,
            Self::Build { source } => of_view(source),
            Self::View { .. } => Reason::ViewFailed,
        }
    }
}

impl SupplyError {
    /// The word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Setup { .. } => Reason::BadRequest,
            Self::Store { source, .. } => of_store(source),
            Self::TaskDied { .. } => Reason::StoreFailed,
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
                FetchError::Store(source) => of_store(source),
                FetchError::TaskDied { .. } | FetchError::OutsideClosure { .. } => Reason::StoreFailed,
                FetchError::Substitute(source) => of_substitute(source),
                FetchError::Refused(source) => of_refusal(source),
                FetchError::DiskFull { .. } => Reason::InsufficientDisk,
            },
        }
    }
}

/// The word for what failed in the node store's folders: a full disk is somebody's to mend, and the call may come again.
pub(crate) fn of_store(error: &StoreError) -> Reason {
    if is_full(error) {
        Reason::InsufficientDisk
    } else {
        Reason::StoreFailed
    }
}

/// The word for what failed on the way to a mounted view. The kernel says "no space" of too many mounts as well: only
/// what writes to a disk counts as full.
pub(crate) fn of_view(error: &ViewError) -> Reason {
    let full = match error {
        ViewError::Store(source) => is_full(source),
        ViewError::Target(source) => is_full(source),
        ViewError::Create { source, .. } | ViewError::Link { source, .. } => is_full(source),
        ViewError::MissingPath { .. }
        | ViewError::MissingBridge { .. }
        | ViewError::ReadTree { .. }
        | ViewError::OtherFileSystem { .. }
        | ViewError::OpenLayer { .. }
        | ViewError::TooDeep { .. }
        | ViewError::Mount { .. }
        | ViewError::ReadOnly { .. }
        | ViewError::NotMounted { .. }
        | ViewError::Part { .. }
        | ViewError::OpenTarget { .. }
        | ViewError::TargetBusy { .. }
        | ViewError::Attach { .. }
        | ViewError::Unmount { .. } => false,
    };
    if full {
        Reason::InsufficientDisk
    } else {
        Reason::ViewFailed
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
    use std::{io, path::PathBuf};

    use super::*;
    use crate::act::install::InstallError;

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

    #[test]
    fn a_write_for_which_the_disk_is_too_full_is_no_fault_of_the_store() {
        let path = || PathBuf::from("/state/x");
        let store = |kind: io::ErrorKind| StoreError::Write {
            path: path(),
            source: kind.into(),
        };
        for (kind, full) in [
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::PermissionDenied, false),
        ] {
            let said = |otherwise| if full { Reason::InsufficientDisk } else { otherwise };
            let errors: [(ProvisionError, Reason); 5] = [
                (ProvisionError::Lease { source: store(kind) }, Reason::StoreFailed),
                (
                    ProvisionError::Install {
                        source: InstallError::Workspace { source: store(kind) },
                    },
                    Reason::StoreFailed,
                ),
                (
                    SupplyError::Store {
                        state: path(),
                        source: store(kind),
                    }
                    .into(),
                    Reason::StoreFailed,
                ),
                (
                    SupplyError::Fetch {
                        source: FetchError::Store(store(kind)),
                    }
                    .into(),
                    Reason::StoreFailed,
                ),
                (
                    ProvisionError::Build {
                        source: ViewError::Link {
                            path: path(),
                            source: kind.into(),
                        },
                    },
                    Reason::ViewFailed,
                ),
            ];
            for (error, otherwise) in errors {
                assert_eq!(error.reason(), said(otherwise), "{error:?}");
            }
            // As many mounts as the kernel allows are no full disk.
            let attach = ViewError::Attach {
                target: path(),
                source: kind.into(),
            };
            assert_eq!(of_view(&attach), Reason::ViewFailed);
        }
    }
}
