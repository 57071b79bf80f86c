//! A small signed cache in a folder, and what a fetch from it needs.
//! Never leaves this machine: its address is a `file://` one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    sync::Arc,
};

use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    key::{KeyRing, SecretKey},
    narinfo::VerifiedNarInfo,
    options::Options,
    substitute::Substituter,
    write::{CacheWriter, Entry},
};
use crds::domain::store_path::StorePath;

/// A cache with a chain of store paths, each of which refers to the next; the root is the first.
pub(crate) struct SmallCache {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) paths: Vec<StorePath>,
}

pub(crate) fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(name, &[9; 32]).unwrap()
}

pub(crate) fn key_ring(name: &str) -> KeyRing {
    KeyRing::new(vec![key(name).public_key()]).unwrap()
}

pub(crate) fn path(number: usize) -> StorePath {
    StorePath::from_base_name(&format!("{number:032}-small-{number}")).unwrap()
}

impl SmallCache {
    pub(crate) fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let writer = CacheWriter::create(&folder.path().join("cache"), 40).unwrap();
        let paths: Vec<StorePath> = (0..count).map(path).collect();
        for (number, path) in paths.iter().enumerate() {
            let tree = folder.path().join("trees").join(path.base_name());
            fs::create_dir_all(tree.join("lib")).unwrap();
            fs::write(tree.join("lib/data"), vec![number as u8; 1000 + number]).unwrap();
            fs::write(tree.join("run"), "#!/bin/sh\n").unwrap();
            fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
            symlink("lib/data", tree.join("link")).unwrap();
            let entry = Entry {
                store_path: path.clone(),
                references: paths.get(number + 1).cloned().into_iter().collect(),
                deriver: None,
                compression: Compression::None,
            };
            let narinfo = writer.add_tree(&entry, &tree, &[key("small-1")]).unwrap();
            writer.publish(&narinfo).unwrap();
        }
        Self { folder, paths }
    }

    pub(crate) fn substituter(&self) -> Substituter {
        let config = CacheConfig {
            name: "small".to_owned(),
            url: format!("file://{}", self.folder.path().join("cache").display())
                .parse()
                .unwrap(),
            mirrors: Vec::new(),
            keys: key_ring("small-1"),
            priority: None,
            redirect_origins: Vec::new(),
            credentials: None,
        };
        Substituter::new(vec![config], Options::default()).unwrap()
    }

    pub(crate) async fn closure(&self) -> Vec<Arc<VerifiedNarInfo>> {
        self.substituter()
            .closure(&self.paths[..1], &|_| None)
            .await
            .unwrap()
            .paths
    }

    /// The NAR of one path, as the cache serves it.
    pub(crate) fn nar(&self, narinfo: &VerifiedNarInfo) -> PathBuf {
        self.folder.path().join("cache").join(narinfo.download().url.as_str())
    }
}
