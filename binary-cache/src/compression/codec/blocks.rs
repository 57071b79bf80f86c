//! The .xz container whose blocks say how long they are, decoded on all cores.
//! Never holds more than it was granted: with too little memory for several blocks it decodes one after the other.

use std::thread::available_parallelism;

use liblzma::stream::{MtStreamBuilder, Stream};

use super::{Codec, LZMA_OVERHEAD, Lzma, Step};
use crate::compression::{Compression, DecodeError};

/// The first stream on several threads; whatever is joined to it, hardly ever anything, on one.
pub(super) struct Blocks {
    lzma: Lzma,
    /// Zero bytes seen since the end of the first stream, modulo four; `None` within a stream.
    gap: Option<usize>,
}

impl Blocks {
    /// Threads share `ahead` bytes, beyond the window, for blocks that are not yet asked for.
    pub(super) fn new(max_window: u64, ahead: u64) -> Result<Self, DecodeError> {
        let alone = max_window.saturating_add(LZMA_OVERHEAD);
        let cores = available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        // The library takes the lower of its two limits for both; a larger dictionary than the window is then a part of
        // what was granted all the same.
        let granted = alone.saturating_add(ahead);
        let stream = MtStreamBuilder::new()
            .threads(cores)
            .memlimit_threading(granted)
            .memlimit_stop(granted)
            .decoder();
        Ok(Self {
            lzma: Lzma::of(stream, Compression::Xz, max_window)?,
            gap: None,
        })
    }
}

impl Codec for Blocks {
    fn step(&mut self, input: &[u8], output: &mut [u8], last: bool) -> Result<Step, DecodeError> {
        let Some(gap) = &mut self.gap else {
            return self.lzma.step(input, output, last);
        };
        // The .xz file format 1.2.1, 2.2: streams may be padded with zero bytes, four at a time.
        let zeros = input.iter().take_while(|byte| **byte == 0).count();
        *gap = (*gap + zeros) % 4;
        let rest = input.get(zeros..).unwrap_or_default();
        if rest.is_empty() && !last {
            return Ok(Step {
                consumed: zeros,
                produced: 0,
                ended: false,
            });
        }
        if *gap != 0 {
            return Err(DecodeError::Corrupt(Compression::Xz));
        }
        if rest.is_empty() {
            return Ok(Step {
                consumed: zeros,
                produced: 0,
                ended: true,
            });
        }
        self.gap = None;
        let step = self.lzma.step(rest, output, last)?;
        Ok(Step {
            consumed: zeros + step.consumed,
            ..step
        })
    }

    fn restart(&mut self) -> Result<(), DecodeError> {
        let memory = self.lzma.max_window.saturating_add(LZMA_OVERHEAD);
        let rest = Stream::new_stream_decoder(memory, liblzma::stream::CONCATENATED);
        self.lzma = Lzma::of(rest, Compression::Xz, self.lzma.max_window)?;
        self.gap = Some(0);
        Ok(())
    }
}
