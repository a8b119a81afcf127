//! [`LocalTransport`]: the files and commands of this host, behind the same seam as those of others. All file access
//! goes through [`Disk`], so that tests can lose what was not synced.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Arc;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use crate::ctx::Cancel;
use crate::io::{
    Disk, DiskFile, IoContext, IoError, IoErrorKind, Step, WalkOptions, WriteBehind, durable, walk,
};
use crate::model::Entry;

use super::process::{self, Trouble};
use super::{
    Exchange, ExitStatus, FetchItem, FetchSink, Fetched, FileFacts, FileOp, Lane, Probe, RemoteCommand,
    StoreContent, StoreItem, StoreReport, Surveyed, Transport, TransportError, local_ops, local_walk,
};

/// The name of this host in messages.
const TARGET: &str = "localhost";

/// Bytes read or written at once: large enough that system calls do not count, small enough for the cache.
const CHUNK: usize = 1 << 18;

/// This host.
#[derive(Clone)]
pub struct LocalTransport {
    disk: Arc<dyn Disk>,
    cancel: Cancel,
}

impl LocalTransport {
    /// The host as this disk shows it. Setting `cancel` stops every operation of every lane at its next chunk.
    pub fn new(disk: Arc<dyn Disk>, cancel: Cancel) -> Self {
        Self { disk, cancel }
    }
}

impl Transport for LocalTransport {
    fn target(&self) -> &str {
        TARGET
    }

    fn is_local(&self) -> bool {
        true
    }

    fn lane(&self) -> Result<Box<dyn Lane>, TransportError> {
        self.cancel.check()?;
        Ok(Box::new(LocalLane {
            disk: Arc::clone(&self.disk),
            cancel: self.cancel.clone(),
            buffer: Vec::new(),
        }))
    }
}

/// The lane of [`LocalTransport`].
struct LocalLane {
    disk: Arc<dyn Disk>,
    cancel: Cancel,
    /// Allocated once, when first needed.
    buffer: Vec<u8>,
}

impl Lane for LocalLane {
    fn exec(&mut self, command: &RemoteCommand, io: &mut dyn Exchange) -> Result<ExitStatus, TransportError> {
        let (name, mut child) = match command {
            RemoteCommand::Program(words) => {
                let (name, args) = words.split_first().ok_or_else(|| unsupported("an empty command"))?;
                let mut child = Command::new(name);
                child.args(args);
                (name.as_str(), child)
            }
            RemoteCommand::Shell(line) => {
                let mut child = Command::new("sh");
                child.args(["-c", line]);
                ("sh", child)
            }
        };
        process::run(&mut child, io, &self.cancel).map_err(|trouble| match trouble {
            Trouble::System(source) => file_error(&IoError::new("run", name, source)),
            Trouble::Giver(source) => TransportError::Source { target: TARGET.into(), source },
            Trouble::Taker(source) => TransportError::Sink { target: TARGET.into(), source },
            Trouble::Cancelled(cancelled) => cancelled.into(),
        })
    }

    fn list(
        &mut self,
        root: &Utf8Path,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        local_walk::walk(self.disk.as_ref(), root, &self.cancel, each)
    }

    fn survey(&mut self, root: &Utf8Path, each: &mut dyn FnMut(Surveyed)) -> Result<(), TransportError> {
        let walked = walk(self.disk.as_ref(), root, WalkOptions::default(), &mut |entry, stat| {
            let Entry { path, kind, size, mode, .. } = entry;
            each(Surveyed { path, kind, size, mode, links: stat.nlink });
            if self.cancel.is_cancelled() { Step::Stop } else { Step::Go }
        });
        self.cancel.check()?;
        walked.map_err(|e| file_error(&e))
    }

