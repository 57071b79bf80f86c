//! Writing every compression that is read, for the writer of a cache.
//! Never calls a stream complete before its end was written.

use std::{
    fmt,
    io::{self, Write},
};

use liblzma::stream::{LzmaOptions, Stream};

use super::Compression;

/// The formats' usual levels.
const XZ_PRESET: u32 = 6;
const ZSTD_LEVEL: i32 = 9;
const BROTLI_QUALITY: u32 = 6;
const BROTLI_WINDOW_BITS: u32 = 22;
const BROTLI_BUFFER: usize = 64 << 10;

/// Compresses what is written to it. [`Encoder::finish`] must be called: a dropped encoder leaves a truncated stream.
pub struct Encoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    None(W),
    Lzma(liblzma::write::XzEncoder<W>),
    Bzip2(bzip2::write::BzEncoder<W>),
    Gzip(flate2::write::GzEncoder<W>),
    Brotli(Box<brotli::CompressorWriter<FirstError<W>>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Starts compressing into `writer`, at the level that is the format's usual trade-off.
    pub fn new(compression: Compression, writer: W) -> io::Result<Self> {
        Ok(Self(match compression {
            Compression::None => Inner::None(writer),
            Compression::Xz => Inner::Lzma(liblzma::write::XzEncoder::new(writer, XZ_PRESET)),
            Compression::Lzma => {
                let stream = Stream::new_lzma_encoder(&LzmaOptions::new_preset(XZ_PRESET)?)?;
                Inner::Lzma(liblzma::write::XzEncoder::new_stream(writer, stream))
            }
            Compression::Bzip2 => Inner::Bzip2(bzip2::write::BzEncoder::new(writer, bzip2::Compression::best())),
            Compression::Gzip => Inner::Gzip(flate2::write::GzEncoder::new(writer, flate2::Compression::default())),
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(writer, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
            Compression::Brotli => Inner::Brotli(Box::new(brotli::CompressorWriter::new(
                FirstError { writer, error: None },
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW_BITS,
            ))),
        }))
    }

    /// Writes the end of the stream and gives the writer back.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::None(writer) => Ok(writer),
            Inner::Lzma(encoder) => encoder.finish(),
            Inner::Bzip2(encoder) => encoder.finish(),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
            Inner::Brotli(encoder) => {
                let FirstError { writer, error } = encoder.into_inner();
                error.map_or(Ok(writer), Err)
            }
        }
    }

    fn inner(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            Inner::None(writer) => writer,
            Inner::Lzma(encoder) => encoder,
            Inner::Bzip2(encoder) => encoder,
            Inner::Gzip(encoder) => encoder,
            Inner::Zstd(encoder) => encoder,
            Inner::Brotli(encoder) => encoder,
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }

    /// Does nothing for compressed streams: the `.lzma` container has no point to flush to (its encoder fails), and in the
    /// others each such point costs size. What was written is complete after [`Encoder::finish`].
    fn flush(&mut self) -> io::Result<()> {
        if let Inner::None(writer) = &mut self.0 {
            writer.flush()?;
        }
        Ok(())
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

/// Remembers an error of the writer: the brotli library drops one at the end of a stream.
struct FirstError<W> {
    writer: W,
    error: Option<io::Error>,
}

impl<W: Write> Write for FirstError<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.error.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.writer.write(bytes).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.error = Some(error.kind().into());
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
