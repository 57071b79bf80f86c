//! Views mounted for real: small and large, overlay and plain, whole and in part, and what they refuse.
//! Each test works in a mount namespace of its own thread, which takes every mount with it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use e2e::{made_up::Closure, skip};
use node_agent::{
    act::{
        enter,
        view::{self, Method, Published, Target, TargetError, ViewError},
    },
    plan::view::{ViewPlan, plan},
    snapshot::view::{BridgeId, ViewKind, ViewRequest},
    store::{NodeStore, mounts},
};
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags, Timestamps, XattrFlags},
    io::Errno,
    mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount},
};

const JSON: &str = "{\"selected\":{}}\n";
const METHODS: [(ViewKind, Method); 3] = [
    (ViewKind::Overlay, Method::Descriptors),
    (ViewKind::Overlay, Method::Options),
    (ViewKind::Plain, Method::Options),
];

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// Runs `check` in a thread with its own mount namespace, as root, and looks that mounts and descriptors are as before.
fn privately(what: &str, check: impl FnOnce() + Send) {
    if skip::without(what, skip::root()).is_none() {
        return;
    }
    let outside = || mounts::read().unwrap();
    let before = outside();
    std::thread::scope(|scope| {
        let inside = || {
            enter::private_namespace().unwrap();
            own_descriptors();
            let before = descriptors();
            check();
            assert_eq!(descriptors(), before, "descriptors leaked");
        };
        scope.spawn(inside).join().unwrap();
    });
    assert_eq!(outside(), before, "mounts leaked out of the namespace");
}

struct Node {
    folder: tempfile::TempDir,
    store: NodeStore,
    closure: Closure,
}

impl Node {
    fn new(paths: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = NodeStore::open(&folder.path().join("state")).unwrap();
        let closure = Closure::new("view", paths, 100).unwrap();
        closure.commit(&store).unwrap();
        let libraries = store.layout().bridge(&bridge()).join("driver/lib");
        fs::create_dir_all(&libraries).unwrap();
        fs::write(libraries.join("libcuda.so.1"), "driver").unwrap();
        Self { folder, store, closure }
    }

    fn plan(&self, kind: ViewKind) -> ViewPlan {
        plan(ViewRequest {
            kind,
            paths: self.closure.paths().cloned().collect(),
            packages: BTreeMap::from([("cuda".to_owned(), self.closure.root().clone())]),
            bridge: Some(bridge()),
            cudaenv_json: JSON.to_owned(),
            selinux_label: None,
        })
        .unwrap()
    }

    /// Builds and mounts a view; returns where.
    fn mount(&self, kind: ViewKind, method: Method) -> PathBuf {
        let plan = self.plan(kind);
        view::build(&plan, &self.store, now()).unwrap();
        view::mount_with(method, &plan, &self.store).unwrap();
        self.store.layout().view_mount(&plan.digest, kind)
    }

    fn unmount(&self) {
        view::unmount_view(&self.plan(ViewKind::Overlay).digest, &self.store).unwrap();
    }

    fn check(&self, at: &Path) {
        for member in self.closure.members() {
            member
                .check(&at.join("nix/store").join(member.path.base_name()))
                .unwrap();
        }
        assert_eq!(names(&at.join("nix/store")).len(), self.closure.members().len());
        assert_eq!(names(at), ["cudaenv.json", "driver", "nix", "packages"]);
        assert_eq!(
            fs::read_link(at.join("packages/cuda")).unwrap(),
            Path::new(&self.closure.root().to_string())
        );
        assert_eq!(fs::read_to_string(at.join("cudaenv.json")).unwrap(), JSON);
        assert_eq!(
            fs::read_to_string(at.join("driver/lib/libcuda.so.1")).unwrap(),
            "driver"
        );
    }
}

fn bridge() -> BridgeId {
    "535.274.02-test".parse().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn descriptors() -> usize {
    fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

/// Gives this thread a table of open files of its own, so that it can count them whatever other tests do.
#[expect(
    deprecated,
    reason = "no other thread ever uses a descriptor that this one opens from here on"
)]
fn own_descriptors() {
    rustix::thread::unshare(rustix::thread::UnshareFlags::FILES).unwrap();
}

fn flags(at: &Path) -> StatVfsMountFlags {
    rustix::fs::statvfs(at).unwrap().f_flag
}

