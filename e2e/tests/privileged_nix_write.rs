//! What our writer packed and signed, real Nix copies with signatures required, in every compression.
//! With another key, or with the signature gone, it refuses; the judge is real Nix, never our own parser.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::fs;
use std::path::Path;

use e2e::our_writer::{key, public_key, publish};
use e2e::real_nix::{COMPRESSIONS, RealNix};
use e2e::server::Server;
use e2e::{shapes, skip};

#[test]
fn real_nix_copies_what_we_wrote_and_signed_in_every_compression() {
    let check = "real Nix accepts what we wrote";
    let (Some(nix), Some(())) = (
        skip::without(check, RealNix::find()),
        skip::without(check, skip::root()),
    ) else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let layout = shapes::lay_out(&work.path().join("laid-out")).unwrap();
    let (ours, other) = (public_key("ours-1").unwrap(), public_key("other-1").unwrap());
    let paths: Vec<_> = layout.paths().iter().map(|path| path.store_path.as_str()).collect();
    let as_laid_out: Vec<_> = paths.iter().map(|path| nix.dump(&layout.real(path)).unwrap()).collect();
    for compression in COMPRESSIONS {
        let cache = work.path().join(compression);
        publish(&layout, &key("ours-1").unwrap(), compression, &cache).unwrap();
        let server = Server::start(&cache).unwrap();
        for (at, url) in [format!("file://{}", cache.display()), server.url()].iter().enumerate() {
            let theirs = work.path().join(format!("theirs-{compression}-{at}"));
            for (path, expected) in paths.iter().zip(&as_laid_out) {
                // One by one: Nix 2.8 aborts at the second .lzma of one process, in caches of its own making too.
                let copied = nix.copy(url, &[&other, &ours], &theirs, &[path]).unwrap();
                assert_eq!(copied.code, 0, "{compression} from {url}: {path}: {copied:?}");
                let real = theirs.join(path.trim_start_matches('/'));
                assert_eq!(nix.dump(&real).unwrap(), *expected, "{compression} from {url}: {path}");
            }
            assert_eq!(
                nix.verify(&theirs).unwrap().code,
                0,
                "{compression}: Nix hashes all of it again"
            );
        }
    }
}

#[test]
fn real_nix_refuses_it_with_another_key_and_without_its_signature() {
    let check = "real Nix refuses what no trusted key signed";
    let Some(nix) = skip::without(check, RealNix::find()) else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let layout = shapes::lay_out(&work.path().join("laid-out")).unwrap();
    let cache = work.path().join("cache");
    publish(&layout, &key("ours-1").unwrap(), "zstd", &cache).unwrap();
    let url = format!("file://{}", cache.display());
    let library = &layout.paths()[0].store_path;
    let copy = |keys: &[&str], to: &str| nix.copy(&url, keys, &work.path().join(to), &[library]).unwrap();

    let other = copy(&[&public_key("other-1").unwrap()], "other");
    assert!(
        other.code != 0 && other.stderr.contains("lacks a valid signature"),
        "{other:?}"
    );
    assert_eq!(
        copy(&[&public_key("ours-1").unwrap()], "ours").code,
        0,
        "the twin: our key is trusted"
    );

    strip_signature(&cache.join(format!("{}.narinfo", &library["/nix/store/".len()..][..32])));
    let unsigned = copy(&[&public_key("ours-1").unwrap()], "unsigned");
    assert!(
        unsigned.code != 0 && unsigned.stderr.contains("lacks a valid signature"),
        "{unsigned:?}"
    );
}

fn strip_signature(narinfo: &Path) {
    let text = fs::read_to_string(narinfo).unwrap();
    let without: Vec<_> = text.lines().filter(|line| !line.starts_with("Sig:")).collect();
    assert!(without.len() < text.lines().count());
    fs::write(narinfo, without.join("\n") + "\n").unwrap();
}
