//! Plain bytes of WAL files, whatever lies on disk, and the judgement on them.

use std::io::{self, BufReader, Read};

use camino::Utf8Path;

use super::{Shared, WalError};
use crate::cipher::{CipherError, is_encrypted};
use crate::codec::{Algorithm, MAGIC_LEN, decompressor, detect};
use crate::format::history::TimelineHistory;
use crate::format::text::with_reasons;
use crate::format::wal_page::{
    Ancestors, Completeness, Expectations, FirstPage, SegmentFacts, Unsound, Validator,
};
use crate::io::{IoContext, IoError};
use crate::model::{SegmentName, SegmentSize, Timeline, WalFileName};

/// Bytes read at once.
const READ: usize = 256 << 10;
/// A history or backup history file is a few lines; more is something else.
const LONGEST_TEXT: u64 = 4 << 20;

/// A file on disk with its plain bytes.
pub(super) struct Stored {
    /// The plain bytes.
    pub(super) plain: Box<dyn Read + Send>,
    /// What they are packed in.
    pub(super) algorithm: Algorithm,
    /// Whether that is encrypted.
    pub(super) encrypted: bool,
}

/// A file on disk with its bytes as they were before they were encrypted.
struct Packed {
    bytes: Box<dyn Read + Send>,
    algorithm: Algorithm,
    encrypted: bool,
}

/// Opens a file, recognising its packing by its first bytes.
pub(super) fn open(shared: &Shared, path: &Utf8Path) -> Result<Stored, WalError> {
    let Packed { bytes, algorithm, encrypted } = open_packed(shared, path)?;
    if algorithm == Algorithm::None {
        return Ok(Stored { plain: bytes, algorithm, encrypted });
    }
    let codec = |source| WalError::Codec { path: path.to_owned(), source };
    let packing = decompressor(algorithm, shared.options.custom_filters.as_ref()).map_err(codec)?;
    let plain = packing.decoder(Box::new(BufReader::with_capacity(READ, bytes))).map_err(codec)?;
    Ok(Stored { plain, algorithm, encrypted })
}

/// The bytes of a file as it was packed, without its encryption.
pub(super) fn decrypted(shared: &Shared, path: &Utf8Path) -> Result<Box<dyn Read + Send>, WalError> {
    Ok(open_packed(shared, path)?.bytes)
}

fn open_packed(shared: &Shared, path: &Utf8Path) -> Result<Packed, WalError> {
    let file = shared.disk.open_read(path)?;
    let magic = shared.options.custom_magic.as_deref();
    let longer = magic.map_or(0, <[u8]>::len).max(MAGIC_LEN);
    let mut start = vec![0; longer];
    let n = file.read_at(&mut start, 0)?;
    start.truncate(n);
    let encrypted = is_encrypted(&start);
    let mut bytes: Box<dyn Read + Send> = Box::new(BufReader::with_capacity(READ, file));
    if encrypted {
        let mut plain = decrypt(shared, path, bytes)?;
        start.resize(longer, 0);
        let n = crate::io::fill(&mut plain, &mut start).context("decrypt", path)?;
        start.truncate(n);
        bytes = Box::new(io::Cursor::new(start.clone()).chain(plain));
    }
    let custom = magic.is_none() && shared.options.custom_filters.is_some();
    let unknown = if custom && !looks_plain(&start) { Algorithm::Custom } else { Algorithm::None };
    let algorithm = detect(&start, magic).unwrap_or(unknown);
    Ok(Packed { bytes, algorithm, encrypted })
}

fn decrypt(
    shared: &Shared,
    path: &Utf8Path,
    hidden: Box<dyn Read + Send>,
) -> Result<Box<dyn Read + Send>, WalError> {
    let undecodable = |reason: String| WalError::Undecodable { path: path.to_owned(), reason };
    let Some(cipher) = &shared.options.decryption else {
        return Err(undecodable("it is encrypted, and the archive was opened without a cipher".to_owned()));
    };
    cipher.decrypt(hidden).map_err(|error| match error {
        CipherError::Cancelled(cancelled) => cancelled.into(),
        // It was opened, and is not what was encrypted.
        error @ CipherError::Damaged { .. } => {
            WalError::Corrupt { path: path.to_owned(), reason: error.to_string() }
        }
        CipherError::Io(error) => IoError::new("read", path, error).into(),
        error => undecodable(with_reasons(&error)),
    })
}

