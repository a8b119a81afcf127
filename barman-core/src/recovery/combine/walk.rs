//! [`Walk`]: the members of a chain of which at least one backup lies packed, each backup read once, the newest first.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::merge::{Merged, Source};
use super::{LABEL, Shared, damaged, startable};
use crate::catalog::{CatalogError, MemberStream, Root};
use crate::format::incremental::{incremental_path, whole_path};
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
    scratch: Option<Scratch>,
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
        let (waiting, scratch) = (HashMap::new(), None);
        Ok(Self { shared, root, at: 0, members, waiting, scratch })
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

    fn open(&self, path: &Utf8Path, kept: &Kept) -> io::Result<Source> {
        let bytes: Box<dyn Read + Send> = match kept {
            Kept::Scratch { file, from, length, .. } => {
                Box::new(Part { file: Arc::clone(file), from: *from, left: *length })
            }
            Kept::At(at) => {
                let link = self.shared.links.get(*at);
                let bytes = link.map(|link| link.open(self.root, &incremental_path(path)));
                let missing = || failed(self.shared.no_full(self.root, path));
                bytes.transpose().map_err(failed)?.flatten().ok_or_else(missing)?
            }
        };
        let at = kept.at();
        let layout = self.shared.layout().map_err(failed)?;
        Source::incremental(bytes, layout.block_size, layout.blocks_per_file).map_err(|error| {
            let link = self.shared.links.get(at);
            let name = link.map(|link| link.reader.location(self.root).join(incremental_path(path)));
            io::Error::new(error.kind(), format!("{}: {error}", name.unwrap_or_default()))
        })
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
        let merged = Merged::new(sources, block_size, location.unwrap_or_default())?;
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
                    self.waiting.insert(whole, Waiting { newest: entry, kept: vec![kept] });
                }
                Some(whole) if self.waiting.contains_key(&whole) => {
                    let kept = self.keep(&entry.path, bytes)?;
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
                    return Ok(Some((entry, bytes)));
                }
                None if entry.is_file() => {
                    if let Some(waiting) = self.waiting.remove(&entry.path) {
                        return self.merge(&entry.path, &waiting, bytes).map(Some);
                    }
                }
                Some(_) | None => {}
            }
        }
    }
}
