//! [`Receiver`]: the files of a stream of WAL. One segment after the other is written as `.partial` and gets its name when
//! it is whole; what was acknowledged is never lost again (I6).

use std::io::{Seek, SeekFrom};

use camino::Utf8PathBuf;

use super::{LocalWalArchive, Shared, WalError};
use crate::format::history::TimelineHistory;
use crate::io::{DiskFile, SourceFile, durable};
use crate::model::{Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use crate::pg::WalSink;
use std::sync::Arc;

/// Called with each segment that is whole, under its name, and durable.
pub type OnSegment<'a> = Box<dyn FnMut(SegmentName) + Send + 'a>;

/// The files of one stream, in `streaming/`.
///
/// A segment is written into a `.partial` file of full size, whose room is reserved before its first byte comes: a full
/// disk is met there and not in the middle. What lies in such a file already (from before a restart) is compared with
/// what comes, and only what nobody wrote yet is written. Once a segment is whole and durable it loses the suffix, durably;
/// then the next `.partial` is made: whoever looks for the place to go on finds it, and the archiver may take the rest.
pub struct Receiver<'a> {
    shared: Arc<Shared>,
    timeline: Timeline,
    size: SegmentSize,
    position: Lsn,
    durable: Lsn,
    open: Option<Open>,
    on_segment: OnSegment<'a>,
}

/// The segment that is being written.
struct Open {
    name: SegmentName,
    file: Box<dyn DiskFile>,
    /// What it had when it was opened.
    before: Option<Before>,
}

struct Before {
    file: Box<dyn SourceFile>,
    len: u64,
    buffer: Vec<u8>,
}

