//! A server that gives each connection so much a second and no more: how much of what several could have one file gets.
//! It must never compare with a rate that the server was not told.

use std::fs;

use anyhow::Result;
use e2e::{nginx::Nginx, programs, real_nix::RealNix};

use crate::{
    cold::{nix_copy, node_agent},
    measure::median,
    table::{say, table},
    workload::{self, published, remove},
};

/// Bytes a second that the server gives each connection.
const RATE: u64 = 4 << 20;
/// Connections that a file is read over at most.
const CONNECTIONS: u64 = 8;
const ROUNDS: usize = 3;

pub(crate) fn run(nix: &RealNix) -> Result<()> {
    let closure = published(nix, &workload::ONE)?;
    let work = tempfile::Builder::new()
        .prefix("cudaenv-bench-")
        .tempdir_in(programs::target_folder())?;
    let server = Nginx::serve(&closure.cache, Some(RATE))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let folder = |program: &str| work.path().join(format!("{program}-{round}"));
        ours.push(node_agent(&server.url(), &closure, &folder("ours"))?);
        // Over one connection the rate decides, whoever reads.
        if round == 0 {
            theirs.push(nix_copy(nix, &server.url(), &closure, &folder("nix"), true)?);
        }
    }
    let limit = closure.packed as f64 / (RATE * CONNECTIONS) as f64;
    say(&format!(
        "\nzstd: {}, one file of nearly all of it; {} MiB a second for each connection; {ROUNDS} rounds of ours, medians, one of the peer\n",
        closure.size(),
        RATE >> 20
    ))?;
    let (ours, theirs) = (median(ours).wall, median(theirs).wall);
    let row = |name: &str, wall: f64| {
        vec![
            name.to_owned(),
            format!("{wall:.2}"),
            format!("{:.2}", limit / wall),
            format!("{:.2}", wall / theirs),
        ]
    };
    table(
        &["", "wall s", "share of the limit", "wall / peer"],
        &[
            row(
                &format!("limit: {CONNECTIONS} connections from the first moment"),
                limit,
            ),
            row("cudaenv (verified, durable)", ours),
            row("nix copy, fsync-store-paths", theirs),
        ],
    )?;
    remove(work.path())?;
    Ok(fs::create_dir(work.path())?)
}
