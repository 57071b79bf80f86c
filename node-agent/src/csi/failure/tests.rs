//! The table of codes, both ways: every word has its code, and every word that a call can end with comes from an error.
//! Never a cause that only a test can make up where the type asks for a real one.

use std::{collections::BTreeSet, io};

use binary_cache::{closure::ClosureError, substitute::SubstituteError};
use crds::{
    domain::store_path::StorePath,
    selection::{Reason as Misfit, Rejected, Selection},
};

use super::*;
use crate::{plan::fetch::FetchRefusal, provision::supply::SupplyError, store::StoreError};

/// Every word with its code. kubelet takes `Unavailable`, `Aborted` and `ResourceExhausted` for work that may go on.
const TABLE: [(Reason, Code); 21] = [
    (Reason::BadRequest, Code::FailedPrecondition),
    (Reason::EnvironmentNotFound, Code::NotFound),
    (Reason::DriverTooOld, Code::FailedPrecondition),
    (Reason::PtxTooNew, Code::FailedPrecondition),
    (Reason::NoCodeForGPU, Code::FailedPrecondition),
    (Reason::NoVariantForSystem, Code::FailedPrecondition),
    (Reason::OutsideDeclaredRange, Code::FailedPrecondition),
    (Reason::DriverNotReady, Code::Unavailable),
    (Reason::DriverMismatch, Code::Unavailable),
    (Reason::AgentStarting, Code::Unavailable),
    (Reason::Draining, Code::Unavailable),
    (Reason::SignatureUntrusted, Code::FailedPrecondition),
    (Reason::HashMismatch, Code::Unavailable),
    (Reason::CacheUnreachable, Code::Unavailable),
    (Reason::CredentialsRefused, Code::Unavailable),
    (Reason::NotInAnyCache, Code::Unavailable),
    (Reason::InsufficientDisk, Code::ResourceExhausted),
    (Reason::StoreCorrupt, Code::Internal),
    (Reason::StoreFailed, Code::Internal),
    (Reason::ViewFailed, Code::Internal),
    (Reason::ProgramFailed, Code::Internal),
];

fn node() -> String {
    "node1".to_owned()
}

fn key() -> EnvironmentKey {
    EnvironmentKey {
        namespace: Some("team-a".to_owned()),
        name: "pytorch".to_owned(),
    }
}

fn path() -> StorePath {
    "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x".parse().unwrap()
}

fn provision(source: impl Into<ProvisionError>) -> CallError {
    CallError::Provision {
        environment: key(),
        node: node(),
        source: Arc::new(source.into()),
    }
}

fn substitute(source: SubstituteError) -> CallError {
    let source = ClosureError::Root(source);
    provision(SupplyError::Closure { source })
}

fn refused(source: FetchRefusal) -> CallError {
    provision(SupplyError::Refused { source })
}

/// Nothing of a package fits, for these reasons.
fn rejected(reasons: &[Misfit]) -> CallError {
    let one = |(index, reason): (usize, &Misfit)| Rejected {
        package: "pytorch".to_owned(),
        variant: format!("a-rather-long-name-cu1{index:02}"),
        reason: *reason,
        detail: format!("{reason} ").repeat(6),
    };
    let selection = Selection {
        rejected: reasons.iter().enumerate().map(one).collect(),
        ..Selection::default()
    };
    provision(ProvisionError::Rejected {
        selection: Box::new(selection),
    })
}

fn write(kind: io::ErrorKind) -> StoreError {
    StoreError::Write {
        path: "/state/staging/record".into(),
        source: kind.into(),
    }
}

/// Those that come of caches, and of what is to be fetched.
fn of_caches() -> Vec<(CallError, Reason)> {
    let (path, asked, cache) = (path(), Vec::new, || "here".to_owned());
    let hash = |byte| binary_cache::hash::NarHash::from_bytes([byte; 32]);
    let (needed, free, freeable) = (3, 2, 0);
    vec![
        (
            substitute(SubstituteError::SignatureUntrusted {
                path: path.clone(),
                cache: cache(),
                keys: Vec::new(),
                asked: asked(),
            }),
            Reason::SignatureUntrusted,
        ),
        (
            refused(FetchRefusal::DifferentContents {
                path: path.clone(),
                here: hash(1),
                wanted: hash(2),
            }),
            Reason::HashMismatch,
        ),
        (
            substitute(SubstituteError::CacheUnreachable {
                path: path.clone(),
                cache: cache(),
                asked: asked(),
            }),
            Reason::CacheUnreachable,
        ),
        (
            substitute(SubstituteError::CredentialsRefused {
                path: path.clone(),
                cache: cache(),
                asked: asked(),
            }),
            Reason::CredentialsRefused,
        ),
        (
            substitute(SubstituteError::NotInAnyCache {
                path: path.clone(),
                asked: asked(),
            }),
            Reason::NotInAnyCache,
        ),
        (
            refused(FetchRefusal::InsufficientDisk { needed, free, freeable }),
            Reason::InsufficientDisk,
        ),
        (refused(FetchRefusal::InUse { path }), Reason::StoreCorrupt),
    ]
}

