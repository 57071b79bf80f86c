//! Bad requests to publish over the socket of the real agent: each is refused by name, with a code that says what to do,
//! and leaves nothing; beside each stands a request that is taken. It must never send one that kubelet could not be made to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use e2e::{
    csi::{self, Agent, Client, Machine, Volume},
    made_up::Closure,
    server::Server,
};
use node_agent::csi::messages::csi::{
    NodePublishVolumeRequest, NodePublishVolumeResponse,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume},
};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tonic::{
    Code::{self, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied},
    Request, Status,
};

struct Node<'a> {
    machine: &'a Machine,
    client: Client,
    agent: Agent,
    _server: Server,
}

impl Node<'_> {
    fn run(check: &str, work: impl FnOnce(&Node<'_>) + Send) {
        csi::on_a_machine(check, |machine| {
            let closure = Closure::new("tools", 3, 2000).unwrap();
            let server = machine.offer(&[("tools", &closure)], None).unwrap();
            let agent = machine.start().unwrap();
            let node = Node {
                machine,
                client: agent.client().unwrap(),
                agent,
                _server: server,
            };
            work(&node);
            machine.is_tidy().unwrap();
            assert_eq!(node.agent.stop().unwrap().code(), Some(0));
        })
        .unwrap();
    }

    fn volume(&self) -> Volume {
        self.machine.volume("0a1b-2c3d").unwrap()
    }

    #[track_caller]
    fn refused(&self, request: NodePublishVolumeRequest, code: Code, says: &str) {
        let Err(status) = self.client.publish(request) else {
            unreachable!("taken: {says}");
        };
        expected(&status, code, says);
        assert_eq!(self.machine.records().unwrap(), [""; 0], "{says}");
        assert_eq!(self.ours(), [""; 0], "{says}");
    }

    /// The twin: published, and taken away.
    fn taken(&self, request: NodePublishVolumeRequest) {
        let volume = Volume {
            id: request.volume_id.clone(),
            target: request.target_path.clone().into(),
            ..self.volume()
        };
        self.client.publish(request).unwrap();
        let found = self.machine.mounted_at(&volume.target).unwrap();
        assert!(
            found.len() == 1 && found[0].options.contains(&"ro".to_owned()),
            "{found:?}"
        );
        self.client.unpublish(volume.unpublish()).unwrap();
        assert!(!volume.target.exists());
    }

    /// Where views are mounted below kubelet's folder.
    fn ours(&self) -> Vec<String> {
        let all = self.machine.mounted().unwrap();
        let ours = all.iter().filter(|mount| mount.source == "cudaenv");
        ours.map(|mount| mount.at.display().to_string()).collect()
    }
}

#[track_caller]
fn expected(status: &Status, code: Code, says: &str) {
    assert_eq!(status.code(), code, "{says}: {status:?}");
    let message = status.message();
    assert!(message.contains(says), "`{says}` is not in {status:?}");
    assert!(message.len() <= 1000 && status.details().is_empty(), "{status:?}");
}

type Change = fn(&mut NodePublishVolumeRequest);

fn mount_of(request: &mut NodePublishVolumeRequest) -> &mut MountVolume {
    let capability = request.volume_capability.as_mut().unwrap();
    match capability.access_type.as_mut().unwrap() {
        AccessType::Mount(mount) => mount,
        AccessType::Block(_) => unreachable!(),
    }
}

fn set(request: &mut NodePublishVolumeRequest, key: &str, value: &str) {
    request.volume_context.insert(key.to_owned(), value.to_owned());
}

fn mode(request: &mut NodePublishVolumeRequest, mode: i32) {
    request.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode });
}

const OF_POD: &str = "csi.storage.k8s.io/pod.";

