//! SHA-256 hashes as narinfos carry them.
//! Never accepts a weaker algorithm, and never confuses the hash of a NAR with the hash of a downloaded file.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::nix32::{self, Nix32Error};

/// Why a text is no SHA-256 hash in one of the three spellings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("no algorithm: a hash reads `sha256:<nix32 or hex>` or `sha256-<base64>`")]
    NoAlgorithm,
    #[error("`{0}` is too weak or not in use for NARs; only sha256 is accepted")]
    RefusedAlgorithm(&'static str),
    #[error("unknown hash algorithm; only sha256 is accepted")]
    UnknownAlgorithm,
    #[error("{found} characters: SHA-256 takes 52 in Nix's base 32 or 64 in hexadecimal")]
    Length { found: usize },
    #[error("not Nix's base 32")]
    Nix32(#[source] Nix32Error),
    #[error("character {position} is not lower-case hexadecimal")]
    Hex { position: usize },
    #[error("not the base64 of 32 bytes")]
    Base64,
}

macro_rules! sha256_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the 32 bytes of a SHA-256 digest.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The digest itself.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<$crate::hash::Digest> for $name {
            fn from(digest: $crate::hash::Digest) -> Self {
                Self(digest.into())
            }
        }

        /// Reads `sha256:<nix32>`, `sha256:<hex>` or `sha256-<base64>`.
        impl FromStr for $name {
            type Err = HashError;
            fn from_str(text: &str) -> Result<Self, HashError> {
                parse_sha256(text).map(Self)
            }
        }

        /// `sha256:<nix32>`: the spelling that signatures cover.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", nix32::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// What `sha2::Sha256` produces.
pub type Digest = sha2::digest::Output<sha2::Sha256>;

sha256_newtype! {
    /// SHA-256 of a NAR: signed, and what identifies the contents of a store path.
    NarHash
}
sha256_newtype! {
    /// SHA-256 of a file as downloaded, compressed: unsigned, good only to notice a bad download early.
    FileHash
}

fn parse_sha256(text: &str) -> Result<[u8; 32], HashError> {
    let at = text.find([':', '-']).ok_or(HashError::NoAlgorithm)?;
    let (algorithm, digest) = (&text[..at], &text[at + 1..]);
    match algorithm {
        "sha256" if text.as_bytes()[at] == b'-' => parse_base64(digest),
        "sha256" => match digest.len() {
            52 => nix32::decode(digest).map_err(HashError::Nix32),
            64 => parse_hex(digest),
            found => Err(HashError::Length { found }),
        },
        "md5" => Err(HashError::RefusedAlgorithm("md5")),
        "sha1" => Err(HashError::RefusedAlgorithm("sha1")),
        "sha512" => Err(HashError::RefusedAlgorithm("sha512")),
        "blake3" => Err(HashError::RefusedAlgorithm("blake3")),
        _ => Err(HashError::UnknownAlgorithm),
    }
}

fn parse_base64(digest: &str) -> Result<[u8; 32], HashError> {
    STANDARD
        .decode(digest)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(HashError::Base64)
}

fn parse_hex(digest: &str) -> Result<[u8; 32], HashError> {
    let mut bytes = [0u8; 32];
    for (index, character) in digest.bytes().enumerate() {
        let nibble = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => return Err(HashError::Hex { position: index + 1 }),
        };
        bytes[index / 2] = bytes[index / 2] << 4 | nibble;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIX32: &str = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn three_spellings_are_one_hash() {
        for text in [
            NIX32,
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(text.parse::<NarHash>().unwrap().to_string(), NIX32);
        }
    }

    #[test]
    fn other_algorithms_and_broken_spellings_are_refused_by_name() {
        for (text, want) in [
            (
                "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
                HashError::RefusedAlgorithm("md5"),
            ),
            (
                "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned(),
                HashError::RefusedAlgorithm("sha1"),
            ),
            (
                format!("sha512:{}", "0".repeat(103)),
                HashError::RefusedAlgorithm("sha512"),
            ),
            ("sha3:00".to_owned(), HashError::UnknownAlgorithm),
            (NIX32["sha256:".len()..].to_owned(), HashError::NoAlgorithm),
            (NIX32[..NIX32.len() - 1].to_owned(), HashError::Length { found: 51 }),
            (format!("sha256:{}", "A".repeat(64)), HashError::Hex { position: 1 }),
            (
                "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU".to_owned(),
                HashError::Base64,
            ),
            ("sha256-AAAA".to_owned(), HashError::Base64),
            (
                format!("sha256:{}e", &NIX32[7..58]),
                HashError::Nix32(Nix32Error::Character { position: 52 }),
            ),
        ] {
            assert_eq!(text.parse::<NarHash>(), Err(want), "{text}");
        }
    }
}
