//! Narinfo: what a cache says about one store path, and how that becomes trusted.
//! Never lets an unsigned field decide anything but how to download; never makes a [`VerifiedNarInfo`] without a good
//! signature by a configured key.
//!
//! A content-addressed path (`CA`) gets no exception: Nix would take one without a signature where the path recomputes
//! from its contents, but that proves only what the path is, not who vouches for it, and an environment's key list is
//! meant to say who may put code into pods. So `CA` must be right where it is there, and makes nothing trusted.

pub(crate) mod content_address;
mod error;
mod parse;
mod trust;
mod url;

use crds::domain::store_path::{STORE_DIR, StorePath};

pub use self::error::{CaError, NarInfoError};
pub use self::trust::{TrustError, VerifiedNarInfo};
pub use self::url::{DownloadUrl, UrlError};
use crate::{
    compression::Compression,
    hash::{FileHash, NarHash},
    key::{SecretKey, Signature, SignatureError},
};

/// Largest narinfo accepted, in bytes. Real ones have one or two thousand; 10,000 references fit.
pub const MAX_SIZE: usize = 1 << 20;
/// Most references accepted.
pub const MAX_REFERENCES: usize = 100_000;
/// Most `Sig` lines that are looked at.
pub const MAX_SIGNATURES: usize = 64;

/// What the signatures of a narinfo cover, and what else it says. Of itself, no reason to trust any of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    fields: Fields,
    signatures: Vec<Signature>,
    malformed_signatures: Vec<MalformedSignature>,
    /// `Sig` lines in all, looked at or not.
    signature_lines: usize,
    text: Box<str>,
}

/// The contents of a narinfo except for its signatures: what a writer of a cache fills in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub store_path: StorePath,
    pub nar_hash: NarHash,
    /// Bytes of the NAR; never 0.
    pub nar_size: u64,
    /// Sorted, each once; may contain `store_path` itself.
    pub references: Vec<StorePath>,
    pub deriver: Option<StorePath>,
    /// A content address, which was this path's where the narinfo was read; makes nothing trusted.
    pub ca: Option<String>,
    pub download: Download,
}

/// How to get the NAR: hints only, signed by nobody. Whoever answers for the cache may write anything here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub url: DownloadUrl,
    pub compression: Compression,
    pub file_hash: Option<FileHash>,
    /// Bytes of the compressed file.
    pub file_size: Option<u64>,
}

/// A `Sig` line that is no signature; it does not hide a good one beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedSignature {
    /// Line of the narinfo, from 1.
    pub line: usize,
    pub error: SignatureError,
}

impl NarInfo {
    /// Reads a narinfo as a cache serves it.
    pub fn parse(bytes: &[u8]) -> Result<Self, NarInfoError> {
        parse::parse(bytes)
    }

    /// Makes an unsigned narinfo to publish; sorts the references and drops doubled ones.
    pub fn new(mut fields: Fields) -> Self {
        fields.references.sort_unstable();
        fields.references.dedup();
        let text = to_text(&fields, &[]).into();
        Self {
            fields,
            signatures: Vec::new(),
            malformed_signatures: Vec::new(),
            signature_lines: 0,
            text,
        }
    }

    /// Adds a signature by `key`.
    pub fn sign(&mut self, key: &SecretKey) {
        self.signatures.push(key.sign(self.fingerprint().as_bytes()));
        self.signature_lines += 1;
        self.text = to_text(&self.fields, &self.signatures).into();
    }

    /// What it says, trusted or not. To act on it, [`NarInfo::verify`] it.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The text as parsed, or as it is to be published.
    pub fn to_text(&self) -> &str {
        &self.text
    }

    /// What signatures sign: store path, hash and size of the NAR, and the sorted references, all in absolute form.
    pub fn fingerprint(&self) -> String {
        let Fields {
            store_path,
            nar_hash,
            nar_size,
            references,
            ..
        } = &self.fields;
        let mut text = format!("1;{store_path};{nar_hash};{nar_size};");
        for (index, reference) in references.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.extend([STORE_DIR, "/", reference.base_name()]);
        }
        text
    }
}

/// Writes a narinfo in Nix's order of fields.
fn to_text(fields: &Fields, signatures: &[Signature]) -> String {
    let Fields {
        store_path,
        nar_hash,
        nar_size,
        references,
        deriver,
        ca,
        download,
    } = fields;
    let Download {
        url,
        compression,
        file_hash,
        file_size,
    } = download;
    let mut lines = vec![
        format!("StorePath: {store_path}"),
        format!("URL: {url}"),
        format!("Compression: {compression}"),
    ];
    lines.extend(file_hash.map(|hash| format!("FileHash: {hash}")));
    lines.extend(file_size.map(|size| format!("FileSize: {size}")));
    lines.push(format!("NarHash: {nar_hash}"));
    lines.push(format!("NarSize: {nar_size}"));
    let names: Vec<&str> = references.iter().map(StorePath::base_name).collect();
    lines.push(format!("References: {}", names.join(" ")));
    lines.extend(
        deriver
            .as_ref()
            .map(|deriver| format!("Deriver: {}", deriver.base_name())),
    );
    lines.extend(signatures.iter().map(|signature| format!("Sig: {signature}")));
    lines.extend(ca.as_ref().map(|ca| format!("CA: {ca}")));
    lines.push(String::new());
    lines.join("\n")
}
