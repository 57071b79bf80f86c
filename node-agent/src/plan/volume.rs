//! What kubelet asks for a volume, and what is to be done about it given what is there.
//! Never turns a string of a request into a path: the target is checked, everything else is data.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use crds::{
    domain::node::DriverState,
    pod::{BadAttribute, VolumeRequest},
};
use sha2::{Digest, Sha256};

use crate::{
    snapshot::{happening::Pod, volume::VolumeId},
    store::mounts::Mount,
};

/// Longest volume id, and longest key and value of the context (CSI specification, "Size Limits").
const LONGEST_TEXT: usize = 128;
/// All keys and values of the context together.
const LONGEST_CONTEXT: usize = 4096;
/// Longest path (Linux, `PATH_MAX`).
const LONGEST_PATH: usize = 4096;

/// How a volume may be used at the same time. The specification's modes, in so far as they matter here: every one is read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// At one target of this node.
    Single,
    /// At several targets.
    Multi,
}

/// A request to publish, as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// `volume_id`.
    pub volume_id: String,
    /// `target_path`.
    pub target: String,
    /// `readonly`.
    pub read_only: bool,
    /// Whether the capability is a mount, with its flags and file system type; nothing where there is no capability.
    pub mount: Option<Access>,
    /// Whether it came with secrets. Their contents never get this far.
    pub secrets: bool,
    /// `volume_context`.
    pub context: BTreeMap<String, String>,
}

/// What the capability of a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// A block device.
    Block,
    /// A mounted file system.
    Mount {
        /// `fs_type`.
        fs_type: String,
        /// `mount_flags`.
        flags: Vec<String>,
        /// Whether a `volume_mount_group` is given.
        group: bool,
        /// The access mode; nothing where it is unknown.
        sharing: Option<Sharing>,
        /// The number of the mode on the wire.
        mode: i32,
    },
}

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Which volume.
    pub id: VolumeId,
    /// Where it goes.
    pub target: PathBuf,
    /// Equal for equal requests: whoever asks again with the same means the same.
    pub fingerprint: String,
    /// Whether it may have several targets.
    pub sharing: Sharing,
    /// Whose it is.
    pub pod: Pod,
    /// What it shows.
    pub request: VolumeRequest,
}

/// A request that makes no sense: the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadRequest {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a field. Values are not quoted: they come from anybody who may make a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is required")]
    Missing,
    #[error("has more than {most} bytes")]
    TooLong { most: usize },
    #[error("has a slash or a control character in it")]
    Text,
    #[error(
        "must be an absolute path below {}, without `..`, double slashes, control characters and a slash at the end",
        below.display()
    )]
    Place { below: PathBuf },
    #[error("is not in the folder of the pod that the volume is said to be for")]
    OtherPod,
    #[error("must be a mount: there are no block devices here")]
    Block,
    #[error("is not taken: everybody may read everything in a view")]
    MountGroup,
    #[error("is no name that Kubernetes gives")]
    Name,
    #[error("has a key of kubelet's that is not expected; does the CSIDriver object have no tokenRequests?")]
    KubeletKey,
    #[error("must be one of the access modes of the CSI specification")]
    AccessMode,
    #[error("are not taken: a view is mounted ro,nosuid,nodev and in no other way")]
    MountFlags,
    #[error("are not taken: credentials for caches belong to the CUDABinaryCache, never to a pod")]
    Secrets,
    #[error("must come from kubelet; does the CSIDriver object have podInfoOnMount: true?")]
    PodInfo,
    #[error("must be \"true\": only inline volumes of a pod are served")]
    NotEphemeral,
    #[error(transparent)]
    Attribute(#[from] BadAttribute),
}

fn bad(field: &'static str, problem: impl Into<Problem>) -> BadRequest {
    BadRequest {
        field,
        problem: problem.into(),
    }
}

