//! Whether anything changed where drivers are looked for, without looking into it.
//! Never opens a library, and holds nothing open below the root once it returned.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::Path,
};

use super::{kernel, ready};
use crate::{
    rooted::Root,
    snapshot::driver::{Detection, Found},
};

/// What a driver's places looked like: equal as long as nothing changed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

/// Looks at the places of an earlier detection below `root`: which of them exist, which files are in them, how old they
/// are; the version of the kernel module; the GPU Operator's file. Costs some `stat` calls.
///
/// # Errors
/// The root cannot be opened.
pub fn fingerprint(root: &Path, earlier: &Detection) -> io::Result<Fingerprint> {
    let root = Root::open(root)?;
    let mut hash = DefaultHasher::new();
    match kernel::observe(&root) {
        Ok(module) => module.map(|module| module.version().to_string()).hash(&mut hash),
        Err(error) => error.to_string().hash(&mut hash),
    }
    format!("{:?}", ready::observe(&root)).hash(&mut hash);
    root.stamp(Path::new("/etc/ld.so.cache")).ok().hash(&mut hash);
    for place in &earlier.places {
        root.stamp(&place.below()).ok().hash(&mut hash);
        if let Found::Library { file, .. } = &place.found {
            let file = place.root.join(file.strip_prefix("/").unwrap_or(file));
            root.stamp(&file).ok().hash(&mut hash);
        }
    }
    Ok(Fingerprint(hash.finish()))
}