/// Whether a file begins as WAL or as one of the texts beside it. Asked only where custom filters are configured
/// without the magic of what they write.
fn looks_plain(start: &[u8]) -> bool {
    let page = FirstPage::parse(start).is_some() || matches!(start, [_, 0xD0 | 0xD1, ..]);
    page || start.is_empty()
        || start.starts_with(b"START WAL")
        || start.first().is_some_and(u8::is_ascii_digit)
}

/// Why a file is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// In words.
    pub(super) reason: String,
    /// It ends too early, and what is there is valid: it may still be written.
    pub(super) short: bool,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), short: false }
    }
}

/// Whose WAL a segment may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clusters {
    /// Of the present cluster: what comes in.
    Present,
    /// Also of those that the archive was used for before: what is archived.
    Known,
}

/// Judges a file by its plain bytes as they pass by.
pub(super) enum Judge<'s> {
    Segment {
        shared: &'s Shared,
        name: SegmentName,
        completeness: Completeness,
        clusters: Clusters,
        begun: Begun,
        /// Whether landmarks are collected on the way.
        landmarks: bool,
    },
    Text {
        name: WalFileName,
        text: Vec<u8>,
        too_long: bool,
    },
}

/// The beginning of a segment says how long segments are, where nobody else does.
pub(super) enum Begun {
    No(Vec<u8>),
    Yes(Box<Validator>),
}

/// So many bytes say the segment size.
const FIRST_PAGE: usize = 40;

impl<'s> Judge<'s> {
    pub(super) fn new(shared: &'s Shared, name: &WalFileName, clusters: Clusters) -> Self {
        let (name, completeness) = match *name {
            WalFileName::Segment(name) => (name, Completeness::Full),
            WalFileName::Partial(name) => (name, Completeness::Partial),
            name => return Self::Text { name, text: Vec::new(), too_long: false },
        };
        Self::Segment { shared, name, completeness, clusters, begun: Begun::No(Vec::new()), landmarks: false }
    }

    /// Collects landmarks on the way; they are in what [`Self::conclude`] gives.
    pub(super) fn with_landmarks(mut self) -> Self {
        if let Self::Segment { landmarks, .. } = &mut self {
            *landmarks = true;
        }
        self
    }