    fn read<'a>(
        &'a mut self,
        path: &Utf8Path,
        from: u64,
        len: Option<u64>,
    ) -> Result<Box<dyn Read + Send + 'a>, TransportError> {
        let mut file = self.disk.open_read(path).map_err(|e| file_error(&e))?;
        if from > 0 {
            let moved = file.seek(SeekFrom::Start(from)).context("seek in", path);
            moved.map_err(|e| file_error(&e))?;
        }
        Ok(match len {
            Some(len) => Box::new(file.take(len)),
            None => Box::new(file),
        })
    }

    fn fetch(
        &mut self,
        root: &Utf8Path,
        wanted: &mut dyn Iterator<Item = FetchItem>,
        sink: &mut dyn FetchSink,
    ) -> Result<(), TransportError> {
        // Without its root every file would seem to have vanished.
        let root_facts = self.disk.stat(root).map_err(|e| file_error(&e))?;
        if !root_facts.is_dir() {
            return Err(file_error(&IoError::new("open", root, io::ErrorKind::NotADirectory)));
        }
        for item in wanted {
            self.cancel.check()?;
            let ended = self.fetch_one(&root.join(&item.path), &item.path, sink)?;
            sink.end(&item.path, ended).map_err(sink_error)?;
        }
        Ok(())
    }

    fn store(
        &mut self,
        root: &Utf8Path,
        items: &mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
    ) -> Result<StoreReport, TransportError> {
        let mut report = StoreReport::default();
        for item in items {
            self.cancel.check()?;
            let item = item?;
            let path = root.join(below(&item.path, TARGET)?);
            match item.content {
                StoreContent::Directory => {
                    self.store_directory(&path, item.mode).map_err(|e| file_error(&e))?
                }
                StoreContent::Symlink(target) => {
                    local_ops::replace_link(self.disk.as_ref(), &target, &path)
                        .map_err(|e| file_error(&e))?;
                }
                StoreContent::File { size, bytes } => {
                    let facts = FileFacts { size, mtime: item.mtime, mode: item.mode };
                    self.store_file(&path, facts, bytes)?;
                    report.files += 1;
                    report.bytes += size;
                }
            }
        }
        Ok(report)
    }

    fn probe(&mut self, paths: &[Utf8PathBuf]) -> Result<Vec<Probe>, TransportError> {
        Ok(paths.iter().map(|path| local_ops::probe(self.disk.as_ref(), path)).collect())
    }

    fn apply(&mut self, ops: &[FileOp]) -> Result<(), TransportError> {
        for op in ops {
            self.cancel.check()?;
            local_ops::apply(self.disk.as_ref(), op).map_err(|e| file_error(&e))?;
        }
        Ok(())
    }

    fn sync(&mut self, root: &Utf8Path) -> Result<(), TransportError> {
        local_ops::sync(self.disk.as_ref(), root).map_err(|e| file_error(&e))
    }
}