/// Reads a request to publish. Targets lie below `pods`, the folder of kubelet that holds its pods' volumes.
///
/// # Errors
/// The first field that makes no sense.
pub fn read(asked: &Asked, pods: &Path) -> Result<Publish, BadRequest> {
    let id = volume_id(&asked.volume_id)?;
    let target = target_path(&asked.target, pods)?;
    let access = asked
        .mount
        .as_ref()
        .ok_or_else(|| bad("volume_capability", Problem::Missing))?;
    let Access::Mount {
        flags, group, sharing, ..
    } = access
    else {
        return Err(bad("volume_capability.block", Problem::Block));
    };
    let sharing = sharing.ok_or_else(|| bad("volume_capability.access_mode", Problem::AccessMode))?;
    if !flags.is_empty() {
        return Err(bad("volume_capability.mount.mount_flags", Problem::MountFlags));
    }
    if *group {
        return Err(bad("volume_capability.mount.volume_mount_group", Problem::MountGroup));
    }
    if asked.secrets {
        return Err(bad("secrets", Problem::Secrets));
    }
    context_fits(&asked.context)?;
    let pod = pod(&asked.context)?;
    // kubelet keeps a pod's volumes in the folder of its uid: nobody is served in the name of another pod.
    if !target.starts_with(pods.join(&pod.uid)) {
        return Err(bad("target_path", Problem::OtherPod));
    }
    let request = VolumeRequest::of(&pod.namespace, &asked.context).map_err(|error| bad("volume_context", error))?;
    Ok(Publish {
        id,
        target,
        fingerprint: fingerprint(asked, access),
        sharing,
        pod,
        request,
    })
}

/// The name of a volume. It is hashed before it becomes a file name.
pub fn volume_id(text: &str) -> Result<VolumeId, BadRequest> {
    match text.len() {
        0 => Err(bad("volume_id", Problem::Missing)),
        1..=LONGEST_TEXT if text.contains('/') || text.contains(char::is_control) => {
            Err(bad("volume_id", Problem::Text))
        }
        1..=LONGEST_TEXT => Ok(VolumeId::new(text)),
        _ => Err(bad("volume_id", Problem::TooLong { most: LONGEST_TEXT })),
    }
}

/// A path below `pods`, by its text alone. What lies there is for the mount table to say.
pub fn target_path(text: &str, pods: &Path) -> Result<PathBuf, BadRequest> {
    let field = "target_path";
    if text.is_empty() {
        return Err(bad(field, Problem::Missing));
    }
    if text.len() > LONGEST_PATH {
        return Err(bad(field, Problem::TooLong { most: LONGEST_PATH }));
    }
    let path = Path::new(text);
    let parts = || path.components();
    // Its parts put together again show a spelling with double slashes, dots or a slash at the end.
    let plain = parts().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && parts().collect::<PathBuf>().as_os_str() == path.as_os_str();
    let below = path
        .strip_prefix(pods)
        .is_ok_and(|rest| rest.components().next().is_some());
    if plain && below && !text.contains(char::is_control) {
        Ok(path.to_owned())
    } else {
        let below = pods.to_owned();
        Err(bad(field, Problem::Place { below }))
    }
}

fn context_fits(context: &BTreeMap<String, String>) -> Result<(), BadRequest> {
    let field = "volume_context";
    let all: usize = context.iter().map(|(key, value)| key.len() + value.len()).sum();
    if all > LONGEST_CONTEXT {
        return Err(bad(field, Problem::TooLong { most: LONGEST_CONTEXT }));
    }
    Ok(())
}

/// What kubelet says of a pod. It becomes a part of keys, messages and events: names only.
fn pod(context: &BTreeMap<String, String>) -> Result<Pod, BadRequest> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let said = |key: &'static str| match context.get(key).map(String::as_str) {
        None | Some("") => Err(bad(key, Problem::PodInfo)),
        Some(text) if text.len() > 253 || text.starts_with('.') || !text.bytes().all(plain) => {
            Err(bad(key, Problem::Name))
        }
        Some(text) => Ok(text.to_owned()),
    };
    let ephemeral = "csi.storage.k8s.io/ephemeral";
    let [namespace, name, uid, _] = OF_POD;
    let unexpected =
        |key: &String| key.starts_with("csi.storage.k8s.io/") && key != ephemeral && !OF_POD.contains(&key.as_str());
    if context.keys().any(unexpected) {
        return Err(bad("volume_context", Problem::KubeletKey));
    }
    let pod = Pod {
        namespace: said(namespace)?,
        name: said(name)?,
        uid: said(uid)?,
    };
    if said(ephemeral)? != "true" {
        return Err(bad(ephemeral, Problem::NotEphemeral));
    }
    Ok(pod)
}

