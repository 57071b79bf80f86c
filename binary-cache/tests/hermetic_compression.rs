//! Every compression there and back, and streams that are cut, damaged, too greedy or not what they say.
//! Never needs an external compressor: hostile headers are spelled out here.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::fd::AsFd,
};

use binary_cache::{
    compression::{Compression, DecodeError, Encoder, MAX_WINDOW, decoder, parallel_decoder},
    nar::{self, Limits, NarError},
};

const COMPRESSED: [Compression; 6] = [
    Compression::Xz,
    Compression::Bzip2,
    Compression::Gzip,
    Compression::Brotli,
    Compression::Zstd,
    Compression::Lzma,
];

fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// All that comes out, and the decoder's error behind it: the same on one core and on several.
fn decode(compression: Compression, bytes: &[u8], max_window: u64) -> (Vec<u8>, Option<DecodeError>) {
    let [one, several] = [0, 1 << 20].map(|ahead| {
        let mut output = Vec::new();
        let result = parallel_decoder(compression, bytes, max_window, ahead)
            .unwrap()
            .read_to_end(&mut output);
        let error = result
            .err()
            .map(|error| DecodeError::of(&error).expect("a decoder's error").clone());
        (output, error)
    });
    assert_eq!(one.1, several.1, "{compression}");
    assert!(one.0 == several.0, "{compression}");
    several
}

fn good(case: &str, compression: Compression, bytes: &[u8], wanted: &[u8]) {
    let (output, error) = decode(compression, bytes, MAX_WINDOW);
    assert_eq!(error, None, "{case}, {compression}");
    assert!(output == wanted, "{case}, {compression}");
}

fn bad(case: &str, compression: Compression, bytes: &[u8]) -> DecodeError {
    decode(compression, bytes, MAX_WINDOW)
        .1
        .unwrap_or_else(|| panic!("{case}, {compression}: accepted"))
}

/// Neither constant nor incompressible, and not short.
fn sample() -> Vec<u8> {
    (0..60_000_u32)
        .flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 20).to_le_bytes())
        .collect()
}

/// A zstd frame's beginning: descriptor byte, then `rest`.
fn zstd_frame(descriptor: u8, rest: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd, descriptor][..], rest, &[0x01, 0, 0]].concat()
}

/// A skippable zstd frame.
fn skippable(length: u32) -> Vec<u8> {
    let mut frame = vec![0x50, 0x2a, 0x4d, 0x18];
    frame.extend(length.to_le_bytes());
    frame.resize(8 + length as usize, 0);
    frame
}

/// A `.lzma` header: properties, dictionary size, unknown length.
fn lzma_header(dictionary: u32) -> Vec<u8> {
    [&[0x5d][..], &dictionary.to_le_bytes(), &[0xff; 8], &[0; 64]].concat()
}

/// An `.xz` stream that asks for a dictionary of this code (`(2 | code & 1) << (code / 2 + 11)` bytes).
fn xz_with_dictionary(code: u8) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
            })
        })
    };
    let block = [0x02, 0x00, 0x21, 0x01, code, 0, 0, 0];
    let mut bytes = b"\xfd7zXZ\0\0\x04".to_vec();
    bytes.extend(crc(&[0, 4]).to_le_bytes());
    bytes.extend(block);
    bytes.extend(crc(&block).to_le_bytes());
    bytes.extend([0; 64]);
    bytes
}

#[test]
fn every_compression_gives_back_what_it_was_given() {
    let sample = sample();
    for compression in Compression::ALL {
        for bytes in [&sample[..], b"x", b""] {
            good("there and back", compression, &compress(compression, bytes), bytes);
        }
        assert_eq!(compression.as_str().parse(), Ok(compression));
    }
}

#[test]
fn streams_of_several_members_are_decoded_to_their_end() {
    for compression in [
        Compression::Xz,
        Compression::Bzip2,
        Compression::Gzip,
        Compression::Zstd,
    ] {
        let two = [
            compress(compression, b"one, "),
            compress(compression, b""),
            compress(compression, b"two"),
        ]
        .concat();
        good("H48", compression, &two, b"one, two");
        let tail = [&two[..], b"tail"].concat();
        assert!(matches!(
            bad("not a member", compression, &tail),
            DecodeError::Corrupt(_) | DecodeError::WrongFormat { .. } | DecodeError::Truncated(_)
        ));
    }
    for compression in [Compression::Brotli, Compression::Lzma] {
        let tail = [compress(compression, b"one"), b"tail".to_vec()].concat();
        assert_eq!(bad("tail", compression, &tail), DecodeError::TrailingBytes(compression));
    }
    let padded = [compress(Compression::Xz, b"one"), vec![0; 8]].concat();
    good("xz stream padding", Compression::Xz, &padded, b"one");
    let skipped = [skippable(100), compress(Compression::Zstd, b"one"), skippable(0)].concat();
    good("skippable frames", Compression::Zstd, &skipped, b"one");
}

