//! What a sweep puts right: what kubelet forgot, what a reboot took, and views that nobody has used for a while.
//! Never takes anything from a pod that is still there, and never touches a mount that is not ours.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::volume::is_ours;
use crate::{
    snapshot::{
        store::StoreState,
        view::ViewDigest,
        volume::{VolumeId, VolumeRecord},
    },
    store::mounts::Mount,
};

/// A view that nothing shows stays mounted for this long: the next pod is likely to want it.
pub const IDLE_VIEW: Duration = Duration::from_secs(30 * 60);

/// What is there.
#[derive(Debug)]
pub struct Found<'a> {
    /// Every record of a volume.
    pub records: &'a [VolumeRecord],
    /// The mount table.
    pub mounts: &'a [Mount],
    /// kubelet's folder of pods, as the mount table names it.
    pub pods: &'a Path,
    /// The same, as kubelet and so the records name it: a link may be on the way to it.
    pub named: &'a Path,
    /// The uids of the pods that kubelet has a folder for.
    pub pod_uids: &'a BTreeSet<String>,
    /// The node store.
    pub store: &'a StoreState,
    /// The folder below which views have their own mounts.
    pub views: &'a Path,
}

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sweep {
    /// A volume whose pod is gone: take away what is mounted, and forget the record.
    Forget {
        /// Which volume.
        volume: VolumeId,
        /// Where it was.
        target: PathBuf,
    },
    /// A mount of ours without record, whose pod is gone.
    Unmount {
        /// Where.
        target: PathBuf,
    },
    /// A view that nothing shows any more.
    UnmountView {
        /// Which one.
        view: ViewDigest,
    },
}

/// What to do, and whether garbage may be collected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepPlan {
    /// In this order.
    pub steps: Vec<Sweep>,
    /// A mount of ours that a pod may read has no record: nobody can tell what it needs, so nothing may go.
    pub unexplained: Vec<PathBuf>,
}

/// Plans a sweep.
pub fn plan(found: &Found<'_>, now: SystemTime) -> SweepPlan {
    let mut plan = SweepPlan::default();
    let real = |target: &Path| match target.strip_prefix(found.named) {
        Ok(rest) => found.pods.join(rest),
        Err(_) => target.to_owned(),
    };
    let lives = |target: &Path| {
        let uid = target
            .strip_prefix(found.pods)
            .ok()
            .and_then(|rest| rest.components().next());
        uid.and_then(|uid| uid.as_os_str().to_str())
            .is_some_and(|uid| found.pod_uids.contains(uid))
    };
    let mut shown = BTreeSet::new();
    for record in found.records {
        if lives(&real(&record.target)) {
            shown.insert(&record.view);
        } else {
            plan.steps.push(Sweep::Forget {
                volume: record.volume.clone(),
                target: record.target.clone(),
            });
        }
    }
    let ours = found
        .mounts
        .iter()
        .filter(|mount| is_ours(mount) && mount.at.starts_with(found.pods));
    let known: BTreeSet<PathBuf> = found.records.iter().map(|record| real(&record.target)).collect();
    for mount in ours.filter(|mount| !known.contains(&mount.at)) {
        // What a container runtime mounted deeper inside, such as a `subPath`, is kubelet's to take away.
        if !is_target(&mount.at, found.pods) {
            continue;
        }
        if lives(&mount.at) {
            plan.unexplained.push(mount.at.clone());
        } else {
            plan.steps.push(Sweep::Unmount {
                target: mount.at.clone(),
            });
        }
    }
    let mounted: BTreeSet<_> = found
        .mounts
        .iter()
        .filter_map(|mount| view_at(&mount.at, found.views))
        .collect();
    // One that is just being published counts as used just now; one that a program runs in has that mount to itself.
    let idle = found.store.views.iter().filter(|view| {
        let age = now.duration_since(view.last_used).unwrap_or_default();
        mounted.contains(view.digest.as_str()) && age >= IDLE_VIEW && !shown.contains(&view.digest)
    });
    plan.steps.extend(idle.map(|view| Sweep::UnmountView {
        view: view.digest.clone(),
    }));
    plan
}

/// Whether a path is where kubelet has CSI volumes published: `<pods>/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
fn is_target(path: &Path, pods: &Path) -> bool {
    let parts: Vec<_> = path.strip_prefix(pods).into_iter().flat_map(Path::components).collect();
    matches!(parts.as_slice(), [_, volumes, csi, _, mount]
        if volumes.as_os_str() == "volumes" && csi.as_os_str() == "kubernetes.io~csi" && mount.as_os_str() == "mount")
}

