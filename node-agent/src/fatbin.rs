//! GPU code in ELF files: which SASS targets and which PTX a fat binary carries, read from headers alone.
//! Never reads code, never decompresses, never trusts a size; a library of a gigabyte costs some seeks.

pub mod scan;

use std::io::{Read, Seek};

use crds::domain::{
    code::{CodeTarget, GpuCode, Portability, PtxCode},
    cuda::{ComputeCapability, PtxIsa},
};

use crate::elf::{Elf, ElfError, Span, u16_at, u32_at, u64_at};

/// Executable and relocatable device code.
const SECTIONS: [&str; 2] = [".nv_fatbin", "__nv_relfatbin"];
const MAGIC: u32 = 0xba55_ed50;
const REGION_HEADER: u64 = 16;
/// The part of an entry's header that is read; longer headers have more fields behind it.
const ENTRY_HEADER: u64 = 64;
/// Longest entry header known is 120; the rest of this is room for the future.
const ENTRY_HEADER_LIMIT: u32 = 4096;
const PTX: u16 = 1;
const CUBIN: u16 = 2;
const FLAG_EXACT: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;
/// Headers of one file that are read at most, padding counted as such. The largest libraries measured have some hundreds.
const HEADER_LIMIT: u64 = 1 << 20;

/// What one file carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fatbin {
    pub code: GpuCode,
    /// Entries of a kind that is known, both sections together.
    pub entries: u64,
    /// `DT_NEEDED` of the file.
    pub needed: Vec<String>,
}

/// Why a file's GPU code could not be read. Offsets count from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum FatbinError {
    #[error("cannot read the file's ELF headers")]
    Elf(#[source] ElfError),
    #[error("no fat binary begins at {offset}, where one must (found {found:#010x})")]
    BadMagic { offset: u64, found: u32 },
    #[error("the region at {offset} has a header of {size} bytes")]
    RegionHeader { offset: u64, size: u16 },
    #[error("the region at {offset} claims {size} bytes, {left} are left of its section")]
    RegionSize { offset: u64, size: u64, left: u64 },
    #[error("the entry at {offset} has a header of {size} bytes")]
    EntryHeader { offset: u64, size: u32 },
    #[error("the entry at {offset} claims {size} bytes, {left} are left of its region")]
    EntrySize { offset: u64, size: u64, left: u64 },
    #[error("the entry at {offset} is for SM {number}, which no GPU has")]
    Target { offset: u64, number: u32 },
    #[error("more than {HEADER_LIMIT} headers of regions and entries")]
    TooManyHeaders,
}

/// Reads what an ELF file carries. A file without device code carries nothing, which is no error.
pub fn read<R: Read + Seek>(file: &mut Elf<R>) -> Result<Fatbin, FatbinError> {
    let sections = file.sections(&SECTIONS).map_err(FatbinError::Elf)?;
    let mut reader = Reader {
        file,
        found: Fatbin::default(),
        headers: 0,
    };
    for (_, section) in sections {
        reader.section(section)?;
    }
    let mut found = reader.found;
    if found.entries > 0 {
        found.needed = file.dynamic().map_err(FatbinError::Elf)?.unwrap_or_default().needed;
    }
    Ok(found)
}

struct Reader<'a, R> {
    file: &'a mut Elf<R>,
    found: Fatbin,
    /// Headers read so far.
    headers: u64,
}

impl<R: Read + Seek> Reader<'_, R> {
    /// A section is a row of regions, each aligned to 8 bytes.
    fn section(&mut self, section: Span) -> Result<(), FatbinError> {
        let end = section.offset + section.size;
        let mut at = section.offset;
        while at < end && end - at >= REGION_HEADER {
            let header: [u8; REGION_HEADER as usize] = self.header(at)?;
            if header[..8] == [0; 8] {
                // What a linker fills in to align; a section of nothing else runs into the limit of headers.
                at += 8;
                continue;
            }
            let magic = u32_at(&header, 0);
            if magic != MAGIC {
                return Err(FatbinError::BadMagic {
                    offset: at,
                    found: magic,
                });
            }
            let (header_size, size) = (u16_at(&header, 6), u64_at(&header, 8));
            let body = at + u64::from(header_size);
            if u64::from(header_size) < REGION_HEADER || body > end {
                return Err(FatbinError::RegionHeader {
                    offset: at,
                    size: header_size,
                });
            }
            if size > end - body {
                return Err(FatbinError::RegionSize {
                    offset: at,
                    size,
                    left: end - body,
                });
            }
            self.region(Span { offset: body, size })?;
            // Relative to the section: that is what the alignment is promised for.
            at = section.offset + (body + size - section.offset).next_multiple_of(8);
        }
        Ok(())
    }

    fn region(&mut self, region: Span) -> Result<(), FatbinError> {
        let end = region.offset + region.size;
        let mut at = region.offset;
        while end - at >= ENTRY_HEADER {
            let header: [u8; ENTRY_HEADER as usize] = self.header(at)?;
            let (header_size, payload) = (u32_at(&header, 4), u64_at(&header, 8));
            if u64::from(header_size) < ENTRY_HEADER || header_size > ENTRY_HEADER_LIMIT {
                return Err(FatbinError::EntryHeader {
                    offset: at,
                    size: header_size,
                });
            }
            let size = payload.saturating_add(header_size.into());
            if size > end - at {
                return Err(FatbinError::EntrySize {
                    offset: at,
                    size,
                    left: end - at,
                });
            }
            self.found.take(&header, at)?;
            at += size;
        }
        Ok(())
    }

    fn header<const SIZE: usize>(&mut self, at: u64) -> Result<[u8; SIZE], FatbinError> {
        self.headers += 1;
        if self.headers > HEADER_LIMIT {
            return Err(FatbinError::TooManyHeaders);
        }
        let mut bytes = [0; SIZE];
        let read = self.file.read_exact_at("a fat binary's header", at, &mut bytes);
        read.map(|()| bytes).map_err(FatbinError::Elf)
    }
}

impl Fatbin {
    /// Kinds that are not known are passed over; their sizes are as good as any.
    fn take(&mut self, header: &[u8], offset: u64) -> Result<(), FatbinError> {
        let kind = u16_at(header, 0);
        if kind != PTX && kind != CUBIN {
            return Ok(());
        }
        self.entries += 1;
        let (number, flags) = (u32_at(header, 28), u64_at(header, 40));
        let sm = u16::try_from(number).ok().filter(|sm| (10..1000).contains(sm));
        let target = CodeTarget {
            capability: ComputeCapability::from_sm(sm.ok_or(FatbinError::Target { offset, number })?),
            portability: match (flags & FLAG_EXACT != 0, flags & FLAG_FAMILY != 0) {
                (true, _) => Portability::Exact,
                (false, true) => Portability::Family,
                (false, false) => Portability::Portable,
            },
        };
        if kind == CUBIN {
            self.code.sass.insert(target);
        } else {
            let isa = PtxIsa::new(u16_at(header, 26), u16_at(header, 24));
            self.code.ptx.insert(PtxCode { target, isa });
        }
        Ok(())
    }
}
