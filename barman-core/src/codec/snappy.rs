//! The Snappy framing format: chunks of 64 KiB with a CRC-32C each, and no end mark.

use std::io::{BufRead, Read, Write};

use snap::read::FrameDecoder;
use snap::write::FrameEncoder as SnapEncoder;

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameEncoder};

/// It has no levels.
pub(super) struct Snappy;

/// The stream identifier: what a frame of no bytes consists of.
const IDENTIFIER: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";

impl Compressor for Snappy {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Snappy
    }

    fn concatenable(&self) -> bool {
        true
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(Snappy)
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        let inner = FrameDecoder::new(Packed::new(packed));
        Ok(Box::new(Decoding { inner, algorithm: Algorithm::Snappy }))
    }
}

impl FrameEncoder for Snappy {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        if plain.is_empty() {
            frame.extend_from_slice(IDENTIFIER);
            return Ok(());
        }
        let mut stream = SnapEncoder::new(frame);
        let done = stream.write_all(plain).and_then(|()| stream.flush());
        done.map_err(|e| CodecError::encode(Algorithm::Snappy, e))
    }
}