/// Name, what is changed, the code, what the message names.
const REFUSED: [(&str, Change, Code, &str); 37] = [
    (
        "V01",
        |r| r.volume_id.clear(),
        InvalidArgument,
        "volume_id: is required",
    ),
    (
        "V02",
        |r| r.volume_id = "a".repeat(129),
        InvalidArgument,
        "volume_id: has more than 128",
    ),
    (
        "V03",
        |r| r.volume_id = "../../x".into(),
        InvalidArgument,
        "volume_id: has a slash",
    ),
    (
        "V04 NUL",
        |r| r.volume_id = "a\0b".into(),
        InvalidArgument,
        "volume_id: has a slash or a control",
    ),
    (
        "V04 line",
        |r| r.volume_id = "a\nb".into(),
        InvalidArgument,
        "volume_id: has a slash or a control",
    ),
    (
        "V05",
        |r| r.volume_capability = None,
        InvalidArgument,
        "volume_capability: is required",
    ),
    (
        "V06",
        |r| r.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Block(BlockVolume {})),
        FailedPrecondition,
        "volume_capability.block: must be a mount",
    ),
    ("V07", |r| mode(r, 0), InvalidArgument, "volume_capability.access_mode"),
    ("V08", |r| mode(r, 99), InvalidArgument, "volume_capability.access_mode"),
    (
        "V09 exec",
        |r| mount_of(r).mount_flags = vec!["exec".into()],
        InvalidArgument,
        "mount.mount_flags: are not taken",
    ),
    (
        "V09 suid",
        |r| mount_of(r).mount_flags = vec!["suid".into()],
        InvalidArgument,
        "mount.mount_flags: are not taken",
    ),
    (
        "V09 dev",
        |r| mount_of(r).mount_flags = vec!["dev".into()],
        InvalidArgument,
        "mount.mount_flags: are not taken",
    ),
    (
        "V09 rw",
        |r| mount_of(r).mount_flags = vec!["rw".into()],
        InvalidArgument,
        "mount.mount_flags: are not taken",
    ),
    (
        "V11",
        |r| mount_of(r).volume_mount_group = "1000".into(),
        InvalidArgument,
        "volume_mount_group: is not taken",
    ),
    (
        "V15",
        |r| r.volume_context.clear(),
        InvalidArgument,
        "pod.namespace: must come from kubelet",
    ),
    (
        "V16",
        |r| set(r, "environment", &"a".repeat(4096)),
        InvalidArgument,
        "volume_context: has more than 4096",
    ),
    (
        "V17",
        |r| set(r, "colour", "red"),
        InvalidArgument,
        "volumeAttributes.colour: is not known",
    ),
    (
        "V18",
        |r| set(r, "Environment", "tools"),
        InvalidArgument,
        "volumeAttributes.Environment: is not known",
    ),
    (
        "V19",
        |r| (0..1000).for_each(|number| set(r, &number.to_string(), "")),
        InvalidArgument,
        "is not known",
    ),
    (
        "V37",
        |r| set(r, "environment", "../other"),
        InvalidArgument,
        "no environment can be called `../other`",
    ),
    (
        "V38",
        |r| set(r, "environment", "ns/other"),
        InvalidArgument,
        "no environment can be called `ns/other`",
    ),
    (
        "V39 long",
        |r| set(r, "environment", &"a".repeat(254)),
        InvalidArgument,
        "no environment can be called",
    ),
    (
        "V39 upper",
        |r| set(r, "environment", "Tools"),
        InvalidArgument,
        "no environment can be called `Tools`",
    ),
    (
        "V39 alike",
        |r| set(r, "environment", "t\u{43e}\u{43e}ls"),
        InvalidArgument,
        "no environment can be called",
    ),
    ("absent", |r| set(r, "environment", "absent"), NotFound, "absent"),
    (
        "V40 key",
        |r| set(r, "storePath", "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x"),
        PermissionDenied,
        "volumeAttributes.storePath: names a store path",
    ),
    (
        "V40 name",
        |r| set(r, "environment", "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x"),
        PermissionDenied,
        "volumeAttributes.environment: names a store path",
    ),
    // With podInfoOnMount off, what a pod's author writes there is all there is.
    (
        "V41 alone",
        |r| {
            r.volume_context.clear();
            set(r, "environment", "tools");
            set(r, &format!("{OF_POD}namespace"), "team-a");
        },
        InvalidArgument,
        "pod.name: must come from kubelet",
    ),
    (
        "V41 other pod",
        |r| set(r, &format!("{OF_POD}uid"), "other"),
        InvalidArgument,
        "target_path: is not in the folder of the pod",
    ),
    (
        "V41 other namespace",
        |r| set(r, &format!("{OF_POD}namespace"), "team-b"),
        NotFound,
        "tools",
    ),
    (
        "V42",
        |r| set(r, "csi.storage.k8s.io/ephemeral", "false"),
        InvalidArgument,
        "ephemeral: must be \"true\"",
    ),
    (
        "V43",
        |r| set(r, "csi.storage.k8s.io/serviceAccount.tokens", "{}"),
        InvalidArgument,
        "volume_context: has a key of kubelet's",
    ),
    (
        "V44",
        |r| drop(r.secrets.insert("password".into(), "x".repeat(1_000_000))),
        InvalidArgument,
        "secrets: are not taken",
    ),
    (
        "view",
        |r| set(r, "view", "naked"),
        InvalidArgument,
        "volumeAttributes.view",
    ),
    (
        "kind",
        |r| set(r, "kind", "Pod"),
        InvalidArgument,
        "volumeAttributes.kind",
    ),
    (
        "name of a pod",
        |r| set(r, &format!("{OF_POD}name"), "../x"),
        InvalidArgument,
        "pod.name: is no name",
    ),
    (
        "uid",
        |r| set(r, &format!("{OF_POD}uid"), ".."),
        InvalidArgument,
        "pod.uid: is no name",
    ),
];