fn closure_reads_correctly(paths: usize) {
    privately("views of many paths", || {
        let node = Node::new(paths);
        let before = mounts::read().unwrap();
        for (kind, method) in METHODS {
            let at = node.mount(kind, method);
            node.check(&at);
            let want = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
            assert!(flags(&at).contains(want), "{kind:?} {method:?}: {:?}", flags(&at));
            assert_eq!(
                mounts::read().unwrap().len(),
                before.len() + 1,
                "one mount a view: {kind:?} {method:?}"
            );
            // Mounting again changes nothing.
            view::mount(&node.plan(kind), &node.store).unwrap();
            assert_eq!(mounts::read().unwrap().len(), before.len() + 1);
            node.unmount();
            assert_eq!(mounts::read().unwrap(), before, "{kind:?} {method:?}");
        }
    });
}

#[test]
fn a_closure_of_3_paths_reads_correctly_through_each_kind_of_view() {
    closure_reads_correctly(3);
}

#[test]
fn a_closure_of_600_paths_reads_correctly_through_each_kind_of_view() {
    closure_reads_correctly(600);
}

#[test]
fn a_closure_of_1200_paths_reads_correctly_through_each_kind_of_view() {
    closure_reads_correctly(1200);
}

#[test]
fn a_view_is_mounted_where_nobody_sees_it_and_its_parts_where_one_likes() {
    privately("detached views", || {
        for paths in [5, 510] {
            let node = Node::new(paths);
            for kind in [ViewKind::Overlay, ViewKind::Plain] {
                let before = (mounts::read().unwrap(), descriptors());
                let plan = node.plan(kind);
                view::build(&plan, &node.store, now()).unwrap();
                let tree = view::mount_detached(&plan, &node.store).unwrap();
                assert_eq!(mounts::read().unwrap(), before.0, "{kind:?}: nothing may show yet");
                let [whole, store, driver] = ["whole", "store", "driver"].map(|name| node.folder.path().join(name));
                for (target, part) in [(&whole, ""), (&store, "nix/store"), (&driver, "driver")] {
                    fs::create_dir_all(target).unwrap();
                    let part = view::part(tree.as_fd(), Path::new(part)).unwrap();
                    view::attach(part.as_fd(), target).unwrap();
                    assert!(flags(target).contains(StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID));
                }
                drop(tree);
                node.check(&whole);
                node.closure.members()[0]
                    .check(&store.join(node.closure.root().base_name()))
                    .unwrap();
                assert_eq!(names(&driver), ["lib"]);
                for target in [whole, store, driver] {
                    unmount(&target, UnmountFlags::DETACH).unwrap();
                }
                assert_eq!((mounts::read().unwrap(), descriptors()), before, "{kind:?}");
            }
        }
    });
}

#[test]
fn publishing_twice_changes_nothing_and_unpublishing_leaves_nothing() {
    privately("publishing", || {
        let node = Node::new(3);
        for (kind, method) in METHODS {
            let digest = node.plan(kind).digest;
            let target = node.folder.path().join("pod/mount");
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            let place = Target::below(node.folder.path(), &target).unwrap();
            let publish = || view::publish(&digest, kind, &node.store, &place);
            assert!(matches!(publish(), Err(ViewError::NotMounted { .. })));
            node.mount(kind, method);
            let before = mounts::read().unwrap();
            assert_eq!(publish().unwrap(), Published::Now);
            assert_eq!(publish().unwrap(), Published::Before);
            assert_eq!(mounts::read().unwrap().len(), before.len() + 1);
            let want = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
            assert!(flags(&target).contains(want), "{kind:?}: {:?}", flags(&target));
            node.unmount();
            node.check(&target);
            view::unpublish(&place).unwrap();
            view::unpublish(&place).unwrap();
            assert!(!target.exists());
            assert_eq!(mounts::read().unwrap().len(), before.len() - 1);
        }
    });
}

#[test]
fn a_target_that_is_a_link_or_in_use_or_not_empty_is_left_alone() {
    privately("odd targets", || {
        let node = Node::new(3);
        node.mount(ViewKind::Overlay, Method::Descriptors);
        let digest = node.plan(ViewKind::Overlay).digest;
        let place = |target: &Path| Target::below(node.folder.path(), target).unwrap();
        let publish = |target: &Path| view::publish(&digest, ViewKind::Overlay, &node.store, &place(target));
        let (link, victim) = (node.folder.path().join("link"), node.folder.path().join("victim"));
        fs::create_dir(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(matches!(
            publish(&link),
            Err(ViewError::Target(TargetError::Link { .. }))
        ));
        fs::create_dir(victim.join("deep")).unwrap();
        let through = Target::below(node.folder.path(), &link.join("deep/mount"));
        assert!(matches!(through, Err(TargetError::Link { .. })), "{through:?}");
        publish(&victim.join("deep/mount")).unwrap();
        view::unpublish(&place(&victim.join("deep/mount"))).unwrap();
        fs::remove_dir(victim.join("deep")).unwrap();
        let file = node.folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(
            publish(&file),
            Err(ViewError::Target(TargetError::NoFolder { .. }))
        ));
        assert!(names(&victim).is_empty());

        let other = node.folder.path().join("other");
        fs::create_dir(&other).unwrap();
        rustix::mount::mount("none", &other, "tmpfs", rustix::mount::MountFlags::empty(), c"").unwrap();
        assert!(matches!(publish(&other), Err(ViewError::TargetBusy { .. })));

        let full = node.folder.path().join("full");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("precious"), "x").unwrap();
        for theirs in [&full, &file, &link] {
            let left = view::unpublish(&place(theirs));
            assert!(
                matches!(left, Err(ViewError::Target(TargetError::Full { .. }))),
                "{left:?}"
            );
        }
        assert_eq!(names(&full), ["precious"]);
        assert_eq!(publish(&victim).unwrap(), Published::Now);
    });
}