/// The keys by which kubelet says whose volume it is.
const OF_POD: [&str; 4] = [
    "csi.storage.k8s.io/pod.namespace",
    "csi.storage.k8s.io/pod.name",
    "csi.storage.k8s.io/pod.uid",
    "csi.storage.k8s.io/serviceAccount.name",
];

/// A hash over everything that makes one request differ from another, but for the volume and the target.
fn fingerprint(asked: &Asked, access: &Access) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    };
    part(if asked.read_only { "ro" } else { "rw" });
    if let Access::Mount { fs_type, mode, .. } = access {
        part(fs_type);
        part(&mode.to_string());
    }
    for (key, value) in &asked.context {
        part(key);
        part(value);
    }
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A target of the volume that is on record.
#[derive(Debug, Clone, Copy)]
pub struct OnRecord<'a> {
    /// Where.
    pub target: &'a Path,
    /// What was asked.
    pub fingerprint: &'a str,
    /// The driver whose files it shows, if any.
    pub driver: Option<&'a str>,
}

/// What to do about a request to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is there.
    Nothing,
    /// It is on record and its mount is gone, as after a reboot: mount it again.
    MountAgain,
    /// Make it: it is new, or what is on record is for another driver than the node has now.
    Make,
    /// Another request had this target before, with other arguments.
    Conflict,
    /// The volume is at another target, and its mode allows one only.
    AtAnotherTarget,
    /// Something that is not ours is mounted there.
    Foreign,
}

