//! `fetch`: store paths with everything they refer to, into the node store.

use std::{path::PathBuf, time::SystemTime};

use crds::domain::store_path::StorePath;
use serde::Serialize;

use super::{answer, inputs, obtain};
use crate::{
    args::{FetchArgs, Output},
    provision::supply::{self, Supply},
    report::failure::{Failure, Reason},
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Every store path of the closures, with where its files are.
    paths: Vec<Path>,
    fetched_paths: u64,
    fetched_bytes: u64,
    downloaded_bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    store_path: StorePath,
    files: PathBuf,
    nar_hash: String,
    nar_size: u64,
    signed_by: Vec<String>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command's shell reads the clock, for last use"
)]
pub(super) fn run(args: &FetchArgs, output: Output) -> Result<u8, Failure> {
    if let Some(recipe) = args.store_paths.iter().find(|path| path.is_derivation()) {
        let text = format!("{recipe} is a derivation, a recipe; name what was built from it");
        return Err(Failure::new(Reason::BadRequest, 2, text));
    }
    let caches = inputs::caches_by_url(&args.caches, &args.public_keys, &args.fetch)?;
    let store = supply::open_store(&args.state.state)?;
    let supply = Supply::new(store.clone(), caches, args.fetch.jobs.into())?;
    let runtime = obtain::runtime()?;
    let obtained = runtime.block_on(obtain::shown(
        supply.obtain(&args.store_paths, SystemTime::now()),
        supply.progress(),
        &args.fetch,
        output,
    ))?;
    let paths = obtained.closure.paths.iter().map(|narinfo| Path {
        store_path: narinfo.store_path().clone(),
        files: store.layout().files(narinfo.store_path()),
        nar_hash: narinfo.nar_hash().to_string(),
        nar_size: narinfo.nar_size(),
        signed_by: narinfo.signed_by().to_vec(),
    });
    let value = Answer {
        paths: paths.collect(),
        fetched_paths: obtained.fetched.paths,
        fetched_bytes: obtained.fetched.bytes,
        downloaded_bytes: obtained.downloaded,
    };
    obtained
        .lease
        .end()
        .map_err(|error| Failure::new(Reason::StoreFailed, 1, error))?;
    answer(output, &value, |value| {
        value
            .paths
            .iter()
            .map(|path| format!("{}\n", path.files.display()))
            .collect()
    })?;
    Ok(0)
}