#[test]
fn a_mounted_view_is_found_again_through_links() {
    privately("views through links", || {
        let node = Node::new(3);
        let link = node.folder.path().join("link");
        std::os::unix::fs::symlink(node.folder.path(), &link).unwrap();
        let (plan, linked) = (
            node.plan(ViewKind::Overlay),
            NodeStore::open(&link.join("state")).unwrap(),
        );
        node.mount(ViewKind::Overlay, Method::Descriptors);
        let before = mounts::read().unwrap();
        view::mount(&plan, &linked).unwrap();
        assert_eq!(mounts::read().unwrap(), before);
        fs::create_dir(node.folder.path().join("pod")).unwrap();
        // A link within the base is the machine's owner's.
        let place = |base: &Path, name: &str| Target::below(base, &base.join(name));
        let publish = |base: &Path| {
            let place = place(base, "pod/mount").unwrap();
            view::publish(&plan.digest, plan.kind, &linked, &place).unwrap()
        };
        assert_eq!(publish(&link), Published::Now);
        assert_eq!(publish(node.folder.path()), Published::Before);
        view::unpublish(&place(&link, "pod/mount").unwrap()).unwrap();
        assert!(matches!(
            place(&link, "nowhere/mount"),
            Err(TargetError::NoParent { .. })
        ));
        assert_eq!(mounts::read().unwrap(), before);
    });
}

#[test]
fn what_is_missing_is_named() {
    privately("missing layers", || {
        let node = Node::new(3);
        let mut plan = node.plan(ViewKind::Overlay);
        let stranger = Closure::new("stranger", 1, 1).unwrap();
        plan.groups[0].push(node_agent::plan::view::ViewLayer::Path(stranger.root().clone()));
        let error = view::build(&plan, &node.store, now()).unwrap_err();
        assert!(
            matches!(&error, ViewError::MissingPath { path } if path == stranger.root()),
            "{error:?}"
        );
        fs::remove_dir_all(node.store.layout().bridge(&bridge())).unwrap();
        let error = view::build(&node.plan(ViewKind::Overlay), &node.store, now()).unwrap_err();
        assert!(matches!(error, ViewError::MissingBridge { .. }), "{error:?}");
    });
}

#[test]
fn hard_links_to_another_file_system_are_refused_with_the_file_that_is_there() {
    privately("another file system", || {
        let node = Node::new(3);
        let bridges = node.store.layout().bridge(&bridge());
        rustix::mount::mount("none", &bridges, "tmpfs", rustix::mount::MountFlags::empty(), c"").unwrap();
        fs::write(bridges.join("libcuda.so.1"), "driver").unwrap();
        let error = view::build(&node.plan(ViewKind::Plain), &node.store, now()).unwrap_err();
        let ViewError::OtherFileSystem { path } = error else {
            panic!("{error:?}")
        };
        assert_eq!(path, bridges.join("libcuda.so.1"));
        unmount(&bridges, UnmountFlags::DETACH).unwrap();
        view::build(&node.plan(ViewKind::Plain), &node.store, now()).unwrap();
    });
}

#[test]
fn not_even_root_can_change_a_view() {
    privately("mutations", || {
        let node = Node::new(3);
        for (kind, method) in METHODS {
            let at = node.mount(kind, method);
            let root = at.join("nix/store").join(node.closure.root().base_name());
            for (what, result) in mutations(&at, &root) {
                assert_eq!(result, Err(Errno::ROFS), "{kind:?}: {what}");
            }
            node.check(&at);
            node.unmount();
        }
    });
}

