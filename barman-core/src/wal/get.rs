//! Giving WAL out: the order in which it is looked for, and the judgement before the first byte is served (I25).

use std::io::{Read, Write};

use camino::{Utf8Path, Utf8PathBuf};

use super::stored::{self, Clusters, Judge, judge};
use super::{LocalWalArchive, WalError};
use crate::codec::{Algorithm, Level, Method, compressor};
use crate::io::IoContext;
use crate::model::{SegmentName, SegmentSize, WalFileName};

/// A file whose plain bytes fit in here is decoded once; a larger one is judged first and then decoded again.
const IN_MEMORY: usize = 64 << 20;
/// Bytes passed on at once.
const PIECE: usize = 256 << 10;

/// In which form WAL is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// As the server wrote it.
    #[default]
    Plain,
    /// As it lies on disk, but not encrypted.
    AsStored,
    /// As a gzip file: the stored one if it is one.
    Gzip,
    /// As a bzip2 file: the stored one if it is one.
    Bzip2,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The file.
    pub name: WalFileName,
    /// Whether an unfinished form of the segment will do.
    pub partial: bool,
    /// In which form.
    pub packing: Packing,
}

/// What was given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The file that was found.
    pub path: Utf8PathBuf,
    /// Bytes written.
    pub bytes: u64,
}

/// How a look at one candidate ended.
enum Look {
    Absent,
    Unsound(WalError),
    /// Sound, and its plain bytes where they fit.
    Sound {
        plain: Option<Vec<u8>>,
        stored: Form,
    },
}

/// What a file lies on disk as.
#[derive(Clone, Copy)]
struct Form {
    algorithm: Algorithm,
    encrypted: bool,
}

impl LocalWalArchive {
    /// Finds a file where Barman looks for it, judges it, and writes it. Nothing is written before the whole file was
    /// found sound; a copy that is not is passed over for the next place.
    ///
    /// # Errors
    /// [`WalError::NotFound`] when there is none, [`WalError::Corrupt`] when what there is in the archive is not sound.
    pub fn serve(&self, request: &Request, out: &mut dyn Write) -> Result<Served, WalError> {
        let mut trouble = None;
        for (path, name) in self.candidates(request) {
            // Where the whole segment is there and damaged, an unfinished one would be taken for the end of the WAL.
            if trouble.is_some() && matches!(name, WalFileName::Partial(_)) {
                continue;
            }
            match self.look(&path, &name)? {
                Look::Absent => {}
                // Beside the archive it may be on its way: that is not an error yet.
                Look::Unsound(error) => {
                    if path.starts_with(&self.shared.paths.wals_directory) {
                        trouble.get_or_insert(error);
                    }
                }
                Look::Sound { plain, stored } => {
                    match self.write(&path, plain, stored, request.packing, out) {
                        // It moved into the archive meanwhile, where the last candidate looks again.
                        Err(WalError::Io(e)) if e.is_not_found() => {}
                        other => return other.map(|bytes| Served { path, bytes }),
                    }
                }
            }
        }
        Err(trouble.unwrap_or(WalError::NotFound { name: request.name }))
    }

    /// The places in Barman's order, each with the type of what lies there.
    fn candidates(&self, request: &Request) -> Vec<(Utf8PathBuf, WalFileName)> {
        let paths = &self.shared.paths;
        let (name, file) = (request.name, request.name.to_string());
        let archived = (paths.file(&name), name);
        let mut places = vec![
            archived.clone(),
            (paths.incoming_directory.join(&file), name),
            (paths.streaming_directory.join(&file), name),
        ];
        if let (WalFileName::Segment(segment), true) = (name, request.partial) {
            let partial = WalFileName::Partial(segment);
            let unfinished = partial.to_string();
            places.push((paths.streaming_directory.join(&unfinished), partial));
            places.push((paths.streaming_directory.join(&file), name));
            places.push((paths.file(&partial), partial));
            places.push((paths.incoming_directory.join(&unfinished), partial));
        }
        // What was incoming a moment ago may be in the archive by now.
        places.push(archived);
        places
    }