impl LocalWalArchive {
    /// Begins to write a stream from the beginning of a segment on.
    pub fn receiver<'a>(
        &self,
        timeline: Timeline,
        start: Lsn,
        size: SegmentSize,
        on_segment: OnSegment<'a>,
    ) -> Receiver<'a> {
        let shared = Arc::clone(&self.shared);
        Receiver { shared, timeline, size, position: start, durable: start, open: None, on_segment }
    }

    /// Stores the history of a timeline, as a server sent it, in `streaming/`, unless it is there or in the archive. One
    /// that is there is never overwritten (I5).
    ///
    /// # Errors
    /// [`WalError::Stream`] when there is another one of that name, or when this is none.
    pub fn receive_history(&self, timeline: Timeline, content: &[u8]) -> Result<TimelineHistory, WalError> {
        let shared = &self.shared;
        let name = WalFileName::History(timeline);
        let text = String::from_utf8_lossy(content);
        let history = TimelineHistory::parse(timeline, &text).map_err(|e| WalError::Stream {
            reason: format!("the server sent a history that is none: {e}"),
        })?;
        let path = shared.paths.streaming_directory.join(name.to_string());
        let archived = match super::stored::open(shared, &shared.paths.file(&name)) {
            Ok(mut stored) => {
                let mut bytes = Vec::new();
                let path = shared.paths.file(&name);
                crate::io::IoContext::context(stored.plain.read_to_end(&mut bytes), "read", &path)?;
                Some(bytes)
            }
            Err(WalError::Io(e)) if e.is_not_found() => None,
            // Encrypted, and the key is elsewhere: it is there, and no more can be said.
            Err(WalError::Undecodable { .. }) => return Ok(history),
            Err(e) => return Err(e),
        };
        let known = match archived {
            Some(bytes) => Some(bytes),
            None => match shared.disk.read(&path) {
                Ok(bytes) => Some(bytes),
                Err(e) if e.is_not_found() => None,
                Err(e) => return Err(e.into()),
            },
        };
        match known {
            Some(known) if known == content => {}
            Some(_) => {
                return Err(WalError::Stream {
                    reason: format!(
                        "the server's {name} differs from the one that is here already: two clusters have promoted to \
                         the same timeline. Find out which of them this archive belongs to; nothing was overwritten"
                    ),
                });
            }
            None => {
                durable::mkdir_all_durable(&*shared.disk, &shared.paths.streaming_directory, 0o777)?;
                durable::write_new_durable(&*shared.disk, &path, content)?;
            }
        }
        Ok(history)
    }

    /// The WAL files in `streaming/`, in archive order.
    pub fn streamed(&self) -> Result<Vec<WalFileName>, WalError> {
        let dir = &self.shared.paths.streaming_directory;
        let mut names = Vec::new();
        let listed = self.shared.disk.list(dir, &mut |item| {
            names.push(item.name);
            std::ops::ControlFlow::Continue(())
        });
        match listed {
            // Names that are not UTF-8 are not those of WAL; all others were delivered.
            Err(e) if e.is_not_found() || e.kind() == crate::io::IoErrorKind::NotUtf8 => {}
            other => other?,
        }
        names.sort_unstable();
        let wal = |name: &String| name.parse::<WalFileName>().ok().filter(|w| w.to_string() == *name);
        Ok(names.iter().filter_map(wal).collect())
    }

    /// Makes the names in `streaming/` durable, as they are: a receiver that was killed may not have come to it, and what
    /// is decided by these names is told to the server.
    pub fn settle_streamed(&self) -> Result<(), WalError> {
        match self.shared.disk.sync_dir(&self.shared.paths.streaming_directory) {
            Err(e) if e.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes an empty `.partial`, from which a receiver will begin. One that is there stays as it is.
    pub fn begin_partial(&self, name: SegmentName) -> Result<Utf8PathBuf, WalError> {
        let dir = &self.shared.paths.streaming_directory;
        durable::mkdir_all_durable(&*self.shared.disk, dir, 0o777)?;
        let path = dir.join(WalFileName::Partial(name).to_string());
        match self.shared.disk.create_new(&path) {
            Err(e) if e.is_already_exists() => {}
            other => other.map(drop)?,
        }
        self.shared.disk.sync_dir(dir)?;
        Ok(path)
    }
}

impl Receiver<'_> {
    /// Where the next byte belongs.
    pub fn position(&self) -> Lsn {
        self.position
    }

    fn path(&self, name: &WalFileName) -> Utf8PathBuf {
        self.shared.paths.streaming_directory.join(name.to_string())
    }

    /// Opens the `.partial` of a segment, or makes it.
    fn begin(&self, name: SegmentName) -> Result<Open, WalError> {
        let disk = &*self.shared.disk;
        let path = self.path(&WalFileName::Partial(name));
        let full = |e: crate::io::IoError| match e.kind() {
            crate::io::IoErrorKind::NoSpace => WalError::NoSpace { path: path.clone() },
            _ => WalError::Io(e),
        };
        let mut file = match disk.open_write(&path) {
            Ok(file) => file,
            Err(e) if e.is_not_found() => {
                durable::mkdir_all_durable(disk, &self.shared.paths.streaming_directory, 0o777)?;
                disk.create_new(&path).map_err(full)?
            }
            Err(e) => return Err(e.into()),
        };
        let len = file.len()?;
        if len > self.size.bytes() {
            return Err(WalError::Stream {
                reason: format!(
                    "{path} has {len} bytes, and a segment of this server has {}",
                    self.size.bytes()
                ),
            });
        }
        if len < self.size.bytes() {
            // Room for all of it; what was written stays.
            file.allocate(self.size.bytes()).map_err(full)?;
        }
        let before = if len > 0 {
            Some(Before { file: disk.open_read(&path)?, len, buffer: Vec::new() })
        } else {
            None
        };
        // Also for a file that was there: whoever made it may not have lived until its name was durable.
        disk.sync_dir(&self.shared.paths.streaming_directory)?;
        Ok(Open { name, file, before })
    }

    /// The segment is whole.
    fn complete(&mut self) -> Result<(), WalError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let disk = &*self.shared.disk;
        open.file.sync_all()?;
        let name = open.name;
        let partial = self.path(&WalFileName::Partial(name));
        let whole = self.path(&WalFileName::Segment(name));
        match disk.rename_noreplace(&partial, &whole) {
            Err(e) if e.is_already_exists() => {
                // From an earlier life, or from another receiver: it must be the same.
                if !super::put::same(&self.shared, &partial, &whole)? {
                    return Err(WalError::Stream {
                        reason: format!(
                            "{whole} is there already and differs from what the server sent, which lies in {partial}"
                        ),
                    });
                }
                // The one that has just been made durable takes its place.
                disk.replace(&partial, &whole)?;
            }
            other => other?,
        }
        // The new name is durable before the next file can be seen: else a crash could leave this one behind as unfinished, and
        // nobody would ask for its segment any more.
        disk.sync_dir(&self.shared.paths.streaming_directory)?;
        if let Some(next) = name.next(self.size) {
            // The place to go on: without it, the last whole segment would have to stay here. Its name is made durable with
            // its first byte.
            match disk.create_new(&self.path(&WalFileName::Partial(next))) {
                Err(e) if e.is_already_exists() => {}
                other => other.map(drop)?,
            }
        }
        self.durable = self.position;
        (self.on_segment)(name);
        Ok(())
    }
}