/// What a request may well have.
const TAKEN: [(&str, Change); 7] = [
    ("an id of 128 bytes", |r| r.volume_id = "a".repeat(128)),
    ("V10 a file system's type", |r| mount_of(r).fs_type = "ext4".into()),
    ("V12 not read-only", |r| r.readonly = false),
    ("V13 a staging path", |r| {
        r.staging_target_path = "/var/lib/kubelet/plugins/x".into()
    }),
    ("V14 a publish context", |r| {
        drop(r.publish_context.insert("a".into(), "b".into()))
    }),
    ("a kind", |r| set(r, "kind", "CUDAEnvironment")),
    ("a plain view", |r| set(r, "view", "plain")),
];

#[test]
fn a_bad_request_is_refused_by_its_field_and_a_good_one_beside_it_is_taken() {
    Node::run("bad requests to publish", |node| {
        let good = || node.volume().publish("tools");
        for (name, change, code, says) in REFUSED {
            let mut request = good();
            change(&mut request);
            assert_ne!(request, good(), "{name}");
            node.refused(request, code, says);
            node.taken(good());
        }
        for (name, change) in TAKEN {
            let mut request = good();
            change(&mut request);
            assert_ne!(request, good(), "{name}");
            node.taken(request);
        }
        node.machine.remove(&node.volume()).unwrap();
        let log = node.agent.log_text();
        assert!(!log.contains(&"x".repeat(100)), "a secret was logged");
    });
}

#[test]
fn a_target_is_a_path_in_the_folder_of_its_pod_that_no_link_is_on_the_way_to() {
    Node::run("bad targets", |node| {
        let volume = node.volume();
        let pod = node.machine.pods().join(&volume.uid);
        let own = pod.display().to_string();
        let spelled = [
            ("V20", String::new()),
            ("V21", "volumes/x/mount".to_owned()),
            ("V22", "/".to_owned()),
            ("V23", "/etc".to_owned()),
            ("V24", node.machine.path("kubelet/x").display().to_string()),
            ("V25", format!("{own}/../{}/volumes/x", volume.uid)),
            ("V26", format!("{own}//volumes/x")),
            ("V27", format!("{own}/volumes/x/")),
            ("V28", format!("{own}/{}", "a".repeat(5000))),
            ("V29", format!("{own}/volumes/x\0")),
        ];
        for (name, target) in spelled {
            let request = NodePublishVolumeRequest {
                target_path: target,
                ..volume.publish("tools")
            };
            node.refused(request, InvalidArgument, "target_path: ");
            assert_eq!(node.machine.mounted().unwrap(), [], "{name}");
            node.taken(volume.publish("tools"));
        }
        in_the_way(node, &volume);
        while_it_is_swapped(node, &volume);
        node.machine.remove(&volume).unwrap();
    });
}

