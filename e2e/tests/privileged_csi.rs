//! Calls over the socket of the real agent: the table for second calls, what is at a target when it is taken away, and bad
//! requests, each beside one that is taken. It must never leave one case's mounts to the next.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    ffi::CString,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
};

use e2e::{
    csi::{self, Agent, Client, Machine, Volume},
    made_up::Closure,
    server::Server,
};
use node_agent::csi::messages::csi::volume_capability::{AccessMode, access_mode::Mode};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tonic::Code::{self, AlreadyExists, FailedPrecondition, Internal, InvalidArgument};

/// A node whose agent serves two environments, `tools` and `other`.
struct Node<'a> {
    machine: &'a Machine,
    closure: Closure,
    client: Client,
    agent: Agent,
    _server: Server,
}

impl Node<'_> {
    fn run(check: &str, work: impl FnOnce(&Node<'_>) + Send) {
        csi::on_a_machine(check, |machine| {
            let [closure, other] = ["tools", "other"].map(|name| Closure::new(name, 3, 2000).unwrap());
            let server = machine.offer(&[("tools", &closure), ("other", &other)], None).unwrap();
            let agent = machine.start().unwrap();
            let node = Node {
                machine,
                closure,
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

    fn publish(&self, volume: &Volume) {
        self.client.publish(volume.publish("tools")).unwrap();
        let found = self.machine.mounted_at(&volume.target).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        for option in ["ro", "nosuid", "nodev"] {
            assert!(found[0].options.iter().any(|had| had == option), "{found:?}");
        }
        self.check(&volume.target);
    }

    fn check(&self, target: &Path) {
        for member in self.closure.members() {
            member
                .check(&target.join("nix/store").join(member.path.base_name()))
                .unwrap();
        }
    }

    /// Takes it away, after which kubelet can remove its folders, and nothing is left.
    fn take_away(&self, volume: &Volume) {
        self.client.unpublish(volume.unpublish()).unwrap();
        self.machine.remove(volume).unwrap();
        self.machine.is_tidy().unwrap();
    }

    #[track_caller]
    fn refused(&self, done: Result<(), tonic::Status>, code: Code, says: &str) {
        let Err(status) = done else {
            unreachable!("taken: {says}");
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "`{says}` is not in {status:?}");
        assert!(
            status.details().is_empty() && status.message().len() <= 1000,
            "{status:?}"
        );
    }
}

const MODES: [(Mode, bool); 7] = [
    (Mode::SingleNodeWriter, false),
    (Mode::SingleNodeReaderOnly, false),
    (Mode::MultiNodeReaderOnly, true),
    (Mode::MultiNodeSingleWriter, true),
    (Mode::MultiNodeMultiWriter, true),
    (Mode::SingleNodeSingleWriter, false),
    (Mode::SingleNodeMultiWriter, true),
];

#[test]
fn a_second_publish_is_answered_by_the_table_of_the_specification_in_every_access_mode() {
    Node::run("second calls to publish", |node| {
        let mut answered = 0;
        for (mode, several) in MODES {
            let volume = node.machine.volume(&format!("{mode:?}").to_lowercase()).unwrap();
            let elsewhere = Volume {
                target: volume.target.with_file_name("elsewhere"),
                ..volume.clone()
            };
            let request = |volume: &Volume, environment| {
                let mut request = volume.publish(environment);
                request.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode: mode.into() });
                request
            };
            node.client.publish(request(&volume, "tools")).unwrap();
            node.client.publish(request(&volume, "tools")).unwrap();
            let other = node.client.publish(request(&volume, "other"));
            node.refused(other, AlreadyExists, "with other arguments");
            answered += 2;
            for environment in ["tools", "other"] {
                let second = node.client.publish(request(&elsewhere, environment));
                if several {
                    second.unwrap();
                    node.client.unpublish(elsewhere.unpublish()).unwrap();
                } else {
                    node.refused(second, FailedPrecondition, "at another target");
                }
                answered += 1;
            }
            assert_eq!(node.machine.mounted_at(&volume.target).unwrap().len(), 1);
            node.check(&volume.target);
            node.take_away(&volume);
        }
        assert_eq!(answered, 28);
    });
}

/// What is at the target of a volume when it is taken away, what is answered, and what is left of it.
#[test]
fn a_volume_is_taken_away_whatever_is_at_its_target_and_what_is_not_ours_stays() {
    Node::run("taking volumes away", |node| {
        ours(node);
        busy(node);
        not_ours(node);
        read_only(node);
        gone(node);
    });
}

fn ours(node: &Node<'_>) {
    let volume = || node.machine.volume("ours").unwrap();
    // No target, then no folder that it could be in.
    node.take_away(&volume());
    node.client.unpublish(volume().unpublish()).unwrap();
    node.machine.remove(&volume()).unwrap();
    node.client.unpublish(volume().unpublish()).unwrap();
    // An empty folder, as a kill before the mount leaves it.
    fs::create_dir(volume().target).unwrap();
    node.take_away(&volume());
    // Twice, and a hundred times on top of itself.
    for times in [1, 99] {
        let volume = volume();
        node.publish(&volume);
        let layers = ["cache", "trees"].map(|name| node.machine.path(name).display().to_string());
        let layers = CString::new(format!("lowerdir={}", layers.join(":"))).unwrap();
        let stack = |_| {
            mount(
                "cudaenv",
                &volume.target,
                "overlay",
                MountFlags::RDONLY,
                layers.as_c_str(),
            )
            .unwrap()
        };
        (0..times).for_each(stack);
        assert_eq!(node.machine.mounted_at(&volume.target).unwrap().len(), times + 1);
        node.take_away(&volume);
        node.client.unpublish(volume.unpublish()).unwrap();
    }
}

/// A process that is gone when this is.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Other {
    /// Started by `command`, it says a line when it is there.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }
}

fn busy(node: &Node<'_>) {
    let volume = node.machine.volume("busy").unwrap();
    node.publish(&volume);
    let member = &node.closure.members()[0];
    let tool = format!("nix/store/{}/bin/tool-0", member.path.base_name());
    let mut open = File::open(volume.target.join(&tool)).unwrap();
    // With its working folder inside, and another with the mount in a namespace of its own.
    let wait = ["sh", "-c", "echo; read -r nothing"];
    let inside = Other::start(Command::new(wait[0]).args(&wait[1..]).current_dir(&volume.target));
    let private = ["--mount", "--propagation", "private"];
    let apart = Other::start(Command::new("unshare").args(private).args(wait));
    node.take_away(&volume);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "tool 0\n", "what was open is read on");
    drop((inside, apart));
}

