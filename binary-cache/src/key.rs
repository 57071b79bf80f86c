//! Ed25519 keys and signatures in Nix's spelling `name:base64`.
//! Never prints a secret key, not even one that was pasted where a public key belongs.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroize;

/// Longest key name accepted: names are words like `cache.example.org-1`.
pub const MAX_NAME_LEN: usize = 256;

/// Why the name before the colon is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyNameError {
    #[error("no colon between name and base64")]
    NoColon,
    #[error("empty name")]
    Empty,
    #[error("name longer than {MAX_NAME_LEN} characters")]
    TooLong,
    #[error("name has a space, a control character, or one outside ASCII, at position {position}")]
    Character { position: usize },
}

/// Why a text is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("signature without a good key name")]
    Name(#[source] KeyNameError),
    #[error("signature is not padded base64")]
    Base64,
    #[error("signature of {found} bytes; Ed25519 signatures have 64")]
    Length { found: usize },
}

/// Why a text is no public key to trust. Names at most the key's name: the rest may be a secret pasted by mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    #[error("public key without a good name")]
    Name(#[source] KeyNameError),
    #[error("public key `{name}` is not padded base64")]
    Base64 { name: String },
    #[error("`{name}` is a SECRET key; it is now exposed: make a new pair, and configure the public half (32 bytes)")]
    IsSecretKey { name: String },
    #[error("public key `{name}` has {found} bytes; Ed25519 public keys have 32")]
    Length { name: String, found: usize },
    #[error("public key `{name}` is no point of the curve")]
    NotAPoint { name: String },
    #[error("public key `{name}` is not spelled canonically")]
    NotCanonical { name: String },
    #[error("public key `{name}` has low order: anyone can sign for it")]
    LowOrder { name: String },
}

/// Why a text is no secret key. Carries nothing of the key but its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretKeyError {
    #[error("secret key without a good name")]
    Name(#[source] KeyNameError),
    #[error("secret key `{name}` is not padded base64")]
    Base64 { name: String },
    #[error("secret key `{name}` has {found} bytes; Nix's secret keys have 64, private and public half")]
    Length { name: String, found: usize },
    #[error("the two halves of secret key `{name}` do not belong together")]
    Halves { name: String },
}

/// Why a list of keys is no key ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    #[error("no public key: trusting a cache without one is not possible")]
    Empty,
    #[error("public key number {} is not usable", index + 1)]
    Key {
        /// Position in the list, from 0; people read it from 1.
        index: usize,
        source: PublicKeyError,
    },
}

/// A public key that may be trusted: a good point of the curve, canonically spelled, not of low order.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: Box<str>,
    key: VerifyingKey,
}

impl PublicKey {
    /// What signatures by this key are labelled with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `signature` is this key's signature of `message`. Strict: no malleable and no small-order signature.
    /// The name in the signature is not looked at.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.key
            .verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.bytes))
            .is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;
    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let (name, encoded) = split_name(text).map_err(PublicKeyError::Name)?;
        let owned = || name.to_owned();
        let mut buffer = [0u8; DECODE_BUFFER];
        let length = decode(encoded, &mut buffer);
        let bytes: Result<[u8; 32], _> = match length {
            None => Err(PublicKeyError::Base64 { name: owned() }),
            Some(64) => Err(PublicKeyError::IsSecretKey { name: owned() }),
            Some(found) => buffer[..found]
                .try_into()
                .map_err(|_| PublicKeyError::Length { name: owned(), found }),
        };
        buffer.zeroize();
        let bytes = bytes?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| PublicKeyError::NotAPoint { name: owned() })?;
        if key.is_weak() {
            return Err(PublicKeyError::LowOrder { name: owned() });
        }
        if key.to_edwards().compress().to_bytes() != bytes {
            return Err(PublicKeyError::NotCanonical { name: owned() });
        }
        Ok(Self { name: name.into(), key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, STANDARD.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys that a cache is trusted by: at least one, several may have one name (a rotation that kept it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<PublicKey>,
}

impl KeyRing {
    /// Takes at least one key.
    pub fn new(keys: Vec<PublicKey>) -> Result<Self, KeyRingError> {
        if keys.is_empty() {
            Err(KeyRingError::Empty)
        } else {
            Ok(Self { keys })
        }
    }

    /// Parses every text as a public key; the error names the first that is none.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, KeyRingError> {
        let keys = texts.into_iter().enumerate().map(|(index, text)| {
            text.as_ref()
                .parse()
                .map_err(|source| KeyRingError::Key { index, source })
        });
        Self::new(keys.collect::<Result<_, _>>()?)
    }

    /// Every key, as configured.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// The keys of this name: none, one, or several to try.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a PublicKey> {
        self.keys.iter().filter(move |key| key.name() == name)
    }
}

