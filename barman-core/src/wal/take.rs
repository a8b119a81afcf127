//! Taking in one file: checking it, packing it, and giving it its name in the archive. What makes names durable, tells
//! the index and removes sources is in [`super::intake`].

use std::io::{BufReader, Read};

use camino::{Utf8Path, Utf8PathBuf};
use crossbeam_channel::{Receiver, Sender, bounded};
use time::OffsetDateTime;

use super::aside::{self, Kind};
use super::layout::maker_of;
use super::seal::{Out, cipher};
use super::stored::{self, Clusters, Fault, Judge, damage, judge};
use super::{Incoming, Shared, WalEntry, WalError, commits, temporary};
use crate::codec::{Algorithm, FrameEncoder};
use crate::ctx::Cancel;
use crate::format::text::with_reasons;
use crate::format::wal_page::SegmentFacts;
use crate::io::{DiskFile, IoContext, IoErrorKind, Stat, durable, fill};
use crate::model::WalFileName;

/// A frame of a packed segment; larger ones would only need more memory.
const FRAME: usize = 16 << 20;
/// Bytes read at once where nothing is packed, and where files are compared.
const PLAIN: usize = 1 << 20;
/// A short file that changed within this time is still being written.
const GROWING: time::Duration = time::Duration::seconds(60);

/// What was done with one file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It has its name in the archive, and its content is durable.
    Published { entry: WalEntry, replaced: bool, source: Stat, times: String },
    /// The same content is there.
    Known { source: Stat },
    /// Kept aside, since the archive has another sound content of that name.
    Conflict { aside: Utf8PathBuf },
    /// Kept aside, since it is not sound.
    Refused { aside: Utf8PathBuf, reason: String },
    /// Still being written.
    Growing,
    /// Left where it is.
    Failed { reason: String },
}

/// Works on one file after the other.
pub(super) struct Worker {
    desks: Desks,
    cancel: Cancel,
    /// Directories in which abandoned temporary files were looked for.
    tidied: Option<Utf8PathBuf>,
}

/// What packing needs; both grow to what they are used for.
#[derive(Default)]
struct Desk {
    encoder: Option<Box<dyn FrameEncoder>>,
    chunk: Vec<u8>,
    frame: Vec<u8>,
}

/// The desks of an intake. There are fewer than workers: who waits for the disk has left its desk to another, so that
/// memory and processors are used by those that pack.
#[derive(Clone)]
pub(super) struct Desks {
    free: Receiver<Desk>,
    back: Sender<Desk>,
}

impl Desks {
    /// So many files are packed at a time; one at least.
    pub(super) fn new(count: usize) -> Self {
        let (back, free) = bounded(count.max(1));
        while back.try_send(Desk::default()).is_ok() {}
        Self { free, back }
    }

    /// Waits for a free desk.
    fn sit(&self) -> Seat<'_> {
        // An error would mean that no sender is left; one is in `self`.
        Seat { desk: self.free.recv().unwrap_or_default(), back: &self.back }
    }
}

/// A desk in use; it is free again when this is dropped.
struct Seat<'d> {
    desk: Desk,
    back: &'d Sender<Desk>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        // There is room: no more desks exist than the channel holds.
        let _ = self.back.try_send(std::mem::take(&mut self.desk));
    }
}

/// A packed copy under its temporary name, or why there is none.
enum Packed {
    Ready { file: Box<dyn DiskFile>, form: Form, times: String },
    Unsound(Fault),
    Changed,
}

impl Worker {
    pub(super) fn new(desks: Desks, cancel: Cancel) -> Self {
        Self { desks, cancel, tidied: None }
    }

    /// # Errors
    /// Only what stops the whole intake: a full disk, cancellation.
    pub(super) fn take(
        &mut self,
        shared: &Shared,
        file: &Incoming,
        now: OffsetDateTime,
    ) -> Result<Outcome, WalError> {
        match self.attempt(shared, file, now) {
            Err(WalError::Io(e)) if e.kind() == IoErrorKind::NoSpace => {
                Err(WalError::NoSpace { path: shared.paths.dir_of(&file.name) })
            }
            Err(e @ (WalError::NoSpace { .. } | WalError::Cancelled(_))) => Err(e),
            Err(e) => Ok(Outcome::Failed { reason: with_reasons(&e) }),
            Ok(outcome) => Ok(outcome),
        }
    }

