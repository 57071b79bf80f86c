//! Writes `/etc/ld.so.cache` files as glibc does, for tests of what reads them.
//! Must never share code with the reader: offsets are counted here a second time.

/// Flags of an entry for the 64-bit library of each architecture, and for i386.
pub(crate) const X86_64: u32 = 0x0303;
pub(crate) const AARCH64: u32 = 0x0a03;
pub(crate) const I386: u32 = 0x0003;

/// A cache with these entries: flags, soname, path.
pub(crate) fn cache(entries: &[(u32, &str, &str)]) -> Vec<u8> {
    let mut strings = Vec::new();
    let mut table = Vec::new();
    let first = 48 + 24 * entries.len();
    for (flags, soname, path) in entries {
        table.extend(flags.to_le_bytes());
        for text in [soname, path] {
            table.extend(u32::try_from(first + strings.len()).unwrap().to_le_bytes());
            strings.extend(text.bytes().chain([0]));
        }
        table.extend([0; 12]);
    }
    let mut bytes = b"glibc-ld.so.cache1.1".to_vec();
    bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(strings.len()).unwrap().to_le_bytes());
    bytes.extend([2, 0, 0, 0]);
    bytes.extend([0; 16]);
    bytes.extend(table);
    bytes.extend(strings);
    bytes
}

/// The same behind a table of the old format with `count` entries, as glibc wrote it before 2.32.
pub(crate) fn behind_old(count: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = b"ld.so-1.7.0\0".to_vec();
    bytes.extend(u32::try_from(count).unwrap().to_le_bytes());
    bytes.extend(std::iter::repeat_n(7, 12 * count));
    while !bytes.len().is_multiple_of(8) {
        bytes.push(0);
    }
    bytes.extend(new);
    bytes
}
