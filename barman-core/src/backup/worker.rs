//! Workers that read files through one stream each and put them into the space.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Mutex;

use camino::{Utf8Path, Utf8PathBuf};

use super::page_check::{PageCheck, PageLayout, Suspect, judge, page_lsn};
use super::port::transfer;
use super::throttle::Throttle;
use super::tree::{Tree, Wanted};
use super::vanish::{Vanished, may_shrink_to, may_vanish};
use super::{BackupError, BackupJob, CorruptPage, Skipped};
use crate::catalog::{BackupReader, BackupSpace, FileProof, FileSink, FileSpec};
use crate::ctx::{Cancel, Ctx, Event};
use crate::format::relfile::RelFile;
use crate::model::{FileTime, Lsn};
use crate::transport::{FetchItem, FetchSink, Fetched, FileFacts, Lane, Transport, TransportError};

/// How often a file that changes under our hands is read again before the backup fails.
const MOST_TRIES: u8 = 5;

/// Everything the workers of one tree share.
pub(crate) struct Shared<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) queue: Mutex<VecDeque<Wanted>>,
    pub(crate) transport: &'a dyn Transport,
    pub(crate) space: &'a dyn BackupSpace,
    pub(crate) parent: Option<&'a dyn BackupReader>,
    pub(crate) job: &'a BackupJob,
    pub(crate) layout: PageLayout,
    /// Present when pages carry checksums.
    pub(crate) start_lsn: Option<Lsn>,
    pub(crate) throttle: &'a Throttle,
    pub(crate) stop: &'a Cancel,
    pub(crate) ctx: &'a Ctx<'a>,
}

/// What a worker brings home.
#[derive(Debug, Default)]
pub(crate) struct Harvest {
    pub(crate) proofs: Vec<FileProof>,
    pub(crate) copied_bytes: u64,
    pub(crate) reused_files: u64,
    pub(crate) skipped: Vec<Skipped>,
    /// Files that may be gone only when this directory of their database is, too; asked when the tree is done.
    pub(crate) orphans: Vec<Orphan>,
    pub(crate) corrupt: Vec<CorruptPage>,
    /// Wrong pages that claim to be newer than the start: replay mends them if they are not newer than the end, too.
    pub(crate) newer: Vec<(CorruptPage, Lsn)>,
}

/// A file that vanished, and the directory of its database, both below the tree's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orphan {
    pub(crate) path: Utf8PathBuf,
    pub(crate) database: Utf8PathBuf,
}

impl Harvest {
    pub(crate) fn absorb(&mut self, other: Self) {
        self.proofs.extend(other.proofs);
        self.copied_bytes += other.copied_bytes;
        self.reused_files += other.reused_files;
        self.skipped.extend(other.skipped);
        self.orphans.extend(other.orphans);
        self.corrupt.extend(other.corrupt);
        self.newer.extend(other.newer);
    }
}