/// An `.xz` stream of blocks that say how long they are, as packers on several cores write it.
fn blocks(bytes: &[u8], size: u64) -> Vec<u8> {
    let mut options = liblzma::stream::MtStreamBuilder::new();
    let stream = options.threads(2).preset(0).block_size(size).encoder().unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn blocks_are_decoded_on_several_cores_and_come_out_in_their_order() {
    let sample = sample();
    let whole = blocks(&sample, 20_000);
    good("blocks", Compression::Xz, &whole, &sample);
    let two = [&whole[..], &[0; 8], &compress(Compression::Xz, b"one core")].concat();
    good(
        "and another stream",
        Compression::Xz,
        &two,
        &[&sample[..], b"one core"].concat(),
    );
    for zeros in 1..4 {
        let odd = [&whole[..], &vec![0; zeros]].concat();
        bad("padding not of four", Compression::Xz, &odd);
    }
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 0x40;
    assert_eq!(
        bad("damaged", Compression::Xz, &damaged),
        DecodeError::Corrupt(Compression::Xz)
    );
    for at in [whole.len() / 3, whole.len() - 1] {
        assert_eq!(
            bad("cut", Compression::Xz, &whole[..at]),
            DecodeError::Truncated(Compression::Xz)
        );
    }
}

#[test]
fn a_cut_stream_is_truncated_wherever_it_is_cut() {
    let sample = &sample()[..30_000];
    for compression in COMPRESSED {
        let whole = compress(compression, sample);
        for at in [0, 1, 5, whole.len() / 2, whole.len() - 10, whole.len() - 1] {
            assert_eq!(
                bad("H48", compression, &whole[..at]),
                DecodeError::Truncated(compression),
                "cut at {at}"
            );
        }
        good("whole", compression, &whole, sample);
    }
}

#[test]
fn a_damaged_stream_is_corrupt() {
    let sample = &sample()[..30_000];
    for compression in [
        Compression::Xz,
        Compression::Bzip2,
        Compression::Gzip,
        Compression::Zstd,
    ] {
        let whole = compress(compression, sample);
        for at in (20..whole.len() - 20).step_by(whole.len() / 19) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let (output, error) = decode(compression, &damaged, MAX_WINDOW);
            assert!(
                error.is_some(),
                "{compression}: byte {at} damaged, {} bytes came out",
                output.len()
            );
        }
    }
    let mut whole = compress(Compression::Xz, sample);
    let check = whole.len() - 32;
    whole[check] ^= 1;
    assert_eq!(
        bad("H48 CRC", Compression::Xz, &whole),
        DecodeError::Corrupt(Compression::Xz)
    );
}

#[test]
fn another_format_than_announced_is_named() {
    let served_as = COMPRESSED.map(|served| (served, compress(served, &sample())));
    for compression in COMPRESSED {
        for (served, bytes) in &served_as {
            let served = *served;
            if served == compression || served == Compression::Brotli {
                continue;
            }
            let error = bad("H23", compression, bytes);
            let looks_like = Some(served.as_str());
            assert_eq!(
                error,
                DecodeError::WrongFormat {
                    compression,
                    looks_like
                },
                "{served} served"
            );
        }
        let page = b"<!DOCTYPE html><html><head><title>parked</title></head></html>".repeat(20);
        let looks_like = Some("a web page");
        assert_eq!(
            bad("H08", compression, &page),
            DecodeError::WrongFormat {
                compression,
                looks_like
            }
        );
    }
}

#[test]
fn windows_above_the_limit_are_refused_before_they_are_allocated() {
    let limit = MAX_WINDOW;
    let too_large = |compression| DecodeError::WindowTooLarge { compression, limit };
    // Window descriptor: exponent in the upper five bits, from 2^10.
    for (exponent, wanted) in [(17, None), (18, Some(())), (21, Some(()))] {
        let error = decode(Compression::Zstd, &zstd_frame(0x00, &[exponent << 3]), limit).1;
        assert_eq!(
            error,
            wanted.map(|()| too_large(Compression::Zstd)),
            "H49: window of 2^{}",
            exponent + 10
        );
    }
    for (code, name) in [(32, "256 MiB"), (37, "1.5 GiB"), (40, "4 GiB")] {
        assert_eq!(
            bad(name, Compression::Xz, &xz_with_dictionary(code)),
            too_large(Compression::Xz),
            "H49 {name}"
        );
    }
    assert_ne!(
        bad("64 MiB, then nonsense", Compression::Xz, &xz_with_dictionary(28)),
        too_large(Compression::Xz)
    );
    assert_eq!(
        bad("H49", Compression::Lzma, &lzma_header(0x6000_0000)),
        too_large(Compression::Lzma)
    );
    assert_ne!(
        bad("nonsense", Compression::Lzma, &lzma_header(1 << 23)),
        too_large(Compression::Lzma)
    );
    let brotli = DecodeError::WindowTooLarge {
        compression: Compression::Brotli,
        limit: 16 << 20,
    };
    assert_eq!(bad("large window", Compression::Brotli, &[0x11, 0x1e, 0, 0, 0]), brotli);

    let (_, error) = decode(Compression::Xz, &compress(Compression::Xz, b"x"), 1 << 20);
    assert_eq!(
        error,
        Some(DecodeError::WindowTooLarge {
            compression: Compression::Xz,
            limit: 1 << 20
        })
    );
    assert!(error.unwrap().to_string().contains("1048576"), "names the limit");
}

