//! The ELF note of libcuda: the texts that real libraries carry, and broken ones.
//! Never needs a real library: the note is put into files made here.

#[path = "support/elf.rs"]
mod elf;

use std::io::Cursor;

use crds::selection::CompatNote;
use elf::{ElfSpec, cuda_note};
use node_agent::{
    elf::Elf,
    elf_note::{NoteError, compat_note},
    observe::driver::{kernel, ready},
};
use proptest::prelude::*;

/// Brands that every library with a list allows: data centre and workstation, no GeForce (5, 15) and no Titan (6, 16).
const BRANDS: &str = "[1,2,7,8,9,10,11,12,13,14]";

/// CUDA release and base branches, as in the libraries of 570.124.06 to 615.71.09.
const REAL: [(&str, &str); 6] = [
    ("12.8", "[470,535,550,560,565,570]"),
    ("12.9", "[535,550,560,565,570,575]"),
    ("13.0", "[535,550,565,570,575,580]"),
    ("13.1", "[535,550,570,575,580,590]"),
    ("13.2", "[535,570,580,590,595]"),
    ("13.4", "[535,570,580,590,595,610,615]"),
];

fn read(section: (&'static str, Vec<u8>)) -> Result<Option<CompatNote>, NoteError> {
    let spec = ElfSpec {
        soname: Some("libcuda.so.1"),
        sections: vec![section],
        ..Default::default()
    };
    compat_note(&mut Elf::open(Cursor::new(elf::elf(&spec))).map_err(NoteError::Elf)?)
}

#[test]
fn the_notes_of_real_libraries_are_read() {
    for (cuda, branches) in REAL {
        let text = format!(r#"{{"format":1,"CUDA version":"{cuda}","driver":{branches},"device":{BRANDS}}}"#);
        let note = read(cuda_note(&text)).unwrap().unwrap();
        assert_eq!(note.cuda.to_string(), cuda);
        let shown: Vec<String> = note.base_branches.unwrap().iter().map(u32::to_string).collect();
        assert_eq!(format!("[{}]", shown.join(",")), branches);
        let brands = note.brands.unwrap();
        assert!(
            brands.contains(&2) && !brands.contains(&5) && !brands.contains(&15),
            "{brands:?}"
        );
    }
    let jetson = read(cuda_note(r#"{"format":1,"CUDA version":"13.2"}"#))
        .unwrap()
        .unwrap();
    assert_eq!(
        (jetson.cuda.to_string().as_str(), jetson.base_branches, jetson.brands),
        ("13.2", None, None)
    );
    assert_eq!(
        read((".note.other", vec![0; 32])).unwrap(),
        None,
        "no note, as in every library up to 555"
    );
}

#[test]
fn a_broken_note_is_named_for_what_it_is() {
    let good = cuda_note(r#"{"format":1,"CUDA version":"13.0"}"#);
    read(good.clone()).unwrap().unwrap();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let (name, mut bytes) = good.clone();
        change(&mut bytes);
        read((name, bytes)).unwrap_err()
    };
    let short = |error: NoteError| matches!(error, NoteError::Short);
    assert!(short(changed(&|bytes| bytes.truncate(11))));
    assert!(short(changed(&|bytes| bytes.truncate(40))));
    assert!(short(changed(&|bytes| bytes[..4].fill(0xff))));
    assert!(short(changed(&|bytes| bytes[4..8].fill(0xff))));
    assert!(matches!(
        changed(&|bytes| bytes[12] = b'M'),
        NoteError::OtherOwner { .. }
    ));
    for (text, want) in [
        (r#"{"format":2,"CUDA version":"13.0"}"#, "OtherFormat"),
        (r#"{"format":1,"CUDA version":"13"}"#, "Cuda"),
        (r#"{"format":1,"cuda version":"13.0"}"#, "Json"),
        (r#"{"format":1,"CUDA version":"13.0","driver":["535"]}"#, "Json"),
        (r#"{"format":1,"CUDA version":"13.0","driver":[-1]}"#, "Json"),
        ("{", "Json"),
        ("", "Json"),
    ] {
        let error = format!("{:?}", read(cuda_note(text)).unwrap_err());
        assert!(error.starts_with(want), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_of_a_kernel_or_of_an_operator_makes_a_reader_panic(text in "\\PC{0,200}", banner in any::<bool>()) {
        let text = if banner { format!("NVRM version: {text}") } else { text };
        // Whatever is accepted is a version by the one strict parser: digits and dots.
        for version in [kernel::of_sysfs(&text).ok(), kernel::of_procfs(&text).ok()].into_iter().flatten() {
            prop_assert!(version.as_str().bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        }
        let _ = ready::parse(&text);
        let _ = ready::parse(&format!("NVIDIA_DRIVER_ROOT={text}"));
    }

    #[test]
    fn no_note_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read((".note.cuda.fwd_compatibility", bytes));
    }
}
