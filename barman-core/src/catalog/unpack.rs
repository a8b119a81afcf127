//! [`Unpacked`]: the plain bytes of a stored archive, read and decoded by threads of its own, several frames at a time where
//! an index says where they are.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::FileProof;
use super::frames::FrameIndex;
use crate::cipher::{Cipher, CipherError};
use crate::codec::{Algorithm, CodecError, Compressor, decompressor};
use crate::ctx::Cancel;
use crate::io::SourceFile;
use crate::pipe::{BufferPool, Parallel, PipeError, parallel_map_ordered};

/// Bytes read at once.
const READ: usize = 256 << 10;
/// Plain bytes handed on at once where there are no frames.
const PIECE: usize = 1 << 20;
/// Pieces that wait.
const QUEUE: usize = 2;
/// More decoders than this are faster than whoever writes.
const MOST_DECODERS: usize = 4;

/// An archive on its way out. Its threads begin with the first piece asked for, and end with it.
pub(super) struct Unpacked(State);

enum State {
    New(Box<Source>),
    Running(Running),
    Ended,
}

struct Source {
    stored: Stored,
    form: Form,
}

/// How an archive is stored.
pub(super) struct Form {
    /// What decrypts it, if it is encrypted.
    pub(super) cipher: Option<Arc<dyn Cipher>>,
    /// What it is packed in.
    pub(super) algorithm: Algorithm,
    /// Where its frames lie.
    pub(super) index: Option<FrameIndex>,
}

struct Running {
    pieces: Option<Receiver<io::Result<Bytes>>>,
    thread: Option<JoinHandle<()>>,
    stop: Cancel,
}

impl Unpacked {
    /// An archive packed so, of which this row may be known. An index that does not fit the file is not used.
    pub(super) fn new(
        file: Box<dyn SourceFile>,
        length: u64,
        row: Option<FileProof>,
        mut form: Form,
    ) -> Self {
        // LZ4's own checksums are not looked at there: without a stored one nothing would be. The length of what is
        // encrypted is only known at its end.
        let fits = |index: &FrameIndex| form.cipher.is_some() || index.packed_len() == length;
        form.index = form.index.take().filter(|index| fits(index) && row.is_some());
        let stored = Stored { file, row, crc: 0, length: 0 };
        Self(State::New(Box::new(Source { stored, form })))
    }

    /// The next bytes, never empty; `None` at the end of an archive that was whole.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        let running = match std::mem::replace(&mut self.0, State::Ended) {
            State::Ended => return Ok(None),
            State::New(source) => begin(*source),
            State::Running(running) => running,
        };
        let unexpected = || io::Error::other("a decoder ended unexpectedly; this is a bug");
        let pieces = running.pieces.as_ref().ok_or_else(unexpected)?;
        // An empty piece is the end: a thread that died would send none.
        let piece = pieces.recv().map_err(|_| unexpected())??;
        if piece.is_empty() {
            return Ok(None);
        }
        self.0 = State::Running(running);
        Ok(Some(piece))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // What it found wrong was sent, or is not wanted any more.
            let _ = thread.join();
        }
    }
}

fn begin(source: Source) -> Running {
    let stop = Cancel::new();
    let (send, pieces) = bounded(QUEUE);
    let cancel = stop.clone();
    let thread = std::thread::spawn(move || {
        let Form { cipher, algorithm, index } = source.form;
        let done = decrypted(source.stored, cipher.as_deref()).and_then(|stored| match index {
            Some(index) if algorithm != Algorithm::None => decompressor(algorithm, None)
                .map_err(PipeError::from)
                .and_then(|packing| frames(stored, &*packing, &index, &send, &cancel)),
            _ => whole(stored, algorithm, &send, &cancel),
        });
        // Nobody waits any more when it cannot be sent.
        let _ = send.send(done.map(|()| Bytes::new()).map_err(plain_words));
    });
    Running { pieces: Some(pieces), thread: Some(thread), stop }
}

/// The bytes as they were packed.
fn decrypted(stored: Stored, cipher: Option<&dyn Cipher>) -> Result<Box<dyn Read + Send>, PipeError> {
    let Some(cipher) = cipher else { return Ok(Box::new(stored)) };
    let words = |error: CipherError| match error {
        CipherError::Io(error) => error,
        error => io::Error::other(error),
    };
    cipher.decrypt(Box::new(stored)).map_err(|error| PipeError::Read(words(error)))
}

