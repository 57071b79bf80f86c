//! One reader for every compressed format: it feeds a codec and keeps the books.
//! Never reads on and on for nothing: what decodes to much less than it takes is refused.

use std::io::{self, BufRead, BufReader, Read};

use super::{
    Compression, DecodeError,
    codec::{self, Codec},
    looks_like,
};

/// Compressed bytes asked for at once.
const INPUT_BUFFER: usize = 64 << 10;
/// How much larger than its contents a stream may be: no format needs 1 % (incompressible data is stored), and skippable
/// frames, empty members or padding without end need a bound.
const PADDING_LIMIT: u64 = 16 << 20;
/// What beginning another member counts for, in bytes: it takes a decoder that much time, however short the member is.
const MEMBER_COST: u64 = 4 << 10;
/// Bytes at the beginning that are kept to tell what a stream looks like.
const HEAD: usize = 16;

/// Wraps `reader` so that it yields decoded bytes; streams of several members or frames are decoded to their end. No
/// window or dictionary above `max_window` bytes (see [`super::MAX_WINDOW`]). Errors of `reader` pass through unchanged;
/// the decoder's own are [`DecodeError`]s.
///
/// How much comes out is for the caller to bound. Checksums are at the end of a stream: contents are good only once the
/// decoder has said that there is no more.
pub fn decoder<'r>(
    compression: Compression,
    reader: impl Read + Send + 'r,
    max_window: u64,
) -> Result<Box<dyn Read + Send + 'r>, DecodeError> {
    parallel_decoder(compression, reader, max_window, 0)
}

/// As [`decoder`], on all cores where the format allows it, which is `.xz` in blocks that say how long they are. Blocks
/// decoded ahead take `ahead` bytes at most, 0 for one core.
pub fn parallel_decoder<'r>(
    compression: Compression,
    reader: impl Read + Send + 'r,
    max_window: u64,
    ahead: u64,
) -> Result<Box<dyn Read + Send + 'r>, DecodeError> {
    Ok(match codec::for_compression(compression, max_window, ahead)? {
        None => Box::new(reader),
        Some(codec) => Box::new(Decoder {
            compression,
            codec,
            source: BufReader::with_capacity(INPUT_BUFFER, reader),
            state: State::Within,
            ahead,
            taken: 0,
            produced: 0,
            head: Vec::with_capacity(HEAD),
        }),
    })
}

/// Where in the stream the decoder stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A member has begun, or must.
    Within,
    /// A member has ended; there may be another.
    Between,
}

struct Decoder<R> {
    compression: Compression,
    codec: Box<dyn Codec>,
    source: BufReader<R>,
    state: State,
    /// Bytes that the codec may take in before it gives out what they decode to.
    ahead: u64,
    /// Compressed bytes decoded, and what members cost.
    taken: u64,
    produced: u64,
    head: Vec<u8>,
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while !output.is_empty() {
            let input = match self.source.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let last = input.is_empty();
            if self.state == State::Between {
                if last {
                    return Ok(0);
                }
                self.codec.restart()?;
                self.state = State::Within;
                self.taken += MEMBER_COST;
            }
            let missing = HEAD - self.head.len();
            self.head.extend(input.iter().take(missing));
            let step = self
                .codec
                .step(input, output, last)
                .map_err(|error| self.name_format(error))?;
            self.source.consume(step.consumed);
            self.taken += step.consumed as u64;
            self.produced += step.produced as u64;
            if step.ended {
                self.state = State::Between;
            } else if step.consumed == 0 && step.produced == 0 {
                let error = if last {
                    DecodeError::Truncated
                } else {
                    DecodeError::Corrupt
                };
                return Err(self.name_format(error(self.compression)).into());
            }
            if self.taken
                > self
                    .produced
                    .saturating_add(self.produced / 8)
                    .saturating_add(PADDING_LIMIT)
                    .saturating_add(self.ahead)
            {
                return Err(DecodeError::Padding {
                    compression: self.compression,
                    limit: PADDING_LIMIT,
                }
                .into());
            }
            if step.produced > 0 {
                return Ok(step.produced);
            }
        }
        Ok(0)
    }
}

impl<R> Decoder<R> {
    /// Replaces "corrupt" by "not this format" where the first bytes say so.
    fn name_format(&self, error: DecodeError) -> DecodeError {
        let says_nothing = matches!(error, DecodeError::Corrupt(_) | DecodeError::WrongFormat { .. });
        let other = looks_like(&self.head).filter(|name| *name != self.compression.as_str());
        match other {
            Some(_) if says_nothing && self.produced == 0 => DecodeError::WrongFormat {
                compression: self.compression,
                looks_like: other,
            },
            _ => error,
        }
    }
}
