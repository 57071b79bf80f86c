//! Mounting a view as a read-only overlay of its layers.
//! Never mounts anything but read-only, and never changes the working directory of another thread.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags},
    thread::UnshareFlags,
};

use super::{ViewError, unmount};
use crate::{
    plan::view::{SOURCE, ViewLayer, ViewPlan},
    snapshot::view::ViewKind,
    store::NodeStore,
};

/// `statfs` of an overlay (Linux, `uapi/linux/magic.h`).
const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
/// Where the inner overlays of a large view are mounted for a moment, in the view's folder.
const GROUPS: &str = "groups";

/// Mounts a view by handing over its layers' descriptors, or nothing where the kernel cannot do that.
pub(super) fn mount_by_descriptors(plan: &ViewPlan, store: &NodeStore) -> Result<Option<OwnedFd>, ViewError> {
    check_depth(plan, store)?;
    let mount_failed = |errno: Errno| ViewError::Mount {
        digest: plan.digest.clone(),
        source: errno.into(),
    };
    let mut groups = Vec::with_capacity(plan.groups.len());
    for group in &plan.groups {
        let folders = group.iter().map(|layer| open_layer(&place(layer, plan, store)));
        match overlay(folders, plan.selinux_label.as_deref())? {
            Ok(tree) => groups.push(tree),
            // Linux before 5.2 has no `fsopen`, before 6.13 no layers by descriptor.
            Err(Errno::NOSYS | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(mount_failed(errno)),
        }
    }
    if groups.len() == 1 {
        return Ok(groups.pop());
    }
    match overlay(groups.into_iter().map(Ok), plan.selinux_label.as_deref())? {
        Ok(tree) => Ok(Some(tree)),
        // Linux before 6.15 takes no detached mount for a layer.
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(mount_failed(errno)),
    }
}

/// A detached overlay of `layers`, topmost first. The outer error is a layer's, the inner one the kernel's.
pub(super) fn overlay(
    layers: impl Iterator<Item = Result<OwnedFd, ViewError>>,
    selinux_label: Option<&str>,
) -> Result<Result<OwnedFd, Errno>, ViewError> {
    let context = match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(errno) => return Ok(Err(errno)),
    };
    for layer in layers {
        if let Err(errno) = rustix::mount::fsconfig_set_fd(context.as_fd(), "lowerdir+", layer?) {
            return Ok(Err(errno));
        }
    }
    let finish = || {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", SOURCE)?;
        rustix::mount::fsconfig_set_flag(context.as_fd(), "ro")?;
        if let Some(label) = selinux_label {
            rustix::mount::fsconfig_set_string(context.as_fd(), "context", label)?;
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    Ok(finish())
}

/// Mounts a view at its own mount point by `mount(2)` with short layer names.
pub(super) fn mount_by_options(plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    check_depth(plan, store)?;
    let layout = store.layout();
    let at = layout.view_mount(&plan.digest, ViewKind::Overlay);
    let folder = layout.view_layers(&plan.digest);
    let label = plan.selinux_label.as_deref();
    let mut names = (0_usize..).map(|index| index.to_string());
    let mut group_names = plan
        .groups
        .iter()
        .map(|group| names.by_ref().take(group.len()).collect::<Vec<_>>());
    let mount_failed = |source| ViewError::Mount {
        digest: plan.digest.clone(),
        source,
    };
    if plan.groups.len() == 1 {
        let names = group_names.next().unwrap_or_default();
        return mount_in(&folder, &names, &at, label).map_err(mount_failed);
    }
    let groups = layout.view(&plan.digest).join(GROUPS);
    let mut inner: Vec<PathBuf> = Vec::new();
    let result = group_names.enumerate().try_for_each(|(index, names)| {
        let point = groups.join(index.to_string());
        fs::create_dir_all(&point)?;
        mount_in(&folder, &names, &point, label)?;
        inner.push(point);
        Ok(())
    });
    let result = result.and_then(|()| {
        let names: Vec<String> = (0..inner.len()).map(|index| index.to_string()).collect();
        mount_in(&groups, &names, &at, label)
    });
    // The outer overlay holds the inner ones; their mount points are not needed, nor left behind after an error.
    for point in inner {
        unmount(&point)?;
    }
    result.map_err(mount_failed)
}

/// Mounts the overlay of `folder/<name>…` at `at`. The names are relative, so that 500 of them fit the page that the
/// kernel gives to options; the working directory they are relative to is that of a thread of its own.
pub(super) fn mount_in(folder: &Path, names: &[String], at: &Path, selinux_label: Option<&str>) -> io::Result<()> {
    let mut options = format!("lowerdir={}", names.join(":"));
    if let Some(label) = selinux_label {
        options.push_str(&format!(",context=\"{label}\""));
    }
    let options = CString::new(options)?;
    let work = || {
        leave_shared_directory()?;
        rustix::process::chdir(folder)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount(SOURCE, at, "overlay", flags, &*options)
    };
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    Ok(joined.map_err(|_panic| io::Error::other("the mounting thread died"))??)
}

/// Gives the calling thread a working directory of its own.
#[expect(
    deprecated,
    reason = "the replacement is unsafe because of UnshareFlags::FILES, which is not used here"
)]
fn leave_shared_directory() -> Result<(), Errno> {
    rustix::thread::unshare(UnshareFlags::FS)
}

/// An overlay of overlays on an overlay would be one level more than Linux stacks.
fn check_depth(plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    let state = store.layout().state();
    let on_overlay = rustix::fs::statfs(state)
        .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == OVERLAYFS_SUPER_MAGIC));
    if on_overlay && plan.groups.len() > 1 {
        return Err(ViewError::TooDeep {
            digest: plan.digest.clone(),
            layers: plan.layers().count(),
        });
    }
    Ok(())
}

fn place(layer: &ViewLayer, plan: &ViewPlan, store: &NodeStore) -> PathBuf {
    match layer {
        ViewLayer::Face => store.layout().face(&plan.digest),
        ViewLayer::Bridge(id) => store.layout().bridge(id),
        ViewLayer::Path(path) => store.layout().layer(path),
    }
}

fn open_layer(path: &Path) -> Result<OwnedFd, ViewError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| ViewError::OpenLayer {
        path: path.to_owned(),
        source: errno.into(),
    })
}
