//! gzip on zlib-rs: members without file name and time, so that equal bytes give equal files.

use std::io::{BufRead, Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameEncoder};

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
