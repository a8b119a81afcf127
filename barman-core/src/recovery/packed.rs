//! Packed trees: one pass over each archive. What comes out of it is verified and written by others while it goes on.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};

use super::run::{ProofTable, RecoveryReport, Run, directory, lock, proof_of};
use super::{RecoveryError, TreePlan};
use crate::catalog::{MemberStream, Root};
use crate::ctx::{Cancel, Cancelled, Event, Unit};
use crate::model::Entry;
use crate::pipe::{BufferPool, PooledBuf};
use crate::transport::{Lane, StoreItem, StoreReport, TransportError};

/// Bytes of a file that travel together. A file that is not larger travels whole, so that small ones are written side by side.
const PIECE: usize = 256 << 10;
/// Files that wait to be written.
const QUEUE: usize = 32;
/// Pieces of a large file that wait.
const AHEAD: usize = 4;
/// How often a wait looks whether it is in vain.
const LOOK: Duration = Duration::from_millis(100);

/// What was done to a tree.
#[derive(Default)]
struct Written {
    stored: StoreReport,
    unverified: u64,
}

impl Written {
    fn add(&mut self, other: &Written) {
        self.stored.files += other.stored.files;
        self.stored.bytes += other.stored.bytes;
        self.unverified += other.unverified;
    }
}

/// The error that counts: those who were only told to stop say nothing new.
pub(super) fn first_error<T>(
    outcomes: impl IntoIterator<Item = Result<T, RecoveryError>>,
) -> Result<Vec<T>, RecoveryError> {
    let mut done = Vec::new();
    let mut trouble = None;
    for outcome in outcomes {
        match (outcome, &trouble) {
            (Ok(one), _) => done.push(one),
            (Err(error), None | Some(RecoveryError::Cancelled(_))) => trouble = Some(error),
            (Err(_), Some(_)) => {}
        }
    }
    trouble.map_or(Ok(done), Err)
}

impl Run<'_> {
    /// Writes trees that lie packed, as many side by side as there are jobs.
    pub(super) fn write_packed(
        &self,
        trees: Vec<(&TreePlan, Box<dyn MemberStream>)>,
        proofs: &Option<ProofTable>,
        report: &mut RecoveryReport,
    ) -> Result<(), RecoveryError> {
        if trees.is_empty() {
            return Ok(());
        }
        let outlines = trees.iter().map(|(tree, _)| self.reader.outline(tree.root));
        let outlines = outlines.collect::<Result<Vec<_>, _>>()?;
        let exact = proofs.is_some() || outlines.iter().all(|outline| outline.entries.is_some());
        let total = exact.then(|| outlines.iter().map(|outline| outline.bytes).sum());
        self.ctx.progress.event(&Event::StageStarted { stage: "Restoring data", total, unit: Unit::Bytes });
        let side_by_side = self.options.jobs.clamp(1, trees.len());
        let writers = (self.options.jobs / side_by_side).max(1);
        let stop = Cancel::new();
        let queue = Mutex::new(VecDeque::from(trees));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..side_by_side)
                .map(|_| {
                    scope.spawn(|| {
                        let mut written = Written::default();
                        loop {
                            let Some((tree, members)) = lock(&queue).pop_front() else { return Ok(written) };
                            match self.write_archive(tree, members, writers, proofs, &stop) {
                                Ok(more) => written.add(&more),
                                Err(error) => {
                                    stop.cancel();
                                    return Err(error);
                                }
                            }
                        }
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(self.died().into()))).collect()
        });
        self.ctx.progress.event(&Event::StageFinished);
        for written in first_error(outcomes)? {
            report.files += written.stored.files;
            report.bytes += written.stored.bytes;
            report.unverified += written.unverified;
        }
        Ok(())
    }

    /// Reads one archive, while so many write.
    fn write_archive(
        &self,
        tree: &TreePlan,
        members: Box<dyn MemberStream>,
        writers: usize,
        proofs: &Option<ProofTable>,
        stop: &Cancel,
    ) -> Result<Written, RecoveryError> {
        let (send, waiting) = bounded(QUEUE);
        let (fed, stored) = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..writers)
                .map(|number| {
                    let waiting = waiting.clone();
                    scope.spawn(move || self.store_members(tree, number, &waiting, stop))
                })
                .collect();
            drop(waiting);
            let fed = Feed::new(self, tree, proofs, send, stop).run(members);
            let stored: Vec<_> =
                lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(self.died()))).collect();
            (fed, stored)
        });
        // When reading failed, writers miss what did not come any more: that is no trouble of theirs.
        let unverified = match fed {
            Err(error @ RecoveryError::Cancelled(_)) => {
                first_error(stored.into_iter().map(|s| s.map_err(RecoveryError::from)))?;
                return Err(error);
            }
            other => other?,
        };
        let mut written = Written { stored: StoreReport::default(), unverified };
        for stored in first_error(stored.into_iter().map(|s| s.map_err(RecoveryError::from)))? {
            written.stored.files += stored.files;
            written.stored.bytes += stored.bytes;
        }
        Ok(written)
    }

    fn store_members(
        &self,
        tree: &TreePlan,
        number: usize,
        waiting: &Receiver<StoreItem>,
        stop: &Cancel,
    ) -> Result<StoreReport, TransportError> {
        let given_up = GivenUp(stop);
        let lane = self.wait_for_turn(number, stop).and_then(|()| self.transport.lane());
        let stored = lane.and_then(|mut lane| {
            let mut items = std::iter::from_fn(|| {
                let item = waiting.recv().ok()?;
                Some(self.go_on(stop).map(|()| item))
            });
            lane.store(&tree.destination, &mut items)
        });
        if stored.is_ok() {
            std::mem::forget(given_up);
        }
        stored
    }
}

