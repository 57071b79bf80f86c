//! Our own writer of caches, applied to a laid-out store: what real Nix must accept, and the stand-in where there is none.
//! It must never sign with a key that anybody else could trust: the keys are constants of the tests.

use std::path::Path;

use anyhow::{Context, Result};
use binary_cache::key::SecretKey;
use binary_cache::write::{CacheWriter, Entry};
use crds::domain::store_path::StorePath;

use crate::layout::Layout;

/// Packs and signs every path of the layout into the cache folder; answers with the public key.
pub fn publish(layout: &Layout, key: &SecretKey, compression: &str, cache: &Path) -> Result<()> {
    let writer = CacheWriter::create(cache, 40)?;
    for path in layout.paths() {
        let entry = Entry {
            store_path: StorePath::parse(&path.store_path)?,
            references: path
                .references
                .iter()
                .map(|text| StorePath::parse(text))
                .collect::<Result<_, _>>()?,
            deriver: None,
            compression: compression.parse()?,
        };
        let narinfo = writer.add_tree(&entry, &layout.real(&path.store_path), std::slice::from_ref(key))?;
        writer
            .publish(&narinfo)
            .with_context(|| format!("cannot publish {}", path.store_path))?;
    }
    Ok(())
}

/// A key for tests, always the same for the same name.
pub fn key(name: &str) -> Result<SecretKey> {
    let seed = name.bytes().cycle().take(32).collect::<Vec<_>>();
    Ok(SecretKey::from_seed(name, &seed.try_into().unwrap_or([7; 32]))?)
}

/// The public half of [`key`], `name:base64`.
pub fn public_key(name: &str) -> Result<String> {
    Ok(key(name)?.public_key().to_string())
}