fn in_the_way(node: &Node<'_>, volume: &Volume) {
    let (target, parent) = (&volume.target, volume.target.parent().unwrap());
    let outside = node.machine.path("outside");
    fs::create_dir_all(outside.join("cuda")).unwrap();
    let aside = |path: &Path| path.with_file_name("aside");
    let publish = || volume.publish("tools");

    // V30: no folder to be in. V31: a link in its place, and further up.
    fs::rename(parent, aside(parent)).unwrap();
    node.refused(publish(), FailedPrecondition, "is not there");
    symlink(outside.join("cuda"), parent).unwrap();
    node.refused(publish(), InvalidArgument, "a link is on the way");
    fs::remove_file(parent).unwrap();
    fs::rename(aside(parent), parent).unwrap();
    node.taken(publish());
    let above = parent.parent().unwrap();
    fs::rename(above, aside(above)).unwrap();
    symlink(&outside, above).unwrap();
    node.refused(publish(), InvalidArgument, "a link is on the way");
    fs::remove_file(above).unwrap();
    fs::rename(aside(above), above).unwrap();

    // V32, V33: a link and a file at the target itself.
    symlink("/etc", target).unwrap();
    node.refused(publish(), InvalidArgument, "a link is on the way");
    fs::remove_file(target).unwrap();
    fs::write(target, "precious").unwrap();
    node.refused(publish(), InvalidArgument, "is no folder");
    assert_eq!(fs::read_to_string(target).unwrap(), "precious");
    fs::remove_file(target).unwrap();
    assert_eq!(fs::read_dir(outside.join("cuda")).unwrap().count(), 0);

    // V35: somebody else's mount.
    fs::create_dir(target).unwrap();
    mount("none", target, "tmpfs", MountFlags::empty(), c"").unwrap();
    node.refused(publish(), FailedPrecondition, "not ours is mounted");
    assert_eq!(node.machine.mounted_at(target).unwrap().len(), 1);
    unmount(target, UnmountFlags::empty()).unwrap();
    node.taken(publish());
}