impl LocalLane {
    fn buffer(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = vec![0; CHUNK];
        }
        &mut self.buffer
    }

    /// Reads one file up to the size that it has when it is opened.
    fn fetch_one(
        &mut self,
        full: &Utf8Path,
        path: &Utf8Path,
        sink: &mut dyn FetchSink,
    ) -> Result<Fetched, TransportError> {
        let opened = self.disk.open_read(full).and_then(|file| Ok((file.stat()?, file)));
        let (stat, mut file) = match opened {
            Ok(opened) => opened,
            Err(e) => return Ok(verdict(&e.source)),
        };
        let facts = FileFacts { size: stat.size, mtime: stat.mtime, mode: stat.mode };
        sink.begin(path, facts).map_err(sink_error)?;
        let cancel = self.cancel.clone();
        let mut got = 0;
        while got < facts.size {
            cancel.check()?;
            let most = usize::try_from(facts.size - got).unwrap_or(usize::MAX).min(CHUNK);
            let part = self.buffer().get_mut(..most).unwrap_or_default();
            match file.read(part) {
                Ok(0) => return Ok(Fetched::Shrunk { got }),
                Ok(n) => {
                    sink.data(part.get(..n).unwrap_or_default()).map_err(sink_error)?;
                    got += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(Fetched::Denied(e.to_string())),
            }
        }
        Ok(Fetched::Whole)
    }

    fn store_directory(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
        match self.disk.mkdir(path, mode) {
            Err(e) if e.is_already_exists() && self.disk.stat(path)?.is_dir() => {}
            other => other?,
        }
        self.disk.set_mode(path, mode)
    }

    fn store_file(
        &mut self,
        path: &Utf8Path,
        facts: FileFacts,
        mut bytes: Box<dyn Read + Send>,
    ) -> Result<(), TransportError> {
        let disk = Arc::clone(&self.disk);
        let (created, replaces) = match disk.create_new(path) {
            Err(e) if e.is_already_exists() => (durable::create_tmp(disk.as_ref(), path), true),
            other => (other, false),
        };
        let mut file = created.map_err(|e| file_error(&e))?;
        let written = self.fill(file.as_mut(), facts, bytes.as_mut());
        let name = file.path().to_owned();
        drop(file);
        let published = written.and_then(|()| {
            if replaces { disk.replace(&name, path).map_err(|e| file_error(&e)) } else { Ok(()) }
        });
        if published.is_err() {
            // The first error is the one that counts; half a file must not look like a whole one.
            let _ = disk.unlink(&name);
        }
        published
    }

    fn fill(
        &mut self,
        file: &mut dyn DiskFile,
        facts: FileFacts,
        bytes: &mut (dyn Read + Send),
    ) -> Result<(), TransportError> {
        let cancel = self.cancel.clone();
        let mut left = facts.size;
        let mut behind = WriteBehind::new();
        while left > 0 {
            cancel.check()?;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            let part = self.buffer().get_mut(..most).unwrap_or_default();
            let n = match bytes.read(part) {
                Ok(0) => return Err(ended_early(file.path(), left, TARGET)),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(TransportError::Source { target: TARGET.into(), source }),
            };
            file.put(part.get(..n).unwrap_or_default()).map_err(|e| file_error(&e))?;
            behind.advanced(file, n as u64);
            left -= n as u64;
        }
        let finished = file.set_mode(facts.mode).and_then(|()| file.set_mtime(facts.mtime));
        finished.map_err(|e| file_error(&e))
    }
}

/// The error of a source that gives fewer bytes than it promised.
pub(super) fn ended_early(path: &Utf8Path, missing: u64, target: &str) -> TransportError {
    let reason = format!("the content of {path} ended {missing} bytes too early");
    let source = io::Error::new(io::ErrorKind::UnexpectedEof, reason);
    TransportError::Source { target: target.into(), source }
}

/// Refuses a path that would lead out of the root.
pub(super) fn below<'p>(path: &'p Utf8Path, target: &str) -> Result<&'p Utf8Path, TransportError> {
    if path.components().all(|c| matches!(c, Utf8Component::Normal(_))) && !path.as_str().is_empty() {
        return Ok(path);
    }
    Err(TransportError::File {
        target: target.into(),
        verb: "write",
        path: path.to_owned(),
        reason: "the path does not lie below the directory that is written".into(),
        kind: io::ErrorKind::InvalidInput,
    })
}

/// How a file ended that could not be opened.
fn verdict(error: &io::Error) -> Fetched {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle => Fetched::Vanished,
        _ => Fetched::Denied(error.to_string()),
    }
}

fn sink_error(source: io::Error) -> TransportError {
    TransportError::Sink { target: TARGET.into(), source }
}

fn unsupported(reason: &str) -> TransportError {
    TransportError::Unsupported { target: TARGET.into(), reason: reason.into() }
}

pub(super) fn file_error(error: &IoError) -> TransportError {
    TransportError::File {
        target: TARGET.into(),
        verb: error.verb,
        path: error.path.clone(),
        reason: error.source.to_string(),
        kind: match error.kind() {
            IoErrorKind::NotUtf8 => io::ErrorKind::InvalidData,
            _ => error.source.kind(),
        },
    }
}
