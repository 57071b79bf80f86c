//! `uninstall`: takes cudaenv off a node, in a pod of its own when the agents are gone, or by hand.
//! Never begins while a pod has a volume of ours, and is content where nothing is left.

use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::answer;
use crate::{
    act::uninstall::{UninstallError, execute},
    args::{Output, UninstallArgs},
    observe::{
        cluster::CSI_DRIVER,
        leftovers::{LeftoversError, observe},
    },
    plan::uninstall::{Next, Published, plan},
    report::failure::{Failure, Reason},
};

/// How often it is looked whether the agent has ended.
const PACE: Duration = Duration::from_millis(500);
/// How often: an agent may take its grace time and a little more.
const LOOKS: u32 = 240;

/// What is in the way.
#[derive(Debug, thiserror::Error)]
enum UninstallFailure {
    #[error(transparent)]
    Observe(LeftoversError),
    #[error(transparent)]
    Published(Published),
    #[error(transparent)]
    Act(UninstallError),
    #[error("an agent still runs on this node: stop it first")]
    StillServing,
    #[error("waiting for SIGTERM")]
    Wait {
        #[source]
        source: std::io::Error,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// How many sockets, mounts and folders went.
    removed: usize,
}

pub(super) fn run(args: &UninstallArgs, output: Output) -> Result<u8, Failure> {
    let failed = |error| Failure::new(Reason::StoreFailed, 1, error);
    let removed = leave(args).map_err(failed)?;
    answer(output, &Answer { removed }, |answer| match answer.removed {
        0 => "nothing was left\n".to_owned(),
        count => format!("removed {count} sockets, mounts and folders\n"),
    })?;
    if args.stay {
        stay().map_err(|source| failed(UninstallFailure::Wait { source }))?;
    }
    Ok(0)
}

/// Looks, does, and looks again until nothing is left.
fn leave(args: &UninstallArgs) -> Result<usize, UninstallFailure> {
    let UninstallArgs {
        kubelet_dir,
        keep_store,
        stay: _,
        state,
    } = args;
    let mut removed = 0;
    for _ in 0..LOOKS {
        let left = observe(&state.state, kubelet_dir, CSI_DRIVER).map_err(UninstallFailure::Observe)?;
        match plan(&left, *keep_store).map_err(UninstallFailure::Published)? {
            Next::Done => return Ok(removed),
            Next::Wait => std::thread::sleep(PACE),
            Next::Do(steps) => {
                for step in &steps {
                    execute(step).map_err(UninstallFailure::Act)?;
                }
                removed += steps.len();
            }
        }
    }
    Err(UninstallFailure::StillServing)
}

/// Waits for SIGTERM: a DaemonSet's pods must not end by themselves.
fn stay() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    })
}