#[test]
fn zstd_dictionaries_are_refused() {
    let frame = zstd_frame(0x21, &[7, 0]);
    assert_eq!(bad("H48", Compression::Zstd, &frame), DecodeError::Dictionary);
    good("twin", Compression::Zstd, &zstd_frame(0x20, &[0]), b"");
}

#[test]
fn what_decodes_to_nothing_is_not_read_for_ever() {
    let padding = |compression| DecodeError::Padding {
        compression,
        limit: 16 << 20,
    };
    let frames = skippable(1 << 20).repeat(20);
    assert_eq!(
        bad("H48 skippable", Compression::Zstd, &frames),
        padding(Compression::Zstd)
    );
    let one = [skippable(15 << 20), compress(Compression::Zstd, b"x")].concat();
    good("a large one", Compression::Zstd, &one, b"x");
    for compression in [Compression::Gzip, Compression::Bzip2, Compression::Xz] {
        let empty = compress(compression, b"");
        let members = empty.repeat((17 << 20) / empty.len() + 1);
        assert_eq!(bad("empty members", compression, &members), padding(compression));
    }
    let zeros = [compress(Compression::Xz, b"x"), vec![0; 20 << 20]].concat();
    assert_eq!(bad("xz padding", Compression::Xz, &zeros), padding(Compression::Xz));
}

/// Counts what is taken out of it.
struct Counted<'a, R>(R, &'a mut u64);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        *self.1 += read as u64;
        Ok(read)
    }
}

#[test]
fn a_bomb_stops_one_byte_above_the_signed_size() {
    const BOMB: usize = 1 << 30;
    const MEMBER: usize = 32 << 20;
    const SIGNED: u64 = 1 << 20;
    let head = |length: u64| {
        let token = |text: &str| {
            let mut token = (text.len() as u64).to_le_bytes().to_vec();
            token.extend(text.bytes());
            token.resize(token.len().next_multiple_of(8), 0);
            token
        };
        let mut head: Vec<u8> = ["nix-archive-1", "(", "type", "regular", "contents"]
            .map(token)
            .concat();
        head.extend(length.to_le_bytes());
        head
    };
    for compression in [Compression::Xz, Compression::Zstd, Compression::Gzip] {
        // Several members of zeros are one stream of 1 GiB, and quickly made.
        let zeros = compress(compression, &vec![0; MEMBER]);
        let bomb = [compress(compression, &head(SIGNED - 200)), zeros.repeat(BOMB / MEMBER)].concat();
        assert!(bomb.len() < BOMB / 900, "{compression}: {} bytes", bomb.len());
        let folder = tempfile::tempdir().unwrap();
        let parent = fs::File::open(folder.path()).unwrap();
        let mut decoded = 0;
        let reader = Counted(decoder(compression, &bomb[..], MAX_WINDOW).unwrap(), &mut decoded);
        let error = nar::restore(reader, parent.as_fd(), OsStr::new("out"), &Limits::at_most(SIGNED)).unwrap_err();
        assert!(
            matches!(error, NarError::BadTag { .. } | NarError::OverNarSize { .. }),
            "{compression}: {error:?}"
        );
        assert!(decoded <= SIGNED + 1, "{compression}: {decoded} bytes were decoded");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}

#[test]
fn a_damaged_checksum_behind_a_good_nar_is_noticed() {
    let mut bytes = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in"), sample()).unwrap();
    let parent = fs::File::open(folder.path()).unwrap();
    nar::dump(parent.as_fd(), OsStr::new("in"), &mut bytes).unwrap();
    for compression in [
        Compression::Xz,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Bzip2,
    ] {
        let restore = |bytes: &[u8]| {
            let reader = decoder(compression, bytes, MAX_WINDOW).unwrap();
            nar::restore(reader, parent.as_fd(), OsStr::new("out"), &Limits::at_most(1 << 30))
        };
        let mut whole = compress(compression, &bytes);
        restore(&whole).unwrap();
        nar::remove_tree(parent.as_fd(), OsStr::new("out")).unwrap();
        let last = whole.len() - 2;
        whole[last] ^= 0x08;
        let error = restore(&whole).unwrap_err();
        assert!(matches!(error, NarError::Decode { .. }), "{compression}: {error:?}");
        let error = restore(&whole[..last]).unwrap_err();
        let truncated = DecodeError::Truncated(compression);
        assert!(
            matches!(&error, NarError::Decode { source, .. } if *source == truncated),
            "{compression}: {error:?}"
        );
        assert!(!folder.path().join("out").exists());
    }
}
