//! What the commands that fetch have in common: threads for the network, and showing how far it is.
//! Never shows a fetch before it is known what there is to fetch.

use std::future::Future;

use crate::{
    act::fetch::FetchProgress,
    args::{FetchOptions, Output},
    report::progress::{self, Display},
};

/// The threads that the network and the unpacking run on could not be started.
#[derive(Debug, thiserror::Error)]
#[error("starting the network's threads")]
pub struct RuntimeError {
    source: std::io::Error,
}

/// The threads that the network and the unpacking run on; gone, all of them, when this is dropped.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, RuntimeError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| RuntimeError { source })
}

/// Does `work` and shows meanwhile how far it is.
pub(super) async fn shown<T>(
    work: impl Future<Output = T>,
    progress: &FetchProgress,
    options: &FetchOptions,
    output: Output,
) -> T {
    let mut display = Display::new(options.progress, output);
    let mut tick = tokio::time::interval(progress::INTERVAL);
    let mut started = None;
    let mut work = std::pin::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tick.tick() => {
                let status = progress.status();
                if status.paths_total > 0 {
                    let started = started.get_or_insert_with(tokio::time::Instant::now);
                    display.show(&status, started.elapsed());
                }
            }
        }
    };
    display.finish(&progress.status(), started.map(|at| at.elapsed()).unwrap_or_default());
    done
}
