//! The store path that our writer computes for a source tree is the one real Nix gives it.
//! Never touches the machine's own store: Nix works below a temporary root.

use std::{fs, os::fd::AsFd as _, os::unix::fs::symlink};

use binary_cache::{nar, write::source_store_path};
use e2e::real_nix::RealNix;
use e2e::skip;

#[test]
fn our_source_store_path_is_what_nix_store_add_computes() {
    let check = "real Nix gives our source paths the same names";
    let Some(nix) = skip::without(check, RealNix::find()) else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    for name in ["plain", "other-1.0+x_y?z=1"] {
        let tree = work.path().join(name);
        fs::create_dir_all(tree.join("empty")).unwrap();
        fs::write(tree.join("data"), name.repeat(10_000)).unwrap();
        symlink("../nowhere", tree.join("link")).unwrap();
        let parent = fs::File::open(work.path()).unwrap();
        let (hash, _) = nar::dump(parent.as_fd(), name.as_ref(), &mut std::io::sink()).unwrap();
        let ours = source_store_path(name, &hash, &[]).unwrap();
        assert_eq!(
            nix.add(&work.path().join("root"), &tree).unwrap(),
            ours.to_string(),
            "{name}"
        );
    }
}
