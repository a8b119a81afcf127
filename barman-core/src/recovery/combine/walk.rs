//! [`Walk`]: the members of a chain of which at least one backup lies packed, each backup read once, the newest first.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::merge::{Merged, Source};
use super::visibility::Changes;
use super::{LABEL, Shared, damaged, startable, table_file};
use crate::catalog::{CatalogError, MemberStream, Root};
use crate::format::incremental::{IncrementalHeader, incremental_path, whole_path};
use crate::format::relfile::{Fork, RelFile};
use crate::model::Entry;

/// See the module.
pub(super) struct Walk {
    shared: Arc<Shared>,
    root: Root,
    /// Which link is read.
    at: usize,
    members: Members,
    /// Merged files whose full file was not met yet.
    waiting: HashMap<Utf8PathBuf, Waiting>,
    /// What changed in each table that changed, by its first file, up to each of the backups read so far.
    changes: HashMap<Utf8PathBuf, Vec<Table>>,
    scratch: Option<Scratch>,
}

/// What one backup says of a table.
struct Table {
    at: usize,
    /// Its files; without a header one that was backed up whole.
    segments: Vec<(u32, Option<IncrementalHeader>)>,
}

/// The members of one link.
enum Members {
    Packed(Box<dyn MemberStream>),
    /// In any order, each opened when it is its turn.
    Files(VecDeque<Entry>),
}

/// A file that is merged when its full file comes.
struct Waiting {
    /// The newest incremental file.
    newest: Entry,
    /// The incremental files, the newest first.
    kept: Vec<Kept>,
}

/// An incremental file that waits.
enum Kept {
    /// Where it lies unpacked.
    At(usize),
    /// In the scratch file.
    Scratch { file: Arc<File>, from: u64, length: u64, at: usize },
}

impl Kept {
    fn at(&self) -> usize {
        match self {
            Self::At(at) | Self::Scratch { at, .. } => *at,
        }
    }
}

/// Incremental files that came out of archives, one after the other in a file without a name: nothing is left of it however the
/// process ends.
struct Scratch {
    file: Arc<File>,
    length: u64,
}

/// A part of the scratch file.
struct Part {
    file: Arc<File>,
    from: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let count = self.file.read_at(out.get_mut(..most).unwrap_or_default(), self.from)?;
        self.from += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn failed(error: CatalogError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, crate::format::text::with_reasons(&error))
}

impl Walk {
    pub(super) fn new(shared: Arc<Shared>, root: Root) -> Result<Self, CatalogError> {
        let members = Members::of(&shared, 0, root)?;
        let (waiting, changes, scratch) = (HashMap::new(), HashMap::new(), None);
        Ok(Self { shared, root, at: 0, members, waiting, changes, scratch })
    }

    /// The next member of the current link, and its bytes.
    fn member(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        let Some(link) = self.shared.links.get(self.at) else { return Ok(None) };
        match &mut self.members {
            Members::Packed(members) => members.next(),
            Members::Files(files) => loop {
                let Some(entry) = files.pop_front() else { return Ok(None) };
                // What is not wanted is not opened.
                let wanted = self.at == 0 || self.waiting.contains_key(&whole_of(&entry.path));
                if !wanted || !entry.is_file() && self.at > 0 {
                    continue;
                }
                let bytes: Box<dyn Read + Send> = if entry.is_file() {
                    link.reader.open(self.root, &entry.path).map_err(failed)?
                } else {
                    Box::new(io::empty())
                };
                return Ok(Some((entry, bytes)));
            },
        }
    }

