//! xz streams with CRC-64, as the xz program makes them.

use std::io::{BufRead, Read, Write};

use liblzma::bufread::XzDecoder;
use liblzma::write::XzEncoder;

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameEncoder};

/// Preset 1 … 9.
pub(super) struct Xz {
    preset: u32,
}

impl Xz {
    pub(super) fn new(level: i32) -> Self {
        Self { preset: level.unsigned_abs() }
    }
}

impl Compressor for Xz {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Xz
    }

    fn concatenable(&self) -> bool {
        true
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(Encoder { preset: self.preset })
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        let inner = XzDecoder::new_multi_decoder(Packed::new(packed));
        Ok(Box::new(Decoding { inner, algorithm: Algorithm::Xz }))
    }
}

struct Encoder {
    preset: u32,
}

impl FrameEncoder for Encoder {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        let mut stream = XzEncoder::new(frame, self.preset);
        let done = stream.write_all(plain).and_then(|()| stream.finish().map(drop));
        done.map_err(|e| CodecError::encode(Algorithm::Xz, e))
    }
}