    fn attempt(
        &mut self,
        shared: &Shared,
        file: &Incoming,
        now: OffsetDateTime,
    ) -> Result<Outcome, WalError> {
        self.cancel.check()?;
        let source = shared.disk.stat(&file.path)?;
        if !source.is_file() {
            let fault = Fault { reason: "it is not a regular file".to_owned(), short: false };
            return refuse(shared, file, &source, fault, now);
        }
        let to = shared.paths.file(&file.name);
        // The name may be taken by another process while this one packs; then the two are compared.
        for _ in 0..3 {
            if shared.disk.exists(&to)? {
                return self.beside(shared, file, &source, &to, now);
            }
            let (packed, form, times) = match self.pack(shared, file, &source)? {
                Packed::Ready { file, form, times } => (file, form, times),
                Packed::Unsound(fault) => return refuse(shared, file, &source, fault, now),
                Packed::Changed => return Ok(Outcome::Growing),
            };
            match publish(shared, packed, &to) {
                Err(e) if e.is_already_exists() => continue,
                Err(e) => return Err(e.into()),
                Ok(size) => {
                    let entry = entry(file, &source, size, form);
                    return Ok(Outcome::Published { entry, replaced: false, source, times });
                }
            }
        }
        Ok(Outcome::Failed { reason: format!("others keep taking and giving up the name {to}") })
    }

    /// The name is taken: same content, sound content that differs, or something unsound that gives way (I3).
    fn beside(
        &mut self,
        shared: &Shared,
        file: &Incoming,
        source: &Stat,
        to: &Utf8Path,
        now: OffsetDateTime,
    ) -> Result<Outcome, WalError> {
        let published = match stored::open(shared, to) {
            Ok(published) => Some(published),
            Err(WalError::Undecodable { reason, .. }) => {
                let reason = format!("the archived file of that name cannot be compared: {reason}");
                return conflict(shared, file, &reason, now);
            }
            // Encrypted, and damaged before its first byte.
            Err(WalError::Corrupt { .. }) => None,
            Err(e) => return Err(e),
        };
        if let Some(published) = published {
            match self.same(shared, file, published.plain, to)? {
                Compared::Same => return Ok(Outcome::Known { source: *source }),
                Compared::SourceUnsound(fault) => return refuse(shared, file, source, fault, now),
                Compared::Different => {}
            }
        }
        if let Err(fault) =
            judge(shared, &file.name, Clusters::Present, &file.path, stored::open(shared, &file.path)?.plain)?
        {
            return refuse(shared, file, source, fault, now);
        }
        let verdict = match stored::open(shared, to) {
            Err(WalError::Corrupt { reason, .. }) => Err(Fault { reason, short: false }),
            other => judge(shared, &file.name, Clusters::Known, to, other?.plain)?,
        };
        let Err(fault) = verdict else {
            return conflict(shared, file, "another sound file of that name is archived", now);
        };
        let (packed, form, times) = match self.pack(shared, file, source)? {
            Packed::Ready { file, form, times } => (file, form, times),
            Packed::Unsound(fault) => return refuse(shared, file, source, fault, now),
            Packed::Changed => return Ok(Outcome::Growing),
        };
        let reason =
            format!("it was archived but is not sound, and a sound one took its place: {}", fault.reason);
        aside::keep(shared, to, Kind::Unknown, &reason, now)?;
        let size = publish(shared, packed, to)?;
        let entry = entry(file, source, size, form);
        Ok(Outcome::Published { entry, replaced: true, source: *source, times })
    }

    fn same(
        &mut self,
        shared: &Shared,
        file: &Incoming,
        mut published: Box<dyn Read + Send>,
        to: &Utf8Path,
    ) -> Result<Compared, WalError> {
        let mut new = match stored::open(shared, &file.path) {
            Ok(stored) => stored.plain,
            Err(WalError::Undecodable { reason, .. } | WalError::Corrupt { reason, .. }) => {
                return Ok(Compared::SourceUnsound(Fault { reason, short: false }));
            }
            Err(e) => return Err(e),
        };
        let (mut one, mut two) = (vec![0; PLAIN], vec![0; PLAIN]);
        loop {
            self.cancel.check()?;
            let n = match fill(&mut new, &mut one) {
                Ok(n) => n,
                Err(e) => match damage(&e) {
                    Some(fault) => return Ok(Compared::SourceUnsound(fault)),
                    None => return Err(e).context("read", &file.path).map_err(Into::into),
                },
            };
            let m = match fill(&mut published, &mut two) {
                Ok(m) => m,
                Err(e) if damage(&e).is_some() => return Ok(Compared::Different),
                Err(e) => return Err(e).context("read", to).map_err(Into::into),
            };
            if one.get(..n) != two.get(..m) {
                return Ok(Compared::Different);
            }
            if n == 0 {
                return Ok(Compared::Same);
            }
        }
    }