impl Open {
    /// Writes the bytes; what is there must be the same. It is written again all the same: it may lie in the cache only, from
    /// before an fsync that failed, and the next fsync would have nothing to do (I29).
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WalError> {
        if let Some(before) = &mut self.before {
            if offset < before.len {
                let overlap = usize::try_from(before.len - offset).unwrap_or(usize::MAX).min(bytes.len());
                before.buffer.resize(overlap, 0);
                let n = before.file.read_at(&mut before.buffer, offset)?;
                let there = before.buffer.get(..n).unwrap_or_default();
                // Zeros are what was never written, or never reached the disk before the power went.
                if let Some(at) = there.iter().zip(bytes).position(|(old, new)| old != new && *old != 0) {
                    return Err(WalError::Stream {
                        reason: format!(
                            "{} differs at byte {} from what the server sends now for that place: the server has lost WAL \
                             that it had sent (was it restored, or is it another one?). The file is left as it is. If the \
                             server is the right one, keep a copy of the file, remove it, and run 'barman receive-wal \
                             --reset'; then take a new backup",
                            self.file.path(),
                            offset + at as u64
                        ),
                    });
                }
            } else {
                self.before = None;
            }
        }
        let path = self.file.path().to_owned();
        let sought = self.file.seek(SeekFrom::Start(offset));
        crate::io::IoContext::context(sought, "seek in", &path)?;
        Ok(self.file.put(bytes)?)
    }
}

impl WalSink for Receiver<'_> {
    type Error = WalError;

    fn write(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        if at != self.position {
            let reason = format!("WAL from {at} came where WAL from {} was due", self.position);
            return Err(WalError::Stream { reason });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let name = SegmentName::containing(self.timeline, self.position, self.size);
            let offset = self.position.offset(self.size);
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.begin(name)?,
            };
            let room = usize::try_from(self.size.bytes() - offset).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            let put = open.put(offset, now);
            self.open = Some(open);
            put.map_err(|error| match error {
                WalError::Io(e) if e.kind() == crate::io::IoErrorKind::NoSpace => {
                    WalError::NoSpace { path: self.shared.paths.streaming_directory.clone() }
                }
                other => other,
            })?;
            self.position = Lsn::new(self.position.get() + now.len() as u64);
            rest = later;
            if self.position.offset(self.size) == 0 {
                self.complete()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WalError> {
        if let Some(open) = &mut self.open {
            open.file.sync_data()?;
        }
        self.durable = self.position;
        Ok(())
    }

    fn durable(&self) -> Lsn {
        self.durable
    }
}