/// Stops the other thread when dropped, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// V34: folder and link change places as fast as they can while volumes are published and taken away.
fn while_it_is_swapped(node: &Node<'_>, volume: &Volume) {
    let parent = volume.target.parent().unwrap();
    let outside = node.machine.path("outside/cuda");
    let link = parent.with_file_name("link");
    symlink(&outside, &link).unwrap();
    let (stop, mut answers) = (AtomicBool::new(false), (0, 0));
    thread::scope(|scope| {
        let _at_the_end = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, parent, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..200 {
            match node.client.publish(volume.publish("tools")) {
                Ok(()) => answers.0 += 1,
                Err(status) => {
                    assert!(
                        [InvalidArgument, FailedPrecondition, Code::Internal].contains(&status.code()),
                        "{status:?}"
                    );
                    answers.1 += 1;
                }
            }
            let _while_swapped = node.client.unpublish(volume.unpublish());
            let astray = node_agent::store::mounts::read().unwrap();
            assert!(!astray.iter().any(|mount| mount.at.starts_with(&outside)), "{astray:?}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    });
    assert!(answers.0 > 0 && answers.1 > 0, "published and refused: {answers:?}");
    if link.is_dir() && !link.is_symlink() {
        renameat_with(CWD, parent, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    }
    fs::remove_file(&link).unwrap();
    node.client.unpublish(volume.unpublish()).unwrap();
    node.taken(volume.publish("tools"));
}

/// A request whose text is none.
#[derive(Clone, PartialEq, prost::Message)]
struct Bytes {
    #[prost(bytes = "vec", tag = "4")]
    target_path: Vec<u8>,
}

/// Too large, of a method that is none of ours, not in UTF-8, and given up by its caller.
#[test]
fn what_is_no_request_or_given_up_leaves_nothing() {
    Node::run("requests that are none", |node| {
        let volume = node.volume();
        let publish = || volume.publish("tools");
        let mut huge = publish();
        huge.publish_context.insert("a".to_owned(), "x".repeat(100 << 20));
        node.refused(huge, Code::OutOfRange, "decoded message length too large");
        node.taken(publish());

        let bytes = Bytes {
            target_path: vec![0xff, 0xfe],
        };
        for (method, code) in [
            ("NodeStageVolume", Code::Unimplemented),
            ("NodePublishVolume", Code::Internal),
        ] {
            let mut service = tonic::client::Grpc::new(node.client.channel());
            let answer = node.client.wait(async {
                service.ready().await.unwrap();
                let path = format!("/csi.v1.Node/{method}").parse().unwrap();
                let codec = tonic_prost::ProstCodec::<Bytes, NodePublishVolumeResponse>::default();
                service.unary(Request::new(bytes.clone()), path, codec).await
            });
            assert_eq!(answer.unwrap_err().code(), code, "{method}");
            node.taken(publish());
        }

        // Cancelled at once, and with a deadline that is over before anything can be done.
        for _ in 0..20 {
            let mut service = node.client.node();
            node.client.wait(async {
                let call = service.node_publish_volume(publish());
                let _ = tokio::time::timeout(Duration::ZERO, call).await;
            });
            let mut hurried = Request::new(publish());
            hurried.set_timeout(Duration::from_millis(1));
            let mut service = node.client.node();
            let answer = node.client.wait(service.node_publish_volume(hurried));
            let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            let allowed = [Code::Ok, Code::Aborted, Code::Cancelled, Code::DeadlineExceeded];
            assert!(allowed.contains(&code), "{code:?}");
        }
        // kubelet takes away what it gave up; it goes before what is still under way.
        node.client.unpublish(volume.unpublish()).unwrap();
        node.taken(publish());
        node.machine.remove(&volume).unwrap();
    });
}

#[test]
fn kubelets_folder_may_be_reached_through_a_link_of_the_machines_owner() {
    csi::on_a_machine("kubelet's folder behind a link", |machine| {
        let closure = Closure::new("tools", 3, 2000).unwrap();
        let _server = machine.offer(&[("tools", &closure)], None).unwrap();
        let link = machine.path("linked");
        symlink(machine.path("kubelet"), &link).unwrap();
        let linked = |volume: &Volume| Volume {
            target: link.join(volume.target.strip_prefix(machine.path("kubelet")).unwrap()),
            ..volume.clone()
        };
        let [lives, gone] = ["lives", "gone"].map(|uid| machine.volume(uid).unwrap());
        let agent = machine.start_in(&link).unwrap();
        for volume in [&lives, &gone] {
            let client = agent.client().unwrap();
            client.publish(linked(volume).publish("tools")).unwrap();
        }
        agent.kill().unwrap();
        // The sweep of the next one's start takes what has no pod any more, and nothing else.
        unmount(&gone.target, UnmountFlags::empty()).unwrap();
        fs::remove_dir_all(machine.pods().join("gone")).unwrap();
        let agent = machine.start_in(&link).unwrap();
        machine.until("the sweep is over", || machine.records().unwrap().len() < 2);
        assert_eq!(machine.records().unwrap().len(), 1);
        assert_eq!(machine.mounted_at(&lives.target).unwrap().len(), 1);
        agent.client().unwrap().unpublish(linked(&lives).unpublish()).unwrap();
        machine.remove(&lives).unwrap();
        machine.is_tidy().unwrap();
    })
    .unwrap();
}