    /// Writes a packed copy of a sound source into the archive under a temporary name.
    fn pack(&mut self, shared: &Shared, file: &Incoming, source: &Stat) -> Result<Packed, WalError> {
        let stored = match stored::open(shared, &file.path) {
            Ok(stored) => stored,
            Err(WalError::Undecodable { reason, .. } | WalError::Corrupt { reason, .. }) => {
                return Ok(Packed::Unsound(Fault { reason, short: false }));
            }
            Err(e) => return Err(e),
        };
        let dir = shared.paths.dir_of(&file.name);
        self.tidy(shared, &dir)?;
        let mut target = create(shared, &dir, &file.name)?;
        let path = target.path().to_owned();
        // What comes encrypted is stored as it is.
        let cipher = cipher(shared, file).filter(|_| !stored.encrypted);
        let mut out = Out::begin(&mut *target, cipher)?;
        let encryption = cipher.map(|cipher| cipher.name().to_owned());
        let encryption = if stored.encrypted { Some("gpg".to_owned()) } else { encryption };
        let result = if stored.algorithm == Algorithm::None && !stored.encrypted {
            self.pack_plain(shared, file, source, stored.plain, &mut out)
        } else {
            self.copy_packed(shared, file, stored, &mut out)
        };
        let result = result.and_then(|verdict| out.finish(verdict.is_ok()).map(|()| verdict));
        let result = result.and_then(|verdict| {
            // What was read is one state of the file only if it did not change meanwhile.
            let now = shared.disk.stat(&file.path)?;
            if verdict.is_ok() && !unchanged(&now, source) {
                return Ok(None);
            }
            if verdict.is_ok() {
                target.set_mode(source.mode)?;
                target.set_mtime(source.mtime)?;
                target.sync_all()?;
            }
            Ok(Some(verdict))
        });
        match result {
            Ok(Some(Ok((compression, times)))) => {
                Ok(Packed::Ready { file: target, form: Form { compression, encryption }, times })
            }
            other => {
                drop(target);
                // The first error is the one that counts; what stays is found by `tidy`.
                let _ = shared.disk.unlink(&path);
                match other? {
                    Some(Err(fault)) => Ok(Packed::Unsound(fault)),
                    _ => Ok(Packed::Changed),
                }
            }
        }
    }

    /// Gives the compression recorded and a line for the commit index, or what is wrong with the source.
    fn pack_plain(
        &mut self,
        shared: &Shared,
        file: &Incoming,
        source: &Stat,
        mut plain: impl Read,
        to: &mut Out<'_>,
    ) -> Result<Result<Stored, Fault>, WalError> {
        let compression = shared.options.compression.as_ref();
        let whole = compression.is_some_and(|c| !c.compressor.concatenable());
        // A byte more than the file has, so that its end is met by the first reading.
        let whole_file = usize::try_from(source.size).unwrap_or(usize::MAX).saturating_add(1);
        let size = if compression.is_some() { FRAME.min(whole_file.max(PLAIN)) } else { PLAIN };
        let mut judge = Judge::new(shared, &file.name, Clusters::Present).with_landmarks();
        let mut seat = self.desks.sit();
        let Desk { encoder, chunk, frame } = &mut seat.desk;
        if encoder.is_none() {
            *encoder = compression.map(|c| c.compressor.encoder());
        }
        let mut begun = false;
        loop {
            self.cancel.check()?;
            chunk.resize(size, 0);
            let n = fill(&mut plain, chunk).context("read", &file.path)?;
            chunk.truncate(n);
            if whole {
                plain.read_to_end(chunk).context("read", &file.path)?;
            }
            if n == 0 && begun {
                break;
            }
            judge.push(chunk)?;
            if judge.is_lost() {
                break;
            }
            match (encoder.as_mut(), compression) {
                (Some(encoder), Some(_)) => {
                    let codec = |source| WalError::Codec { path: file.path.clone(), source };
                    encoder.encode(chunk, frame).map_err(codec)?;
                    to.put(frame)?;
                }
                _ => to.put(chunk)?,
            }
            begun = true;
            if n < size {
                break;
            }
        }
        let name = compression.map(|c| c.name.clone());
        Ok(judge.conclude()?.map(|facts| (name, times(file, source, facts.as_deref()))))
    }

    /// A source that is packed already is checked by its plain bytes and stored as it is.
    fn copy_packed(
        &mut self,
        shared: &Shared,
        file: &Incoming,
        stored: stored::Stored,
        to: &mut Out<'_>,
    ) -> Result<Result<Stored, Fault>, WalError> {
        if let Err(fault) = judge(shared, &file.name, Clusters::Present, &file.path, stored.plain)? {
            return Ok(Err(fault));
        }
        let mut raw = BufReader::new(shared.disk.open_read(&file.path)?);
        let mut seat = self.desks.sit();
        let chunk = &mut seat.desk.chunk;
        chunk.resize(PLAIN, 0);
        loop {
            self.cancel.check()?;
            let n = fill(&mut raw, chunk).context("read", &file.path)?;
            if n == 0 {
                // Its times are read when they are asked for.
                let packed = Some(stored.algorithm).filter(|algorithm| *algorithm != Algorithm::None);
                return Ok(Ok((packed.map(|algorithm| algorithm.to_string()), String::new())));
            }
            to.put(chunk.get(..n).unwrap_or_default())?;
        }
    }