    /// Keeps an incremental file until its full one comes.
    fn keep(&mut self, path: &Utf8Path, bytes: Box<dyn Read + Send>) -> io::Result<Kept> {
        let Some(link) = self.shared.links.get(self.at) else { return Ok(Kept::At(self.at)) };
        if !link.packed {
            return Ok(Kept::At(self.at));
        }
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            None => {
                let place = &self.shared.scratch;
                let file = tempfile::tempfile_in(place).map_err(|error| {
                    let text = format!(
                        "No scratch file can be made in {place} for the blocks of packed incremental backups: {error}. Name \
                         another directory with staging_path"
                    );
                    io::Error::new(error.kind(), text)
                })?;
                self.scratch.insert(Scratch { file: Arc::new(file), length: 0 })
            }
        };
        let mut bytes = link.verified(self.root, path, bytes);
        let from = scratch.length;
        let mut writer: &File = &scratch.file;
        let length = io::copy(&mut bytes, &mut writer).and_then(|n| writer.flush().map(|()| n));
        let length = length.map_err(|error| {
            let text = format!(
                "The blocks of a packed incremental backup cannot be kept in {}: {error}",
                self.shared.scratch
            );
            if error.kind() == io::ErrorKind::InvalidData {
                error
            } else {
                io::Error::new(error.kind(), text)
            }
        })?;
        scratch.length += length;
        Ok(Kept::Scratch { file: Arc::clone(&scratch.file), from, length, at: self.at })
    }

    /// The bytes of an incremental file that waits.
    fn bytes_of(&self, path: &Utf8Path, kept: &Kept) -> io::Result<Box<dyn Read + Send>> {
        Ok(match kept {
            Kept::Scratch { file, from, length, .. } => {
                Box::new(Part { file: Arc::clone(file), from: *from, left: *length })
            }
            Kept::At(at) => {
                let link = self.shared.links.get(*at);
                let bytes = link.map(|link| link.open(self.root, &incremental_path(path)));
                let missing = || failed(self.shared.no_full(self.root, path));
                bytes.transpose().map_err(failed)?.flatten().ok_or_else(missing)?
            }
        })
    }

    fn named(&self, path: &Utf8Path, kept: &Kept, error: io::Error) -> io::Error {
        let link = self.shared.links.get(kept.at());
        let name = link.map(|link| link.reader.location(self.root).join(incremental_path(path)));
        io::Error::new(error.kind(), format!("{}: {error}", name.unwrap_or_default()))
    }

    fn open(&self, path: &Utf8Path, kept: &Kept) -> io::Result<Source> {
        let bytes = self.bytes_of(path, kept)?;
        let layout = self.shared.layout().map_err(failed)?;
        let source = Source::incremental(bytes, layout.block_size, layout.blocks_per_file);
        source.map_err(|error| self.named(path, kept, error))
    }

    /// Keeps in mind what a file of a table says of its changes. The layout of the cluster need not be known yet.
    fn note(&mut self, path: &Utf8Path, kept: Option<&Kept>) -> io::Result<()> {
        let Some(file) = RelFile::parse(path).filter(|file| file.fork == Fork::Main) else { return Ok(()) };
        let header = match kept {
            Some(kept) => {
                let mut bytes = self.bytes_of(path, kept)?;
                let header = IncrementalHeader::read(&mut bytes, 1, u32::MAX);
                Some(header.map_err(|error| self.named(path, kept, error))?)
            }
            None => None,
        };
        let at = self.at;
        let tables = self.changes.entry(table_file(path, file, 0)).or_default();
        if tables.last().is_none_or(|table| table.at != at) {
            tables.push(Table { at, segments: Vec::new() });
        }
        if let Some(table) = tables.last_mut() {
            table.segments.push((file.segment, header));
        }
        Ok(())
    }

    /// What changed in a table, up to each of the backups newer than the current one.
    fn changes_of(&self, table: &Utf8Path) -> Result<Vec<Changes>, CatalogError> {
        let blocks_per_file = self.shared.layout()?.blocks_per_file;
        let known = self.changes.get(table).map(Vec::as_slice).unwrap_or_default();
        let of = |at: usize| {
            let mut changes = Changes::default();
            let segments = known.iter().find(|table| table.at == at).map(|table| table.segments.as_slice());
            let mut end = 0;
            for (segment, header) in segments.unwrap_or_default() {
                end = end.max(segment.saturating_add(1));
                match header {
                    Some(header) => changes.add(*segment, header, blocks_per_file),
                    None => changes.add_whole(*segment, blocks_per_file),
                }
            }
            changes.add_from(end, blocks_per_file);
            changes
        };
        Ok((0..self.at).map(of).collect())
    }

    /// The merged file: its incremental files, and the full one that came now.
    fn merge(
        &mut self,
        path: &Utf8Path,
        waiting: &Waiting,
        whole: Box<dyn Read + Send>,
    ) -> io::Result<(Entry, Box<dyn Read + Send>)> {
        let mut sources =
            waiting.kept.iter().map(|kept| self.open(path, kept)).collect::<io::Result<Vec<_>>>()?;
        let whole = match self.shared.links.get(self.at) {
            Some(link) => link.verified(self.root, path, whole),
            None => whole,
        };
        let block_size = self.shared.layout().map_err(failed)?.block_size;
        sources.push(Source::whole(whole, block_size));
        let location = self.shared.links.first().map(|link| link.reader.location(self.root).join(path));
        let merged = Merged::new(
            sources,
            block_size,
            location.unwrap_or_default(),
            self.shared.tell(self.root, path),
        )?;
        let merged = match self.shared.map_of(path) {
            Some(map) => {
                let changes = self.changes_of(&table_file(path, map, 0)).map_err(failed)?;
                merged.without(self.shared.stale(&map, changes).map_err(failed)?)
            }
            None => merged,
        };
        let (path, size) = (path.to_owned(), merged.size());
        Ok((Entry { path, size, ..waiting.newest.clone() }, Box::new(merged)))
    }
}

