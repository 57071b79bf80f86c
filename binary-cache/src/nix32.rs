//! Nix's base 32: the spelling of hashes in store paths and narinfos.
//! Never decodes two spellings to one value: padding bits must be zero, the length must be exact.

use crds::domain::store_path::NIX_BASE32;

/// Why a text is no base-32 spelling of the wanted number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nix32Error {
    #[error("{found} characters where {wanted} are wanted")]
    Length { wanted: usize, found: usize },
    #[error("character {position} is not of Nix's base 32 (digits and letters without e, o, u, t)")]
    Character { position: usize },
    #[error("bits beyond the last byte are set")]
    Padding,
}

/// Characters that `bytes` bytes take.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Spells `bytes` in Nix's base 32: least significant digit last, bytes little-endian (Nix, `base-nix-32.cc`).
pub fn encode(bytes: &[u8]) -> String {
    (0..encoded_len(bytes.len()))
        .rev()
        .map(|digit| char::from(NIX_BASE32[digit_of(bytes, digit)]))
        .collect()
}

/// The five bits of `bytes` from bit `5 * digit` on.
fn digit_of(bytes: &[u8], digit: usize) -> usize {
    let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
    let low = u16::from(bytes[byte]);
    let high = bytes.get(byte + 1).copied().map_or(0, u16::from);
    usize::from(((high << 8 | low) >> shift) & 0x1f)
}

/// Reads back what [`encode`] spells; exactly `N` bytes.
pub fn decode<const N: usize>(text: &str) -> Result<[u8; N], Nix32Error> {
    let wanted = encoded_len(N);
    if text.len() != wanted {
        return Err(Nix32Error::Length {
            wanted,
            found: text.len(),
        });
    }
    let mut bytes = [0u8; N];
    for (digit, character) in text.bytes().rev().enumerate() {
        let position = wanted - digit;
        let value = NIX_BASE32
            .iter()
            .position(|known| *known == character)
            .and_then(|value| u16::try_from(value).ok())
            .ok_or(Nix32Error::Character { position })?;
        let (byte, shift) = (digit * 5 / 8, digit * 5 % 8);
        let [low, high] = (value << shift).to_le_bytes();
        bytes[byte] |= low;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= high,
            None if high != 0 => return Err(Nix32Error::Padding),
            None => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of the empty string, a published value.
    const EMPTY_SHA256: [u8; 32] = [
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
        0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ];
    const EMPTY_NIX32: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn the_hash_of_nothing_is_spelled_as_nix_spells_it() {
        assert_eq!(encode(&EMPTY_SHA256), EMPTY_NIX32);
        assert_eq!(decode::<32>(EMPTY_NIX32).unwrap(), EMPTY_SHA256);
    }

    #[test]
    fn whatever_has_a_second_spelling_is_refused() {
        assert_eq!(
            decode::<32>(&EMPTY_NIX32[1..]),
            Err(Nix32Error::Length { wanted: 52, found: 51 })
        );
        assert_eq!(
            decode::<32>(&format!("{EMPTY_NIX32}0")),
            Err(Nix32Error::Length { wanted: 52, found: 53 })
        );
        for odd in ["e", "o", "u", "t", "A", "-"] {
            let text = format!("{odd}{}", &EMPTY_NIX32[1..]);
            assert_eq!(decode::<32>(&text), Err(Nix32Error::Character { position: 1 }), "{odd}");
        }
        assert_eq!(
            decode::<32>(&format!("2{}", &EMPTY_NIX32[1..])),
            Err(Nix32Error::Padding)
        );
        decode::<32>(&format!("1{}", &EMPTY_NIX32[1..])).unwrap();
    }

    proptest::proptest! {
        #[test]
        fn every_value_has_one_spelling(bytes: [u8; 20]) {
            let text = encode(&bytes);
            proptest::prop_assert_eq!(text.len(), 32);
            proptest::prop_assert_eq!(decode::<20>(&text).unwrap(), bytes);
        }
    }
}