/// Tells the others when a writer ends before all is written, however that comes.
struct GivenUp<'a>(&'a Cancel);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Takes an archive apart for those who write.
struct Feed<'a> {
    run: &'a Run<'a>,
    tree: &'a TreePlan,
    proofs: &'a Option<ProofTable>,
    send: Sender<StoreItem>,
    stop: &'a Cancel,
    pool: BufferPool,
    /// For directories, opened when the first is made.
    lane: Option<Box<dyn Lane>>,
    made: HashSet<Utf8PathBuf>,
    /// Directories that came and are not needed yet.
    coming: Vec<Entry>,
    /// Files that came and that the manifest names.
    seen: HashSet<Utf8PathBuf>,
    unverified: u64,
}

impl<'a> Feed<'a> {
    fn new(
        run: &'a Run<'a>,
        tree: &'a TreePlan,
        proofs: &'a Option<ProofTable>,
        send: Sender<StoreItem>,
        stop: &'a Cancel,
    ) -> Self {
        // More than can be under way: a file that waits holds one, and those being written a few.
        let pool = BufferPool::new(PIECE, QUEUE + 4 * AHEAD);
        let (made, coming, seen) = (HashSet::new(), Vec::new(), HashSet::new());
        Self { run, tree, proofs, send, stop, pool, lane: None, made, coming, seen, unverified: 0 }
    }

    /// To the end of the archive; gives how many files could not be verified. [`RecoveryError::Cancelled`] also stands for
    /// writers that have failed.
    fn run(mut self, mut members: Box<dyn MemberStream>) -> Result<u64, RecoveryError> {
        let root = self.tree.root;
        let known = self.run.reader.outline(root)?.entries.unwrap_or_default();
        let known = known.into_iter().filter(|entry| entry.is_dir() && self.run.belongs(root, entry));
        self.coming.extend(known);
        if let Some(wal) = self.run.wal_directory(root) {
            self.coming.push(Entry {
                path: wal.into(),
                kind: crate::model::EntryKind::Directory,
                size: 0,
                mtime: Default::default(),
                mode: 0o700,
            });
        }
        while let Some((entry, body)) = members.next().map_err(|error| self.unreadable(&error))? {
            self.go_on()?;
            let belongs = self.run.belongs(root, &entry);
            if entry.is_dir() && belongs {
                self.coming.push(entry);
                continue;
            }
            if !entry.is_file() {
                continue;
            }
            let verified = proof_of(self.proofs, root, &entry.path).is_some();
            if verified {
                self.seen.insert(entry.path.clone());
            }
            if belongs && !self.run.keeps(root, &entry.path) {
                self.unverified += u64::from(self.run.unverified(self.proofs, root, &entry.path));
                self.room_for(&entry.path)?;
                self.file(entry, body)?;
            }
        }
        self.make_directories()?;
        self.nothing_missing()?;
        Ok(self.unverified)
    }

    fn go_on(&self) -> Result<(), Cancelled> {
        self.stop.check()?;
        self.run.ctx.cancel.check()
    }

    fn unreadable(&self, error: &io::Error) -> RecoveryError {
        let path = self.run.reader.location(self.tree.root);
        let damage = matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        let reason = if damage {
            format!("{error}; the backup is damaged, restore from another backup")
        } else {
            error.to_string()
        };
        RecoveryError::Damaged { path, reason }
    }

