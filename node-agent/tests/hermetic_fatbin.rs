//! Reading GPU code out of ELF files made for each case, whole and broken.
//! Never needs a real library; those are in e2e.

#[path = "support/elf.rs"]
mod elf;

use std::{fs, io::Cursor, os::unix::fs::symlink, path::Path};

use crds::domain::code::GpuCode;
use elf::{ElfSpec, cuda_note};
use node_agent::{
    elf::{Elf, ElfError},
    fatbin::{Fatbin, FatbinError, read, scan},
};
use proptest::prelude::*;

const EXACT: u64 = 0x10_0000;
const FAMILY: u64 = 0x20_0000;
const COMPRESSED: u64 = 0x2000;

/// One entry: kind, SM number, PTX ISA (minor, major), flags, payload bytes.
fn entry(kind: u16, sm: u32, (major, minor): (u16, u16), flags: u64, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; 72];
    for (at, part) in [
        (0, &kind.to_le_bytes()[..]),
        (2, &0x101u16.to_le_bytes()),
        (4, &72u32.to_le_bytes()),
        (8, &(payload as u64).to_le_bytes()),
        (24, &minor.to_le_bytes()),
        (26, &major.to_le_bytes()),
        (28, &sm.to_le_bytes()),
        (40, &flags.to_le_bytes()),
    ] {
        bytes[at..at + part.len()].copy_from_slice(part);
    }
    bytes.resize(72 + payload, 0xee);
    bytes
}

fn ptx(sm: u32, isa: (u16, u16)) -> Vec<u8> {
    entry(1, sm, isa, COMPRESSED, 40)
}

fn cubin(sm: u32, flags: u64) -> Vec<u8> {
    entry(2, sm, (8, 1), flags, 24)
}

fn region(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let mut bytes = 0xba55_ed50u32.to_le_bytes().to_vec();
    bytes.extend([1u16, 16].map(u16::to_le_bytes).concat());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn library(sections: Vec<(&str, Vec<u8>)>) -> Vec<u8> {
    elf::elf(&ElfSpec {
        soname: Some("libx.so"),
        needed: &["libcudart.so.12", "libc.so.6"],
        sections,
        ..Default::default()
    })
}

fn read_bytes(bytes: &[u8]) -> Result<Fatbin, FatbinError> {
    let mut file = Elf::open(Cursor::new(bytes)).map_err(FatbinError::Elf)?;
    read(&mut file)
}

fn shown(code: &GpuCode) -> (Vec<String>, Vec<String>) {
    let ptx = code
        .ptx
        .iter()
        .map(|ptx| format!("{} ({})", ptx.target, ptx.isa))
        .collect();
    (code.sass.iter().map(ToString::to_string).collect(), ptx)
}

#[test]
fn the_names_of_a_dynamic_section_are_bounded_all_together() {
    let name = "n".repeat(4000);
    for (count, wanted) in [(65, true), (66, false)] {
        let needed = vec![name.as_str(); count];
        let bytes = elf::elf(&ElfSpec {
            needed: &needed,
            ..ElfSpec::default()
        });
        match Elf::open(Cursor::new(bytes)).unwrap().dynamic() {
            Ok(found) => assert!(wanted && found.unwrap().needed == needed, "{count}"),
            Err(error) => assert!(
                !wanted && matches!(error, ElfError::TooLarge { limit: 262_144, .. }),
                "{count}: {error:?}"
            ),
        }
    }
}

#[test]
fn both_sections_and_all_suffixes_are_read() {
    let executable = [
        region(&[cubin(80, 0), cubin(90, EXACT)]),
        vec![0; 48],
        region(&[ptx(90, (8, 7))]),
    ]
    .concat();
    let relocatable = region(&[cubin(100, FAMILY), entry(64, 7, (1, 1), 0, 16), cubin(103, 0)]);
    let bytes = library(vec![
        (".nv_fatbin", executable),
        (".text", vec![1; 9]),
        ("__nv_relfatbin", relocatable),
    ]);
    let found = read_bytes(&bytes).unwrap();
    let (sass, ptx) = shown(&found.code);
    assert_eq!(sass, ["8.0", "9.0a", "10.0f", "10.3"]);
    assert_eq!(ptx, ["9.0 (8.7)"]);
    assert_eq!(found.entries, 5);
    assert_eq!(found.needed, ["libcudart.so.12", "libc.so.6"]);
}

#[test]
fn a_library_without_device_code_carries_nothing() {
    assert_eq!(
        read_bytes(&library(vec![(".text", vec![0; 64])])).unwrap(),
        Fatbin::default()
    );
    assert_eq!(
        read_bytes(&library(vec![(".nv_fatbin", vec![0; 64])])).unwrap(),
        Fatbin::default()
    );
}

#[test]
fn other_kinds_of_file_are_named() {
    let good = library(vec![]);
    Elf::open(Cursor::new(&good)).unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Elf::open(Cursor::new(bytes)).unwrap_err()
    };
    assert!(
        matches!(changed(4, 1), ElfError::OtherFormat { class: 1, data: 1 }),
        "32-bit"
    );
    assert!(
        matches!(changed(5, 2), ElfError::OtherFormat { class: 2, data: 2 }),
        "big-endian"
    );
    assert!(matches!(changed(0, 0), ElfError::NotElf));
    assert!(matches!(changed(58, 40), ElfError::EntrySize { .. }));
    for length in [0, 4, 5] {
        assert!(
            matches!(Elf::open(Cursor::new(&good[..length])), Err(ElfError::NotElf)),
            "{length}"
        );
    }
}

