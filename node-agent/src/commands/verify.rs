//! `verify`: every layer of a node store against what was signed, and the removal of what is not.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use crds::domain::store_path::StorePath;
use serde::Serialize;

use super::answer;
use crate::{
    act::{
        collect,
        verify::{self, Verified},
    },
    args::{Output, VerifyArgs},
    plan::collect as planning,
    provision::supply,
    report::failure::{Body, Failure, Reason, chain},
    store::{NodeStore, StoreError},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    good: usize,
    bytes: u64,
    missing: Vec<StorePath>,
    corrupt: Vec<Corrupt>,
    bad_records: Vec<String>,
    extra: Vec<String>,
    /// With --repair: what was removed, to be fetched again.
    removed: Vec<StorePath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Body>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Corrupt {
    store_path: StorePath,
    why: String,
}

pub(super) fn run(args: &VerifyArgs, output: Output) -> Result<u8, Failure> {
    let store = supply::existing_store(&args.state.state)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = |error| Failure::new(Reason::StoreFailed, 1, error);
    let verified = verify::verify(&store, threads, &|_| ()).map_err(failed)?;
    let repaired = if args.repair {
        repair(&store, &verified).map_err(failed)?
    } else {
        Repaired::default()
    };
    let value = describe(verified, repaired);
    let good = value.error.is_none();
    answer(output, &value, text)?;
    Ok(u8::from(!good))
}

/// What --repair removed, to be fetched again.
#[derive(Debug, Default)]
struct Repaired {
    paths: Vec<StorePath>,
    /// Records and layers that lacked their other half.
    halves: usize,
}

/// Removes what is damaged and unused. Halves go by the sweep that every use of the store begins with.
fn repair(store: &NodeStore, verified: &Verified) -> Result<Repaired, StoreError> {
    let corrupt = verified.corrupt.iter().map(|corrupt| &corrupt.path);
    let damaged: BTreeSet<_> = corrupt.chain(&verified.missing).cloned().collect();
    let paths = collect::collect(store, |state| planning::discard(state, &damaged))?.remove;
    store.sweep()?;
    let is_gone = |path: &Path| path.symlink_metadata().is_err();
    let records = verified.bad_records.iter().filter(|error| {
        let StoreError::BadRecord { path, .. } = error else {
            return false;
        };
        is_gone(path)
    });
    let layers = verified
        .extra
        .iter()
        .filter(|hash| is_gone(&store.layout().store().join(hash)));
    let halves = records.count() + layers.count();
    Ok(Repaired { paths, halves })
}

fn describe(verified: Verified, repaired: Repaired) -> Answer {
    let Verified {
        good,
        bytes,
        missing,
        corrupt,
        bad_records,
        extra,
    } = verified;
    let wrong = missing.len() + corrupt.len() + bad_records.len() + extra.len();
    let left = wrong.saturating_sub(repaired.paths.len() + repaired.halves);
    let removed = repaired.paths;
    let error = (left > 0).then(|| Body {
        reason: Reason::StoreCorrupt,
        message: format!(
            "{left} of {} store paths are not what was signed; `verify --repair` removes those that no program uses, and they \
             are fetched again when needed",
            good + wrong
        ),
    });
    let corrupt = corrupt.into_iter().map(|one| Corrupt {
        store_path: one.path,
        why: chain(&one.fault),
    });
    Answer {
        good,
        bytes,
        missing,
        corrupt: corrupt.collect(),
        bad_records: bad_records.iter().map(|error| chain(error)).collect(),
        extra,
        removed,
        error,
    }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for one in &answer.corrupt {
        let _ = writeln!(text, "corrupt: {}: {}", one.store_path, one.why);
    }
    text.extend(answer.missing.iter().map(|path| format!("missing: {path}\n")));
    text.extend(answer.bad_records.iter().map(|why| format!("bad record: {why}\n")));
    text.extend(answer.extra.iter().map(|hash| format!("no record: {hash}\n")));
    text.extend(answer.removed.iter().map(|path| format!("removed: {path}\n")));
    let _ = writeln!(
        text,
        "{} store paths are what was signed ({} bytes)",
        answer.good, answer.bytes
    );
    if let Some(error) = &answer.error {
        let _ = writeln!(text, "{}", error.message);
    }
    text
}
