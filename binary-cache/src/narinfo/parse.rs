//! The strict reader of narinfo text.
//! Never lets a later line replace an earlier one, and never allocates more than the text is long.

use crds::domain::store_path::StorePath;

use super::{
    Download, Fields, MAX_REFERENCES, MAX_SIGNATURES, MAX_SIZE, MalformedSignature, NarInfo, NarInfoError,
    content_address,
};
use crate::compression::Compression;

/// A value and the line it stands on.
type Line<'a> = (usize, &'a str);

/// The lines of known fields, before any of them is understood.
#[derive(Default)]
struct Lines<'a> {
    store_path: Option<Line<'a>>,
    url: Option<Line<'a>>,
    compression: Option<Line<'a>>,
    file_hash: Option<Line<'a>>,
    file_size: Option<Line<'a>>,
    nar_hash: Option<Line<'a>>,
    nar_size: Option<Line<'a>>,
    references: Option<Line<'a>>,
    deriver: Option<Line<'a>>,
    system: Option<Line<'a>>,
    ca: Option<Line<'a>>,
    signatures: Vec<Line<'a>>,
    signature_lines: usize,
}

pub(super) fn parse(bytes: &[u8]) -> Result<NarInfo, NarInfoError> {
    let text = check_text(bytes)?;
    let lines = split(text)?;
    let fields = understand(&lines)?;
    let mut signatures = Vec::new();
    let mut malformed_signatures = Vec::new();
    for (line, value) in lines.signatures {
        match value.parse() {
            Ok(signature) => signatures.push(signature),
            Err(error) => malformed_signatures.push(MalformedSignature { line, error }),
        }
    }
    let signature_lines = lines.signature_lines;
    Ok(NarInfo {
        fields,
        signatures,
        malformed_signatures,
        signature_lines,
        text: text.into(),
    })
}

/// Size, encoding and line ends.
fn check_text(bytes: &[u8]) -> Result<&str, NarInfoError> {
    let line_at = |position: usize| 1 + bytes[..position].iter().filter(|byte| **byte == b'\n').count();
    if bytes.is_empty() {
        return Err(NarInfoError::Empty);
    }
    if bytes.len() > MAX_SIZE {
        return Err(NarInfoError::TooLarge { size: bytes.len() });
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(NarInfoError::ByteOrderMark);
    }
    if let Some(position) = bytes.iter().position(|byte| *byte == 0) {
        return Err(NarInfoError::Nul {
            line: line_at(position),
        });
    }
    if let Some(position) = bytes.iter().position(|byte| *byte == b'\r') {
        return Err(NarInfoError::CarriageReturn {
            line: line_at(position),
        });
    }
    let text = str::from_utf8(bytes).map_err(|error| NarInfoError::NotUtf8 {
        line: line_at(error.valid_up_to()),
    })?;
    if !text.ends_with('\n') {
        return Err(NarInfoError::Unterminated {
            line: line_at(bytes.len()),
        });
    }
    Ok(text)
}

/// Sorts the lines by field. Unknown fields are for other readers: their shape is checked, nothing else.
fn split(text: &str) -> Result<Lines<'_>, NarInfoError> {
    let mut lines = Lines::default();
    for (index, content) in text.split_terminator('\n').enumerate() {
        let line = index + 1;
        let (name, rest) = content.split_once(':').ok_or(NarInfoError::NoColon { line })?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NarInfoError::BadFieldName { line });
        }
        let no_space = || NarInfoError::NoSpace {
            line,
            field: name.chars().take(32).collect(),
        };
        let value = rest.strip_prefix(' ').ok_or_else(no_space)?;
        let (field, slot) = match name {
            "StorePath" => ("StorePath", &mut lines.store_path),
            "URL" => ("URL", &mut lines.url),
            "Compression" => ("Compression", &mut lines.compression),
            "FileHash" => ("FileHash", &mut lines.file_hash),
            "FileSize" => ("FileSize", &mut lines.file_size),
            "NarHash" => ("NarHash", &mut lines.nar_hash),
            "NarSize" => ("NarSize", &mut lines.nar_size),
            "References" => ("References", &mut lines.references),
            "Deriver" => ("Deriver", &mut lines.deriver),
            "System" => ("System", &mut lines.system),
            "CA" => ("CA", &mut lines.ca),
            "Sig" => {
                lines.signature_lines += 1;
                if lines.signatures.len() < MAX_SIGNATURES {
                    lines.signatures.push((line, value));
                }
                continue;
            }
            _ => continue,
        };
        if slot.replace((line, value)).is_some() {
            return Err(NarInfoError::Duplicate { line, field });
        }
    }
    Ok(lines)
}

