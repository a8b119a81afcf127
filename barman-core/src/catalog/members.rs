//! The members of a packed tree, one after the other, and what is kept of them for those who ask later.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use camino::Utf8PathBuf;

use super::unpack::Unpacked;
use super::{MemberStream, Root};
use crate::format::tar::{self, Event, Member, Parser};
use crate::model::{Entry, EntryKind};

/// What is asked for by name is small: configuration files, the label, `pg_control`. It is kept while it passes.
const SMALL: u64 = 1 << 20;
/// Bytes read at once.
const READ: usize = 256 << 10;

/// What an archive was found to hold.
#[derive(Default)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) small: HashMap<Utf8PathBuf, Arc<[u8]>>,
}

/// What was found in each archive that was read to its end.
pub(super) type Findings = Arc<Mutex<HashMap<Root, Arc<Found>>>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One pass over an archive.
pub(super) struct Members {
    walk: Arc<Mutex<Walk>>,
    root: Root,
    found: Found,
    findings: Findings,
}

impl Members {
    /// What the archive gives; at its end `findings` knows it, too.
    pub(super) fn new(archive: Unpacked, root: Root, findings: &Findings) -> Self {
        let walk = Arc::new(Mutex::new(Walk::new(Input::Stored(archive))));
        Self { walk, root, found: Found::default(), findings: Arc::clone(findings) }
    }

    fn is_wanted_later(&self, entry: &Entry) -> bool {
        let named = !entry.path.as_str().contains('/') || entry.path == "global/pg_control";
        self.root == Root::Data && named && entry.is_file() && entry.size <= SMALL
    }
}

impl MemberStream for Members {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        let Some(member) = lock(&self.walk).next_member()? else {
            let found = Arc::new(std::mem::take(&mut self.found));
            lock(&self.findings).entry(self.root).or_insert(found);
            return Ok(None);
        };
        let entry = entry_of(&member)?;
        self.found.entries.push(entry.clone());
        let mut body = Body(Arc::clone(&self.walk));
        if !self.is_wanted_later(&entry) {
            return Ok(Some((entry, Box::new(body))));
        }
        let mut content = Vec::new();
        body.read_to_end(&mut content)?;
        let content: Arc<[u8]> = content.into();
        self.found.small.insert(entry.path.clone(), Arc::clone(&content));
        Ok(Some((entry, Box::new(Cursor::new(content)))))
    }
}

/// The members of any tar archive, to its very end. Paths that do not stay below are errors.
pub(crate) fn members_of(plain: Box<dyn Read + Send>) -> Box<dyn MemberStream> {
    Box::new(Passing(Arc::new(Mutex::new(Walk::new(Input::Plain(plain))))))
}

/// Members of which nothing is kept.
struct Passing(Arc<Mutex<Walk>>);

impl MemberStream for Passing {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        let Some(member) = lock(&self.0).next_member()? else { return Ok(None) };
        let entry = entry_of(&member)?;
        Ok(Some((entry, Box::new(Body(Arc::clone(&self.0))))))
    }
}

/// Where the bytes of a tar stream come from.
enum Input {
    Stored(Unpacked),
    Plain(Box<dyn Read + Send>),
}

impl Input {
    /// The next bytes, never empty; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Stored(archive) => archive.next(),
            Self::Plain(plain) => {
                let mut piece = vec![0; READ];
                let count = plain.read(&mut piece)?;
                piece.truncate(count);
                Ok((count > 0).then(|| piece.into()))
            }
        }
    }
}

/// The bytes of the member that began last.
struct Body(Arc<Mutex<Walk>>);

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read_body(out)
    }
}

fn entry_of(member: &Member) -> io::Result<Entry> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let name = member.utf8_path().ok_or_else(|| {
        invalid(format!("the name '{}' is not UTF-8", String::from_utf8_lossy(&member.path)))
    })?;
    let path = Utf8PathBuf::from(name.strip_prefix("./").unwrap_or(name));
    if !super::layout::stays_below(&path) && !path.as_str().is_empty() {
        return Err(invalid(format!("the path '{path}' does not stay in its tree")));
    }
    let kind = match &member.kind {
        tar::Kind::File => EntryKind::File,
        tar::Kind::Directory => EntryKind::Directory,
        tar::Kind::Symlink(target) => EntryKind::Symlink(String::from_utf8_lossy(target).into_owned().into()),
        tar::Kind::HardLink(_) | tar::Kind::Special => EntryKind::Other,
    };
    let size = if kind == EntryKind::File { member.size } else { 0 };
    Ok(Entry { path, kind, size, mtime: member.mtime, mode: member.mode })
}

/// A tar stream that is walked through once.
struct Walk {
    archive: Input,
    /// Taken at the end.
    parser: Option<Parser>,
    piece: Bytes,
    /// What of the piece is parsed.
    at: usize,
    /// Bytes of the current member that were parsed and not taken yet, in the piece.
    body: (usize, usize),
    inside: bool,
}

/// What the next piece of an archive is.
enum Next {
    Member(Member),
    Data,
    MemberEnd,
    End,
}

impl Walk {
    fn new(archive: Input) -> Self {
        let parser = Some(Parser::new());
        Self { archive, parser, piece: Bytes::new(), at: 0, body: (0, 0), inside: false }
    }

    fn step(&mut self) -> io::Result<Next> {
        let invalid = |error: tar::TarError| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            let Some(parser) = &mut self.parser else { return Ok(Next::End) };
            let mut input = self.piece.get(self.at..).unwrap_or_default();
            let event = parser.next(&mut input).map_err(invalid)?;
            let parsed = self.piece.len() - input.len();
            let next = match event {
                Some(Event::Member(member)) => Some(Next::Member(member)),
                Some(Event::Data(bytes)) => {
                    self.body = (parsed - bytes.len(), parsed);
                    Some(Next::Data)
                }
                Some(Event::MemberEnd) => Some(Next::MemberEnd),
                Some(Event::End) | None => None,
            };
            self.at = parsed;
            if let Some(next) = next {
                return Ok(next);
            }
            if self.at < self.piece.len() {
                continue;
            }
            // To the very end, so that a checksum of the packing is looked at, too.
            self.at = 0;
            self.piece = Bytes::new();
            if let Some(piece) = self.archive.next()? {
                self.piece = piece;
            } else if let Some(parser) = self.parser.take() {
                // Archives on disk always have it; without it nobody knows whether all is there.
                if parser.finish().map_err(invalid)? == tar::End::Unmarked {
                    let text = "the end of the archive is missing";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            }
        }
    }

    /// Passes what is left of the current member.
    fn next_member(&mut self) -> io::Result<Option<Member>> {
        self.body = (0, 0);
        loop {
            match self.step()? {
                Next::Member(member) => {
                    self.inside = true;
                    return Ok(Some(member));
                }
                Next::Data => self.body = (0, 0),
                Next::MemberEnd => self.inside = false,
                Next::End => return Ok(None),
            }
        }
    }

    fn read_body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.inside && self.body.0 == self.body.1 {
            match self.step()? {
                Next::Data => {}
                Next::MemberEnd | Next::End => self.inside = false,
                Next::Member(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a member begins inside of another",
                    ));
                }
            }
        }
        let (from, to) = self.body;
        let n = out.len().min(to - from);
        if let (Some(target), Some(source)) = (out.get_mut(..n), self.piece.get(from..from + n)) {
            target.copy_from_slice(source);
        }
        self.body.0 += n;
        Ok(n)
    }
}