#[test]
fn every_way_to_lie_about_a_size_has_its_name() {
    let good = region(&[cubin(80, 0), ptx(90, (8, 7))]);
    read_bytes(&library(vec![(".nv_fatbin", good.clone())])).unwrap();
    for (what, at, value, want) in [
        ("magic", 0, &[1, 2, 3, 4][..], "BadMagic"),
        ("region header of 15 bytes", 6, &15u16.to_le_bytes(), "RegionHeader"),
        (
            "region header beyond its section",
            6,
            &0xffffu16.to_le_bytes(),
            "RegionHeader",
        ),
        ("region beyond its section", 8, &10_000u64.to_le_bytes(), "RegionSize"),
        ("region of 2^64-1 bytes", 8, &u64::MAX.to_le_bytes(), "RegionSize"),
        ("entry header of 0 bytes", 16 + 4, &0u32.to_le_bytes(), "EntryHeader"),
        ("entry header of 63 bytes", 16 + 4, &63u32.to_le_bytes(), "EntryHeader"),
        (
            "entry header of 2^32-1 bytes",
            16 + 4,
            &u32::MAX.to_le_bytes(),
            "EntryHeader",
        ),
        (
            "payload beyond its region",
            16 + 8,
            &10_000u64.to_le_bytes(),
            "EntrySize",
        ),
        ("payload of 2^64-1 bytes", 16 + 8, &u64::MAX.to_le_bytes(), "EntrySize"),
        ("SM 0", 16 + 28, &0u32.to_le_bytes(), "Target"),
        ("SM 70000", 16 + 28, &70_000u32.to_le_bytes(), "Target"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let error = read_bytes(&library(vec![(".nv_fatbin", bytes)])).unwrap_err();
        assert!(format!("{error:?}").starts_with(want), "{what}: {error:?}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_reads_as_before() {
    let whole = library(vec![(".nv_fatbin", region(&[cubin(80, 0)]))]);
    for length in 0..whole.len() {
        assert!(
            read_bytes(&whole[..length]).is_err(),
            "{length} of {} bytes",
            whole.len()
        );
    }
}

#[test]
fn endless_rows_of_nothing_end() {
    let empty_regions = region(&[]).repeat(1 << 20);
    for section in [
        vec![0; 9 << 20],
        [empty_regions, region(&[])].concat(),
        region(&[entry(9, 0, (0, 0), 0, 0).repeat((1 << 20) + 1)]),
    ] {
        let error = read_bytes(&library(vec![(".nv_fatbin", section)])).unwrap_err();
        assert!(matches!(error, FatbinError::TooManyHeaders), "{error:?}");
    }
}

#[test]
fn a_table_of_sections_that_is_not_there_is_not_allocated() {
    let mut bytes = library(vec![]);
    bytes[60..62].copy_from_slice(&0u16.to_le_bytes());
    let sections = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
    bytes[sections + 32..sections + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(Elf::open(Cursor::new(bytes)), Err(ElfError::TooLarge { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_bytes_makes_the_reader_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let region = region(&[cubin(80, EXACT), ptx(90, (8, 7))]);
        let mut bytes = library(vec![(".nv_fatbin", region.clone()), cuda_note(r#"{"format":1,"CUDA version":"13.0"}"#), ("__nv_relfatbin", region)]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read_bytes(&bytes);
        if let Ok(mut file) = Elf::open(Cursor::new(&bytes)) {
            let _ = file.dynamic();
            let _ = node_agent::elf_note::compat_note(&mut file);
            let _ = node_agent::elf_note::build_id(&mut file);
        }
    }

    #[test]
    fn no_bytes_at_all_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read_bytes(&[b"\x7fELF\x02\x01\x01\0".as_slice(), &bytes].concat());
        let _ = read_bytes(&library(vec![(".nv_fatbin", [region(&[]), bytes].concat())]));
    }
}

#[test]
fn a_store_path_is_walked_and_every_finding_named_by_its_store_path() {
    let folder = tempfile::tempdir().unwrap();
    let lib = folder.path().join("lib/python/site-packages");
    fs::create_dir_all(&lib).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(lib.join(name), bytes).unwrap();
    write(
        "liba.so",
        &library(vec![(".nv_fatbin", region(&[cubin(80, 0), cubin(90, 0)]))]),
    );
    write(
        "libb.so",
        &library(vec![("__nv_relfatbin", region(&[ptx(90, (8, 7))]))]),
    );
    write("libplain.so", &library(vec![]));
    write("broken.so", &library(vec![(".nv_fatbin", vec![7; 64])]));
    write("libcudart.so.12.8.90", &library(vec![]));
    write("readme", b"no ELF at all");
    symlink("liba.so", lib.join("link.so")).unwrap();
    symlink("/", lib.join("everything")).unwrap();
    let shown_as = Path::new("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x");
    let found = scan::scan_store_path(folder.path(), shown_as).unwrap();
    let (sass, ptx) = shown(&found.contents.code);
    assert_eq!(
        (sass, ptx),
        (vec!["8.0".to_owned(), "9.0".into()], vec!["9.0 (8.7)".to_owned()])
    );
    let paths: Vec<&str> = found.contents.files.iter().map(|file| file.path.as_str()).collect();
    let base = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-x/lib/python/site-packages";
    assert_eq!(paths, [format!("{base}/liba.so"), format!("{base}/libb.so")]);
    assert_eq!(found.contents.files[0].needed, ["libcudart.so.12", "libc.so.6"]);
    assert_eq!(found.unreadable.len(), 1);
    assert_eq!(found.unreadable[0].path, format!("{base}/broken.so"));
    assert!(
        found.unreadable[0].why.contains("no fat binary begins"),
        "{}",
        found.unreadable[0].why
    );
    assert_eq!(found.contents.unreadable, [format!("{base}/broken.so")]);
    assert!(!found.disk_failed, "read to the end, and broken");
    let other = node_agent::fatbin::scan::Scan::default().contents;
    assert_eq!(
        scan::merge([&other, &found.contents]).unreadable,
        found.contents.unreadable
    );
    assert_eq!(found.runtimes, ["12.8".parse().unwrap()]);
    assert_eq!(found.elf_files, 5);
    let single = scan::scan_store_path(&lib.join("liba.so"), shown_as).unwrap();
    assert_eq!(single.contents.files[0].path, shown_as.to_str().unwrap());
}

#[test]
fn a_store_path_that_is_a_link_carries_nothing_and_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("liba.so");
    fs::write(&file, library(vec![(".nv_fatbin", region(&[cubin(80, 0)]))])).unwrap();
    for target in ["liba.so", "nowhere", "/"] {
        let link = folder.path().join("link");
        symlink(target, &link).unwrap();
        let found = scan::scan_store_path(&link, Path::new("/x")).unwrap();
        assert_eq!(found, scan::Scan::default(), "{target}");
        fs::remove_file(link).unwrap();
    }
    let found = scan::scan_store_path(&file, Path::new("/x")).unwrap();
    assert_eq!(found.contents.files.len(), 1);
}

#[test]
fn a_compat_library_is_told_from_a_stub() {
    let folder = tempfile::tempdir().unwrap();
    let note = cuda_note(r#"{"format":1,"CUDA version":"13.0","driver":[535,580],"device":[2,14]}"#);
    for (path, sections) in [
        ("compat/libcuda.so.580.95.05", vec![note.clone()]),
        ("lib/stubs/libcuda.so", vec![]),
        ("lib/stubs/libcuda.so.580.82.07", vec![note.clone()]),
    ] {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, library(sections)).unwrap();
    }
    let scan = |path: &Path| scan::scan_store_path(path, Path::new("/x")).unwrap();
    let found = scan(folder.path());
    assert_eq!(
        found.stubs,
        ["/x/lib/stubs/libcuda.so", "/x/lib/stubs/libcuda.so.580.82.07"]
    );
    let compat = found.contents.compat.clone().unwrap();
    assert_eq!(compat.version.unwrap().as_str(), "580.95.05");
    let note = compat.note.unwrap();
    assert_eq!(
        (
            note.cuda.to_string().as_str(),
            note.base_branches.unwrap().len(),
            note.brands.unwrap().len()
        ),
        ("13.0", 2, 2)
    );
    // A second, different one would leave the choice to a search path: then none is offered.
    fs::write(folder.path().join("lib/libcuda.so.550.54.15"), library(vec![])).unwrap();
    assert_eq!(scan(folder.path()).contents.compat, None);
    assert_eq!(
        scan::merge([&found.contents, &scan::Scan::default().contents]),
        found.contents
    );
}
