//! How cudaenv leaves a node: what comes next, given what is left.
//! Never takes anything from under a pod, and never removes files through a mount.

use std::path::PathBuf;

use crate::snapshot::leftovers::Leftovers;

/// Volumes that are named where several are in the way.
const NAMED: usize = 10;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove a socket: to kubelet that is how a driver goes.
    RemoveSocket(PathBuf),
    /// Unmount what is there.
    Unmount(PathBuf),
    /// Remove a folder with everything in it. Nothing is mounted below.
    RemoveFolder(PathBuf),
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// An agent still runs here: it would make again what is removed.
    Wait,
    /// These, in this order; then look again.
    Do(Vec<Step>),
    /// Nothing is left.
    Done,
}

/// Pods still have volumes: nobody could unmount them afterwards.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} volumes of pods are still published on this node; delete those pods first: {}", .named.join(", "))]
pub struct Published {
    count: usize,
    named: Vec<String>,
}

/// What comes next; `keep_store` leaves the verified store paths for a later installation.
///
/// # Errors
/// Pods still have volumes.
pub fn plan(left: &Leftovers, keep_store: bool) -> Result<Next, Published> {
    if !left.volumes.is_empty() {
        let named = left.volumes.iter().take(NAMED).map(|path| path.display().to_string());
        return Err(Published {
            count: left.volumes.len(),
            named: named.collect(),
        });
    }
    if left.serving {
        return Ok(Next::Wait);
    }
    let sockets = left.sockets.iter().cloned().map(Step::RemoveSocket);
    // What was mounted last is on top.
    let mounts = left.mounts.iter().rev().cloned().map(Step::Unmount);
    let plugin = left.plugin.clone().map(Step::RemoveFolder);
    let mut steps: Vec<_> = sockets.chain(plugin).chain(mounts).collect();
    if steps.is_empty() && !keep_store {
        steps.extend(left.store.clone().map(Step::RemoveFolder));
    }
    Ok(if steps.is_empty() { Next::Done } else { Next::Do(steps) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left() -> Leftovers {
        Leftovers {
            serving: false,
            volumes: Vec::new(),
            sockets: vec!["/k/reg.sock".into()],
            plugin: Some("/k/plugins/d".into()),
            mounts: vec!["/s/views/a/mnt".into(), "/s/views/a/mnt/inner".into()],
            store: Some("/s".into()),
        }
    }

    #[test]
    fn nothing_is_removed_while_a_pod_has_a_volume_or_an_agent_runs() {
        let published = Leftovers {
            volumes: vec!["/k/pods/1/volumes/kubernetes.io~csi/cuda".into()],
            serving: true,
            ..left()
        };
        let refused = plan(&published, false).unwrap_err().to_string();
        assert!(
            refused.starts_with("1 volumes of pods") && refused.contains("/k/pods/1/"),
            "{refused}"
        );
        let serving = Leftovers {
            serving: true,
            ..left()
        };
        assert_eq!(plan(&serving, false), Ok(Next::Wait));
    }

    #[test]
    fn the_driver_goes_then_mounts_from_the_top_then_the_store() {
        let first = Next::Do(vec![
            Step::RemoveSocket("/k/reg.sock".into()),
            Step::RemoveFolder("/k/plugins/d".into()),
            Step::Unmount("/s/views/a/mnt/inner".into()),
            Step::Unmount("/s/views/a/mnt".into()),
        ]);
        assert_eq!(plan(&left(), false), Ok(first));
        let unmounted = Leftovers {
            sockets: Vec::new(),
            plugin: None,
            mounts: Vec::new(),
            ..left()
        };
        assert_eq!(
            plan(&unmounted, false),
            Ok(Next::Do(vec![Step::RemoveFolder("/s".into())]))
        );
        assert_eq!(plan(&unmounted, true), Ok(Next::Done));
        assert_eq!(plan(&Leftovers::default(), false), Ok(Next::Done));
    }
}
