//! `verify`: every layer of a node store against what was signed.

use std::fmt::Write as _;

use crds::domain::store_path::StorePath;
use serde::Serialize;

use super::{answer, obtain};
use crate::{
    act::verify::{self, Verified},
    args::{Output, VerifyArgs},
    report::failure::{Body, Failure, Reason, chain},
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
    let store = obtain::open_store(&args.state.state)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let verified =
        verify::verify(&store, threads, &|_| ()).map_err(|error| Failure::new(Reason::StoreFailed, 1, error))?;
    let good = verified.is_good();
    answer(output, &describe(verified), text)?;
    Ok(u8::from(!good))
}

fn describe(verified: Verified) -> Answer {
    let good = verified.is_good();
    let Verified {
        good: count,
        bytes,
        missing,
        corrupt,
        bad_records,
        extra,
    } = verified;
    let wrong = missing.len() + corrupt.len() + bad_records.len() + extra.len();
    let error = (!good).then(|| Body {
        reason: Reason::StoreCorrupt,
        message: format!("{wrong} of {} store paths are not what was signed; remove the node store's folder of each and fetch it again", count + wrong),
    });
    let corrupt = corrupt.into_iter().map(|one| Corrupt {
        store_path: one.path,
        why: chain(&one.fault),
    });
    Answer {
        good: count,
        bytes,
        missing,
        corrupt: corrupt.collect(),
        bad_records: bad_records.iter().map(|error| chain(error)).collect(),
        extra,
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
    let _ = writeln!(
        text,
        "{} store paths are what was signed ({} bytes)",
        answer.good, answer.bytes
    );
    text
}
