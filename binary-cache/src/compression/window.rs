//! How much memory a compressed stream will ask its decoder for, read from the stream's own first bytes.
//! Never decides whether a stream is good: what cannot be read here is left for its decoder to refuse.

use super::Compression;

/// The window that every stream may have without saying so: `xz -6` and `zstd -19` take 8 MiB.
pub(crate) const ORDINARY_WINDOW: u64 = 8 << 20;
/// RFC 7932's largest window, which a brotli decoder may take whatever the stream begins with.
const BROTLI_WINDOW: u64 = 16 << 20;
/// The largest head that is looked at: an `.xz` block's has 1,024 bytes at most, behind 12 of its stream.
pub(crate) const LARGEST_HEAD: usize = 4 << 10;

/// What the beginning of a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// So many bytes, 0 for formats whose window is negligible.
    Bytes(u64),
    /// Its first member needs none, or it is malformed: later members may have an ordinary one.
    Unsaid,
    /// More of the stream is needed to tell.
    Undecided,
}

/// What the first member of a stream that begins with `head` needs.
pub(crate) fn window(compression: Compression, head: &[u8]) -> Window {
    match compression {
        // 32 KiB and 4 MB at most.
        Compression::None | Compression::Gzip | Compression::Bzip2 => Window::Bytes(0),
        Compression::Brotli => Window::Bytes(BROTLI_WINDOW),
        Compression::Zstd => decided(zstd(head), head),
        Compression::Xz => decided(xz(head), head),
        Compression::Lzma => decided(lzma(head), head),
    }
}