/// A signature as a narinfo's `Sig` line carries it: by whom it says it is, and 64 bytes. Says nothing before
/// [`PublicKey::verifies`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    key_name: Box<str>,
    bytes: [u8; 64],
}

impl Signature {
    /// Name of the key that is said to have signed.
    pub fn key_name(&self) -> &str {
        &self.key_name
    }
}

impl FromStr for Signature {
    type Err = SignatureError;
    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, encoded) = split_name(text).map_err(SignatureError::Name)?;
        let mut buffer = [0u8; DECODE_BUFFER];
        let found = decode(encoded, &mut buffer).ok_or(SignatureError::Base64)?;
        let bytes = buffer[..found]
            .try_into()
            .map_err(|_| SignatureError::Length { found })?;
        Ok(Self {
            key_name: name.into(),
            bytes,
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key_name, STANDARD.encode(self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret key in Nix's format (`nix-store --generate-binary-cache-key`), for writing a cache. Wiped when dropped.
pub struct SecretKey {
    name: Box<str>,
    key: SigningKey,
}

impl SecretKey {
    /// Makes the key that a 32-byte seed stands for. `seed` must come from the system's random source.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, SecretKeyError> {
        check_name(name).map_err(SecretKeyError::Name)?;
        Ok(Self {
            name: name.into(),
            key: SigningKey::from_bytes(seed),
        })
    }

    /// What its signatures are labelled with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The half to hand out.
    pub fn public_key(&self) -> PublicKey {
        PublicKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs `message` (for a narinfo: its fingerprint).
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature {
            key_name: self.name.clone(),
            bytes: self.key.sign(message).to_bytes(),
        }
    }
}

impl FromStr for SecretKey {
    type Err = SecretKeyError;
    fn from_str(text: &str) -> Result<Self, SecretKeyError> {
        let (name, encoded) = split_name(text.trim_end_matches('\n')).map_err(SecretKeyError::Name)?;
        let mut buffer = [0u8; DECODE_BUFFER];
        let key = match decode(encoded, &mut buffer) {
            None => Err(SecretKeyError::Base64 { name: name.to_owned() }),
            Some(64) => <&[u8; 64]>::try_from(&buffer[..64])
                .ok()
                .and_then(|pair| SigningKey::from_keypair_bytes(pair).ok())
                .ok_or_else(|| SecretKeyError::Halves { name: name.to_owned() }),
            Some(found) => Err(SecretKeyError::Length {
                name: name.to_owned(),
                found,
            }),
        };
        buffer.zeroize();
        Ok(Self {
            name: name.into(),
            key: key?,
        })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}:…)", self.name)
    }
}

/// Longer than anything valid, so that a wrong length can be told from bad base64.
const DECODE_BUFFER: usize = 192;

/// Decodes padded base64 into `buffer` and says how many bytes there were; `None` for anything else, or for too much.
fn decode(encoded: &str, buffer: &mut [u8; DECODE_BUFFER]) -> Option<usize> {
    STANDARD.decode_slice(encoded, buffer).ok()
}

fn split_name(text: &str) -> Result<(&str, &str), KeyNameError> {
    let (name, rest) = text.split_once(':').ok_or(KeyNameError::NoColon)?;
    check_name(name)?;
    Ok((name, rest))
}

fn check_name(name: &str) -> Result<(), KeyNameError> {
    if name.is_empty() {
        return Err(KeyNameError::Empty);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(KeyNameError::TooLong);
    }
    match name.bytes().position(|byte| !byte.is_ascii_graphic() || byte == b':') {
        Some(position) => Err(KeyNameError::Character { position }),
        None => Ok(()),
    }
}
