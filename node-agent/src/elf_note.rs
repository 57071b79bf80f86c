//! The ELF note in which a libcuda from 570 on says its CUDA release and where it may run (section
//! `.note.cuda.fwd_compatibility`, owner `NVIDIA Corporation`, one JSON text).
//! Never loads the library.

use std::{
    collections::BTreeSet,
    io::{Read, Seek},
};

use crds::{domain::cuda::NumberError, selection::CompatNote};
use serde::Deserialize;

use crate::elf::{Elf, ElfError, u32_at};

const SECTION: &str = ".note.cuda.fwd_compatibility";
const BUILD_ID_SECTION: &str = ".note.gnu.build-id";
const NOTE_LIMIT: u64 = 64 << 10;

/// Why a note could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    #[error("cannot find section {SECTION}")]
    Elf(#[source] ElfError),
    #[error("the note is of `{found}`, not of NVIDIA Corporation")]
    OtherOwner { found: String },
    #[error("the note is cut short")]
    Short,
    #[error("the note holds no JSON of the known form")]
    Json(#[source] serde_json::Error),
    #[error("the note has format {found}, only format 1 is known")]
    OtherFormat { found: u32 },
    #[error("the note names no CUDA release")]
    Cuda(#[source] NumberError),
}

#[derive(Deserialize)]
struct Wire {
    format: u32,
    #[serde(rename = "CUDA version")]
    cuda: String,
    driver: Option<BTreeSet<u32>>,
    device: Option<BTreeSet<u32>>,
}

/// Reads the note; `None` if the library has none (every one up to 555).
pub fn compat_note<R: Read + Seek>(file: &mut Elf<R>) -> Result<Option<CompatNote>, NoteError> {
    match description(file, SECTION).map_err(NoteError::Elf)? {
        None => Ok(None),
        Some(note) => parse(&note).map(Some),
    }
}

/// The linker's build id as hexadecimal digits; `None` if the file has none.
pub fn build_id<R: Read + Seek>(file: &mut Elf<R>) -> Result<Option<String>, ElfError> {
    let Some(bytes) = description(file, BUILD_ID_SECTION)? else {
        return Ok(None);
    };
    let text = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(split(&bytes)
        .filter(|(owner, _)| *owner == b"GNU")
        .map(|(_, id)| text(id)))
}

fn description<R: Read + Seek>(file: &mut Elf<R>, section: &str) -> Result<Option<Vec<u8>>, ElfError> {
    match file.sections(&[section])?.first() {
        None => Ok(None),
        Some((_, span)) => file
            .read_span("an ELF note", span.offset, span.size, NOTE_LIMIT)
            .map(Some),
    }
}

/// Owner (without its final NUL) and description of the first note in a section.
fn split(note: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = note.get(..12)?;
    let (owner_size, size) = (u32_at(header, 0) as usize, u32_at(header, 4) as usize);
    let owner = note.get(12..)?.get(..owner_size)?;
    let start = 12usize.checked_add(owner_size.checked_next_multiple_of(4)?)?;
    let description = note.get(start..)?.get(..size)?;
    Some((owner.strip_suffix(b"\0").unwrap_or(owner), description))
}

fn parse(note: &[u8]) -> Result<CompatNote, NoteError> {
    let (owner, text) = split(note).ok_or(NoteError::Short)?;
    if owner != b"NVIDIA Corporation" {
        let found = String::from_utf8_lossy(owner).chars().take(64).collect();
        return Err(NoteError::OtherOwner { found });
    }
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let wire: Wire = serde_json::from_slice(text).map_err(NoteError::Json)?;
    if wire.format != 1 {
        return Err(NoteError::OtherFormat { found: wire.format });
    }
    Ok(CompatNote {
        cuda: wire.cuda.parse().map_err(NoteError::Cuda)?,
        base_branches: wire.driver,
        brands: wire.device,
    })
}