/// Every kind of change that a program could try, with what came of it.
fn mutations(at: &Path, root: &Path) -> Vec<(&'static str, Result<(), Errno>)> {
    let file = root.join("share/0/data");
    let new = root.join("new");
    let mode = Mode::from_raw_mode(0o644);
    let open = |path: &Path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, mode).map(drop);
    let set = |name: &str| rustix::fs::setxattr(&file, name, b"x", XattrFlags::empty());
    let now = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 9, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 9, tv_nsec: 0 },
    };
    let owner = Some(rustix::fs::Uid::from_raw(1));
    let node = |kind| rustix::fs::mknodat(CWD, &new, kind, mode, rustix::fs::makedev(1, 3));
    let truncate = || match fs::OpenOptions::new().write(true).truncate(true).open(&file) {
        Ok(_) => Ok(()),
        Err(error) => Err(Errno::from_io_error(&error).unwrap()),
    };
    vec![
        ("open for writing", open(&file, OFlags::WRONLY)),
        ("open for appending", open(&file, OFlags::RDWR | OFlags::APPEND)),
        ("truncate", truncate()),
        ("create", open(&new, OFlags::CREATE | OFlags::WRONLY)),
        (
            "create at the top",
            open(&at.join("new"), OFlags::CREATE | OFlags::WRONLY),
        ),
        (
            "create in the store",
            open(&at.join("nix/store/new"), OFlags::CREATE | OFlags::WRONLY),
        ),
        (
            "create beside the driver",
            open(&at.join("driver/lib/new"), OFlags::CREATE | OFlags::WRONLY),
        ),
        ("unnamed file", open(root, OFlags::TMPFILE | OFlags::WRONLY)),
        ("mkdir", rustix::fs::mkdir(&new, mode)),
        ("rmdir", rustix::fs::rmdir(root.join("share/0/empty"))),
        ("unlink", rustix::fs::unlink(&file)),
        ("rename", rustix::fs::rename(&file, &new)),
        ("link", rustix::fs::link(&file, &new)),
        ("symlink", rustix::fs::symlink("x", &new)),
        ("mknod, device", node(FileType::CharacterDevice)),
        ("mknod, fifo", node(FileType::Fifo)),
        ("chmod", rustix::fs::chmod(&file, mode)),
        ("chown", rustix::fs::chown(&file, owner, None)),
        ("utimens", rustix::fs::utimensat(CWD, &file, &now, AtFlags::empty())),
        ("xattr, user", set("user.x")),
        ("xattr, trusted", set("trusted.x")),
        ("xattr, capability", set("security.x")),
        ("remove xattr", rustix::fs::removexattr(&file, "user.x")),
        ("access for writing", rustix::fs::access(&file, Access::WRITE_OK)),
    ]
}

/// A process in a user namespace whose root is user 100,000 outside.
struct Shifted(Child);

const SHIFT: u32 = 100_000;

impl Shifted {
    fn new() -> io::Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--user", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let own = fs::read_link("/proc/self/ns/user")?;
        let theirs = format!("/proc/{}/ns/user", child.id());
        for _ in 0..500 {
            if fs::read_link(&theirs).is_ok_and(|link| link != own) {
                for map in ["uid_map", "gid_map"] {
                    fs::write(format!("/proc/{}/{map}", child.id()), format!("0 {SHIFT} 65536"))?;
                }
                return Ok(Self(child));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        child.wait()?;
        Err(io::Error::other("the child never entered its user namespace"))
    }

    fn namespace(&self) -> fs::File {
        fs::File::open(format!("/proc/{}/ns/user", self.0.id())).unwrap()
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks the kernel to shift the owners of a detached mount, as container runtimes do for pods with user namespaces.
#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
fn id_map(tree: &OwnedFd, namespace: &fs::File) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap(),
    };
    // SAFETY: the path is a C string, the structure is the kernel's `struct mount_attr`, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[test]
fn a_plain_view_can_be_id_mapped_and_an_overlay_cannot() {
    privately("id-mapped views", || {
        let node = Node::new(600);
        let shifted = Shifted::new().unwrap();
        let clone = |at: &Path| {
            open_tree(
                CWD,
                at,
                OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
            )
            .unwrap()
        };
        let overlay = clone(&node.mount(ViewKind::Overlay, Method::Descriptors));
        let error = id_map(&overlay, &shifted.namespace()).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EINVAL),
            "an overlay can be id-mapped now: plain views may go"
        );

        let plain = clone(&node.mount(ViewKind::Plain, Method::Options));
        id_map(&plain, &shifted.namespace()).unwrap();
        let target = node.folder.path().join("pod");
        fs::create_dir(&target).unwrap();
        view::attach(plain.as_fd(), &target).unwrap();
        node.check(&target);
        for member in node.closure.members() {
            let owner = fs::symlink_metadata(target.join("nix/store").join(member.path.base_name())).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (SHIFT, SHIFT), "{}", member.path);
        }
        assert!(flags(&target).contains(StatVfsMountFlags::RDONLY));
    });
}