fn whole_of(path: &Utf8Path) -> Utf8PathBuf {
    whole_path(path).unwrap_or_else(|| path.to_owned())
}

impl Members {
    fn of(shared: &Shared, at: usize, root: Root) -> Result<Self, CatalogError> {
        let Some(link) = shared.links.get(at) else { return Ok(Self::Files(VecDeque::new())) };
        Ok(match link.reader.stream(root)? {
            Some(members) => Self::Packed(members),
            None => Self::Files(link.reader.files(root)?.into()),
        })
    }
}

impl MemberStream for Walk {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        loop {
            self.shared.cancel.check().map_err(io::Error::other)?;
            let Some((entry, bytes)) = self.member()? else {
                // Older backups are read as far as they are needed.
                if self.at == 0 {
                    let newest = self.shared.newest().map_err(failed)?;
                    self.shared.complete(newest, self.root, &self.waiting).map_err(failed)?;
                }
                let Some(path) = self.waiting.keys().next() else { return Ok(None) };
                // Each backup has each of these files, whole or incremental: a gap would bring old blocks back.
                let gap = |waiting: &Waiting| waiting.kept.last().is_none_or(|kept| kept.at() != self.at);
                if let Some((path, _)) = self.waiting.iter().find(|(_, waiting)| gap(waiting)) {
                    let name = self.shared.links.get(self.at).map(|link| link.reader.location(self.root));
                    let name = name.unwrap_or_default().join(incremental_path(path));
                    return Err(failed(damaged(&name, "a file", &"none")));
                }
                if !self.shared.links.get(self.at + 1).is_some_and(|link| link.has(self.root)) {
                    return Err(failed(self.shared.no_full(self.root, path)));
                }
                self.at += 1;
                self.members = Members::of(&self.shared, self.at, self.root).map_err(failed)?;
                continue;
            };
            let incremental = whole_path(&entry.path).filter(|_| entry.is_file());
            match incremental {
                Some(whole) if self.at == 0 => {
                    let kept = self.keep(&entry.path, bytes)?;
                    self.note(&whole, Some(&kept))?;
                    self.waiting.insert(whole, Waiting { newest: entry, kept: vec![kept] });
                }
                Some(whole) if self.waiting.contains_key(&whole) => {
                    let kept = self.keep(&entry.path, bytes)?;
                    self.note(&whole, Some(&kept))?;
                    if let Some(waiting) = self.waiting.get_mut(&whole) {
                        waiting.kept.push(kept);
                    }
                }
                None if self.at == 0 => {
                    if self.root == Root::Data && entry.path == LABEL {
                        let link = self.shared.newest().map_err(failed)?;
                        let mut label = String::new();
                        link.verified(self.root, &entry.path, bytes).read_to_string(&mut label)?;
                        let label = startable(&label);
                        let size = label.len() as u64;
                        return Ok(Some((Entry { size, ..entry }, Box::new(Cursor::new(label)))));
                    }
                    if entry.is_file() {
                        self.note(&entry.path, None)?;
                    }
                    return Ok(Some((entry, bytes)));
                }
                None if entry.is_file() => {
                    if let Some(waiting) = self.waiting.remove(&entry.path) {
                        self.note(&entry.path, None)?;
                        return self.merge(&entry.path, &waiting, bytes).map(Some);
                    }
                }
                Some(_) | None => {}
            }
        }
    }
}