fn understand(lines: &Lines<'_>) -> Result<Fields, NarInfoError> {
    let (line, value) = required(lines.store_path, "StorePath")?;
    let store_path = StorePath::parse(value).map_err(|source| NarInfoError::StorePath { line, source })?;
    let (line, value) = required(lines.url, "URL")?;
    let url = value.parse().map_err(|source| NarInfoError::Url { line, source })?;
    let (line, value) = required(lines.nar_hash, "NarHash")?;
    let nar_hash = value.parse().map_err(|source| NarInfoError::Hash {
        line,
        field: "NarHash",
        source,
    })?;
    let (line, value) = required(lines.nar_size, "NarSize")?;
    let nar_size = number(line, "NarSize", value)?;
    if nar_size == 0 {
        return Err(NarInfoError::ZeroNarSize { line });
    }
    let compression = match lines.compression {
        None => Compression::Bzip2,
        Some((line, word)) => word
            .parse()
            .map_err(|source| NarInfoError::Compression { line, source })?,
    };
    let file_hash = lines
        .file_hash
        .map(|(line, value)| {
            value.parse().map_err(|source| NarInfoError::Hash {
                line,
                field: "FileHash",
                source,
            })
        })
        .transpose()?;
    let file_size = lines
        .file_size
        .map(|(line, value)| number(line, "FileSize", value))
        .transpose()?;
    let references = references(lines.references)?;
    Ok(Fields {
        deriver: deriver(lines.deriver)?,
        ca: ca(lines.ca, &store_path, &references)?,
        references,
        // Nix writes 0 where it does not know.
        download: Download {
            url,
            compression,
            file_hash,
            file_size: file_size.filter(|size| *size != 0),
        },
        store_path,
        nar_hash,
        nar_size,
    })
}

fn required<'a>(line: Option<Line<'a>>, field: &'static str) -> Result<Line<'a>, NarInfoError> {
    line.ok_or(NarInfoError::Missing { field })
}

/// Digits only: no sign, no space, no exponent.
fn number(line: usize, field: &'static str, value: &str) -> Result<u64, NarInfoError> {
    let error = NarInfoError::Number { line, field };
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error);
    }
    value.parse().map_err(|_| error)
}

fn references(line: Option<Line<'_>>) -> Result<Vec<StorePath>, NarInfoError> {
    let Some((line, value)) = line.filter(|(_, value)| !value.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut references = Vec::new();
    for (index, word) in value.split(' ').enumerate() {
        if word.is_empty() {
            return Err(NarInfoError::ReferenceSpacing { line });
        }
        if index == MAX_REFERENCES {
            return Err(NarInfoError::TooManyReferences { line });
        }
        let reference = StorePath::from_base_name(word);
        references.push(reference.map_err(|source| NarInfoError::Reference { line, index, source })?);
    }
    references.sort_unstable();
    match references.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(NarInfoError::DuplicateReference {
            line,
            reference: pair[0].base_name().to_owned(),
        }),
        None => Ok(references),
    }
}

fn deriver(line: Option<Line<'_>>) -> Result<Option<StorePath>, NarInfoError> {
    match line {
        None | Some((_, "unknown-deriver")) => Ok(None),
        Some((line, value)) => StorePath::from_base_name(value)
            .map(Some)
            .map_err(|source| NarInfoError::Deriver { line, source }),
    }
}

/// Checks that the address, which nobody signed, has a known shape and is this path's, and keeps the text. Nix leaves the
/// value empty for paths that are not content-addressed.
fn ca(line: Option<Line<'_>>, path: &StorePath, references: &[StorePath]) -> Result<Option<String>, NarInfoError> {
    let Some((line, value)) = line.filter(|(_, value)| !value.is_empty()) else {
        return Ok(None);
    };
    content_address::check(value, path, references).map_err(|source| NarInfoError::Ca { line, source })?;
    Ok(Some(value.to_owned()))
}