/// Decides by the table of the CSI specification for a second `NodePublishVolume`.
///
/// What is mounted stays as it is, whatever the driver: a program may have its files open. What is gone comes back only for
/// the kernel module that it was made for.
pub fn decide(publish: &Publish, on_record: &[OnRecord<'_>], mounted: Option<&Mount>, driver: &DriverState) -> Step {
    let here = on_record.iter().find(|record| record.target == publish.target);
    match (here, mounted) {
        (Some(record), _) if record.fingerprint != publish.fingerprint => Step::Conflict,
        (_, Some(mount)) if !is_ours(mount) => Step::Foreign,
        (Some(_), Some(mount)) if is_sealed(mount) => Step::Nothing,
        (Some(record), None) if !still_fits(record, driver) => Step::Make,
        (Some(_), _) => Step::MountAgain,
        (None, _) if publish.sharing == Sharing::Single && !on_record.is_empty() => Step::AtAnotherTarget,
        (None, _) => Step::Make,
    }
}

/// Whether the driver's files on record are those of the kernel module that is loaded. Where none is to be used yet nobody
/// knows which one comes; selection says so, and kubelet asks again.
fn still_fits(record: &OnRecord<'_>, driver: &DriverState) -> bool {
    let loaded = match driver {
        DriverState::Ready { version, .. } => Some(version),
        DriverState::Mismatch { kernel, .. } => Some(kernel),
        DriverState::Missing | DriverState::NotReady { .. } => None,
    };
    record
        .driver
        .is_none_or(|shown| loaded.is_some_and(|loaded| loaded.as_str() == shown))
}

/// Whether a mount is one of our views: an overlay under our name, or a part of a node store's plain tree.
pub fn is_ours(mount: &Mount) -> bool {
    let overlay = mount.kind == "overlay" && mount.source == super::view::SOURCE;
    let parts: Vec<_> = mount.root.components().rev().take(3).collect();
    let plain = matches!(parts.as_slice(), [tree, view, views]
        if tree.as_os_str() == "plain" && views.as_os_str() == "views"
            && view.as_os_str().to_str().is_some_and(|name| name.parse::<crate::snapshot::view::ViewDigest>().is_ok()));
    overlay || plain
}

/// Whether nobody can write through a mount.
fn is_sealed(mount: &Mount) -> bool {
    mount.options.iter().any(|option| option == "ro")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "/var/lib/kubelet/pods";

    fn good() -> Asked {
        let context = [
            ("environment", "pytorch"),
            ("csi.storage.k8s.io/pod.namespace", "team-a"),
            ("csi.storage.k8s.io/pod.name", "train-0"),
            ("csi.storage.k8s.io/pod.uid", "1f2e-3d"),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        Asked {
            volume_id: format!("csi-{}", "a".repeat(64)),
            target: format!("{PODS}/1f2e-3d/volumes/kubernetes.io~csi/cuda/mount"),
            read_only: true,
            mount: Some(Access::Mount {
                fs_type: String::new(),
                flags: Vec::new(),
                group: false,
                sharing: Some(Sharing::Single),
                mode: 1,
            }),
            secrets: false,
            context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Asked), field: &str) {
        let mut asked = good();
        change(&mut asked);
        match read(&asked, Path::new(PODS)) {
            Err(refused) => assert_eq!(refused.field, field, "{refused}"),
            Ok(read) => panic!("accepted: {read:?}"),
        }
    }

    fn accepted(change: impl FnOnce(&mut Asked)) -> Publish {
        let mut asked = good();
        change(&mut asked);
        read(&asked, Path::new(PODS)).unwrap()
    }

    #[test]
    fn ids_are_bounded_text() {
        for id in [
            String::new(),
            "a".repeat(129),
            "../../x".to_owned(),
            "a\0".to_owned(),
            "a\nb".to_owned(),
        ] {
            refused(|asked| asked.volume_id = id, "volume_id");
        }
        accepted(|asked| asked.volume_id = "a".repeat(128));
    }

    #[test]
    fn targets_lie_in_the_folder_of_the_pod_and_are_spelled_in_one_way() {
        let own = format!("{PODS}/1f2e-3d");
        for target in [
            String::new(),
            "volumes/x".to_owned(),
            "/".to_owned(),
            "/etc".to_owned(),
            "/var/lib/kubelet/x".to_owned(),
            PODS.to_owned(),
            format!("{PODS}/other/volumes/x"),
            format!("{own}/../other/x"),
            format!("{own}//x"),
            format!("{own}/./x"),
            format!("{own}/x/"),
            format!("{own}/{}", "x".repeat(5000)),
            format!("{own}/a\0b"),
            format!("{own}/a\nb"),
        ] {
            refused(|asked| asked.target = target, "target_path");
        }
        accepted(|asked| asked.target = format!("{own}/x"));
    }

    #[test]
    fn a_view_is_mounted_in_its_own_way_only() {
        let mount = |change: fn(&mut Vec<String>, &mut bool, &mut Option<Sharing>)| {
            move |asked: &mut Asked| {
                if let Some(Access::Mount {
                    flags, group, sharing, ..
                }) = &mut asked.mount
                {
                    change(flags, group, sharing);
                }
            }
        };
        refused(|asked| asked.mount = None, "volume_capability");
        refused(|asked| asked.mount = Some(Access::Block), "volume_capability.block");
        refused(
            mount(|flags, _, _| flags.push("exec".to_owned())),
            "volume_capability.mount.mount_flags",
        );
        refused(
            mount(|_, group, _| *group = true),
            "volume_capability.mount.volume_mount_group",
        );
        refused(mount(|_, _, sharing| *sharing = None), "volume_capability.access_mode");
        refused(|asked| asked.secrets = true, "secrets");
        accepted(mount(|_, _, sharing| *sharing = Some(Sharing::Multi)));
    }

    #[test]
    fn what_kubelet_says_of_the_pod_is_there_and_nothing_beside_it() {
        let set = |key: &'static str, value: &'static str| {
            move |asked: &mut Asked| drop(asked.context.insert(key.to_owned(), value.to_owned()))
        };
        for key in [
            "csi.storage.k8s.io/pod.namespace",
            "csi.storage.k8s.io/pod.name",
            "csi.storage.k8s.io/pod.uid",
        ] {
            refused(|asked| drop(asked.context.remove(key)), key);
            for value in ["", "../x", "Upper", "a b", "a\nb", "."] {
                refused(set(key, value), key);
            }
        }
        let ephemeral = "csi.storage.k8s.io/ephemeral";
        refused(|asked| drop(asked.context.remove(ephemeral)), ephemeral);
        refused(set(ephemeral, "false"), ephemeral);
        refused(set("csi.storage.k8s.io/serviceAccount.tokens", "{}"), "volume_context");
        // A pod's author who names another pod's uid is not in that pod's folder.
        refused(set("csi.storage.k8s.io/pod.uid", "other"), "target_path");
        for (key, value) in [
            ("environment", "../x"),
            ("environment", "ns/x"),
            ("Environment", "x"),
            ("kind", "Pod"),
            ("x", "y"),
        ] {
            refused(set(key, value), "volume_context");
        }
        refused(|asked| drop(asked.context.remove("environment")), "volume_context");
        refused(
            |asked| drop(asked.context.insert("x".to_owned(), "y".repeat(4096))),
            "volume_context",
        );
        accepted(set("view", "plain"));
    }

    fn ours(at: &Path) -> Mount {
        Mount {
            device: "0:99".to_owned(),
            root: PathBuf::from("/"),
            at: at.to_owned(),
            options: Vec::new(),
            kind: "overlay".to_owned(),
            source: crate::plan::view::SOURCE.to_owned(),
        }
    }

    fn ready(version: &str) -> DriverState {
        DriverState::Ready {
            version: version.parse().unwrap(),
            cuda: "12.2".parse().unwrap(),
        }
    }

    #[test]
    fn a_second_call_is_answered_by_the_table_of_the_specification() {
        for sharing in [Sharing::Single, Sharing::Multi] {
            let publish = accepted(|asked| {
                if let Some(Access::Mount { sharing: own, .. }) = &mut asked.mount {
                    *own = Some(sharing);
                }
            });
            let elsewhere = Path::new("/var/lib/kubelet/pods/1f2e-3d/elsewhere");
            let same = publish.fingerprint.as_str();
            let other = if sharing == Sharing::Single {
                Step::AtAnotherTarget
            } else {
                Step::Make
            };
            for (target, fingerprint, step) in [
                (publish.target.as_path(), same, Step::MountAgain),
                (&publish.target, "other", Step::Conflict),
                (elsewhere, same, other),
                (elsewhere, "other", other),
            ] {
                let record = OnRecord {
                    target,
                    fingerprint,
                    driver: Some("535.274.02"),
                };
                let decided = decide(&publish, &[record], None, &ready("535.274.02"));
                assert_eq!(decided, step, "{sharing:?}");
            }
            assert_eq!(decide(&publish, &[], None, &DriverState::Missing), Step::Make);
        }
        assert_ne!(
            accepted(|_| ()).fingerprint,
            accepted(|asked| asked.read_only = false).fingerprint
        );
    }

    #[test]
    fn what_is_gone_comes_back_for_the_same_driver_only_and_what_is_mounted_stays_for_any() {
        let publish = accepted(|_| ());
        let mount = |option: &str| Mount {
            options: vec![option.to_owned()],
            ..ours(&publish.target)
        };
        let (sealed, open) = (mount("ro"), mount("rw"));
        let not_ready = DriverState::NotReady {
            why: "being validated".to_owned(),
        };
        let mismatch = |kernel: &str| DriverState::Mismatch {
            kernel: kernel.parse().unwrap(),
            library: "550.163.01".parse().unwrap(),
        };
        let old = Some("535.274.02");
        for (shown, now, gone) in [
            (old, ready("535.274.02"), Step::MountAgain),
            (old, ready("550.163.01"), Step::Make),
            (old, ready("535.274"), Step::Make),
            // The new libraries are installed, the old module is loaded still: these are its files.
            (old, mismatch("535.274.02"), Step::MountAgain),
            (old, mismatch("470.256.02"), Step::Make),
            (old, not_ready.clone(), Step::Make),
            (old, DriverState::Missing, Step::Make),
            (None, ready("550.163.01"), Step::MountAgain),
            (None, not_ready, Step::MountAgain),
        ] {
            let record = OnRecord {
                target: &publish.target,
                fingerprint: &publish.fingerprint,
                driver: shown,
            };
            let with = |mounted| decide(&publish, &[record], mounted, &now);
            assert_eq!(with(None), gone, "{shown:?} {now:?}");
            assert_eq!(with(Some(&sealed)), Step::Nothing, "{now:?}");
            assert_eq!(with(Some(&open)), Step::MountAgain, "{now:?}");
        }
    }
}
