//! Makes small ELF files for tests, byte by byte.
//! Never used outside tests; knows only what the readers under test look at.

/// What to put into a file.
#[derive(Default, Clone)]
pub(crate) struct ElfSpec<'a> {
    pub(crate) soname: Option<&'a str>,
    pub(crate) needed: &'a [&'a str],
    pub(crate) runpath: Option<&'a str>,
    /// Name and bytes of further sections.
    pub(crate) sections: Vec<(&'a str, Vec<u8>)>,
}

const ALLOC: u64 = 2;
const PROGBITS: u32 = 1;
const STRTAB: u32 = 3;
const DYNAMIC: u32 = 6;
const NOTE: u32 = 7;
const DYNSYM: u32 = 11;

/// A shared library for x86-64 in which every byte is mapped where it lies.
pub(crate) fn elf(spec: &ElfSpec<'_>) -> Vec<u8> {
    let mut strings = vec![0];
    let mut entries = Vec::new();
    let all = (spec.needed.iter().map(|name| (1u64, *name)))
        .chain(spec.soname.map(|name| (14, name)))
        .chain(spec.runpath.map(|path| (29, path)));
    for (tag, text) in all {
        entries.push((tag, strings.len() as u64));
        strings.extend(text.bytes().chain([0]));
    }
    // Room behind the program headers, as the hash tables of real libraries make it.
    let mut file = vec![0; 1024];
    let dynstr = append(&mut file, &strings, 8);
    let dynsym = append(&mut file, &[0; 24], 8);
    entries.extend([
        (5, dynstr.0),
        (6, dynsym.0),
        (11, 24),
        (10, strings.len() as u64),
        (0, 0),
    ]);
    let dynamic: Vec<u8> = entries
        .iter()
        .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect();
    let dynamic = append(&mut file, &dynamic, 8);
    let mut sections = vec![
        ("", 0, (0, 0), 0, 0),
        (".dynstr", STRTAB, dynstr, 0, 0),
        (".dynamic", DYNAMIC, dynamic, 1, 16),
        (".dynsym", DYNSYM, dynsym, 1, 24),
    ];
    for (name, bytes) in &spec.sections {
        let kind = if name.starts_with(".note") { NOTE } else { PROGBITS };
        let place = append(&mut file, bytes, 8);
        sections.push((*name, kind, place, 0, 0));
    }
    let mut names = Vec::new();
    let mut offsets = Vec::new();
    for (name, ..) in sections.iter().chain([&(".shstrtab", 0, (0, 0), 0, 0)]) {
        offsets.push(names.len() as u32);
        names.extend(name.bytes().chain([0]));
    }
    let mapped = file.len() as u64;
    let names = append(&mut file, &names, 8);
    sections.push((".shstrtab", STRTAB, names, 0, 0));
    let table: Vec<u8> = (sections.iter().zip(offsets))
        .flat_map(|((name, kind, place, link, entry), offset)| {
            let mapped = !name.is_empty() && *name != ".shstrtab";
            section_header(offset, *kind, if mapped { ALLOC } else { 0 }, *place, *link, *entry)
        })
        .collect();
    let table = append(&mut file, &table, 8);
    header(&mut file, table.0, sections.len() as u16);
    program_header(&mut file[64..], 1, (0, mapped), 0x1000);
    program_header(&mut file[120..], 2, dynamic, 8);
    program_header(&mut file[176..], 0x6474_e551, (0, 0), 16);
    file
}

/// The section `.note.cuda.fwd_compatibility` with this JSON text.
pub(crate) fn cuda_note(json: &str) -> (&'static str, Vec<u8>) {
    let mut text = json.as_bytes().to_vec();
    text.push(0);
    text.resize(text.len().next_multiple_of(4), 0);
    let mut note = [19u32.to_le_bytes(), (text.len() as u32).to_le_bytes(), [0; 4]].concat();
    note.extend(b"NVIDIA Corporation\0\0");
    note.extend(text);
    (".note.cuda.fwd_compatibility", note)
}

fn append(file: &mut Vec<u8>, bytes: &[u8], align: usize) -> (u64, u64) {
    file.resize(file.len().next_multiple_of(align), 0);
    let offset = file.len() as u64;
    file.extend(bytes);
    (offset, bytes.len() as u64)
}

fn header(file: &mut [u8], sections: u64, count: u16) {
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(file, 16, &[3u16.to_le_bytes(), 62u16.to_le_bytes()].concat());
    put(file, 20, &1u32.to_le_bytes());
    put(file, 32, &64u64.to_le_bytes());
    put(file, 40, &sections.to_le_bytes());
    put(
        file,
        52,
        &[64u16, 56, 3, 64, count, count - 1].map(u16::to_le_bytes).concat(),
    );
}

fn program_header(at: &mut [u8], kind: u32, (offset, size): (u64, u64), align: u64) {
    put(at, 0, &[kind.to_le_bytes(), 6u32.to_le_bytes()].concat());
    put(
        at,
        8,
        &[offset, offset, offset, size, size, align]
            .map(u64::to_le_bytes)
            .concat(),
    );
}

fn section_header(name: u32, kind: u32, flags: u64, (offset, size): (u64, u64), link: u32, entry: u64) -> Vec<u8> {
    let address = if flags == 0 { 0 } else { offset };
    let mut bytes = [name.to_le_bytes(), kind.to_le_bytes()].concat();
    bytes.extend([flags, address, offset, size].map(u64::to_le_bytes).concat());
    bytes.extend([link.to_le_bytes(), u32::from(kind == DYNSYM).to_le_bytes()].concat());
    bytes.extend([if kind == 0 { 0 } else { 8 }, entry].map(u64::to_le_bytes).concat());
    bytes
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
