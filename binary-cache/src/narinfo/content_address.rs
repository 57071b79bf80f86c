//! Content addresses (`CA`): their shape, and the store path that each belongs to (Nix manual, "Complete Store Path
//! Calculation").
//! Never a reason to trust: what agrees here is still nobody's word.

use crds::domain::store_path::{STORE_DIR, StorePath};
use sha2::{Digest as _, Sha256};

use super::CaError;
use crate::nix32;

/// How a path was made of its contents.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// `text:`: a file that Nix wrote, such as a recipe.
    Text,
    /// `fixed:`: a file by the hash of its bytes.
    Flat,
    /// `fixed:r:`: a tree by the hash of its NAR.
    Nar,
    /// `fixed:git:`: a tree by its Git hash.
    Git,
}

/// Checks the shape `text:sha256:…` or `fixed:[r:|git:]<algorithm>:…`, and that what has this address, this name and these
/// references, sorted, is `path`.
pub(super) fn check(address: &str, path: &StorePath, references: &[StorePath]) -> Result<(), CaError> {
    let (method, hash) = match address.split_once(':') {
        Some(("text", hash)) => (Method::Text, hash),
        Some(("fixed", rest)) => match (rest.strip_prefix("r:"), rest.strip_prefix("git:")) {
            (Some(hash), _) => (Method::Nar, hash),
            (None, Some(hash)) => (Method::Git, hash),
            (None, None) => (Method::Flat, rest),
        },
        _ => return Err(CaError::Method),
    };
    let (algorithm, digest) = hash.split_once(':').ok_or(CaError::Algorithm)?;
    let digest = match algorithm {
        "md5" => nix32::decode::<16>(digest).map(hexadecimal),
        "sha1" => nix32::decode::<20>(digest).map(hexadecimal),
        "sha256" | "blake3" => nix32::decode::<32>(digest).map(hexadecimal),
        "sha512" => nix32::decode::<64>(digest).map(hexadecimal),
        _ => return Err(CaError::Algorithm),
    };
    let digest = digest.map_err(|_| CaError::Digest)?;
    let made = match (method, algorithm) {
        (Method::Text, "sha256") => {
            // Such a file cannot hold its own name: its hash would have to be known before it is written.
            if references.contains(path) {
                return Err(CaError::References);
            }
            hash_part(&kind("text", Some(path), references), &digest, path.name())
        }
        (Method::Text, _) => return Err(CaError::Algorithm),
        (Method::Nar, "sha256") => hash_part(&kind("source", Some(path), references), &digest, path.name()),
        (Method::Flat | Method::Nar | Method::Git, _) => {
            if !references.is_empty() {
                return Err(CaError::References);
            }
            let prefix = match method {
                Method::Nar => "r:",
                Method::Git => "git:",
                Method::Flat | Method::Text => "",
            };
            let inner = Sha256::digest(format!("fixed:out:{prefix}{algorithm}:{digest}:"));
            hash_part("output:out", &hexadecimal(inner), path.name())
        }
    };
    if made == path.hash() {
        Ok(())
    } else {
        Err(CaError::OtherPath { made: made.into() })
    }
}

/// A kind of path with what it refers to, sorted: `source:/nix/store/…:/nix/store/…`, and `:self` where that is `own`.
pub(crate) fn kind(kind: &str, own: Option<&StorePath>, references: &[StorePath]) -> String {
    let mut text = kind.to_owned();
    for reference in references.iter().filter(|reference| Some(*reference) != own) {
        text.extend([":", STORE_DIR, "/", reference.base_name()]);
    }
    if own.is_some_and(|own| references.contains(own)) {
        text.push_str(":self");
    }
    text
}

/// The hash of the store path of this kind and name, whose contents have this SHA-256 in base 16.
pub(crate) fn hash_part(kind: &str, sha256: &str, name: &str) -> String {
    let whole = Sha256::digest(format!("{kind}:sha256:{sha256}:{STORE_DIR}:{name}"));
    let mut folded = [0_u8; 20];
    for (index, byte) in whole.iter().enumerate() {
        folded[index % 20] ^= byte;
    }
    nix32::encode(&folded)
}

pub(crate) fn hexadecimal(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
