//! What a view is made of: its digest, its layers in order, and how many mounts they take.
//! Never looks at a disk; never lets a node's name or a clock into a digest.

use std::collections::{BTreeMap, BTreeSet};

use crds::domain::store_path::StorePath;
use sha2::{Digest, Sha256};

use crate::snapshot::view::{BridgeId, DIGEST_LEN, ViewDigest, ViewKind, ViewRequest};

/// Most lower layers of one overlay mount (Linux, `fs/overlayfs/params.h`, `OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;
/// Most layers of a view: an overlay of overlays, which is as deep as Linux stacks file systems.
pub const MAX_GROUPED_LAYERS: usize = MAX_LAYERS * MAX_LAYERS;

/// What the mount table shows as the source of our overlays, and by which they are known as ours.
pub const SOURCE: &str = "cudaenv";

/// The SELinux label under which every container may read files (container-selinux's policy), without categories, which
/// would keep some out.
pub const CONTAINER_READABLE: &str = "system_u:object_r:container_file_t:s0";

/// The label that an overlay is mounted with, so that the store itself need never be relabelled. `selinux` says whether
/// SELinux is active on the node; elsewhere the mount option does not exist.
pub fn selinux_label(selinux: bool) -> Option<String> {
    selinux.then(|| CONTAINER_READABLE.to_owned())
}

/// Where one layer of a view comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewLayer {
    /// The view's own files.
    Face,
    /// The driver's libraries.
    Bridge(BridgeId),
    /// One store path.
    Path(StorePath),
}

/// How to build and mount one view. Leaves nothing to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewPlan {
    /// The view's name: equal for equal contents, whatever the kind.
    pub digest: ViewDigest,
    /// Overlay or plain.
    pub kind: ViewKind,
    /// Each inner list is one overlay mount, topmost layer first. More than one: they are stacked once more.
    pub groups: Vec<Vec<ViewLayer>>,
    /// `packages/<name>` → store path.
    pub packages: BTreeMap<String, StorePath>,
    /// Content of `cudaenv.json`.
    pub cudaenv_json: String,
    /// Every store path that must be in the store.
    pub paths: BTreeSet<StorePath>,
    /// SELinux label for the overlay's files.
    pub selinux_label: Option<String>,
}

/// Why there can be no such view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewRefusal {
    #[error("a view of no store path")]
    Empty,
    #[error("package name `{name}` cannot be the name of a link")]
    PackageName { name: String },
    #[error("package `{name}` is {path}, which is not among the view's store paths")]
    PackageOutsideView { name: String, path: StorePath },
    #[error("{count} layers; a view has at most {MAX_GROUPED_LAYERS}")]
    TooManyLayers { count: usize },
}

impl ViewPlan {
    /// All layers, topmost first.
    pub fn layers(&self) -> impl Iterator<Item = &ViewLayer> {
        self.groups.iter().flatten()
    }

    /// The driver bridge among them.
    pub fn bridge(&self) -> Option<&BridgeId> {
        self.layers().find_map(|layer| match layer {
            ViewLayer::Bridge(id) => Some(id),
            ViewLayer::Face | ViewLayer::Path(_) => None,
        })
    }
}

/// Plans the view that `request` asks for.
pub fn plan(request: ViewRequest) -> Result<ViewPlan, ViewRefusal> {
    if request.paths.is_empty() {
        return Err(ViewRefusal::Empty);
    }
    for (name, path) in &request.packages {
        if matches!(name.as_str(), "" | "." | "..") || name.len() > 255 || name.contains(['/', '\0']) {
            return Err(ViewRefusal::PackageName {
                name: name.chars().take(255).collect(),
            });
        }
        if !request.paths.contains(path) {
            return Err(ViewRefusal::PackageOutsideView {
                name: name.clone(),
                path: path.clone(),
            });
        }
    }
    let digest = digest(&request);
    let ViewRequest {
        kind,
        paths,
        packages,
        bridge,
        cudaenv_json,
        selinux_label,
    } = request;
    let layers = layers(bridge, &paths);
    if layers.len() > MAX_GROUPED_LAYERS {
        return Err(ViewRefusal::TooManyLayers { count: layers.len() });
    }
    let groups = group(layers);
    Ok(ViewPlan {
        digest,
        kind,
        groups,
        packages,
        cudaenv_json,
        paths,
        selinux_label,
    })
}

/// The plan of a view whose files are made already: enough to mount it, after a reboot too.
pub fn of_built(
    digest: ViewDigest,
    kind: ViewKind,
    bridge: Option<BridgeId>,
    paths: BTreeSet<StorePath>,
    selinux_label: Option<String>,
) -> ViewPlan {
    ViewPlan {
        groups: group(layers(bridge, &paths)),
        digest,
        kind,
        packages: BTreeMap::new(),
        cudaenv_json: String::new(),
        selinux_label: selinux_label.filter(|_| kind == ViewKind::Overlay),
        paths,
    }
}

