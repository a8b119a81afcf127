//! LZ4 frames with content size and checksum, in blocks of 4 MiB, as the lz4 program makes them.

use std::io::{self, BufRead, Read, Write};

use ::lz4::{BlockMode, BlockSize, ContentChecksum, Decoder, EncoderBuilder};

use super::error::{Decoding, Packed};
use super::{Algorithm, CodecError, Compressor, FrameDecoder, FrameEncoder};

/// Level 0 … 2 is the quick mode, 3 and above the thorough one (HC).
pub(super) struct Lz4 {
    level: u32,
}

impl Lz4 {
    pub(super) fn new(level: i32) -> Self {
        Self { level: level.unsigned_abs() }
    }
}

impl Compressor for Lz4 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Lz4
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
        let inner = Frames(State::Between(Packed::new(packed)));
        Ok(Box::new(Decoding { inner, algorithm: Algorithm::Lz4 }))
    }

    fn frame_decoder(&self) -> Option<Box<dyn FrameDecoder>> {
        Some(Box::new(Unframe))
    }
}

/// Decodes the blocks of a frame straight into their place.
struct Unframe;

impl FrameDecoder for Unframe {
    fn decode(&mut self, frame: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Result<(), CodecError> {
        plain.clear();
        plain.resize(plain_len, 0);
        let damaged = |source| CodecError::decode(Algorithm::Lz4, source);
        let found = blocks(frame, plain).map_err(damaged)?;
        if found == plain_len { Ok(()) } else { Err(CodecError::length(Algorithm::Lz4, plain_len, found)) }
    }
}

/// The bytes of all blocks of a frame (lz4_Frame_format.md), which must not depend on one another.
fn blocks(frame: &[u8], plain: &mut [u8]) -> io::Result<usize> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text);
    let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the frame has no end");
    let mut rest = frame;
    let mut take = |count: usize| {
        let (now, later) = rest.split_at_checked(count).ok_or_else(cut_off)?;
        rest = later;
        Ok::<&[u8], io::Error>(now)
    };
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    if number(take(4)?) != 0x184D_2204 {
        return Err(invalid("this is no LZ4 frame"));
    }
    let flags = take(2)?.first().copied().unwrap_or_default();
    if flags & 0x20 == 0 || flags & 0x01 != 0 {
        return Err(invalid("the blocks of the frame depend on one another"));
    }
    take(usize::from(flags & 0x08) + 1)?;
    let mut filled = 0;
    loop {
        let size = number(take(4)?);
        if size == 0 {
            break;
        }
        let block = take((size & 0x7fff_ffff) as usize)?;
        let room = plain.get_mut(filled..).unwrap_or_default();
        filled += if size & 0x8000_0000 != 0 {
            let target = room.get_mut(..block.len()).ok_or_else(|| invalid("the frame is too long"))?;
            target.copy_from_slice(block);
            block.len()
        } else {
            let most = i32::try_from(room.len()).map_err(|_| invalid("the frame is too long"))?;
            ::lz4::block::decompress_to_buffer(block, Some(most), room)?
        };
        take(if flags & 0x10 != 0 { 4 } else { 0 })?;
    }
    take(if flags & 0x04 != 0 { 4 } else { 0 })?;
    if rest.is_empty() { Ok(filled) } else { Err(invalid("something follows the frame")) }
}

struct Encoder {
    level: u32,
}

impl FrameEncoder for Encoder {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        let encode = || -> io::Result<()> {
            let mut encoder = EncoderBuilder::new()
                .level(self.level)
                .block_size(BlockSize::Max4MB)
                .block_mode(BlockMode::Independent)
                .checksum(ContentChecksum::ChecksumEnabled)
                .content_size(plain.len() as u64)
                .build(frame)?;
            encoder.write_all(plain)?;
            encoder.finish().1
        };
        encode().map_err(|e| CodecError::encode(Algorithm::Lz4, e))
    }
}

/// Reads frame after frame; the decoder of the library knows one, and may read beyond its end.
struct Frames<'a>(State<'a>);

enum State<'a> {
    Between(Packed<'a>),
    Inside(Decoder<OneFrame<'a>>),
    /// After an error; there is no way on.
    Broken,
}

impl Read for Frames<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.0, State::Broken) {
                State::Broken => return Err(io::Error::other("read again after an error")),
                State::Between(mut packed) => {
                    if packed.at_end()? {
                        self.0 = State::Between(packed);
                        return Ok(0);
                    }
                    self.0 = State::Inside(Decoder::new(OneFrame::begin(packed)?)?);
                }
                State::Inside(mut frame) => {
                    let n = frame.read(buf)?;
                    if n > 0 {
                        self.0 = State::Inside(frame);
                        return Ok(n);
                    }
                    let (source, whole) = frame.finish();
                    if whole.is_err() || source.left > 0 || source.then != Then::End {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the frame has no end"));
                    }
                    self.0 = State::Between(source.packed);
                }
            }
        }
    }
}

/// The bytes of one frame: a reader that ends where the frame does, by the lengths in it (lz4_Frame_format.md).
struct OneFrame<'a> {
    packed: Packed<'a>,
    /// Bytes read ahead to know the structure, not yet delivered.
    ahead: Vec<u8>,
    /// Bytes to deliver from `packed` before there is something to look at again.
    left: u64,
    then: Then,
    block_checksum: bool,
    content_checksum: bool,
}

#[derive(PartialEq, Eq)]
enum Then {
    BlockSize,
    End,
}

impl<'a> OneFrame<'a> {
    fn begin(packed: Packed<'a>) -> io::Result<Self> {
        let mut frame = Self {
            packed,
            ahead: Vec::with_capacity(8),
            left: 0,
            then: Then::BlockSize,
            block_checksum: false,
            content_checksum: false,
        };
        let magic = frame.look::<4>()?;
        match u32::from_le_bytes(magic) {
            0x184D_2204 => {
                let [flags, _] = frame.look::<2>()?;
                frame.block_checksum = flags & 0x10 != 0;
                frame.content_checksum = flags & 0x04 != 0;
                // The content size, the id of a dictionary, and the checksum of the header.
                frame.left = u64::from(flags & 0x08) + if flags & 0x01 != 0 { 4 } else { 0 } + 1;
            }
            0x184D_2A50..=0x184D_2A5F => {
                frame.left = u64::from(u32::from_le_bytes(frame.look::<4>()?));
                frame.then = Then::End;
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no LZ4 frame")),
        }
        Ok(frame)
    }

    /// Reads bytes that will be delivered too.
    fn look<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.packed.read_exact(&mut bytes)?;
        self.ahead.extend_from_slice(&bytes);
        Ok(bytes)
    }
}

impl Read for OneFrame<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() && self.left == 0 {
            if self.then == Then::End {
                return Ok(0);
            }
            let size = u32::from_le_bytes(self.look::<4>()?);
            if size == 0 {
                self.left = if self.content_checksum { 4 } else { 0 };
                self.then = Then::End;
            } else {
                // The highest bit says that the block is not compressed.
                self.left = u64::from(size & 0x7fff_ffff) + if self.block_checksum { 4 } else { 0 };
            }
        }
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.len());
            buf[..n].copy_from_slice(&self.ahead[..n]);
            self.ahead.drain(..n);
            return Ok(n);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let n = self.packed.read(&mut buf[..most])?;
        if n == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the frame has no end"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}