/// Works until the queue is empty. A connection that breaks is taken up again as often as the job allows; what was not
/// received is then asked for again.
pub(crate) fn work(shared: &Shared<'_>) -> Result<Harvest, BackupError> {
    let mut harvest = Harvest::default();
    let mut lane: Option<Box<dyn Lane>> = None;
    let mut failures = 0;
    while !shared.lock_queue().is_empty() {
        check_stop(shared)?;
        match round(shared, &mut lane, &mut harvest) {
            Ok(()) => {}
            Err(BackupError::Transfer { source })
                if source.is_transient() && failures < shared.job.retry_times =>
            {
                failures += 1;
                lane = None;
                let pause = shared.job.retry_sleep;
                shared.ctx.warn(format!(
                    "{source}. Copying goes on in {} seconds (attempt {failures} of {})",
                    pause.as_secs(),
                    shared.job.retry_times
                ));
                shared.ctx.clock.pause(pause, shared.stop)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(harvest)
}

fn round(
    shared: &Shared<'_>,
    lane: &mut Option<Box<dyn Lane>>,
    harvest: &mut Harvest,
) -> Result<(), BackupError> {
    let lane = match lane {
        Some(lane) => lane,
        None => lane.insert(shared.transport.lane().map_err(transfer)?),
    };
    let in_flight = RefCell::new(HashMap::new());
    let mut sink =
        Sink { shared, in_flight: &in_flight, harvest, current: None, doubtful: Vec::new(), failure: None };
    let mut items = std::iter::from_fn(|| {
        let wanted = shared.lock_queue().pop_front()?;
        let item = FetchItem { path: wanted.entry.path.clone(), size: wanted.entry.size };
        in_flight.borrow_mut().insert(item.path.clone(), wanted);
        Some(item)
    });
    let outcome = lane.fetch(&shared.tree.source, &mut items, &mut sink);
    let (doubtful, failure) = (sink.doubtful, sink.failure);
    let left: Vec<Wanted> = in_flight.into_inner().into_values().collect();
    if let Some(failure) = failure {
        return Err(failure);
    }
    let unanswered = left.len();
    shared.lock_queue().extend(left);
    if let Err(error) = outcome {
        // What was received and is not yet settled has no proof: without one it would not be part of the backup.
        shared.lock_queue().extend(doubtful.into_iter().map(|doubt| doubt.wanted));
        return Err(transfer(error));
    }
    if unanswered > 0 {
        return Err(transfer(TransportError::Protocol {
            target: shared.transport.target().to_owned(),
            doing: format!("reading files of {}", shared.tree.source),
            reason: format!("{unanswered} files were asked for and neither received nor refused"),
        }));
    }
    let mut doubtful = doubtful.into_iter();
    while let Some(doubt) = doubtful.next() {
        let wanted = doubt.wanted.clone();
        if let Err(error) = settle(shared, lane.as_mut(), doubt, harvest) {
            // The same: this one and those after it are read again, or the backup fails.
            shared.lock_queue().extend(std::iter::once(wanted).chain(doubtful.map(|doubt| doubt.wanted)));
            return Err(error);
        }
    }
    Ok(())
}

/// Reads the wrong pages of a file once more and decides (I12).
fn settle(
    shared: &Shared<'_>,
    lane: &mut dyn Lane,
    doubt: Doubt,
    harvest: &mut Harvest,
) -> Result<(), BackupError> {
    let Some(start) = shared.start_lsn else {
        harvest.proofs.push(doubt.proof);
        return Ok(());
    };
    let size = shared.layout.block_size;
    let path = shared.tree.source.join(&doubt.wanted.entry.path);
    let (mut torn, mut corrupt, mut newer) = (Vec::new(), Vec::new(), Vec::new());
    for suspect in &doubt.suspects {
        let page = CorruptPage {
            root: shared.tree.root,
            path: doubt.wanted.entry.path.clone(),
            block: suspect.block,
            found: suspect.found,
            expected: suspect.expected,
        };
        if suspect.lsn > start {
            newer.push((page, suspect.lsn));
            continue;
        }
        let offset = u64::from(suspect.index) * u64::from(size);
        let Some(again) = read_page(shared, lane, &path, offset, size)? else {
            // The relation was truncated or dropped meanwhile: replay does the same.
            continue;
        };
        match judge(&again, suspect.index, suspect.block) {
            // Newer than the start: replay writes the whole page.
            _ if page_lsn(&again) > start => {}
            None => torn.push(page),
            Some(_) => corrupt.push(page),
        }
    }
    if !torn.is_empty() && doubt.wanted.tries < MOST_TRIES {
        shared.lock_queue().push_back(Wanted { tries: doubt.wanted.tries + 1, ..doubt.wanted });
        return Ok(());
    }
    // A page that was torn each time is wrong in the backup, whatever the source holds.
    harvest.corrupt.extend(corrupt);
    harvest.corrupt.extend(torn);
    harvest.newer.extend(newer);
    harvest.proofs.push(doubt.proof);
    Ok(())
}

/// One page of a file; `None` when the file does not reach so far any more.
fn read_page(
    shared: &Shared<'_>,
    lane: &mut dyn Lane,
    path: &Utf8Path,
    offset: u64,
    size: u32,
) -> Result<Option<Vec<u8>>, BackupError> {
    let mut page = Vec::with_capacity(size as usize);
    let read = lane.read(path, offset, Some(u64::from(size))).and_then(|mut stream| {
        stream.read_to_end(&mut page).map_err(|e| TransportError::Lost {
            target: shared.transport.target().to_owned(),
            doing: format!("reading a page of {path} again"),
            reason: e.to_string(),
        })
    });
    match read {
        Ok(_) if page.len() >= size as usize => Ok(Some(page)),
        Ok(_) => Ok(None),
        Err(TransportError::File { kind: io::ErrorKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(transfer(error)),
    }
}

fn check_stop(shared: &Shared<'_>) -> Result<(), BackupError> {
    shared.stop.check()?;
    shared.ctx.cancel.check()?;
    Ok(())
}

impl Shared<'_> {
    fn lock_queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Wanted>> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A stored file with pages that are wrong.
struct Doubt {
    wanted: Wanted,
    proof: FileProof,
    suspects: Vec<Suspect>,
}

/// The file that is being received.
struct Current {
    spec: FileSpec,
    pages: Option<PageCheck>,
    output: Output,
}

enum Output {
    /// Bytes go to a new file.
    Writing(Box<dyn FileSink>),
    /// So far every byte equals the parent's file.
    Comparing { theirs: Box<dyn Read + Send>, same: u64, proof: FileProof },
}

struct Sink<'a, 's> {
    shared: &'a Shared<'s>,
    in_flight: &'a RefCell<HashMap<Utf8PathBuf, Wanted>>,
    harvest: &'a mut Harvest,
    current: Option<Current>,
    doubtful: Vec<Doubt>,
    failure: Option<BackupError>,
}

impl Sink<'_, '_> {
    /// Keeps the typed error for the worker; the transport only learns that the sink gave up.
    fn fail<T>(&mut self, error: impl Into<BackupError>) -> io::Result<T> {
        let error = error.into();
        let text = error.to_string();
        self.failure = Some(error);
        Err(io::Error::other(text))
    }

    fn open(&mut self, path: &Utf8Path, facts: FileFacts) -> Result<Current, BackupError> {
        let shared = self.shared;
        let wanted = self.in_flight.borrow().get(path).cloned();
        let listed = wanted.as_ref().map(|w| w.entry.mtime).unwrap_or_default();
        let spec = FileSpec {
            root: shared.tree.root,
            path: path.to_owned(),
            mode: facts.mode,
            mtime: finer(facts.mtime, listed),
            size: facts.size,
        };
        let pages = match (shared.start_lsn, RelFile::parse(path)) {
            (Some(_), Some(file)) => Some(PageCheck::new(shared.layout, file)),
            _ => None,
        };
        let compare =
            wanted.and_then(|w| w.compare).filter(|p| p.size == facts.size && p.mtime == spec.mtime);
        // A file that the parent has lost is no reason not to take this backup: it is stored anew.
        let theirs = compare.and_then(|proof| {
            let theirs = shared.parent?.open(proof.root, &proof.path).ok()?;
            Some((proof, theirs))
        });
        let output = match theirs {
            Some((proof, theirs)) => Output::Comparing { theirs, same: 0, proof },
            None => Output::Writing(shared.space.file(spec.clone())?),
        };
        Ok(Current { spec, pages, output })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let shared = self.shared;
        check_stop(shared)?;
        shared.throttle.take(bytes.len(), shared.ctx.clock, [shared.stop, shared.ctx.cancel])?;
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        if let Some(pages) = current.pages.as_mut() {
            pages.push(bytes);
        }
        current.write(bytes, shared)?;
        self.harvest.copied_bytes += bytes.len() as u64;
        shared.ctx.progress.event(&Event::Advanced { by: bytes.len() as u64 });
        Ok(())
    }

    /// Ends the current file and gives its proof, with the pages that are wrong.
    fn close(&mut self, current: Current) -> Result<(FileProof, Vec<Suspect>), BackupError> {
        let suspects = current.pages.map(PageCheck::finish).unwrap_or_default();
        let proof = match current.output {
            Output::Writing(sink) => sink.finish()?,
            Output::Comparing { same, proof, .. } if same == proof.size => {
                let link = self.shared.job.reuse.as_ref().is_some_and(|r| r.link);
                let parent = self.shared.job.reuse.as_ref().map(|r| r.parent);
                if let Some(parent) = parent {
                    self.shared.space.reuse(current.spec.clone(), &proof, &parent, link)?;
                    self.harvest.reused_files += 1;
                }
                FileProof { mode: current.spec.mode, ..proof }
            }
            Output::Comparing { same, proof, .. } => {
                // Shorter than the parent's: what came is written after all.
                let mut sink = self.shared.space.file(current.spec.clone())?;
                copy_prefix(self.shared, &proof, same, sink.as_mut())?;
                sink.finish()?
            }
        };
        Ok((proof, suspects))
    }

    fn finished(&mut self, path: &Utf8Path, how: Fetched) -> Result<(), BackupError> {
        let Some(wanted) = self.in_flight.borrow_mut().remove(path) else { return Ok(()) };
        let shared = self.shared;
        let full = || shared.tree.source.join(path);
        let current = self.current.take();
        match how {
            Fetched::Whole => {
                let Some(current) = current else { return Ok(()) };
                let (proof, suspects) = self.close(current)?;
                if suspects.is_empty() {
                    self.harvest.proofs.push(proof);
                } else {
                    self.doubtful.push(Doubt { wanted, proof, suspects });
                }
            }
            Fetched::Shrunk { got } if may_shrink_to(path, got, shared.layout.block_size) => {
                let Some(current) = current else { return Ok(()) };
                let (proof, _) = self.close(current)?;
                self.harvest.proofs.push(proof);
                self.skip(path, "it was truncated while it was read");
            }
            Fetched::Shrunk { .. } => {
                drop(current);
                self.again(
                    wanted,
                    || format!("became shorter each of the {MOST_TRIES} times that it was read"),
                    full(),
                )?;
            }
            Fetched::Vanished => match may_vanish(shared.tree.root, path) {
                _ if wanted.optional => self.skip(path, "it is optional"),
                Vanished::Rightly(why) => self.skip(path, why),
                Vanished::WithDatabase(database) => {
                    self.harvest.orphans.push(Orphan { path: path.to_owned(), database });
                }
                Vanished::Never => self.again(
                    wanted,
                    || "was there and is gone; no running server removes it".to_owned(),
                    full(),
                )?,
            },
            Fetched::Denied(words) => {
                return Err(BackupError::Source {
                    path: full(),
                    what: format!(
                        "cannot be read: {words}; give the login of the backup the right to read it"
                    ),
                });
            }
        }
        Ok(())
    }

    fn again(&self, wanted: Wanted, what: impl Fn() -> String, path: Utf8PathBuf) -> Result<(), BackupError> {
        if wanted.tries + 1 >= MOST_TRIES {
            return Err(BackupError::Source { path, what: what() });
        }
        self.shared.lock_queue().push_back(Wanted { tries: wanted.tries + 1, ..wanted });
        Ok(())
    }

    fn skip(&mut self, path: &Utf8Path, why: &'static str) {
        self.harvest.skipped.push(Skipped { root: self.shared.tree.root, path: path.to_owned(), why });
    }
}

impl FetchSink for Sink<'_, '_> {
    fn begin(&mut self, path: &Utf8Path, facts: FileFacts) -> io::Result<()> {
        match self.open(path, facts) {
            Ok(current) => {
                self.current = Some(current);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take(bytes).or_else(|error| self.fail(error))
    }

    fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
        self.finished(path, how).or_else(|error| self.fail(error))
    }
}

impl Current {
    fn write(&mut self, bytes: &[u8], shared: &Shared<'_>) -> Result<(), BackupError> {
        if let Output::Comparing { theirs, same, proof } = &mut self.output {
            let mut mine = vec![0; bytes.len()];
            let read = read_full(theirs.as_mut(), &mut mine);
            if read.is_ok_and(|n| n == bytes.len()) && mine == bytes {
                *same += bytes.len() as u64;
                return Ok(());
            }
            let mut sink = shared.space.file(self.spec.clone())?;
            copy_prefix(shared, proof, *same, sink.as_mut())?;
            self.output = Output::Writing(sink);
        }
        let Output::Writing(sink) = &mut self.output else { return Ok(()) };
        sink.write_all(bytes).map_err(|e| store_error(shared, &self.spec, e))
    }
}

/// Writes the part of the parent's file that was found equal.
fn copy_prefix(
    shared: &Shared<'_>,
    proof: &FileProof,
    length: u64,
    sink: &mut dyn FileSink,
) -> Result<(), BackupError> {
    let Some(parent) = shared.parent else { return Ok(()) };
    let theirs = parent.open(proof.root, &proof.path)?;
    let spec =
        FileSpec { root: proof.root, path: proof.path.clone(), mode: 0, mtime: proof.mtime, size: length };
    let copied = io::copy(&mut theirs.take(length), sink).map_err(|e| store_error(shared, &spec, e))?;
    if copied == length {
        Ok(())
    } else {
        Err(store_error(shared, &spec, io::ErrorKind::UnexpectedEof.into()))
    }
}

fn store_error(shared: &Shared<'_>, spec: &FileSpec, source: io::Error) -> BackupError {
    let path = shared.space.location(spec.root).join(&spec.path);
    crate::catalog::CatalogError::from(crate::io::IoError::new("write", path, source)).into()
}

fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// The time with the finer fraction when both name the same second and one has none (a tar without PAX times).
fn finer(stream: FileTime, listed: FileTime) -> FileTime {
    if stream.nanos == 0 && stream.seconds == listed.seconds { listed } else { stream }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
