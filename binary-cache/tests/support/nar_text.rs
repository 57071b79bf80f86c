//! NARs spelled out by hand for tests: one word, one token.
//! Never goes through the code under test.

/// The tokens of `text`, one per word; `''` is the empty token.
pub(crate) fn words(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .flat_map(|word| token(if word == "''" { b"" } else { word.as_bytes() }))
        .collect()
}

/// One token: length, bytes, zeros up to a multiple of eight.
pub(crate) fn token(bytes: &[u8]) -> Vec<u8> {
    let mut token = (bytes.len() as u64).to_le_bytes().to_vec();
    token.extend(bytes);
    token.resize(token.len().next_multiple_of(8), 0);
    token
}

/// A whole NAR whose root node has the tokens of `text`.
pub(crate) fn nar(text: &str) -> Vec<u8> {
    words(&format!("nix-archive-1 {text}"))
}