    /// Takes the next plain bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        match self {
            Self::Text { text, too_long, .. } => {
                *too_long |= (text.len() + bytes.len()) as u64 > LONGEST_TEXT;
                if !*too_long {
                    text.extend_from_slice(bytes);
                }
            }
            Self::Segment { shared, name, completeness, clusters, begun, landmarks } => match begun {
                Begun::Yes(validator) => {
                    validator.push(bytes);
                }
                // Nearly always: the first piece is a whole segment, which is not copied to look at its beginning.
                Begun::No(first) if first.is_empty() && bytes.len() >= FIRST_PAGE => {
                    let validator = shared.validator(*name, *completeness, *clusters, bytes)?;
                    let mut validator = if *landmarks { validator.with_landmarks() } else { validator };
                    validator.push(bytes);
                    *begun = Begun::Yes(Box::new(validator));
                }
                Begun::No(first) => {
                    first.extend_from_slice(bytes);
                    if first.len() >= FIRST_PAGE {
                        let validator = shared.validator(*name, *completeness, *clusters, first)?;
                        let mut validator = if *landmarks { validator.with_landmarks() } else { validator };
                        validator.push(first);
                        *begun = Begun::Yes(Box::new(validator));
                    }
                }
            },
        }
        Ok(())
    }

    /// Whether more bytes cannot change the verdict for the better.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Segment { completeness: Completeness::Full, begun: Begun::Yes(v), .. } => {
                v.problem().is_some()
            }
            Self::Text { too_long, .. } => *too_long,
            _ => false,
        }
    }

    /// The verdict, once all bytes were pushed or [`Self::is_lost`].
    pub(super) fn finish(self) -> Result<Result<(), Fault>, WalError> {
        Ok(self.conclude()?.map(drop))
    }

    /// The verdict with what a segment says of itself.
    pub(super) fn conclude(self) -> Result<Result<Option<Box<SegmentFacts>>, Fault>, WalError> {
        Ok(match self {
            Self::Text { too_long: true, .. } => Err(Fault::new("it is too long for its type")),
            Self::Text { name, text, .. } => match name {
                WalFileName::History(own) => history(own, &text).map(|()| None),
                _ => backup_label(&name, &text).map(|()| None),
            },
            Self::Segment { shared, name, completeness, clusters, begun, .. } => {
                let validator = match begun {
                    Begun::Yes(validator) => *validator,
                    Begun::No(first) => {
                        let mut validator = shared.validator(name, completeness, clusters, &first)?;
                        validator.push(&first);
                        validator
                    }
                };
                match validator.finish() {
                    Ok(facts) => Ok(Some(Box::new(facts))),
                    Err(problem) => {
                        let short = matches!(problem, Unsound::TooShort { .. });
                        Err(Fault { reason: problem.to_string(), short })
                    }
                }
            }
        })
    }
}

impl Shared {
    /// What is expected of a segment of this archive.
    pub(super) fn validator(
        &self,
        name: SegmentName,
        completeness: Completeness,
        clusters: Clusters,
        first: &[u8],
    ) -> Result<Validator, WalError> {
        let page = FirstPage::parse(first);
        let named = page.and_then(|page| SegmentSize::from_bytes(u64::from(page.segment_size)).ok());
        let mut system_id = self.options.system_id;
        let mut size = self.options.segment_size.or(named).unwrap_or(SegmentSize::DEFAULT);
        if let (Clusters::Known, Some(found), Some(earlier)) =
            (clusters, page.map(|page| page.system_id), &self.options.earlier)
            && system_id.is_some_and(|present| present != found)
            && let Some(its_size) = earlier(found)
        {
            (system_id, size) = (Some(found), its_size);
        }
        Ok(Validator::new(Expectations {
            system_id,
            // A server newer than this program must not find its archive closed.
            accept_unknown_magic: true,
            ancestors: self.ancestors(name.timeline)?,
            completeness,
            check_records: true,
            ..Expectations::new(name, size)
        }))
    }

    /// The timelines from which one descends, by its history file in the archive or on its way there.
    fn ancestors(&self, timeline: Timeline) -> Result<Ancestors, WalError> {
        if timeline == Timeline::FIRST {
            return Ok(Ancestors::Listed(Vec::new()));
        }
        let name = WalFileName::History(timeline);
        let file = name.to_string();
        for path in [
            self.paths.file(&name),
            self.paths.incoming_directory.join(&file),
            self.paths.streaming_directory.join(&file),
        ] {
            let stored = match open(self, &path) {
                Err(WalError::Io(e)) if e.is_not_found() => continue,
                Err(_) => continue,
                Ok(stored) => stored,
            };
            let mut text = Vec::new();
            // A history that cannot be read says as little as none.
            // One that is still being written has not all of them.
            if stored.plain.take(LONGEST_TEXT).read_to_end(&mut text).is_ok()
                && text.last() == Some(&b'\n')
                && let Ok(parents) = parents(timeline, &text)
            {
                return Ok(Ancestors::Listed(parents));
            }
        }
        Ok(Ancestors::AnyOlder)
    }
}