fn not_ours(node: &Node<'_>) {
    let volume = node.machine.volume("not-ours").unwrap();
    let target = &volume.target;
    let unpublish = || node.client.unpublish(volume.unpublish());
    fs::write(target, "precious").unwrap();
    node.refused(unpublish(), FailedPrecondition, "is not ours");
    assert_eq!(fs::read_to_string(target).unwrap(), "precious");
    fs::remove_file(target).unwrap();

    let theirs = node.machine.path("theirs");
    fs::create_dir(&theirs).unwrap();
    symlink(&theirs, target).unwrap();
    node.refused(unpublish(), FailedPrecondition, "is not ours");
    assert!(fs::read_link(target).unwrap() == theirs && theirs.is_dir());
    fs::remove_file(target).unwrap();

    fs::create_dir(target).unwrap();
    fs::write(target.join("precious"), "precious").unwrap();
    node.refused(unpublish(), FailedPrecondition, "is not ours");
    assert_eq!(fs::read_to_string(target.join("precious")).unwrap(), "precious");
    fs::remove_file(target.join("precious")).unwrap();

    // Over nothing, then over a volume.
    for published in [false, true] {
        if published {
            node.publish(&volume);
        }
        mount("none", target, "tmpfs", MountFlags::empty(), c"").unwrap();
        fs::write(target.join("precious"), "precious").unwrap();
        node.refused(unpublish(), FailedPrecondition, "not ours");
        assert_eq!(fs::read_to_string(target.join("precious")).unwrap(), "precious");
        unmount(target, UnmountFlags::empty()).unwrap();
    }

    // A link on the way, to where a volume of the same name is.
    let parent = target.parent().unwrap();
    let aside = parent.with_file_name("aside");
    fs::rename(parent, &aside).unwrap();
    symlink(&aside, parent).unwrap();
    node.refused(unpublish(), InvalidArgument, "a link is on the way");
    assert_eq!(node.machine.mounted_at(&aside.join("mount")).unwrap().len(), 1);
    fs::remove_file(parent).unwrap();
    fs::rename(&aside, parent).unwrap();
    node.take_away(&volume);
}

fn read_only(node: &Node<'_>) {
    let volume = node.machine.volume("read-only").unwrap();
    let parent = volume.target.parent().unwrap();
    mount("none", parent, "tmpfs", MountFlags::empty(), c"").unwrap();
    node.publish(&volume);
    mount_remount(parent, MountFlags::RDONLY, c"").unwrap();
    node.refused(node.client.unpublish(volume.unpublish()), Internal, "cannot remove");
    assert_eq!(node.machine.mounted_at(&volume.target).unwrap(), []);
    assert!(volume.target.is_dir());
    mount_remount(parent, MountFlags::empty(), c"").unwrap();
    node.client.unpublish(volume.unpublish()).unwrap();
    unmount(parent, UnmountFlags::empty()).unwrap();
    node.take_away(&volume);
}

/// The mount, the records, and last what the view is made of.
fn gone(node: &Node<'_>) {
    let state = node.machine.path("state");
    for lost in ["mount", "volumes", "views", "store"] {
        let volume = node.machine.volume("gone").unwrap();
        node.publish(&volume);
        match lost {
            "mount" => unmount(&volume.target, UnmountFlags::empty()).unwrap(),
            "views" => {
                for view in fs::read_dir(state.join("views")).unwrap() {
                    let home = view.unwrap().path().join("mnt");
                    let _ = unmount(&home, UnmountFlags::DETACH);
                }
                empty(&state.join(lost));
            }
            _ => empty(&state.join(lost)),
        }
        node.take_away(&volume);
    }
}

fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}
