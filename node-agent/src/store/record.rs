//! The record of a layer: the narinfo it was accepted on, and a checksum that a cut or zeroed file does not survive.
//! Never says more than the narinfo did, and is never a reason to trust it: for that, verify it against keys again.

use binary_cache::{
    hash::{FileHash, NarHash},
    key::KeyRing,
    narinfo::{NarInfo, NarInfoError, TrustError, VerifiedNarInfo},
};
use crds::domain::store_path::StorePath;
use sha2::{Digest, Sha256};

/// The last line's field. A reader of narinfos passes over fields it does not know.
const CHECKSUM: &str = "CudaenvRecord: ";

/// What the store knows about one store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    narinfo: NarInfo,
}

/// Why the bytes of a record are not believed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("no checksum at its end: cut short?")]
    NoChecksum,
    #[error("checksum {written} does not fit the contents ({found})")]
    Checksum { written: String, found: FileHash },
    #[error("not a narinfo")]
    NarInfo(#[source] NarInfoError),
    #[error("it is about {found}")]
    WrongPath { found: StorePath },
}

impl Record {
    /// The bytes of the record of a verified narinfo.
    pub fn seal(narinfo: &VerifiedNarInfo) -> Vec<u8> {
        let text = narinfo.text();
        format!("{text}{CHECKSUM}{}\n", checksum(text.as_bytes())).into_bytes()
    }

    /// Reads a record; anything but the bytes that were written is an error.
    pub fn unseal(bytes: &[u8]) -> Result<Self, RecordError> {
        let line = bytes.strip_suffix(b"\n").ok_or(RecordError::NoChecksum)?;
        let start = line.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let written = line[start..]
            .strip_prefix(CHECKSUM.as_bytes())
            .ok_or(RecordError::NoChecksum)?;
        let found = checksum(&bytes[..start]);
        if written != found.to_string().as_bytes() {
            let written = String::from_utf8_lossy(written).chars().take(100).collect();
            return Err(RecordError::Checksum { written, found });
        }
        let narinfo = NarInfo::parse(&bytes[..start]).map_err(RecordError::NarInfo)?;
        Ok(Self { narinfo })
    }

    /// The store path it is about.
    pub fn path(&self) -> &StorePath {
        &self.narinfo.fields().store_path
    }

    /// The hash that the layer's files were accepted on.
    pub fn nar_hash(&self) -> NarHash {
        self.narinfo.fields().nar_hash
    }

    /// Bytes of the NAR.
    pub fn nar_size(&self) -> u64 {
        self.narinfo.fields().nar_size
    }

    /// The store paths it refers to, sorted; may contain itself.
    pub fn references(&self) -> &[StorePath] {
        &self.narinfo.fields().references
    }

    /// The proof, held against `keys` once more: that somebody trusted it once is no reason to trust it here.
    pub fn verify(self, keys: &KeyRing) -> Result<VerifiedNarInfo, TrustError> {
        let path = self.path().clone();
        self.narinfo.verify(&path, keys)
    }
}

fn checksum(text: &[u8]) -> FileHash {
    FileHash::from(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use binary_cache::{
        compression::Compression,
        key::SecretKey,
        narinfo::{Download, Fields},
    };

    use super::*;

    fn verified() -> VerifiedNarInfo {
        let path = StorePath::parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools").unwrap();
        let key = SecretKey::from_seed("test-1", &[7; 32]).unwrap();
        let mut narinfo = NarInfo::new(Fields {
            store_path: path.clone(),
            nar_hash: NarHash::from_bytes([3; 32]),
            nar_size: 120,
            references: vec![path.clone()],
            deriver: None,
            ca: None,
            download: Download {
                url: "nar/x.nar".parse().unwrap(),
                compression: Compression::None,
                file_hash: None,
                file_size: None,
            },
        });
        narinfo.sign(&key);
        narinfo
            .verify(&path, &KeyRing::new(vec![key.public_key()]).unwrap())
            .unwrap()
    }

    #[test]
    fn a_record_comes_back_and_verifies_against_keys_again() {
        let narinfo = verified();
        let record = Record::unseal(&Record::seal(&narinfo)).unwrap();
        assert_eq!((record.path(), record.nar_size()), (narinfo.store_path(), 120));
        let right = SecretKey::from_seed("test-1", &[7; 32]).unwrap();
        let wrong = SecretKey::from_seed("test-1", &[8; 32]).unwrap();
        let ring = |key: &SecretKey| KeyRing::new(vec![key.public_key()]).unwrap();
        assert_eq!(
            record.clone().verify(&ring(&right)).unwrap().nar_hash(),
            narinfo.nar_hash()
        );
        record.verify(&ring(&wrong)).unwrap_err();
    }

    #[test]
    fn no_cut_no_zeroes_and_no_flipped_bit_survive() {
        let whole = Record::seal(&verified());
        for end in 0..whole.len() {
            assert!(Record::unseal(&whole[..end]).is_err(), "cut at {end}");
            let mut zeroed = whole.clone();
            zeroed[end..].fill(0);
            assert!(Record::unseal(&zeroed).is_err(), "zeroed from {end}");
            let mut flipped = whole.clone();
            flipped[end] ^= 1;
            assert!(Record::unseal(&flipped).is_err(), "bit flipped at {end}");
        }
        Record::unseal(&whole).unwrap();
    }
}
