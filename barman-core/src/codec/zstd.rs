//! zstd frames with content size and checksum, as the zstd program makes them.

use std::io::{BufRead, Read};

use ::zstd::bulk::{Compressor as Bulk, Decompressor as BulkDecoder};
use ::zstd::stream::raw::CParameter;
use ::zstd::stream::read::Decoder;
use ::zstd::zstd_safe::compress_bound;

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameDecoder, FrameEncoder};

/// Level -22 … 22.
pub(super) struct Zstd {
    level: i32,
}

impl Zstd {
    pub(super) fn new(level: i32) -> Self {
        Self { level }
    }
}

impl Compressor for Zstd {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Zstd
    }

    fn concatenable(&self) -> bool {
        true
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(Encoder { level: self.level, context: None })
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        let inner = Decoder::with_buffer(Packed::new(packed))
            .map_err(|source| CodecError::Decode { algorithm: Algorithm::Zstd, source })?;
        Ok(Box::new(Decoding { inner, algorithm: Algorithm::Zstd }))
    }

    fn frame_decoder(&self) -> Option<Box<dyn FrameDecoder>> {
        Some(Box::new(Unframe(None)))
    }
}

/// The context is made with the first frame.
struct Unframe(Option<BulkDecoder<'static>>);

impl FrameDecoder for Unframe {
    fn decode(&mut self, frame: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Result<(), CodecError> {
        plain.clear();
        if frame.is_empty() {
            // The library takes nothing for a frame of nothing.
            let nothing = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "there are no bytes at all");
            return Err(CodecError::decode(Algorithm::Zstd, nothing));
        }
        plain.reserve(plain_len);
        let context = match self.0.take() {
            Some(context) => Ok(context),
            None => BulkDecoder::new(),
        };
        let done = context.and_then(|context| self.0.insert(context).decompress_to_buffer(frame, plain));
        match done {
            Ok(_) if plain.len() == plain_len => Ok(()),
            Ok(_) => Err(CodecError::length(Algorithm::Zstd, plain_len, plain.len())),
            Err(source) => Err(CodecError::decode(Algorithm::Zstd, source)),
        }
    }
}

struct Encoder {
    level: i32,
    /// Made with the first frame, kept for the next ones.
    context: Option<Bulk<'static>>,
}

impl Encoder {
    fn context(&mut self) -> std::io::Result<&mut Bulk<'static>> {
        if self.context.is_none() {
            let mut context = Bulk::new(self.level)?;
            context.set_parameter(CParameter::ChecksumFlag(true))?;
            self.context = Some(context);
        }
        self.context.as_mut().ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
    }
}

impl FrameEncoder for Encoder {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        frame.reserve(compress_bound(plain.len()));
        let done = self.context().and_then(|context| context.compress_to_buffer(plain, frame));
        done.map(drop).map_err(|e| CodecError::encode(Algorithm::Zstd, e))
    }
}