/// The view whose own mount point a path is: `<views>/<digest>/…`.
fn view_at<'a>(path: &'a Path, views: &Path) -> Option<&'a str> {
    path.strip_prefix(views).ok()?.components().next()?.as_os_str().to_str()
}

#[cfg(test)]
mod tests {
    use crds::catalogue::EnvironmentKey;

    use super::*;
    use crate::snapshot::{happening::Pod, store::BuiltView, view::ViewKind};

    const PODS: &str = "/var/lib/kubelet/pods";
    /// A link to the folder that `PODS` is in is on the way.
    const NAMED: &str = "/var/lib/linked/pods";
    const VIEWS: &str = "/var/lib/cudaenv/views";

    fn target(uid: &str) -> PathBuf {
        PathBuf::from(format!("{PODS}/{uid}/volumes/kubernetes.io~csi/cuda/mount"))
    }

    fn digest(letter: &str) -> ViewDigest {
        letter.repeat(32).parse().unwrap()
    }

    fn record(uid: &str, view: &str) -> VolumeRecord {
        VolumeRecord {
            volume: VolumeId::new(uid),
            target: target(uid),
            fingerprint: String::new(),
            view: digest(view),
            kind: ViewKind::Overlay,
            bridge: None,
            pod: Pod {
                namespace: "a".to_owned(),
                name: "p".to_owned(),
                uid: uid.to_owned(),
            },
            environment: EnvironmentKey {
                namespace: Some("a".to_owned()),
                name: "e".to_owned(),
            },
            variants: [].into(),
        }
    }

    fn mount(at: impl Into<PathBuf>, source: &str) -> Mount {
        Mount {
            device: "0:50".to_owned(),
            root: "/".into(),
            at: at.into(),
            options: vec!["ro".to_owned()],
            kind: "overlay".to_owned(),
            source: source.to_owned(),
        }
    }

    fn view(letter: &str, last_used: SystemTime) -> BuiltView {
        BuiltView {
            digest: digest(letter),
            paths: BTreeSet::new(),
            bridge: None,
            last_used,
            in_use: true,
            broken: false,
        }
    }

    #[test]
    fn what_kubelet_forgot_goes_and_what_a_pod_has_stays() {
        let now = SystemTime::UNIX_EPOCH + 10 * IDLE_VIEW;
        let mut linked = record("linked", "d");
        linked.target = linked.target.to_str().unwrap().replace(PODS, NAMED).into();
        let records = [linked, record("lives", "a"), record("gone", "b")];
        let mounts = [
            mount(target("lives"), "cudaenv"),
            mount(target("linked"), "cudaenv"),
            mount(target("gone"), "cudaenv"),
            mount(target("orphan"), "cudaenv"),
            mount(target("foreign"), "overlay"),
            mount(format!("{PODS}/lives/volume-subpaths/cuda/main/0"), "cudaenv"),
            mount(format!("{VIEWS}/{}/mnt", "a".repeat(32)), "cudaenv"),
            mount(format!("{VIEWS}/{}/mnt", "b".repeat(32)), "cudaenv"),
            mount(format!("{VIEWS}/{}/mnt", "c".repeat(32)), "cudaenv"),
        ];
        let store = StoreState {
            views: vec![
                view("a", now - 2 * IDLE_VIEW),
                view("b", now - 2 * IDLE_VIEW),
                view("c", now - IDLE_VIEW / 2),
                view("d", now - 2 * IDLE_VIEW),
            ],
            ..StoreState::default()
        };
        let pod_uids = ["lives", "linked"].map(str::to_owned).into();
        let mut found = Found {
            records: &records,
            mounts: &mounts,
            pods: Path::new(PODS),
            named: Path::new(NAMED),
            pod_uids: &pod_uids,
            store: &store,
            views: Path::new(VIEWS),
        };
        let swept = plan(&found, now);
        let expected = [
            Sweep::Forget {
                volume: VolumeId::new("gone"),
                target: target("gone"),
            },
            Sweep::Unmount {
                target: target("orphan"),
            },
            Sweep::UnmountView { view: digest("b") },
        ];
        assert_eq!(
            (swept.steps.as_slice(), swept.unexplained.as_slice()),
            (&expected[..], &[][..])
        );

        let without = [records[0].clone(), records[2].clone()];
        found.records = &without;
        let swept = plan(&found, now);
        assert_eq!(
            swept.unexplained,
            [target("lives")],
            "a pod's mount without record stays, and is told"
        );
    }
}