    fn look(&self, path: &Utf8Path, name: &WalFileName) -> Result<Look, WalError> {
        let stored = match stored::open(&self.shared, path) {
            Ok(stored) => stored,
            Err(WalError::Io(e)) if e.is_not_found() => return Ok(Look::Absent),
            Err(e @ (WalError::Undecodable { .. } | WalError::Codec { .. } | WalError::Corrupt { .. })) => {
                return Ok(Look::Unsound(e));
            }
            Err(e) => return Err(e),
        };
        let unsound = |reason: String| Look::Unsound(WalError::Corrupt { path: path.to_owned(), reason });
        let form = Form { algorithm: stored.algorithm, encrypted: stored.encrypted };
        let mut reader = stored.plain;
        // What is archived does not change any more (I3): a plain file is judged piece by piece and then read again, which is
        // cheaper than to keep all of it.
        if form.algorithm == Algorithm::None
            && !form.encrypted
            && path.starts_with(&self.shared.paths.wals_directory)
        {
            let verdict = judge(&self.shared, name, Clusters::Known, path, reader)?;
            return Ok(
                verdict.map_or_else(|f| unsound(f.reason), |()| Look::Sound { plain: None, stored: form })
            );
        }
        let mut plain = Vec::new();
        if let Err(e) = reader.by_ref().take(IN_MEMORY as u64 + 1).read_to_end(&mut plain) {
            return match stored::damage(&e) {
                Some(fault) => Ok(unsound(fault.reason)),
                None => Err(e).context("read", path).map_err(Into::into),
            };
        }
        if plain.len() > IN_MEMORY {
            let verdict =
                judge(&self.shared, name, Clusters::Known, path, std::io::Cursor::new(plain).chain(reader))?;
            return Ok(
                verdict.map_or_else(|f| unsound(f.reason), |()| Look::Sound { plain: None, stored: form })
            );
        }
        let mut judge = Judge::new(&self.shared, name, Clusters::Known);
        judge.push(&plain)?;
        Ok(judge
            .finish()?
            .map_or_else(|f| unsound(f.reason), |()| Look::Sound { plain: Some(plain), stored: form }))
    }

    fn write(
        &self,
        path: &Utf8Path,
        plain: Option<Vec<u8>>,
        form: Form,
        packing: Packing,
        out: &mut dyn Write,
    ) -> Result<u64, WalError> {
        let method = match packing {
            Packing::Gzip => Some(Method::Gzip),
            Packing::Bzip2 => Some(Method::Bzip2),
            Packing::Plain | Packing::AsStored => None,
        };
        if packing == Packing::AsStored || method.is_some_and(|m| m.algorithm() == form.algorithm) {
            let mut file: Box<dyn Read + Send> = match form.encrypted {
                true => stored::decrypted(&self.shared, path)?,
                false => Box::new(self.shared.disk.open_read(path)?),
            };
            return pass_on(&mut *file, out).context("send", path).map_err(Into::into);
        }
        let mut reader: Box<dyn Read + Send> = match plain {
            Some(plain) => Box::new(std::io::Cursor::new(plain)),
            None => stored::open(&self.shared, path)?.plain,
        };
        let Some(method) = method else {
            return pass_on(&mut *reader, out).context("send", path).map_err(Into::into);
        };
        let codec = |source| WalError::Codec { path: path.to_owned(), source };
        let packer = compressor(method, Level::Medium, None).map_err(codec)?;
        let mut encoder = packer.encoder();
        let (mut chunk, mut frame, mut bytes) = (Vec::new(), Vec::new(), 0);
        loop {
            chunk.clear();
            reader.by_ref().take(16 << 20).read_to_end(&mut chunk).context("read", path)?;
            if chunk.is_empty() && bytes > 0 {
                return Ok(bytes);
            }
            encoder.encode(&chunk, &mut frame).map_err(codec)?;
            out.write_all(&frame).context("send", path)?;
            bytes += frame.len() as u64;
            if chunk.is_empty() {
                return Ok(bytes);
            }
        }
    }

    /// The names of at most `count` files that can be had, beginning with `name`, one after the other. A file that is
    /// no segment is followed by nothing.
    pub fn peek(
        &self,
        name: &WalFileName,
        count: usize,
        size: SegmentSize,
    ) -> Result<Vec<WalFileName>, WalError> {
        let mut names = Vec::new();
        let mut next = Some(*name);
        while let Some(name) = next.filter(|_| names.len() < count) {
            let request = Request { name, partial: false, packing: Packing::Plain };
            let mut there = false;
            for (path, _) in self.candidates(&request) {
                there = there || self.shared.disk.exists(&path)?;
            }
            if !there {
                break;
            }
            names.push(name);
            next = name
                .as_segment()
                .and_then(|segment: SegmentName| segment.next(size))
                .map(WalFileName::Segment);
        }
        Ok(names)
    }
}

/// Copies in pieces that are worth a system call.
fn pass_on(from: &mut (impl Read + ?Sized), out: &mut dyn Write) -> std::io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(count) => {
                out.write_all(piece.get(..count).unwrap_or_default())?;
                bytes += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