fn layers(bridge: Option<BridgeId>, paths: &BTreeSet<StorePath>) -> Vec<ViewLayer> {
    let mut layers = vec![ViewLayer::Face];
    layers.extend(bridge.map(ViewLayer::Bridge));
    layers.extend(paths.iter().cloned().map(ViewLayer::Path));
    layers
}

/// Groups of nearly equal size: an overlay needs two layers at least, so no group may be a lonely rest.
fn group(layers: Vec<ViewLayer>) -> Vec<Vec<ViewLayer>> {
    let count = layers.len().div_ceil(MAX_LAYERS);
    let (size, larger) = (layers.len() / count, layers.len() % count);
    let mut rest = layers.into_iter();
    (0..count)
        .map(|index| rest.by_ref().take(size + usize::from(index < larger)).collect())
        .collect()
}

/// A hash over everything that can be seen in the view.
fn digest(request: &ViewRequest) -> ViewDigest {
    let mut hash = Sha256::new();
    let mut line = |words: &[&str]| {
        for word in words {
            // The length keeps two different lists from reading alike.
            hash.update(u64::try_from(word.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(word.as_bytes());
        }
    };
    line(&["cudaenv view 1"]);
    line(&["bridge", request.bridge.as_ref().map_or("", |id| id.as_str())]);
    request.paths.iter().for_each(|path| line(&["path", path.base_name()]));
    request
        .packages
        .iter()
        .for_each(|(name, path)| line(&["package", name, path.base_name()]));
    line(&["json", &request.cudaenv_json]);
    ViewDigest::from_bytes(&hash.finalize()[..DIGEST_LEN / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(index: usize) -> StorePath {
        StorePath::from_base_name(&format!("{index:032}-p{index}")).unwrap()
    }

    fn request(count: usize) -> ViewRequest {
        ViewRequest {
            kind: ViewKind::Overlay,
            paths: (0..count).map(path).collect(),
            packages: BTreeMap::from([("cuda".to_owned(), path(0))]),
            bridge: Some("535.274.02".parse().unwrap()),
            cudaenv_json: "{}".to_owned(),
            selinux_label: None,
        }
    }

    #[test]
    fn the_face_is_on_top_then_the_bridge_then_the_store_paths() {
        let plan = plan(request(2)).unwrap();
        let layers: Vec<_> = plan.layers().cloned().collect();
        let bridge = ViewLayer::Bridge("535.274.02".parse().unwrap());
        assert_eq!(
            layers,
            [
                ViewLayer::Face,
                bridge,
                ViewLayer::Path(path(0)),
                ViewLayer::Path(path(1))
            ]
        );
    }

    #[test]
    fn groups_hold_every_layer_once_and_no_group_is_too_small_or_too_large() {
        for (paths, groups) in [(1, 1), (498, 1), (499, 2), (998, 2), (999, 3), (1200, 3), (3000, 7)] {
            let plan = plan(request(paths)).unwrap();
            assert_eq!(plan.groups.len(), groups, "{paths} paths");
            assert_eq!(plan.layers().count(), paths + 2, "{paths} paths");
            assert!(
                plan.groups.iter().all(|group| (2..=MAX_LAYERS).contains(&group.len())),
                "{paths} paths"
            );
        }
    }

    #[test]
    fn the_digest_follows_what_can_be_seen_and_nothing_else() {
        let digest = |change: &dyn Fn(&mut ViewRequest)| {
            let mut request = request(3);
            change(&mut request);
            plan(request).unwrap().digest
        };
        let same = digest(&|_| ());
        assert_eq!(same, digest(&|r| r.kind = ViewKind::Plain));
        assert_eq!(
            same,
            digest(&|r| r.selinux_label = Some("system_u:object_r:container_file_t:s0".into()))
        );
        let others = [
            digest(&|r| r.bridge = None),
            digest(&|r| r.bridge = Some("550.163.01".parse().unwrap())),
            digest(&|r| r.paths = [path(0), path(1)].into()),
            digest(&|r| r.packages = BTreeMap::from([("cuda".to_owned(), path(1))])),
            digest(&|r| r.packages = BTreeMap::from([("cudb".to_owned(), path(0))])),
            digest(&|r| r.packages = BTreeMap::new()),
            digest(&|r| r.cudaenv_json = "{ }".to_owned()),
        ];
        let distinct: BTreeSet<_> = others.iter().chain([&same]).collect();
        assert_eq!(distinct.len(), others.len() + 1);
    }

    #[test]
    fn names_that_could_leave_the_view_and_packages_outside_it_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0", &"a".repeat(256)] {
            let mut request = request(1);
            request.packages = BTreeMap::from([(name.to_owned(), path(0))]);
            assert!(
                matches!(plan(request), Err(ViewRefusal::PackageName { .. })),
                "{name:?}"
            );
        }
        let mut outside = request(1);
        outside.packages = BTreeMap::from([("cuda".to_owned(), path(7))]);
        assert!(matches!(plan(outside), Err(ViewRefusal::PackageOutsideView { .. })));
        assert_eq!(plan(request(0)), Err(ViewRefusal::Empty));
        plan(request(1)).unwrap();
    }
}
