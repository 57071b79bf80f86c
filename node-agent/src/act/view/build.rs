//! The files of a view: its face, its short layer names, and for a plain view the tree of hard links.
//! Never shows a half-made view: everything is made in staging and appears by rename.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::{ViewError, plain};
use crate::{
    plan::view::{ViewLayer, ViewPlan},
    snapshot::view::ViewKind,
    store::{NodeStore, StoreError, ViewRecord, Workspace, sync_folder},
};

/// The same for every file of a view that no cache wrote, as for those that one did.
const MTIME: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 1, tv_nsec: 0 },
    last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
};

pub(super) fn build(plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    let layout = store.layout();
    let needs_base = !exists(&layout.view_record(&plan.digest));
    let tree = layout.plain_tree(&plan.digest);
    let needs_tree = plan.kind == ViewKind::Plain && !exists(&tree);
    if !needs_base && !needs_tree {
        return Ok(());
    }
    for layer in plan.layers() {
        check_layer(layer, store)?;
    }
    let work = store.workspace()?;
    if needs_base {
        let staged = work.path().join("view");
        stage_base(&staged, plan, store)?;
        show(&work, &staged, &layout.view(&plan.digest))?;
    }
    if needs_tree {
        let staged = work.path().join("plain");
        plain::link_layers(plan, store, &staged)?;
        show(&work, &staged, &tree)?;
        plain::close(&tree)?;
    }
    work.finish()?;
    Ok(())
}

/// Makes what was staged durable and visible. Somebody else having been faster is as good: equal names, equal contents.
fn show(work: &Workspace, staged: &Path, place: &Path) -> Result<(), ViewError> {
    work.sync()?;
    match fs::rename(staged, place) {
        Ok(()) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
            ) => {}
        Err(source) => {
            let (from, to) = (staged.to_owned(), place.to_owned());
            return Err(StoreError::Move { from, to, source }.into());
        }
    }
    place.parent().map_or(Ok(()), sync_folder)?;
    Ok(())
}

fn check_layer(layer: &ViewLayer, store: &NodeStore) -> Result<(), ViewError> {
    match layer {
        ViewLayer::Face => Ok(()),
        ViewLayer::Bridge(id) if exists(&store.layout().bridge(id)) => Ok(()),
        ViewLayer::Bridge(id) => Err(ViewError::MissingBridge { id: id.clone() }),
        ViewLayer::Path(path) if store.has(path) => Ok(()),
        ViewLayer::Path(path) => Err(ViewError::MissingPath { path: path.clone() }),
    }
}

fn stage_base(staged: &Path, plan: &ViewPlan, store: &NodeStore) -> Result<(), ViewError> {
    let (layout, digest) = (store.layout(), &plan.digest);
    // Where something will lie in the view's folder is where it lies in the staged one.
    let here = |path: PathBuf| {
        path.strip_prefix(layout.view(digest))
            .map(|name| staged.join(name))
            .unwrap_or(path)
    };
    let layers = here(layout.view_layers(digest));
    let face = here(layout.face(digest));
    let mounts = [ViewKind::Overlay, ViewKind::Plain].map(|kind| here(layout.view_mount(digest, kind)));
    for folder in [staged, &layers, &face, &face.join("packages")]
        .into_iter()
        .chain(mounts.iter().map(PathBuf::as_path))
    {
        fs::create_dir(folder).map_err(|source| ViewError::Create {
            path: folder.to_owned(),
            source,
        })?;
    }
    for (index, layer) in plan.layers().enumerate() {
        make_link(&layer_link(layer, store, plan), &layers.join(index.to_string()))?;
    }
    stage_face(&face, plan)?;
    let record = serde_json::to_vec(&ViewRecord {
        paths: plan.paths.clone(),
        bridge: plan.bridge().cloned(),
    })
    .map_err(|source| StoreError::BadList {
        path: layout.view_record(digest),
        source,
    })?;
    let file = here(layout.view_record(digest));
    fs::write(&file, record).map_err(|source| ViewError::Create { path: file, source })
}

/// Relative, so that the state folder may be found under another name in another mount namespace.
fn layer_link(layer: &ViewLayer, store: &NodeStore, plan: &ViewPlan) -> PathBuf {
    let layout = store.layout();
    let absolute = match layer {
        ViewLayer::Face => layout.face(&plan.digest),
        ViewLayer::Bridge(id) => layout.bridge(id),
        ViewLayer::Path(path) => layout.layer(path),
    };
    // views/<digest>/layers/<n>: three folders up is the state folder.
    Path::new("../../..").join(absolute.strip_prefix(layout.state()).unwrap_or(&absolute))
}

fn stage_face(face: &Path, plan: &ViewPlan) -> Result<(), ViewError> {
    let packages = face.join("packages");
    for (name, path) in &plan.packages {
        let link = packages.join(name);
        make_link(Path::new(&path.to_string()), &link)?;
        settle(&link, None)?;
    }
    let file = face.join("cudaenv.json");
    fs::write(&file, &plan.cudaenv_json).map_err(|source| ViewError::Create {
        path: file.clone(),
        source,
    })?;
    settle(&file, Some(0o444))?;
    settle(&packages, Some(0o555))?;
    settle(face, Some(0o555))
}

fn make_link(target: &Path, link: &Path) -> Result<(), ViewError> {
    symlink(target, link).map_err(|source| ViewError::Create {
        path: link.to_owned(),
        source,
    })
}

/// Gives a file its final mode and time.
fn settle(path: &Path, mode: Option<u32>) -> Result<(), ViewError> {
    mode.map_or(Ok(()), |mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    })
    .and_then(|()| Ok(rustix::fs::utimensat(CWD, path, &MTIME, AtFlags::SYMLINK_NOFOLLOW)?))
    .map_err(|source| ViewError::Create {
        path: path.to_owned(),
        source,
    })
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
