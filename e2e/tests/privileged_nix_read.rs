//! What real Nix wrote, in every compression it knows, lands in the node store byte for byte.
//! The judge is real Nix's own dump, never our decoder.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use e2e::real_nix::{COMPRESSIONS, RealNix};
use e2e::server::Server;
use e2e::{programs, shapes, skip};

/// Owner, mode and time of everything below: root, 0444 or 0555, second 1.
fn assert_canonical(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    let mode = metadata.mode() & 0o7777;
    let expected_modes: &[u32] = match metadata.file_type() {
        kind if kind.is_symlink() => &[0o777],
        kind if kind.is_dir() => &[0o555],
        _ => &[0o444, 0o555],
    };
    let found = (
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        expected_modes.contains(&mode),
    );
    assert_eq!(found, (0, 0, 1, true), "{} has mode {mode:o}", path.display());
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_canonical(&entry.unwrap().path());
        }
    }
}

fn narinfo_field(cache: &Path, store_path: &str, field: &str) -> String {
    let hash = &store_path["/nix/store/".len()..][..32];
    let text = fs::read_to_string(cache.join(format!("{hash}.narinfo"))).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("{field}: ")));
    value.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
}

#[test]
fn every_compression_of_real_nix_is_restored_byte_for_byte() {
    let check = "closures packed by real Nix are restored byte for byte";
    let (Some(nix), Some(())) = (
        skip::without(check, RealNix::find()),
        skip::without(check, skip::root()),
    ) else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let layout = shapes::lay_out(&work.path().join("laid-out")).unwrap();
    let key = nix.key("reading-1").unwrap();
    nix.register(&layout).unwrap();
    for compression in COMPRESSIONS {
        let cache = work.path().join(compression);
        nix.publish(&layout, &key, compression, &cache).unwrap();
        let server = Server::start(&cache).unwrap();
        for url in [server.url(), format!("file://{}", cache.display())] {
            let state = work.path().join(format!("state-{compression}-{}", &url[..4]));
            let mut fetch = Command::new(programs::node_agent().unwrap());
            fetch
                .args([
                    "fetch",
                    "--cache",
                    &url,
                    "--public-key",
                    &key.public,
                    "--output",
                    "json",
                    "--state",
                ])
                .arg(&state);
            fetch.args(layout.paths().iter().map(|path| &path.store_path));
            let ended = programs::ended(&mut fetch).unwrap();
            assert_eq!(ended.code, 0, "{compression} from {url}: {ended:?}");
            for path in layout.paths() {
                let base_name = &path.store_path["/nix/store/".len()..];
                let restored = state
                    .join("store")
                    .join(&base_name[..32])
                    .join("nix/store")
                    .join(base_name);
                let (hash, size) = nix.dump(&restored).unwrap();
                let measured = (nix.in_base32(&hash).unwrap(), size.to_string());
                let signed = (
                    narinfo_field(&cache, &path.store_path, "NarHash"),
                    narinfo_field(&cache, &path.store_path, "NarSize"),
                );
                assert_eq!(measured, signed, "{compression} from {url}: {}", path.store_path);
                assert_canonical(&restored);
            }
        }
    }
}