/// An error for each word that a call can end with.
fn errors() -> Vec<(CallError, Reason)> {
    let misfits = [
        (Misfit::DriverTooOld, Reason::DriverTooOld),
        (Misfit::PtxTooNew, Reason::PtxTooNew),
        (Misfit::NoCodeForGpu, Reason::NoCodeForGPU),
        (Misfit::NoVariantForSystem, Reason::NoVariantForSystem),
        (Misfit::OutsideDeclaredRange, Reason::OutsideDeclaredRange),
        (Misfit::DriverMissing, Reason::DriverNotReady),
        (Misfit::DriverMismatch, Reason::DriverMismatch),
    ];
    let mut errors: Vec<_> = misfits.map(|(misfit, word)| (rejected(&[misfit]), word)).into();
    errors.extend(of_caches());
    let denied = Denied::NotFound {
        namespace: "a".to_owned(),
        kind: "CUDAEnvironment",
        name: "x".to_owned(),
    };
    let no_cache = Denied::NoCache {
        key: key(),
        namespace: "team-a".to_owned(),
    };
    errors.extend([
        (CallError::Denied(no_cache), Reason::BadRequest),
        (CallError::Denied(denied), Reason::EnvironmentNotFound),
        (CallError::Starting { node: node() }, Reason::AgentStarting),
        (CallError::Drained { node: node() }, Reason::Draining),
        (
            CallError::Store {
                node: node(),
                source: write(io::ErrorKind::PermissionDenied),
            },
            Reason::StoreFailed,
        ),
        (
            CallError::View {
                node: node(),
                source: ViewError::Store(write(io::ErrorKind::PermissionDenied)),
            },
            Reason::ViewFailed,
        ),
    ]);
    errors
}

#[test]
fn every_word_has_the_code_of_the_table() {
    let words: BTreeSet<_> = TABLE.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(words, BTreeSet::from(Reason::ALL));
    for (reason, code) in TABLE {
        assert_eq!(of_reason(reason), code, "{reason:?}");
    }
}

#[test]
fn every_word_but_that_of_run_comes_from_an_error_and_says_itself() {
    let errors = errors();
    let mut missing = BTreeSet::from(Reason::ALL);
    for (error, reason) in &errors {
        assert_eq!(error.reason(), Some(*reason), "{error:?}");
        let code = TABLE.iter().find(|(word, _)| word == reason).unwrap().1;
        assert_eq!(error.code(), code, "{error:?}");
        let status = error.status();
        assert!(status.message().starts_with(&format!("{reason:?}: ")), "{status:?}");
        assert!(status.details().is_empty() && status.message().len() <= LONGEST);
        missing.remove(reason);
    }
    assert_eq!(missing, BTreeSet::from([Reason::ProgramFailed]));
}

#[test]
fn a_full_disk_is_a_full_disk_whatever_was_to_be_written() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        for error in [
            CallError::Store {
                node: node(),
                source: write(kind),
            },
            CallError::View {
                node: node(),
                source: ViewError::Store(write(kind)),
            },
            CallError::TakeAway {
                node: node(),
                source: ViewError::Store(write(kind)),
            },
            provision(ProvisionError::Lease { source: write(kind) }),
        ] {
            assert_eq!(
                (error.reason(), error.code()),
                (Some(Reason::InsufficientDisk), Code::ResourceExhausted),
                "{error:?}"
            );
        }
    }
}

#[test]
fn of_many_variants_each_is_named_with_its_reason() {
    let few = rejected(&[Misfit::DriverTooOld, Misfit::PtxTooNew]).sentence();
    assert!(few.contains("cu101: ptx-too-new: ptx-too-new ptx-too-new"), "{few}");
    let many: Vec<_> = (0..32)
        .map(|index| {
            if index % 3 == 0 {
                Misfit::PtxTooNew
            } else {
                Misfit::DriverTooOld
            }
        })
        .collect();
    let sentence = rejected(&many).sentence();
    assert!(sentence.starts_with("PtxTooNew: CUDAEnvironment team-a/pytorch on node node1: no variant of package"));
    assert!(sentence.len() <= LONGEST && !sentence.ends_with('…'), "{sentence}");
    let reasons = sentence.split("; ").skip(1);
    let named = reasons.flat_map(|part| {
        let (reason, variants) = part.split_once(": ").unwrap();
        variants
            .split(", ")
            .map(move |variant| (variant.to_owned(), reason.to_owned()))
    });
    let named: BTreeSet<_> = named.collect();
    let expected = many.iter().enumerate();
    let expected = expected.map(|(index, reason)| (format!("a-rather-long-name-cu1{index:02}"), reason.to_string()));
    assert_eq!(named, expected.collect());
}

#[test]
fn a_sentence_begins_with_its_word_and_fits_an_event() {
    let error = CallError::Denied(Denied::NotFound {
        namespace: "a".to_owned(),
        kind: "CUDAEnvironment",
        name: "ü".repeat(900),
    });
    let sentence = error.sentence();
    assert!(
        sentence.starts_with("EnvironmentNotFound: ") && sentence.ends_with(" …"),
        "{sentence}"
    );
    assert!(sentence.len() <= LONGEST);
    let error = CallError::UnderWay;
    assert_eq!((error.status().code(), error.reason()), (Code::Aborted, None));
    assert_eq!(error.sentence(), "another call for this volume is under way");
    assert!(error.status().details().is_empty());
}
