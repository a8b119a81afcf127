//! One stream through the encoders: in frames side by side, or as a whole where the format knows no frames.

use std::io::{self, BufReader, Read, Write};

use crate::codec::{Algorithm, Compressor};
use crate::ctx::Cancel;

use super::{BufferPool, Parallel, PipeError, parallel_map_ordered};

/// How a stream is cut and how many work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Encoders that work side by side; 0 counts as 1.
    pub workers: usize,
    /// Plain bytes in a frame; the last one has fewer. Memory is at most about `4 × workers × frame_size`.
    pub frame_size: usize,
}

/// A frame that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Where its plain bytes begin in the plain stream.
    pub plain_offset: u64,
    /// How many there are.
    pub plain_len: u64,
    /// Where it begins in the packed stream.
    pub packed_offset: u64,
    /// Its length.
    pub packed_len: u64,
}

/// What went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamReport {
    /// Bytes read.
    pub plain_len: u64,
    /// Bytes written.
    pub packed_len: u64,
    /// Frames written; one for what has no frames.
    pub frames: u64,
}

/// Compresses all of `reader` into `writer`, which is not flushed or synced. See [`compress_stream_with`].
pub fn compress_stream(
    reader: &mut (dyn Read + Send),
    writer: &mut dyn Write,
    compressor: &dyn Compressor,
    options: StreamOptions,
    cancel: &Cancel,
) -> Result<StreamReport, PipeError> {
    compress_stream_with(reader, writer, compressor, options, cancel, &mut |_| {})
}

/// Compresses all of `reader` into `writer` and tells of each frame after it was written.
///
/// Frames lie in the order of the plain bytes; a source of no bytes gives one frame of none, so that the result is a
/// valid file. On an error the writer holds the frames before it, whole, and possibly a part of the next one. A
/// compressor whose output cannot be concatenated gets the whole stream as one frame; if it can only work on memory
/// ([`Compressor::encode_stream`] gives None), that frame is held in memory.
pub fn compress_stream_with(
    reader: &mut (dyn Read + Send),
    writer: &mut dyn Write,
    compressor: &dyn Compressor,
    options: StreamOptions,
    cancel: &Cancel,
    each: &mut dyn FnMut(Frame),
) -> Result<StreamReport, PipeError> {
    if compressor.algorithm() == Algorithm::None {
        let len = pump(reader, writer, cancel)?;
        return Ok(StreamReport { plain_len: len, packed_len: len, frames: 1 });
    }
    if !compressor.concatenable() {
        return whole(reader, writer, compressor, cancel);
    }
    let parallel = Parallel::new(options.workers);
    let in_flight = parallel.workers.max(1) + parallel.queue;
    let pool = BufferPool::new(options.frame_size.max(1), in_flight + 1);
    let frames = BufferPool::new(0, in_flight + 1);
    let mut report = StreamReport::default();
    let (mut first, mut ended) = (true, false);
    let pieces = std::iter::from_fn(|| {
        if ended {
            return None;
        }
        let read = pool.take(cancel).map_err(PipeError::from).and_then(|mut piece| {
            piece.fill_from(&mut *reader).map_err(PipeError::Read)?;
            Ok(piece)
        });
        // After an error the source is not read again.
        ended = read.as_ref().map_or(true, |piece| !piece.is_full());
        match &read {
            Ok(piece) if piece.is_empty() && !first => None,
            _ => {
                first = false;
                Some(read)
            }
        }
    });
    parallel_map_ordered(
        pieces,
        parallel,
        cancel,
        || compressor.encoder(),
        |encoder, piece| {
            let mut frame = frames.take(cancel)?;
            encoder.encode(&piece, &mut frame)?;
            Ok((piece.len() as u64, frame))
        },
        |(plain_len, frame)| {
            writer.write_all(&frame).map_err(PipeError::Write)?;
            let packed_len = frame.len() as u64;
            each(Frame {
                plain_offset: report.plain_len,
                plain_len,
                packed_offset: report.packed_len,
                packed_len,
            });
            report.plain_len += plain_len;
            report.packed_len += packed_len;
            report.frames += 1;
            Ok(())
        },
    )?;
    Ok(report)
}

/// The whole stream as one frame.
fn whole(
    reader: &mut (dyn Read + Send),
    writer: &mut dyn Write,
    compressor: &dyn Compressor,
    cancel: &Cancel,
) -> Result<StreamReport, PipeError> {
    let mut counted = Counted { inner: reader, len: 0, failed: None };
    let streamed = compressor
        .encode_stream(Box::new(BufReader::new(&mut counted)))
        .map(|packed| pump(&mut *packed?, writer, cancel));
    let packed = streamed.unwrap_or_else(|| {
        let (mut plain, mut frame) = (Vec::new(), Vec::new());
        counted.read_to_end(&mut plain).map_err(PipeError::Read)?;
        compressor.encoder().encode(&plain, &mut frame)?;
        pump(&mut &frame[..], writer, cancel)
    });
    match (packed, counted.failed) {
        // The encoder reports what its source said as its own trouble.
        (Err(PipeError::Read(_)), Some(source)) => Err(PipeError::Read(source)),
        (Err(PipeError::Read(e)), None) => Err(match e.downcast() {
            Ok(codec) => PipeError::Codec(codec),
            Err(e) => PipeError::Read(e),
        }),
        (packed, _) => Ok(StreamReport { plain_len: counted.len, packed_len: packed?, frames: 1 }),
    }
}

struct Counted<'a> {
    inner: &'a mut (dyn Read + Send),
    len: u64,
    failed: Option<io::Error>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buf) {
            Ok(n) => {
                self.len += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let kind = e.kind();
                self.failed = Some(e);
                Err(kind.into())
            }
        }
    }
}

/// Copies all of `reader` to `writer` in steps of 256 KiB, and says how many bytes that were. Cancelled between steps.
pub fn pump(reader: &mut dyn Read, writer: &mut dyn Write, cancel: &Cancel) -> Result<u64, PipeError> {
    let mut buf = vec![0; 256 * 1024];
    let mut len = 0;
    loop {
        cancel.check()?;
        let n = match reader.read(&mut buf) {
            Ok(0) => return Ok(len),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(PipeError::Read(e)),
        };
        writer.write_all(&buf[..n]).map_err(PipeError::Write)?;
        len += n as u64;
    }
}
