//! No compression: a frame is the bytes themselves.

use std::io::{BufRead, Read};

use super::{Algorithm, CodecError, Compressor, FrameEncoder};

pub(super) struct NoCompression;

impl Compressor for NoCompression {
    fn algorithm(&self) -> Algorithm {
        Algorithm::None
    }

    fn concatenable(&self) -> bool {
        true
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(NoCompression)
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        Ok(Box::new(packed))
    }
}

impl FrameEncoder for NoCompression {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        frame.extend_from_slice(plain);
        Ok(())
    }
}
