//! Driver detection by the loader's cache: a synthetic cache finds a driver in an odd place, its damaged twins never do harm.
//! Never looks at the machine the tests run on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

#[path = "support/elf.rs"]
#[expect(dead_code, reason = "the notes of libcuda are for other tests")]
mod elf;
#[path = "support/ld_cache.rs"]
mod ld_cache;

use std::{fs, os::unix::fs::symlink, path::Path};

use crds::domain::{node::DriverState, store_path::System};
use elf::ElfSpec;
use ld_cache::{AARCH64, I386, X86_64, behind_old, cache};
use node_agent::{
    observe::driver::{Options, detect},
    snapshot::driver::{Detection, Environment, Found},
};
use tempfile::TempDir;

const VERSION: &str = "550.54.15";

/// A root with a kernel module, a driver in `directory`, and a cache.
fn machine(directory: &str, cache: &[u8]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), directory);
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("sys/module/nvidia")).unwrap();
    fs::write(at("sys/module/nvidia/version"), VERSION).unwrap();
    fs::create_dir_all(at("etc")).unwrap();
    fs::write(at("etc/ld.so.cache"), cache).unwrap();
    root
}

fn put(root: &Path, directory: &str) {
    let folder = root.join(directory);
    fs::create_dir_all(&folder).unwrap();
    let file = format!("libcuda.so.{VERSION}");
    let library = elf::elf(&ElfSpec {
        soname: Some("libcuda.so.1"),
        ..Default::default()
    });
    fs::write(folder.join(&file), library).unwrap();
    symlink(file, folder.join("libcuda.so.1")).unwrap();
}

fn detected(root: &Path, system: System) -> Detection {
    let options = Options {
        system,
        ..Options::default()
    };
    detect(root, &options).unwrap()
}

fn is_ready(found: &Detection) -> bool {
    matches!(found.state, DriverState::Ready { .. })
}

/// What is said of the cache itself.
fn of_cache(found: &Detection) -> Option<&Found> {
    let mut places = found.places.iter();
    places
        .find(|place| place.directory == Path::new("/etc/ld.so.cache"))
        .map(|place| &place.found)
}

const ODD: &str = "/opt/odd place/lib/libcuda.so.1";

#[test]
fn a_driver_that_only_the_loaders_cache_knows_is_found() {
    let entries = [
        (X86_64, "libc.so.6", "/lib64/libc.so.6"),
        (I386, "libcuda.so.1", "/usr/lib/i386-linux-gnu/libcuda.so.1"),
        (X86_64, "libcuda.so.1", "/usr/local/cuda-13/compat/libcuda.so.1"),
        (X86_64, "libcuda.so.1", ODD),
        (X86_64, "libcuda.so.1", ODD),
    ];
    let new = cache(&entries);
    for cache in [
        new.clone(),
        behind_old(0, &new),
        behind_old(1, &new),
        behind_old(6, &new),
    ] {
        let root = machine("opt/odd place/lib", &cache);
        for not_the_drivers in ["usr/lib/i386-linux-gnu", "usr/local/cuda-13/compat"] {
            put(root.path(), not_the_drivers);
        }
        let found = detected(root.path(), System::X86_64Linux);
        assert!(is_ready(&found), "{:?}", found.state);
        let driver = found.driver.as_ref().unwrap();
        assert_eq!(
            (driver.environment, driver.directory.as_path()),
            (Environment::Host, Path::new("/opt/odd place/lib"))
        );
        assert_eq!((found.warnings.as_slice(), of_cache(&found)), (&[][..], None));
        // Not this system's: the cache has nothing for it.
        let other = detected(root.path(), System::Aarch64Linux);
        assert_eq!((is_ready(&other), of_cache(&other)), (false, Some(&Found::Nothing)));
    }
    let root = machine("opt/odd place/lib", &cache(&[(AARCH64, "libcuda.so.1", ODD)]));
    assert!(is_ready(&detected(root.path(), System::Aarch64Linux)));
    assert!(!is_ready(&detected(root.path(), System::X86_64Linux)));
}