fn plain_words(error: PipeError) -> io::Error {
    match error {
        // What lies behind it is what counts: the disk, or a cipher.
        PipeError::Read(error) if error.get_ref().is_some_and(|inner| inner.is::<CodecError>()) => {
            io::Error::new(error.kind(), crate::format::text::with_reasons(&error))
        }
        PipeError::Read(error) | PipeError::Write(error) => error,
        PipeError::Codec(error) => {
            let text = crate::format::text::with_reasons(&error);
            io::Error::new(io::ErrorKind::InvalidData, text)
        }
        PipeError::Cancelled(cancelled) => io::Error::other(cancelled),
    }
}

type Pieces = Sender<io::Result<Bytes>>;

fn hand_on(send: &Pieces, piece: Bytes) -> Result<(), PipeError> {
    let gone = |_| PipeError::from(crate::ctx::Cancelled);
    if piece.is_empty() { Ok(()) } else { send.send(Ok(piece)).map_err(gone) }
}

/// From the beginning to the end, by one thread.
fn whole(
    stored: Box<dyn Read + Send>,
    algorithm: Algorithm,
    send: &Pieces,
    stop: &Cancel,
) -> Result<(), PipeError> {
    let mut plain: Box<dyn Read + Send> = match algorithm {
        Algorithm::None => stored,
        algorithm => {
            decompressor(algorithm, None)?.decoder(Box::new(BufReader::with_capacity(READ, stored)))?
        }
    };
    let pool = BufferPool::new(PIECE, QUEUE + 3);
    loop {
        let mut piece = pool.take(stop)?;
        // To the very end, so that checksums there are looked at, too.
        piece.fill_from(&mut plain).map_err(PipeError::Read)?;
        let last = !piece.is_full();
        hand_on(send, piece.into_bytes())?;
        if last {
            return Ok(());
        }
    }
}

/// Several frames at a time.
fn frames(
    mut stored: Box<dyn Read + Send>,
    packing: &dyn Compressor,
    index: &FrameIndex,
    send: &Pieces,
    stop: &Cancel,
) -> Result<(), PipeError> {
    if packing.frame_decoder().is_none() {
        return whole(stored, packing.algorithm(), send, stop);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let parallel = Parallel { workers: cores.min(MOST_DECODERS), queue: 1 };
    let in_flight = parallel.workers + parallel.queue;
    let longest =
        |length: fn(&(u32, u32)) -> u32| index.frames.iter().map(length).max().unwrap_or(0) as usize;
    let packed = BufferPool::new(longest(|frame| frame.1), in_flight + 1);
    let plain = BufferPool::new(longest(|frame| frame.0), in_flight + QUEUE + 2);
    let mut rows = index.frames.iter();
    let mut ended = false;
    let items = std::iter::from_fn(|| {
        let Some((plain_len, packed_len)) = rows.next() else {
            if std::mem::replace(&mut ended, true) {
                return None;
            }
            // Only the read that finds the end compares what came with what was stored.
            return match stored.read(&mut [0]).map_err(PipeError::Read) {
                Ok(0) => None,
                Ok(_) => Some(Err(PipeError::Read(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it goes on after its last frame",
                )))),
                Err(error) => Some(Err(error)),
            };
        };
        let frame = packed.take(stop).map_err(PipeError::from).and_then(|mut frame| {
            let read = (&mut stored).take(u64::from(*packed_len)).read_to_end(&mut frame);
            read.map_err(PipeError::Read)?;
            Ok((frame, *plain_len as usize))
        });
        Some(frame)
    });
    let decoder = || packing.frame_decoder();
    parallel_map_ordered(
        items,
        parallel,
        stop,
        decoder,
        |decoder: &mut Option<_>, (frame, plain_len)| {
            let mut piece = plain.take(stop)?;
            if let Some(decoder) = decoder {
                decoder.decode(&frame, plain_len, &mut piece)?;
            }
            Ok::<_, PipeError>(piece)
        },
        |piece| hand_on(send, piece.into_bytes()),
    )
}

/// A stored archive that fails at its end when it is not what was stored, where that is known (I24).
struct Stored {
    file: Box<dyn SourceFile>,
    row: Option<FileProof>,
    crc: u32,
    length: u64,
}

impl Read for Stored {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(out)?;
        let Some(row) = &self.row else { return Ok(n) };
        self.crc = crc32c::crc32c_append(self.crc, out.get(..n).unwrap_or_default());
        self.length += n as u64;
        if n == 0 && !out.is_empty() && (self.crc != row.crc32c || self.length != row.size) {
            let text = "its bytes are not those that were stored";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(n)
    }
}
