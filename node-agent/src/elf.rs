//! The few parts of ELF files that are looked at here: sections by name, and what the dynamic section says.
//! Never reads more than headers and what is asked for, never trusts a count or an offset.

use std::io::{self, Read, Seek, SeekFrom};

/// Sections of one file at most; ordinary libraries have about 40.
const SECTION_LIMIT: u64 = 1 << 17;
/// Bytes of the section name table, and of the dynamic section, at most.
const TABLE_LIMIT: u64 = 4 << 20;
/// Bytes of all strings of one file's dynamic section at most, eight more counted for each. Real libraries have some hundreds.
const TEXT_LIMIT: u64 = 256 << 10;
/// Bytes of one string (a soname, a search path) at most.
const STRING_LIMIT: u64 = 4096;
/// Program headers at most (the format's own limit).
const SEGMENT_LIMIT: u64 = 0xffff;

/// Why a file could not be read as a 64-bit little-endian ELF file.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("cannot read {what}")]
    Read { what: &'static str, source: io::Error },
    #[error("no ELF file")]
    NotElf,
    #[error("an ELF file, but not 64-bit little-endian (class {class}, data {data})")]
    OtherFormat { class: u8, data: u8 },
    #[error("{what} reaches from {offset} over {size} bytes, the file has {length}")]
    OutsideFile {
        what: &'static str,
        offset: u64,
        size: u64,
        length: u64,
    },
    #[error("{what} has {found}, at most {limit} are read")]
    TooLarge { what: &'static str, found: u64, limit: u64 },
    #[error("entries of {what} have {found} bytes, not {wanted}")]
    EntrySize {
        what: &'static str,
        found: u16,
        wanted: u16,
    },
    #[error("{what} has no end")]
    Unterminated { what: &'static str },
}

/// A place in the file that a header names; checked to lie inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub size: u64,
}

/// What the dynamic loader reads of a library.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dynamic {
    pub soname: Option<String>,
    pub needed: Vec<String>,
    pub runpath: Option<String>,
    pub rpath: Option<String>,
}

/// An ELF file of which only the header has been read.
#[derive(Debug)]
pub struct Elf<R> {
    reader: R,
    length: u64,
    header: Header,
}

#[derive(Debug)]
struct Header {
    machine: u16,
    segments: (u64, u64),
    sections: (u64, u64),
    names: u32,
}

struct Segment {
    kind: u32,
    address: u64,
    span: Span,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const SHT_NOBITS: u32 = 8;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

impl<R: Read + Seek> Elf<R> {
    /// Reads the file header (64 bytes) and checks that the tables it names can be there.
    pub fn open(mut reader: R) -> Result<Self, ElfError> {
        let what = "the ELF header";
        let read = |source| ElfError::Read { what, source };
        let length = reader.seek(SeekFrom::End(0)).map_err(read)?;
        reader.seek(SeekFrom::Start(0)).map_err(read)?;
        let mut bytes = [0; 64];
        let mut filled = 0;
        while filled < bytes.len() {
            match reader.read(&mut bytes[filled..]).map_err(read)? {
                0 => break,
                n => filled += n,
            }
        }
        if filled < 6 || &bytes[..4] != b"\x7fELF" {
            return Err(ElfError::NotElf);
        }
        if (bytes[4], bytes[5]) != (2, 1) {
            return Err(ElfError::OtherFormat {
                class: bytes[4],
                data: bytes[5],
            });
        }
        if filled < bytes.len() {
            let size = bytes.len() as u64;
            return Err(ElfError::OutsideFile {
                what,
                offset: 0,
                size,
                length,
            });
        }
        let header = Header {
            machine: u16_at(&bytes, 18),
            segments: (u64_at(&bytes, 32), u16_at(&bytes, 56).into()),
            sections: (u64_at(&bytes, 40), u16_at(&bytes, 60).into()),
            names: u16_at(&bytes, 62).into(),
        };
        for (what, count, found, wanted) in [
            ("the program header table", header.segments.1, u16_at(&bytes, 54), 56),
            ("the section header table", header.sections.1, u16_at(&bytes, 58), 64),
        ] {
            if count > 0 && found != wanted {
                return Err(ElfError::EntrySize { what, found, wanted });
            }
        }
        let mut file = Self { reader, length, header };
        file.extend_section_count()?;
        Ok(file)
    }

    /// The machine number: 62 is x86-64, 183 is AArch64.
    pub fn machine(&self) -> u16 {
        self.header.machine
    }

    /// Where the sections with these names lie, in the order of the file. Sections without bytes are left out.
    pub fn sections(&mut self, names: &[&str]) -> Result<Vec<(usize, Span)>, ElfError> {
        let (offset, count) = self.header.sections;
        if count == 0 {
            return Ok(Vec::new());
        }
        let headers = self.read_span("the section header table", offset, count * 64, SECTION_LIMIT * 64)?;
        let Some(table) = headers.chunks_exact(64).nth(self.header.names as usize) else {
            return Err(self.outside("the section name table", self.header.names.into(), 1));
        };
        let (offset, size) = (u64_at(table, 24), u64_at(table, 32));
        let strings = self.read_span("the section name table", offset, size, TABLE_LIMIT)?;
        let mut found = Vec::new();
        for section in headers.chunks_exact(64) {
            let name = strings.get(u32_at(section, 0) as usize..).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let wanted = names.iter().position(|wanted| wanted.as_bytes() == name);
            if let Some(which) = wanted.filter(|_| u32_at(section, 4) != SHT_NOBITS) {
                let span = self.span("a section", u64_at(section, 24), u64_at(section, 32))?;
                found.push((which, span));
            }
        }
        Ok(found)
    }

