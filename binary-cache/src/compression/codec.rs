//! The formats' decoders, each brought into one shape.
//! Never asks a library for more memory than the window allows.

mod blocks;

use blocks::Blocks;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, enc::StandardAlloc};
use flate2::FlushDecompress;
use liblzma::stream::{Action, CONCATENATED, Error as LzmaError, Status, Stream};
use zstd::stream::raw::{DParameter, Operation};

use super::{Compression, DecodeError};

/// What one call of a codec did.
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) produced: usize,
    /// A member of the stream is complete, its checksum included.
    pub(super) ended: bool,
}

/// A decoder that is fed slices.
pub(super) trait Codec: Send {
    /// Decodes from `input` to `output` (never empty); `last` says that no input follows.
    fn step(&mut self, input: &[u8], output: &mut [u8], last: bool) -> Result<Step, DecodeError>;
    /// Begins another member behind an ended one.
    fn restart(&mut self) -> Result<(), DecodeError>;
}

/// The codec for a compression, if it needs one. `ahead`: see [`super::parallel_decoder`].
pub(super) fn for_compression(
    compression: Compression,
    max_window: u64,
    ahead: u64,
) -> Result<Option<Box<dyn Codec>>, DecodeError> {
    Ok(Some(match compression {
        Compression::None => return Ok(None),
        Compression::Xz if ahead > 0 => Box::new(Blocks::new(max_window, ahead)?),
        Compression::Xz | Compression::Lzma => Box::new(Lzma::new(compression, max_window)?),
        Compression::Zstd => Box::new(Zstd::new(max_window)?),
        Compression::Bzip2 => Box::new(Bzip2(bzip2::Decompress::new(false))),
        Compression::Gzip => Box::new(Gzip(flate2::Decompress::new_gzip(GZIP_WINDOW_BITS))),
        Compression::Brotli => Box::new(Brotli(Box::new(BrotliState::new_strict(
            StandardAlloc::default(),
            StandardAlloc::default(),
            StandardAlloc::default(),
        )))),
    }))
}

/// Both containers of liblzma.
struct Lzma {
    stream: Stream,
    compression: Compression,
    max_window: u64,
}

/// What liblzma's decoders take besides the dictionary: coder state, a block header's filters, checks.
const LZMA_OVERHEAD: u64 = 1 << 20;

impl Lzma {
    fn new(compression: Compression, max_window: u64) -> Result<Self, DecodeError> {
        let memory = max_window.saturating_add(LZMA_OVERHEAD);
        let stream = if compression == Compression::Lzma {
            Stream::new_lzma_decoder(memory)
        } else {
            Stream::new_stream_decoder(memory, CONCATENATED)
        };
        Self::of(stream, compression, max_window)
    }

    fn of(stream: Result<Stream, LzmaError>, compression: Compression, max_window: u64) -> Result<Self, DecodeError> {
        Ok(Self {
            stream: stream.map_err(|_| DecodeError::NoMemory(compression))?,
            compression,
            max_window,
        })
    }

    fn name(&self, error: LzmaError) -> DecodeError {
        let compression = self.compression;
        match error {
            LzmaError::Format => DecodeError::WrongFormat {
                compression,
                looks_like: None,
            },
            LzmaError::MemLimit => DecodeError::WindowTooLarge {
                compression,
                limit: self.max_window,
            },
            LzmaError::Mem => DecodeError::NoMemory(compression),
            LzmaError::Data
            | LzmaError::Options
            | LzmaError::Program
            | LzmaError::NoCheck
            | LzmaError::UnsupportedCheck => DecodeError::Corrupt(compression),
        }
    }
}