/// How far an unfinished segment is valid; `None` when nothing of it is.
pub(super) fn examine(
    shared: &Shared,
    name: SegmentName,
    clusters: Clusters,
    path: &Utf8Path,
    mut plain: impl Read,
) -> Result<Option<SegmentFacts>, WalError> {
    let mut chunk = vec![0; READ];
    let mut validator: Option<Validator> = None;
    loop {
        let count = match crate::io::fill(&mut plain, &mut chunk) {
            Err(e) if damage(&e).is_none() => return Err(e).context("read", path).map_err(Into::into),
            // What was read before damage counts.
            other => other.unwrap_or_default(),
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        match &mut validator {
            _ if count == 0 => break,
            Some(validator) => {
                validator.push(bytes);
            }
            None => {
                validator.insert(shared.validator(name, Completeness::Partial, clusters, bytes)?).push(bytes);
            }
        }
    }
    Ok(validator.and_then(|validator| validator.finish().ok()))
}

/// Reads a file to its end past a judge.
pub(super) fn judge(
    shared: &Shared,
    name: &WalFileName,
    clusters: Clusters,
    path: &Utf8Path,
    mut plain: impl Read,
) -> Result<Result<(), Fault>, WalError> {
    let mut judge = Judge::new(shared, name, clusters);
    let mut chunk = vec![0; READ];
    loop {
        match plain.read(&mut chunk) {
            Ok(0) => return judge.finish(),
            Ok(n) => judge.push(chunk.get(..n).unwrap_or_default())?,
            Err(e) => match damage(&e) {
                Some(fault) => return Ok(Err(fault)),
                None => return Err(e).context("read", path).map_err(Into::into),
            },
        }
        if judge.is_lost() {
            return judge.finish();
        }
    }
}

/// An error of reading that tells of damaged content, not of a disk in trouble.
pub(super) fn damage(error: &io::Error) -> Option<Fault> {
    let short = error.kind() == io::ErrorKind::UnexpectedEof;
    (short || error.kind() == io::ErrorKind::InvalidData).then(|| Fault { reason: error.to_string(), short })
}

/// The parents in a timeline history file, oldest first.
fn parents(own: Timeline, text: &[u8]) -> Result<Vec<Timeline>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
    let history = TimelineHistory::parse(own, text).map_err(|e| e.to_string())?;
    Ok(history.entries.into_iter().map(|entry| entry.parent).collect())
}

fn history(own: Timeline, text: &[u8]) -> Result<(), Fault> {
    match parents(own, text) {
        // Without the end of its last line it may still be growing.
        Err(reason) => Err(Fault { reason, short: text.last() != Some(&b'\n') }),
        Ok(_) if text.last() != Some(&b'\n') => {
            Err(Fault { reason: "its last line has no end".into(), short: true })
        }
        Ok(_) => Ok(()),
    }
}

fn backup_label(name: &WalFileName, text: &[u8]) -> Result<(), Fault> {
    let segment = match name {
        WalFileName::BackupLabel { start, .. } => start.to_string(),
        other => other.to_string(),
    };
    let text = String::from_utf8_lossy(text);
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("START WAL LOCATION: ") && first.ends_with(&format!("(file {segment})")) {
        return Ok(());
    }
    Err(Fault {
        reason: "it does not begin as the history of a backup that started there".into(),
        short: text.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories() {
        let own = Timeline::new(3).unwrap();
        assert_eq!(parents(own, b"1\t0/3000000\tno recovery target\n\n2\t0/5000000\tx\n").unwrap().len(), 2);
        for bad in ["1\n", "x\t0/1\ty\n", "2\t0/1\tx\n1\t0/2\tx\n", "3\t0/1\tx\n"] {
            assert!(history(own, bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(history(own, b"").is_err_and(|fault| fault.short));
        assert!(history(own, b"1\t0/3000000\tcut of").is_err_and(|fault| fault.short));
    }

    #[test]
    fn backup_histories() {
        let name: WalFileName = "000000010000000000000002.00000028.backup".parse().unwrap();
        assert!(
            backup_label(&name, b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTOP")
                .is_ok()
        );
        assert!(
            backup_label(&name, b"START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n").is_err()
        );
        assert!(backup_label(&name, b"").is_err());
    }
}