    /// Removes temporary files that a crash left in a directory, once for each directory.
    fn tidy(&mut self, shared: &Shared, dir: &Utf8Path) -> Result<(), WalError> {
        if self.tidied.as_deref() == Some(dir) {
            return Ok(());
        }
        self.tidied = Some(dir.to_owned());
        let mut found = Vec::new();
        let listed = shared.disk.list(dir, &mut |item| {
            if is_abandoned(&item.name) {
                found.push(dir.join(item.name));
            }
            std::ops::ControlFlow::Continue(())
        });
        match listed {
            Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::NotUtf8) => {}
            other => other?,
        }
        for path in found {
            // Somebody else may have been faster.
            let _ = shared.disk.unlink(&path);
        }
        Ok(())
    }
}

/// Whether a name is a temporary one whose maker is gone. (Its time says nothing: it is that of the source.)
pub(super) fn is_abandoned(name: &str) -> bool {
    let alive = |pid: u32| {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    };
    maker_of(name).is_some_and(|pid| !alive(pid))
}

/// The compression recorded, and a line for the commit index.
type Stored = (Option<String>, String);

/// The line of the commit index for a whole segment.
fn times(file: &Incoming, source: &Stat, facts: Option<&SegmentFacts>) -> String {
    match (file.name, facts) {
        // The archived file gets the time of its source.
        (WalFileName::Segment(name), Some(facts)) => commits::line(name, facts, source.mtime.seconds),
        _ => String::new(),
    }
}

enum Compared {
    Same,
    Different,
    SourceUnsound(Fault),
}

/// What the index records of a file's form.
struct Form {
    compression: Option<String>,
    encryption: Option<String>,
}

fn entry(file: &Incoming, source: &Stat, size: u64, form: Form) -> WalEntry {
    let Form { compression, encryption } = form;
    WalEntry { name: file.name, size, mtime: source.mtime, compression, encryption, indexed: true }
}

/// Whether both are the same file in the same state.
pub(super) fn unchanged(now: &Stat, before: &Stat) -> bool {
    now.same_inode(before) && now.size == before.size && now.mtime == before.mtime
}

/// Creates a file under a temporary name in a directory of the archive, which is made when it is not there.
fn create(shared: &Shared, dir: &Utf8Path, name: &WalFileName) -> Result<Box<dyn DiskFile>, WalError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match shared.disk.create_new(&dir.join(temporary(&name.to_string()))) {
            // Left over by a process that had the same id.
            Err(e) if e.is_already_exists() && attempts < 1000 => {}
            // The first file of the directory, or a removal took the empty directory away in between.
            Err(e) if e.is_not_found() && attempts < 1000 => {
                durable::mkdir_all_durable(&*shared.disk, dir, 0o777)?;
            }
            other => return Ok(other?),
        }
    }
}

/// Gives a packed copy, whose content is durable, its name; gives its size.
fn publish(shared: &Shared, packed: Box<dyn DiskFile>, to: &Utf8Path) -> Result<u64, crate::io::IoError> {
    let size = packed.len()?;
    let from = packed.path().to_owned();
    drop(packed);
    match shared.disk.rename_noreplace(&from, to) {
        Ok(()) => Ok(size),
        Err(e) => {
            // The first error is the one that counts; what stays is found by `tidy`.
            let _ = shared.disk.unlink(&from);
            Err(e)
        }
    }
}

fn conflict(
    shared: &Shared,
    file: &Incoming,
    reason: &str,
    now: OffsetDateTime,
) -> Result<Outcome, WalError> {
    Ok(Outcome::Conflict { aside: aside::keep(shared, &file.path, Kind::Duplicate, reason, now)? })
}

fn refuse(
    shared: &Shared,
    file: &Incoming,
    source: &Stat,
    fault: Fault,
    now: OffsetDateTime,
) -> Result<Outcome, WalError> {
    let age = now.unix_timestamp().saturating_sub(source.mtime.seconds);
    if fault.short && age <= GROWING.whole_seconds() {
        return Ok(Outcome::Growing);
    }
    let aside = aside::keep(shared, &file.path, Kind::Unknown, &fault.reason, now)?;
    Ok(Outcome::Refused { aside, reason: fault.reason })
}