#[test]
fn the_cache_is_looked_at_last_and_adds_no_place_twice() {
    let root = machine(
        "usr/lib64",
        &cache(&[(X86_64, "libcuda.so.1", "/usr/lib64/libcuda.so.1")]),
    );
    let found = detected(root.path(), System::X86_64Linux);
    let of_usr = found
        .places
        .iter()
        .filter(|place| place.directory == Path::new("/usr/lib64"));
    assert_eq!((is_ready(&found), of_usr.count(), of_cache(&found)), (true, 1, None));
    fs::write(
        root.path().join("etc/ld.so.cache"),
        cache(&[(X86_64, "libcuda.so.1", ODD)]),
    )
    .unwrap();
    put(root.path(), "opt/odd place/lib");
    let found = detected(root.path(), System::X86_64Linux);
    assert_eq!(found.driver.unwrap().directory, Path::new("/usr/lib64"));
    assert!(found.warnings[0].contains("/opt/odd place/lib"), "{:?}", found.warnings);
    fs::remove_file(root.path().join("etc/ld.so.cache")).unwrap();
    let found = detected(root.path(), System::X86_64Linux);
    assert_eq!(of_cache(&found), Some(&Found::Absent));
}

#[test]
fn what_a_cache_names_is_below_the_root_or_not_there() {
    let outside = tempfile::tempdir().unwrap();
    put(outside.path(), "lib");
    let target = outside.path().join("lib/libcuda.so.1").display().to_string();
    let dots = format!("/../../../../../../..{target}");
    for path in [
        target.as_str(),
        &dots,
        "libcuda.so.1",
        "opt/odd place/lib/libcuda.so.1",
        "",
        "/",
    ] {
        let root = machine("opt/odd place/lib", &cache(&[(X86_64, "libcuda.so.1", path)]));
        let found = detected(root.path(), System::X86_64Linux);
        assert!(!is_ready(&found) && found.driver.is_none(), "{path}: {found:?}");
    }
}

#[test]
fn a_damaged_cache_is_said_to_be_and_stops_nothing_else() {
    let sound = cache(&[(X86_64, "libcuda.so.1", ODD)]);
    assert!(is_ready(&detected(
        machine("opt/odd place/lib", &sound).path(),
        System::X86_64Linux
    )));
    let changed = |at: usize, bytes: &[u8]| {
        let mut cache = sound.clone();
        cache[at..at + bytes.len()].copy_from_slice(bytes);
        cache
    };
    let whole = (20..sound.len())
        .filter(|length| *length < 48 + 24)
        .map(|length| sound[..length].to_vec());
    let unreadable = whole.chain([
        Vec::new(),
        vec![0; 100],
        b"ELF?".to_vec(),
        changed(0, b"GLIBC"),
        changed(17, b"1.0"),
        changed(20, &[255; 4]),
        changed(20, &2_u32.to_le_bytes()[..])
            .into_iter()
            .take(48 + 24 + 23)
            .collect(),
        changed(28, &[3]),
        b"ld.so-1.7.0\0\xff\xff\xff\xff".to_vec(),
        b"ld.so-1.7.0".to_vec(),
        behind_old(1, b""),
        behind_old(1, &changed(0, b"x")),
    ]);
    for cache in unreadable {
        let root = machine("opt/odd place/lib", &cache);
        let found = detected(root.path(), System::X86_64Linux);
        assert!(
            matches!(of_cache(&found), Some(Found::Unreadable { .. })),
            "{cache:?}: {:?}",
            of_cache(&found)
        );
        assert!(found.driver.is_none());
        put(root.path(), "usr/lib64");
        assert!(is_ready(&detected(root.path(), System::X86_64Linux)));
    }
    // Entries that point outside the file, or at strings without end, name nothing.
    let endless = sound[..sound.len() - 1].to_vec();
    for cache in [
        changed(52, &[255; 4]),
        changed(56, &[255; 4]),
        endless,
        changed(20, &[0; 4]),
    ] {
        let root = machine("opt/odd place/lib", &cache);
        let found = detected(root.path(), System::X86_64Linux);
        assert_eq!(of_cache(&found), Some(&Found::Nothing), "{cache:?}");
    }
}

#[test]
fn a_cache_that_is_huge_or_no_file_is_not_read() {
    let root = machine("opt/odd place/lib", b"");
    let file = root.path().join("etc/ld.so.cache");
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let found = detected(root.path(), System::X86_64Linux);
    let Some(Found::Unreadable { why }) = of_cache(&found) else {
        unreachable!("{found:?}")
    };
    assert!(why.contains("more than"), "{why}");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let found = detected(root.path(), System::X86_64Linux);
    assert!(matches!(of_cache(&found), Some(Found::Unreadable { .. })));
}
