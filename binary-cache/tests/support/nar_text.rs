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

/// A NAR of a directory with one entry of this name, a file.
pub(crate) fn entry_named(name: &[u8]) -> Vec<u8> {
    [
        nar("( type directory entry ( name"),
        token(name),
        words("node ( type regular contents x ) ) )"),
    ]
    .concat()
}

/// A NAR of a directory with these entries in this order, all files.
pub(crate) fn entries_named(names: &[&[u8]]) -> Vec<u8> {
    let entries = names.iter().flat_map(|name| {
        [
            words("entry ( name"),
            token(name),
            words("node ( type regular contents x ) )"),
        ]
        .concat()
    });
    nar("( type directory")
        .into_iter()
        .chain(entries)
        .chain(words(")"))
        .collect()
}

/// A NAR of a symbolic link.
pub(crate) fn link_to(target: &[u8]) -> Vec<u8> {
    [nar("( type symlink target"), token(target), words(")")].concat()
}

/// A NAR of `depth` directories inside each other, and a file in the innermost.
pub(crate) fn nested(depth: usize) -> Vec<u8> {
    let mut text = "( type directory entry ( name d node ".repeat(depth);
    text += "( type regular contents x )";
    text += &" ) )".repeat(depth);
    nar(&text)
}