    /// Makes the directories that came, when one of them is needed now.
    fn room_for(&mut self, path: &Utf8Path) -> Result<(), RecoveryError> {
        let above = path.parent().filter(|above| !above.as_str().is_empty());
        let Some(above) = above.filter(|above| !self.made.contains(*above)) else { return Ok(()) };
        // Only an archive that somebody made by hand leaves them out.
        let mut missing: Vec<&Utf8Path> = above.ancestors().filter(|a| !a.as_str().is_empty()).collect();
        missing.reverse();
        for path in missing {
            if !self.made.contains(path) && !self.coming.iter().any(|entry| entry.path == path) {
                let kind = crate::model::EntryKind::Directory;
                let path = path.to_owned();
                self.coming.push(Entry { path, kind, size: 0, mtime: Default::default(), mode: 0o700 });
            }
        }
        self.make_directories()
    }

    fn make_directories(&mut self) -> Result<(), RecoveryError> {
        let coming = std::mem::take(&mut self.coming);
        let new: Vec<Entry> = coming
            .into_iter()
            .filter(|entry| !entry.path.as_str().is_empty() && self.made.insert(entry.path.clone()))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let lane = match self.lane.take() {
            Some(lane) => lane,
            None => self.run.transport.lane()?,
        };
        let mut items = new.into_iter().map(|entry| Ok(directory(entry.path.as_str(), entry.mode)));
        self.lane.insert(lane).store(&self.tree.destination, &mut items)?;
        Ok(())
    }

    /// Sends a file on its way.
    fn file(&mut self, entry: Entry, mut body: Box<dyn Read + Send>) -> Result<(), RecoveryError> {
        let size = entry.size;
        let first = self.piece(&mut body)?;
        if first.len() as u64 >= size {
            return self.item(entry, Pieces { now: Some(first), at: 0, more: None });
        }
        let (more, pieces) = bounded(AHEAD);
        let mut sent = first.len() as u64;
        self.item(entry, Pieces { now: Some(first), at: 0, more: Some(pieces) })?;
        while sent < size {
            let piece = self.piece(&mut body)?;
            if piece.is_empty() {
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, "a file ends too early");
                return Err(self.unreadable(&error));
            }
            sent += piece.len() as u64;
            self.hand_on(&more, piece)?;
        }
        Ok(())
    }

    fn piece(&self, body: &mut (dyn Read + Send)) -> Result<PooledBuf, RecoveryError> {
        self.go_on()?;
        let mut piece = self.pool.take(self.stop)?;
        let count = piece.fill_from(&mut *body).map_err(|error| self.unreadable(&error))?;
        self.run.throttle.take(count, self.run.ctx.clock, [self.stop, self.run.ctx.cancel])?;
        self.run.ctx.progress.event(&Event::Advanced { by: count as u64 });
        Ok(piece)
    }

    fn item(&self, entry: Entry, pieces: Pieces) -> Result<(), RecoveryError> {
        let item = self.run.item(self.tree.root, entry, Box::new(pieces), self.proofs)?;
        self.hand_on(&self.send, item)
    }

    /// Waits until it is taken, or until nobody is left who would: what writers left behind in a queue still holds the other
    /// end of its own.
    fn hand_on<T>(&self, to: &Sender<T>, mut item: T) -> Result<(), RecoveryError> {
        loop {
            match to.send_timeout(item, LOOK) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Disconnected(_)) => return Err(Cancelled.into()),
                Err(SendTimeoutError::Timeout(back)) => item = back,
            }
            self.go_on()?;
        }
    }

    /// Every file that the manifest names has come (I24).
    fn nothing_missing(&self) -> Result<(), RecoveryError> {
        let rows = self.proofs.as_ref().and_then(|table| table.of(self.tree.root));
        let Some(path) = rows.and_then(|rows| rows.keys().find(|path| !self.seen.contains(*path))) else {
            return Ok(());
        };
        let path = self.run.reader.location(self.tree.root).join(path);
        let reason = "the archive does not have it: the backup is damaged; restore from another backup";
        Err(RecoveryError::Damaged { path, reason: reason.to_owned() })
    }
}

/// The content of a file on its way from the one who reads to one who writes.
struct Pieces {
    now: Option<PooledBuf>,
    at: usize,
    /// What follows. It ends early when reading failed; the length tells.
    more: Option<Receiver<PooledBuf>>,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(rest) = self.now.as_ref().and_then(|now| now.get(self.at..)).filter(|r| !r.is_empty())
            {
                let n = rest.len().min(out.len());
                if let (Some(target), Some(source)) = (out.get_mut(..n), rest.get(..n)) {
                    target.copy_from_slice(source);
                }
                self.at += n;
                return Ok(n);
            }
            self.at = 0;
            self.now = self.more.as_ref().and_then(|more| more.recv().ok());
            if self.now.is_none() {
                return Ok(0);
            }
        }
    }
}

impl Run<'_> {
    /// The directory of the WAL, which every data directory has.
    pub(super) fn wal_directory(&self, root: Root) -> Option<&'static str> {
        let version = self.reader.info().version.filter(|_| root == Root::Data);
        version.map(|version| version.wal_directory())
    }
}
