//! bzip2.

use std::io::{BufRead, Read, Write};

use ::bzip2::Compression;
use ::bzip2::bufread::MultiBzDecoder;
use ::bzip2::write::BzEncoder;

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameEncoder};

/// Level 1 … 9: blocks of so many times 100 kB.
pub(super) struct Bzip2 {
    level: Compression,
}

impl Bzip2 {
    pub(super) fn new(level: i32) -> Self {
        Self { level: Compression::new(level.unsigned_abs()) }
    }
}

impl Compressor for Bzip2 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Bzip2
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
        let inner = MultiBzDecoder::new(Packed::new(packed));
        Ok(Box::new(Decoding { inner, algorithm: Algorithm::Bzip2 }))
    }
}

struct Encoder {
    level: Compression,
}

impl FrameEncoder for Encoder {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        let mut stream = BzEncoder::new(frame, self.level);
        let done = stream.write_all(plain).and_then(|()| stream.finish().map(drop));
        done.map_err(|e| CodecError::encode(Algorithm::Bzip2, e))
    }
}
