//! gzip on zlib-rs: members without file name and time, so that equal bytes give equal files.

use std::io::{BufRead, Read, Write};

use flate2::Compression;
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use flate2::write::GzEncoder;

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameDecoder, FrameEncoder};

/// Level 1 … 9.
pub(super) struct Gzip {
    level: Compression,
}

impl Gzip {
    pub(super) fn new(level: i32) -> Self {
        Self { level: Compression::new(level.unsigned_abs()) }
    }
}

impl Compressor for Gzip {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Gzip
    }

    fn concatenable(&self) -> bool {
        true
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(Encoder { level: self.level })
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        let inner = MultiGzDecoder::new(Packed::new(packed));
        Ok(Box::new(Decoding { inner, algorithm: Algorithm::Gzip }))
    }

    fn frame_decoder(&self) -> Option<Box<dyn FrameDecoder>> {
        Some(Box::new(Unframe))
    }
}

struct Unframe;

impl FrameDecoder for Unframe {
    fn decode(&mut self, frame: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Result<(), CodecError> {
        plain.clear();
        plain.reserve(plain_len);
        let mut member = GzDecoder::new(frame);
        // One byte more, so that a frame that is longer shows it.
        let read = member.by_ref().take(plain_len as u64 + 1).read_to_end(plain);
        read.map_err(|source| CodecError::decode(Algorithm::Gzip, source))?;
        if plain.len() != plain_len || !member.into_inner().is_empty() {
            return Err(CodecError::length(Algorithm::Gzip, plain_len, plain.len()));
        }
        Ok(())
    }
}

struct Encoder {
    level: Compression,
}

impl FrameEncoder for Encoder {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        let mut member = GzEncoder::new(frame, self.level);
        let done = member.write_all(plain).and_then(|()| member.finish().map(drop));
        done.map_err(|e| CodecError::encode(Algorithm::Gzip, e))
    }
}
