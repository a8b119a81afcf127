//! [`Packer`]: a tar archive of a base backup on its way into one packed file, several frames at a time, and through a
//! cipher where one is asked for.

use std::io::{self, BufWriter, Read};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use camino::Utf8PathBuf;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{BackupError, Packing};
use crate::catalog::{
    BackupSpace, CatalogError, FileProof, FileSink, FileSpec, FrameIndexWriter, Root, index_name,
};
use crate::cipher::Cipher;
use crate::ctx::Cancel;
use crate::io::IoError;
use crate::pipe::{Frame, PipeError, StreamOptions, compress_stream_with};

/// Pieces that wait; the server makes them of 32 KiB or so.
const QUEUE: usize = 64;
/// Plain bytes of a frame.
const FRAME: usize = 4 << 20;
/// Bytes written at once.
const GATHER: usize = 1 << 20;

/// One file that is being packed by threads of its own, which end when this is dropped.
pub(super) struct Packer {
    pieces: Option<Sender<Bytes>>,
    thread: Option<JoinHandle<Result<FileProof, BackupError>>>,
    stop: Cancel,
}

impl Packer {
    /// Begins `data/NAME` of the backup.
    pub(super) fn begin(
        space: &dyn BackupSpace,
        spec: FileSpec,
        packing: &Packing,
        cipher: Option<Arc<dyn Cipher>>,
    ) -> Result<Self, BackupError> {
        let stop = Cancel::new();
        let path = space.location(Root::Data).join(&spec.path);
        let index = Index::begin(space, &spec, packing)?;
        let mut sink = BufWriter::with_capacity(GATHER, space.file(spec)?);
        let (pieces, waiting) = bounded(QUEUE);
        let (compressor, workers, cancel) = (Arc::clone(&packing.compressor), packing.workers, stop.clone());
        let thread = std::thread::spawn(move || {
            let options = StreamOptions { workers, frame_size: FRAME };
            let mut pieces = Pieces { waiting, now: Bytes::new() };
            let mut index = index;
            let each = &mut |frame: Frame| index.frame(&frame);
            match cipher {
                None => {
                    let packed =
                        compress_stream_with(&mut pieces, &mut sink, &*compressor, options, &cancel, each);
                    packed.map_err(|error| trouble(&path, error))?;
                }
                Some(cipher) => {
                    let refused = |error| unwritable(&path, io::Error::other(error));
                    let mut encrypted = cipher.encrypt(Box::new(&mut sink)).map_err(refused)?;
                    let to = &mut encrypted;
                    let packed = compress_stream_with(&mut pieces, to, &*compressor, options, &cancel, each);
                    packed.map_err(|error| trouble(&path, error))?;
                    encrypted.finish().map_err(|error| unwritable(&path, error))?;
                }
            }
            let sink = sink.into_inner().map_err(|error| unwritable(&path, error.into_error()))?;
            index.finish(&path)?;
            Ok(sink.finish()?)
        });
        Ok(Self { pieces: Some(pieces), thread: Some(thread), stop })
    }

    /// Takes the next bytes. When the threads have failed the reason comes from [`Packer::finish`].
    pub(super) fn push(&self, bytes: Bytes) -> bool {
        self.pieces.as_ref().is_some_and(|pieces| pieces.send(bytes).is_ok())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<FileProof, BackupError> {
        self.pieces = None;
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Err(crate::ctx::Cancelled.into()),
        }
    }
}

/// Where the frames lie, for a restore that decodes several at a time.
struct Index {
    /// Nothing where there are no frames.
    writer: Option<FrameIndexWriter<BufWriter<Box<dyn FileSink>>>>,
    trouble: io::Result<()>,
}

impl Index {
    fn begin(space: &dyn BackupSpace, spec: &FileSpec, packing: &Packing) -> Result<Self, BackupError> {
        let framed = packing.compressor.frame_decoder().is_some();
        let writer = if framed {
            let sink = space.sidecar(&index_name(spec.path.as_str()))?;
            let writer = FrameIndexWriter::new(BufWriter::new(sink));
            Some(writer.map_err(|error| unwritable(&spec.path, error))?)
        } else {
            None
        };
        Ok(Self { writer, trouble: Ok(()) })
    }

    fn frame(&mut self, frame: &Frame) {
        if let (Some(writer), Ok(())) = (&mut self.writer, &self.trouble) {
            self.trouble = writer.frame(frame.plain_len, frame.packed_len);
        }
    }

    fn finish(self, path: &Utf8PathBuf) -> Result<(), BackupError> {
        let Some(writer) = self.writer else { return Ok(()) };
        let done = self.trouble.and_then(|()| writer.finish()?.into_inner().map_err(|e| e.into_error()));
        done.map_err(|error| unwritable(path, error))?.finish()?;
        Ok(())
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.pieces = None;
        if let Some(thread) = self.thread.take() {
            // What it was for has failed already.
            let _ = thread.join();
        }
    }
}

fn unwritable(path: &Utf8PathBuf, error: io::Error) -> BackupError {
    CatalogError::from(IoError::new("write", path, error)).into()
}

fn trouble(path: &Utf8PathBuf, error: PipeError) -> BackupError {
    match error {
        PipeError::Cancelled(cancelled) => cancelled.into(),
        PipeError::Write(error) | PipeError::Read(error) => unwritable(path, error),
        other => unwritable(path, io::Error::other(other)),
    }
}

/// The pieces as a stream.
struct Pieces {
    waiting: Receiver<Bytes>,
    now: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.now.is_empty() {
            match self.waiting.recv() {
                Ok(next) => self.now = next,
                // All has come.
                Err(_) => return Ok(0),
            }
        }
        let n = out.len().min(self.now.len());
        if let Some(target) = out.get_mut(..n) {
            target.copy_from_slice(&self.now.split_to(n));
        }
        Ok(n)
    }
}
