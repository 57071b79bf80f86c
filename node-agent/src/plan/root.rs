//! The root that a program under `run` sees: the host's own files, with the view's three mounts laid over them.
//! Never touches a mount; it only says, in order, what a root is put together from.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::snapshot::host_root::{HostEntry, HostEntryKind, HostRoot};

/// Where the whole view is seen.
pub const VIEW_AT: &str = "run/cudaenv";
/// Where the store of the view is seen.
pub const STORE_AT: &str = "nix/store";
/// Where the driver bridge is seen: what nixpkgs' `addDriverRunpath` writes into binaries.
pub const DRIVER_AT: &str = "run/opengl-driver";

/// One step. Paths are relative: to the new root, and to the host's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootStep {
    MakeDirectory {
        at: PathBuf,
    },
    MakeSymlink {
        at: PathBuf,
        target: PathBuf,
    },
    /// Shows the host's folder, with all that is mounted below it.
    BindHostDirectory {
        at: PathBuf,
    },
    /// Shows the host's file, socket or device.
    BindHostFile {
        at: PathBuf,
    },
    /// Shows the whole view.
    AttachView {
        at: &'static str,
    },
    /// Shows a part of the view, which is attached at [`VIEW_AT`] by then.
    BindPart {
        part: &'static str,
        at: &'static str,
    },
}

/// Puts the root together. The host is not written to: `/`, `/nix` and `/run` are taken apart into their entries, and what the
/// view brings takes the place of the host's entry of that name.
pub fn plan(host: &HostRoot) -> Vec<RootStep> {
    let mut steps = Vec::new();
    let ours = [OsStr::new("nix"), OsStr::new("run")];
    steps.extend(
        host.root
            .iter()
            .filter(|entry| !ours.contains(&entry.name.as_os_str()))
            .map(|entry| show(Path::new(""), entry)),
    );
    for (folder, entries, mounts) in [
        ("nix", &host.nix, &["store"][..]),
        ("run", &host.run, &["opengl-driver", "cudaenv"][..]),
    ] {
        steps.push(RootStep::MakeDirectory { at: folder.into() });
        let kept = entries
            .iter()
            .filter(|entry| !mounts.iter().any(|mount| entry.name == *mount));
        steps.extend(kept.map(|entry| show(Path::new(folder), entry)));
        steps.extend(mounts.iter().map(|mount| RootStep::MakeDirectory {
            at: Path::new(folder).join(mount),
        }));
    }
    // The whole first: its parts are taken from where it is attached, since Linux before 6.15 takes none from a mount that is not.
    steps.push(RootStep::AttachView { at: VIEW_AT });
    steps.push(RootStep::BindPart {
        part: "nix/store",
        at: STORE_AT,
    });
    steps.push(RootStep::BindPart {
        part: "driver",
        at: DRIVER_AT,
    });
    steps
}

fn show(folder: &Path, entry: &HostEntry) -> RootStep {
    let at = folder.join(&entry.name);
    match &entry.kind {
        HostEntryKind::Directory => RootStep::BindHostDirectory { at },
        HostEntryKind::Symlink { target } => RootStep::MakeSymlink {
            at,
            target: target.clone(),
        },
        HostEntryKind::Other => RootStep::BindHostFile { at },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> HostEntry {
        HostEntry {
            name: name.into(),
            kind: HostEntryKind::Directory,
        }
    }

    #[test]
    fn the_hosts_store_and_driver_give_way_and_all_else_stays() {
        let link = HostEntry {
            name: "bin".into(),
            kind: HostEntryKind::Symlink {
                target: "usr/bin".into(),
            },
        };
        let host = HostRoot {
            root: vec![directory("usr"), link, directory("nix"), directory("run")],
            nix: vec![directory("store"), directory("var")],
            run: vec![
                directory("opengl-driver"),
                HostEntry {
                    name: "x.sock".into(),
                    kind: HostEntryKind::Other,
                },
            ],
        };
        let steps = plan(&host);
        let binds: Vec<_> = steps
            .iter()
            .filter(|step| matches!(step, RootStep::BindHostDirectory { .. }))
            .collect();
        assert_eq!(
            binds,
            [
                &RootStep::BindHostDirectory { at: "usr".into() },
                &RootStep::BindHostDirectory { at: "nix/var".into() }
            ]
        );
        assert!(steps.contains(&RootStep::MakeSymlink {
            at: "bin".into(),
            target: "usr/bin".into()
        }));
        assert!(steps.contains(&RootStep::BindHostFile {
            at: "run/x.sock".into()
        }));
        assert_eq!(
            steps.last(),
            Some(&RootStep::BindPart {
                part: "driver",
                at: "run/opengl-driver"
            })
        );
    }

    #[test]
    fn a_host_without_nix_gets_the_same_three_mounts() {
        let with = plan(&HostRoot {
            nix: vec![directory("store")],
            run: vec![directory("cudaenv")],
            ..HostRoot::default()
        });
        assert_eq!(with, plan(&HostRoot::default()));
    }
}
