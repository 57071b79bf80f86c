//! From a narinfo to a trusted one: the path that was asked for, signed by a key that is trusted.
//! Never counts a signature by its label: only the key that verifies it says who signed.

use crds::domain::store_path::StorePath;

use super::{Download, MAX_SIGNATURES, MalformedSignature, NarInfo};
use crate::{
    hash::NarHash,
    key::{KeyRing, Signature, SignatureError},
};

/// Why a narinfo is not trusted. Whoever tells it names the path that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("asked for `{asked}`, answered with `{answered}`")]
    OtherPath { asked: StorePath, answered: StorePath },
    #[error("asked for `{asked}`, answered with the same hash under another name: `{answered}`")]
    OtherName { asked: StorePath, answered: StorePath },
    #[error("{found} signatures; at most {MAX_SIGNATURES} are looked at")]
    TooManySignatures { path: StorePath, found: usize },
    #[error("not signed")]
    NoSignature { path: StorePath },
    #[error("signature {line} is none, and there is no good one")]
    MalformedSignature {
        path: StorePath,
        line: usize,
        source: SignatureError,
    },
    #[error("signed by keys that are not trusted here: {}", names.join(", "))]
    UntrustedKey { path: StorePath, names: Vec<String> },
    #[error("the signature labelled `{key}` is not by the trusted key of this name, or not of these contents")]
    BadSignature { path: StorePath, key: String },
}

/// A narinfo that a trusted key signed for the path that was asked for. [`NarInfo::verify`] is the only way to get one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedNarInfo {
    info: NarInfo,
    signed_by: Vec<String>,
}

/// Signatures by other keys, and malformed ones, that are kept of an accepted narinfo.
const OTHER_SIGNATURES: usize = 8;

impl NarInfo {
    /// Trusts this narinfo if it is about `asked` (hash and name) and at least one key of `keys` signed it.
    pub fn verify(self, asked: &StorePath, keys: &KeyRing) -> Result<VerifiedNarInfo, TrustError> {
        let answered = &self.fields.store_path;
        let (asked_owned, path) = (|| asked.clone(), || answered.clone());
        if answered.hash() != asked.hash() {
            return Err(TrustError::OtherPath {
                asked: asked_owned(),
                answered: path(),
            });
        }
        if answered != asked {
            return Err(TrustError::OtherName {
                asked: asked_owned(),
                answered: path(),
            });
        }
        if self.signature_lines > MAX_SIGNATURES {
            return Err(TrustError::TooManySignatures {
                path: path(),
                found: self.signature_lines,
            });
        }
        let fingerprint = self.fingerprint();
        let mut signed_by: Vec<String> = Vec::new();
        for signature in &self.signatures {
            let name = signature.key_name();
            let good = keys
                .named(name)
                .any(|key| key.verifies(fingerprint.as_bytes(), signature));
            if good && !signed_by.iter().any(|known| known == name) {
                signed_by.push(name.to_owned());
            }
        }
        if signed_by.is_empty() {
            return Err(self.why_untrusted(keys));
        }
        Ok(VerifiedNarInfo {
            info: self.canonical(&signed_by),
            signed_by,
        })
    }

    /// Without what nobody signed and nobody needs: a cache could make the text of each path a megabyte long, and it is kept in
    /// memory and on disk. Signatures by keys that are not trusted here stay, a few of them, for others who may trust them.
    fn canonical(mut self, signed_by: &[String]) -> Self {
        let is_good = |signature: &Signature| signed_by.iter().any(|name| name == signature.key_name());
        let (good, mut others): (Vec<_>, Vec<_>) = self.signatures.into_iter().partition(is_good);
        others.truncate(OTHER_SIGNATURES);
        self.signatures = good;
        self.signatures.append(&mut others);
        self.malformed_signatures.truncate(OTHER_SIGNATURES);
        self.signature_lines = self.signatures.len();
        self.fields.ca = None;
        self.text = super::to_text(&self.fields, &self.signatures).into();
        self
    }

    /// The most telling reason why none of the signatures is good.
    fn why_untrusted(&self, keys: &KeyRing) -> TrustError {
        let path = self.fields.store_path.clone();
        let names = || self.signatures.iter().map(|signature| signature.key_name().to_owned());
        if let Some(key) = names().find(|name| keys.named(name).next().is_some()) {
            return TrustError::BadSignature { path, key };
        }
        if !self.signatures.is_empty() {
            return TrustError::UntrustedKey {
                path,
                names: names().collect(),
            };
        }
        match self.malformed_signatures.first() {
            Some(&MalformedSignature { line, error }) => TrustError::MalformedSignature {
                path,
                line,
                source: error,
            },
            None => TrustError::NoSignature { path },
        }
    }
}

impl VerifiedNarInfo {
    /// The path that was asked for. Signed.
    pub fn store_path(&self) -> &StorePath {
        &self.info.fields.store_path
    }

    /// Hash that the NAR must have. Signed.
    pub fn nar_hash(&self) -> NarHash {
        self.info.fields.nar_hash
    }

    /// Bytes of the NAR. Signed.
    pub fn nar_size(&self) -> u64 {
        self.info.fields.nar_size
    }

    /// The paths this one needs, sorted, each once; may contain itself. Signed.
    pub fn references(&self) -> &[StorePath] {
        &self.info.fields.references
    }

    /// Names of the trusted keys whose signatures are good; at least one.
    pub fn signed_by(&self) -> &[String] {
        &self.signed_by
    }

    /// How to get the NAR: hints only, signed by nobody. Never decide with them whether contents are good.
    pub fn download(&self) -> &Download {
        &self.info.fields.download
    }

    /// The recipe it is said to come from. Unsigned.
    pub fn deriver(&self) -> Option<&StorePath> {
        self.info.fields.deriver.as_ref()
    }

    /// `Sig` lines that are no signatures; worth a warning about the cache.
    pub fn malformed_signatures(&self) -> &[MalformedSignature] {
        &self.info.malformed_signatures
    }

    /// What it was accepted on, in Nix's own form: to be kept, and verified again when it is read back.
    pub fn text(&self) -> &str {
        self.info.to_text()
    }
}