impl Codec for Lzma {
    fn step(&mut self, input: &[u8], output: &mut [u8], last: bool) -> Result<Step, DecodeError> {
        let (total_in, total_out) = (self.stream.total_in(), self.stream.total_out());
        let action = if last { Action::Finish } else { Action::Run };
        let status = self
            .stream
            .process(input, output, action)
            .map_err(|error| self.name(error))?;
        Ok(Step {
            consumed: difference(total_in, self.stream.total_in()),
            produced: difference(total_out, self.stream.total_out()),
            ended: status == Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> Result<(), DecodeError> {
        Err(DecodeError::TrailingBytes(self.compression))
    }
}

struct Zstd {
    raw: zstd::stream::raw::Decoder<'static>,
    max_window: u64,
}

impl Zstd {
    fn new(max_window: u64) -> Result<Self, DecodeError> {
        let no_memory = |_| DecodeError::NoMemory(Compression::Zstd);
        let mut raw = zstd::stream::raw::Decoder::new().map_err(no_memory)?;
        raw.set_parameter(DParameter::WindowLogMax(max_window.max(1).ilog2().clamp(10, 31)))
            .map_err(no_memory)?;
        Ok(Self { raw, max_window })
    }
}

impl Codec for Zstd {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step, DecodeError> {
        match self.raw.run_on_buffers(input, output) {
            Ok(status) => Ok(Step {
                consumed: status.bytes_read,
                produced: status.bytes_written,
                ended: status.remaining == 0 && (status.bytes_read, status.bytes_written) != (0, 0),
            }),
            // The library's safe interface gives an error's text only; tests pin these.
            Err(error) => Err(match error.to_string().as_str() {
                "Frame requires too much memory for decoding" => DecodeError::WindowTooLarge {
                    compression: Compression::Zstd,
                    limit: self.max_window,
                },
                "Dictionary mismatch" => DecodeError::Dictionary,
                "Unknown frame descriptor" => DecodeError::WrongFormat {
                    compression: Compression::Zstd,
                    looks_like: None,
                },
                "Allocation error : not enough memory" => DecodeError::NoMemory(Compression::Zstd),
                _ => DecodeError::Corrupt(Compression::Zstd),
            }),
        }
    }

    fn restart(&mut self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// Takes 4 MB at most: the format's largest block is 900 kB.
struct Bzip2(bzip2::Decompress);

impl Codec for Bzip2 {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step, DecodeError> {
        let (total_in, total_out) = (self.0.total_in(), self.0.total_out());
        let compression = Compression::Bzip2;
        let status = self.0.decompress(input, output).map_err(|error| match error {
            bzip2::Error::DataMagic => DecodeError::WrongFormat {
                compression,
                looks_like: None,
            },
            bzip2::Error::Data | bzip2::Error::Param | bzip2::Error::Sequence => DecodeError::Corrupt(compression),
        })?;
        if status == bzip2::Status::MemNeeded {
            return Err(DecodeError::NoMemory(compression));
        }
        Ok(Step {
            consumed: difference(total_in, self.0.total_in()),
            produced: difference(total_out, self.0.total_out()),
            ended: status == bzip2::Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> Result<(), DecodeError> {
        self.0 = bzip2::Decompress::new(false);
        Ok(())
    }
}

/// The format's only window: 32 KiB.
const GZIP_WINDOW_BITS: u8 = 15;

struct Gzip(flate2::Decompress);

impl Codec for Gzip {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step, DecodeError> {
        let (total_in, total_out) = (self.0.total_in(), self.0.total_out());
        let status = self
            .0
            .decompress(input, output, FlushDecompress::None)
            .map_err(|_| DecodeError::Corrupt(Compression::Gzip))?;
        Ok(Step {
            consumed: difference(total_in, self.0.total_in()),
            produced: difference(total_out, self.0.total_out()),
            ended: status == flate2::Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> Result<(), DecodeError> {
        self.0.reset(true);
        Ok(())
    }
}

/// Strict RFC 7932: windows of 16 MiB at most, no shared dictionary.
struct Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>);

/// The library's number for a window beyond the standard's.
const BROTLI_WINDOW_BITS: i32 = -13;
/// The standard's largest window, in bytes.
const BROTLI_WINDOW: u64 = 16 << 20;

impl Codec for Brotli {
    fn step(&mut self, input: &[u8], output: &mut [u8], _last: bool) -> Result<Step, DecodeError> {
        let (mut available_in, mut consumed) = (input.len(), 0);
        let (mut available_out, mut produced, mut total) = (output.len(), 0, 0);
        let compression = Compression::Brotli;
        let result = BrotliDecompressStream(
            &mut available_in,
            &mut consumed,
            input,
            &mut available_out,
            &mut produced,
            output,
            &mut total,
            &mut self.0,
        );
        match result {
            BrotliResult::ResultFailure if self.0.error_code as i32 == BROTLI_WINDOW_BITS => {
                Err(DecodeError::WindowTooLarge {
                    compression,
                    limit: BROTLI_WINDOW,
                })
            }
            BrotliResult::ResultFailure => Err(DecodeError::Corrupt(compression)),
            BrotliResult::ResultSuccess => Ok(Step {
                consumed,
                produced,
                ended: true,
            }),
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(Step {
                consumed,
                produced,
                ended: false,
            }),
        }
    }

    fn restart(&mut self) -> Result<(), DecodeError> {
        Err(DecodeError::TrailingBytes(Compression::Brotli))
    }
}

/// What one call adds to a running total: never more than a slice is long.
fn difference(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}
