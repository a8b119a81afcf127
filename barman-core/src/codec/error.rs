//! [`CodecError`], and the reader that gives it to whoever reads plain bytes.

use std::io::{self, BufRead, Read};

use super::Algorithm;

/// What goes wrong with compression.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The encoder failed; with memory at hand it does not.
    #[error("could not compress with {algorithm}")]
    Encode {
        /// Which algorithm.
        algorithm: Algorithm,
        /// What it said.
        source: io::Error,
    },
    /// What was read is not what the algorithm writes, or ends too early, or could not be read.
    #[error("could not decompress as {algorithm}: the data is damaged or ends too early")]
    Decode {
        /// Which algorithm.
        algorithm: Algorithm,
        /// What it said.
        source: io::Error,
    },
    /// The compressed data could not be read.
    #[error("could not read the data compressed as {algorithm}")]
    Read {
        /// Which algorithm.
        algorithm: Algorithm,
        /// What the reader said.
        source: io::Error,
    },
    /// A custom filter could not be started.
    #[error("could not start the compression filter '{command}'")]
    Start {
        /// The configured command.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// A custom filter said that it failed.
    #[error("the compression filter '{command}' failed ({status}): {stderr}")]
    Filter {
        /// The configured command.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The beginning of what it wrote to its standard error.
        stderr: String,
    },
    /// A file needs the custom filters, which the configuration does not have.
    #[error(
        "custom compression needs custom_compression_filter and custom_decompression_filter; set both in the configuration"
    )]
    NoFilters,
}

impl CodecError {
    pub(super) fn encode(algorithm: Algorithm, source: io::Error) -> Self {
        Self::Encode { algorithm, source }
    }

    pub(super) fn decode(algorithm: Algorithm, source: io::Error) -> Self {
        Self::Decode { algorithm, source }
    }

    /// A frame that is not as long as it should be.
    pub(super) fn length(algorithm: Algorithm, expected: usize, found: usize) -> Self {
        let text = format!("a frame of {expected} bytes gave {found}");
        Self::decode(algorithm, io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

/// Gives errors of a decoder their place, and tells those of the source from those of the data.
pub(super) struct Decoding<R> {
    pub(super) inner: R,
    pub(super) algorithm: Algorithm,
}

impl<R: Read> Read for Decoding<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.place(e)),
                Ok(n) => return Ok(n),
            }
        }
    }
}

impl<R> Decoding<R> {
    fn place(&self, error: io::Error) -> io::Error {
        let algorithm = self.algorithm;
        match error.downcast::<SourceError>() {
            Ok(SourceError(source)) => io::Error::new(source.kind(), CodecError::Read { algorithm, source }),
            Err(source) => {
                // Each library has its own kind for damage; the end that comes too early keeps its kind.
                let kind = match source.kind() {
                    kind @ (io::ErrorKind::UnexpectedEof | io::ErrorKind::OutOfMemory) => kind,
                    _ => io::ErrorKind::InvalidData,
                };
                io::Error::new(kind, CodecError::Decode { algorithm, source })
            }
        }
    }
}

/// Marks errors of the packed stream, so that they are not taken for damage.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourceError(io::Error);

/// The packed stream of a decoder. It reports an end that comes before the first byte: no format has files of nothing,
/// but some decoders take them for empty ones.
pub(super) struct Packed<'a> {
    inner: Box<dyn BufRead + Send + 'a>,
    begun: bool,
}

impl<'a> Packed<'a> {
    pub(super) fn new(inner: Box<dyn BufRead + Send + 'a>) -> Self {
        Self { inner, begun: false }
    }

    /// Whether all is read.
    pub(super) fn at_end(&mut self) -> io::Result<bool> {
        Ok(self.fill_buf()?.is_empty())
    }
}

impl Read for Packed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Packed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let empty = loop {
            match self.inner.fill_buf() {
                // Not all decoders survive being interrupted.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io::Error::new(e.kind(), SourceError(e))),
                Ok(bytes) => break bytes.is_empty(),
            }
        };
        if empty {
            return if self.begun {
                Ok(&[])
            } else {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "there are no bytes at all"))
            };
        }
        self.begun = true;
        // The buffer is filled: this reads nothing.
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.inner.consume(n);
    }
}