    /// What the loader would read, by program headers as the loader does it. `None`: not dynamically linked.
    pub fn dynamic(&mut self) -> Result<Option<Dynamic>, ElfError> {
        let segments = self.segments()?;
        let Some(table) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
            return Ok(None);
        };
        let bytes = self.read_span("the dynamic section", table.span.offset, table.span.size, TABLE_LIMIT)?;
        let entries: Vec<(u64, u64)> = bytes
            .chunks_exact(16)
            .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
            .take_while(|(tag, _)| *tag != 0)
            .collect();
        let strings = entries
            .iter()
            .find(|(tag, _)| *tag == DT_STRTAB)
            .map_or(0, |(_, address)| *address);
        let mut dynamic = Dynamic::default();
        let mut texts = 0_u64;
        for (tag, value) in entries {
            if !matches!(tag, DT_NEEDED | DT_SONAME | DT_RPATH | DT_RUNPATH) {
                continue;
            }
            let text = self.string_at(&segments, strings.saturating_add(value))?;
            texts = texts.saturating_add(text.len() as u64 + 8);
            if texts > TEXT_LIMIT {
                return Err(ElfError::TooLarge {
                    what: "the names in the dynamic section",
                    found: texts,
                    limit: TEXT_LIMIT,
                });
            }
            match tag {
                DT_NEEDED => dynamic.needed.push(text),
                DT_SONAME => dynamic.soname = Some(text),
                DT_RPATH => dynamic.rpath = Some(text),
                _ => dynamic.runpath = Some(text),
            }
        }
        Ok(Some(dynamic))
    }

    /// Reads exactly `buffer.len()` bytes at `offset`.
    pub fn read_exact_at(&mut self, what: &'static str, offset: u64, buffer: &mut [u8]) -> Result<(), ElfError> {
        self.span(what, offset, buffer.len() as u64)?;
        let read = |source| ElfError::Read { what, source };
        self.reader.seek(SeekFrom::Start(offset)).map_err(read)?;
        self.reader.read_exact(buffer).map_err(read)
    }

    /// Reads a span whole, if it has at most `limit` bytes.
    pub fn read_span(&mut self, what: &'static str, offset: u64, size: u64, limit: u64) -> Result<Vec<u8>, ElfError> {
        if size > limit {
            return Err(ElfError::TooLarge {
                what,
                found: size,
                limit,
            });
        }
        self.span(what, offset, size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_exact_at(what, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// More than 65,279 sections: the count stands in the first section header (ELF specification, `e_shnum`).
    fn extend_section_count(&mut self) -> Result<(), ElfError> {
        let (offset, count) = self.header.sections;
        if offset != 0 && (count == 0 || self.header.names == 0xffff) {
            let first = self.read_span("the first section header", offset, 64, 64)?;
            if count == 0 {
                self.header.sections.1 = u64_at(&first, 32);
            }
            if self.header.names == 0xffff {
                self.header.names = u32_at(&first, 40);
            }
        }
        let (what, found) = ("the section header table", self.header.sections.1);
        if found > SECTION_LIMIT {
            return Err(ElfError::TooLarge {
                what,
                found,
                limit: SECTION_LIMIT,
            });
        }
        Ok(())
    }

    fn segments(&mut self) -> Result<Vec<Segment>, ElfError> {
        let (offset, count) = self.header.segments;
        if count == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.read_span("the program header table", offset, count * 56, SEGMENT_LIMIT * 56)?;
        let segment = |entry: &[u8]| Segment {
            kind: u32_at(entry, 0),
            address: u64_at(entry, 16),
            span: Span {
                offset: u64_at(entry, 8),
                size: u64_at(entry, 32),
            },
        };
        Ok(bytes.chunks_exact(56).map(segment).collect())
    }

    /// The string that will lie at `address` in memory.
    fn string_at(&mut self, segments: &[Segment], address: u64) -> Result<String, ElfError> {
        let what = "a string of the dynamic section";
        let holds = |s: &&Segment| s.kind == PT_LOAD && address >= s.address && address - s.address < s.span.size;
        let segment = segments
            .iter()
            .find(holds)
            .ok_or_else(|| self.outside(what, address, 1))?;
        let within = address - segment.address;
        let offset = segment.span.offset.saturating_add(within);
        let longest = (segment.span.size - within)
            .min(self.length.saturating_sub(offset))
            .min(STRING_LIMIT);
        let bytes = self.read_span(what, offset, longest, STRING_LIMIT)?;
        let end = bytes
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(ElfError::Unterminated { what })?;
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn span(&self, what: &'static str, offset: u64, size: u64) -> Result<Span, ElfError> {
        match offset.checked_add(size) {
            Some(end) if end <= self.length => Ok(Span { offset, size }),
            _ => Err(self.outside(what, offset, size)),
        }
    }

    fn outside(&self, what: &'static str, offset: u64, size: u64) -> ElfError {
        ElfError::OutsideFile {
            what,
            offset,
            size,
            length: self.length,
        }
    }
}

/// Little-endian numbers out of a header; a header that is too short reads as zero.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_le_bytes)
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}