/// `None` from a format: the head ends too early.
fn decided(found: Option<Window>, head: &[u8]) -> Window {
    match found {
        Some(window) => window,
        None if head.len() >= LARGEST_HEAD => Window::Unsaid,
        None => Window::Undecided,
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// RFC 8878, 3.1.1: the frame header, behind skippable frames.
fn zstd(mut head: &[u8]) -> Option<Window> {
    loop {
        let magic = little_endian(head.get(..4)?);
        if magic == 0xfd2f_b528 {
            break;
        }
        if magic & 0xffff_fff0 != 0x184d_2a50 {
            return Some(Window::Unsaid);
        }
        let length = usize::try_from(little_endian(head.get(4..8)?)).ok()?;
        head = head.get(8_usize.checked_add(length)?..)?;
    }
    let descriptor = *head.get(4)?;
    if descriptor & 0x20 == 0 {
        let byte = *head.get(5)?;
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(Window::Bytes(base + base / 8 * u64::from(byte & 7)));
    }
    // A single segment: its window is its contents, whose size stands behind the dictionary's number.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, offset) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let size = head.get(5 + dictionary..5 + dictionary + length)?;
    Some(Window::Bytes(little_endian(size).saturating_add(offset)))
}

/// What one block of an `.xz` stream that begins with `head` takes while it is decoded ahead of its turn: its dictionary,
/// and its bytes before and after. `None` where it does not say how long it is, or begins later than `head` reaches.
pub(crate) fn block(head: &[u8]) -> Option<u64> {
    let Block { dictionary, sizes } = first_block(head)??;
    let (packed, unpacked) = sizes?;
    Some(dictionary?.saturating_add(packed).saturating_add(unpacked))
}

fn xz(head: &[u8]) -> Option<Window> {
    let dictionary = first_block(head)?.and_then(|block| block.dictionary);
    Some(dictionary.map_or(Window::Unsaid, Window::Bytes))
}

/// The header of a block.
#[derive(Default)]
struct Block {
    dictionary: Option<u64>,
    /// Compressed and uncompressed, where both are told.
    sizes: Option<(u64, u64)>,
}

/// The .xz file format 1.2.1, 2.1.1 and 3.1: the header of the first block, behind the stream's. `None`: the head ends too
/// early; `Some(None)`: there is no such block.
fn first_block(head: &[u8]) -> Option<Option<Block>> {
    if head.get(..6)? != b"\xfd7zXZ\0" {
        return Some(None);
    }
    let size = (usize::from(*head.get(12)?) + 1) * 4;
    if size == 4 {
        // The index: a stream without blocks.
        return Some(None);
    }
    Some(Some(read_block(head.get(12..12 + size)?)))
}

/// Whatever cannot be read is not told.
fn read_block(header: &[u8]) -> Block {
    const LZMA2: u64 = 0x21;
    let mut block = Block::default();
    let mut read = || {
        let flags = *header.get(1)?;
        let mut rest = header.get(2..)?;
        let packed = (flags & 0x40 != 0).then(|| variable(&mut rest));
        let unpacked = (flags & 0x80 != 0).then(|| variable(&mut rest));
        block.sizes = packed.flatten().zip(unpacked.flatten());
        for _filter in 0..=flags & 3 {
            let id = variable(&mut rest)?;
            let properties = usize::try_from(variable(&mut rest)?).ok()?;
            let (properties, behind) = rest.split_at_checked(properties)?;
            if id == LZMA2 {
                block.dictionary = Some(match *properties.first()? {
                    code @ 0..40 => (2 | u64::from(code & 1)) << (code / 2 + 11),
                    _ => u64::from(u32::MAX),
                });
                return Some(());
            }
            rest = behind;
        }
        None
    };
    let _told = read();
    block
}

/// A number of the .xz format, seven bits a byte; takes it off `bytes`.
fn variable(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The `.lzma` header: a byte of properties, then the size of the dictionary.
fn lzma(head: &[u8]) -> Option<Window> {
    Some(Window::Bytes(little_endian(head.get(1..5)?)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::compression::Encoder;

    fn packed(compression: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        encoder.write_all(&[7; 100_000]).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_with(window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(&[7; 100_000]).unwrap();
        encoder.finish().unwrap()
    }

    fn xz_with(dictionary: u32) -> Vec<u8> {
        use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
        let mut options = LzmaOptions::new_preset(6).unwrap();
        options.dict_size(dictionary);
        let mut filters = Filters::new();
        filters.x86().lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc64).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(b"x").unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_real_encoders_write_tells_the_window_that_they_were_told() {
        let single = zstd::bulk::compress(&[7; 70_000], 3).unwrap();
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd_with(21)].concat();
        for (case, compression, stream, wanted) in [
            ("2 MiB", Compression::Zstd, zstd_with(21), 2 << 20),
            ("128 MiB", Compression::Zstd, zstd_with(27), 128 << 20),
            ("one segment", Compression::Zstd, single, 70_000),
            ("behind a skippable frame", Compression::Zstd, skipped, 2 << 20),
            ("xz -6", Compression::Xz, packed(Compression::Xz), 8 << 20),
            ("xz behind another filter", Compression::Xz, xz_with(64 << 20), 64 << 20),
            ("a power and a half", Compression::Xz, xz_with(3 << 20), 3 << 20),
            ("lzma", Compression::Lzma, packed(Compression::Lzma), 8 << 20),
            ("gzip", Compression::Gzip, packed(Compression::Gzip), 0),
            ("brotli", Compression::Brotli, packed(Compression::Brotli), 16 << 20),
        ] {
            assert_eq!(window(compression, &stream), Window::Bytes(wanted), "{case}");
            // However the bytes arrive, nothing else is said on the way.
            for length in 0..stream.len().min(64) {
                let found = window(compression, &stream[..length]);
                assert!(
                    found == Window::Undecided || found == Window::Bytes(wanted),
                    "{case}: {found:?} at {length}"
                );
            }
        }
    }

    #[test]
    fn blocks_say_how_long_they_are_where_they_were_packed_on_several_cores() {
        let blocks = |size| {
            let mut options = liblzma::stream::MtStreamBuilder::new();
            let stream = options.threads(2).preset(6).block_size(size).encoder().unwrap();
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(&[7; 3_000_000]).unwrap();
            encoder.finish().unwrap()
        };
        let packed = blocks(1 << 20);
        let taken = block(&packed[..64]).unwrap();
        assert!((9 << 20..10 << 20).contains(&taken), "{taken}");
        assert_eq!(window(Compression::Xz, &packed), Window::Bytes(8 << 20));
        assert_eq!(block(&packed[..16]), None, "too early");
        assert_eq!(block(&self::packed(Compression::Xz)), None, "packed on one core");
        assert_eq!(block(b"<!DOCTYPE html>"), None);
    }

    #[test]
    fn what_cannot_be_told_is_left_to_the_decoder_and_asked_for_only_so_long() {
        let mut empty = Encoder::new(Compression::Xz, Vec::new()).unwrap().finish().unwrap();
        empty.extend(xz_with(64 << 20));
        assert_eq!(window(Compression::Xz, &empty), Window::Unsaid);
        for compression in [Compression::Xz, Compression::Zstd] {
            assert_eq!(window(compression, b"<!DOCTYPE html>"), Window::Unsaid);
        }
        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 1, 0];
        assert_eq!(window(Compression::Zstd, &skippable), Window::Undecided);
        skippable.resize(LARGEST_HEAD, 0);
        assert_eq!(window(Compression::Zstd, &skippable), Window::Unsaid);
    }
}
