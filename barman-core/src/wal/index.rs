//! The index of an archive, `<server>-xlog.db`: read in one pass, appended to in batches, rewritten when files go and
//! made anew from the directories when it is lost.
//!
//! Readers take no lock: the file only grows at its end, where a torn line is left out, or is replaced as a whole.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use camino::Utf8Path;

use super::{Shared, WalEntry, WalError};
use crate::ctx::Ctx;
use crate::format::xlogdb::{self, XlogLine, python_mtime};
use crate::io::{IoError, LockGuard, LockName, durable};
use crate::model::{FileTime, WalFileName};

/// Appending to the index and rewriting it take less; whoever holds the lock longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the index says of one file. Small, since there are many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Indexed {
    pub(super) size: u64,
    mtime: f64,
    compression: Word,
    encryption: Word,
}

/// An index into [`Index::words`]; 0 is `None`.
type Word = u16;

/// The whole index in memory.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_name: HashMap<WalFileName, Indexed>,
    words: Vec<String>,
}

impl Index {
    /// Reads the text of an index. Lines that are no lines are left out: one damaged line must not hide the others,
    /// and the files are found in their directories all the same. Of two lines for a file the last one counts.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut index = Self::default();
        for line in xlogdb::lines(bytes).filter(|line| line.terminated) {
            if let Ok(XlogLine { name, size, mtime, compression, encryption }) = line.parsed {
                let (compression, encryption) =
                    (index.word(compression.as_deref()), index.word(encryption.as_deref()));
                index.by_name.insert(name, Indexed { size, mtime, compression, encryption });
            }
        }
        index
    }

    fn word(&mut self, text: Option<&str>) -> Word {
        let Some(text) = text else { return 0 };
        let at = self.words.iter().position(|word| word == text).unwrap_or_else(|| {
            self.words.push(text.to_owned());
            self.words.len() - 1
        });
        // There are a dozen codecs.
        Word::try_from(at + 1).unwrap_or(0)
    }

    fn text(&self, word: Word) -> Option<String> {
        self.words.get(usize::from(word).checked_sub(1)?).cloned()
    }

    pub(super) fn get(&self, name: &WalFileName) -> Option<WalEntry> {
        let Indexed { size, mtime, compression, encryption } = *self.by_name.get(name)?;
        Some(WalEntry {
            name: *name,
            size,
            mtime: file_time(mtime),
            compression: self.text(compression),
            encryption: self.text(encryption),
            indexed: true,
        })
    }

    pub(super) fn contains(&self, name: &WalFileName) -> bool {
        self.by_name.contains_key(name)
    }
}

fn file_time(seconds: f64) -> FileTime {
    let whole = seconds.floor();
    let nanos = ((seconds - whole) * 1e9).round().clamp(0.0, 999_999_999.0);
    FileTime { seconds: whole as i64, nanos: nanos as u32 }
}

/// The line for a file.
pub(super) fn line(entry: &WalEntry, to: &mut String) {
    XlogLine {
        name: entry.name,
        size: entry.size,
        mtime: python_mtime(entry.mtime),
        compression: entry.compression.as_deref().map(Into::into),
        encryption: entry.encryption.as_deref().map(Into::into),
    }
    .write_to(to);
}

/// The text of the index, if there is one.
pub(super) fn read_bytes(shared: &Shared) -> Result<Option<Vec<u8>>, IoError> {
    for path in [shared.paths.index(), shared.paths.old_index()] {
        match shared.disk.read(&path) {
            Err(e) if e.is_not_found() => {}
            other => return other.map(Some),
        }
    }
    Ok(None)
}

/// Reads the index; one that is not there is empty.
pub(super) fn read(shared: &Shared) -> Result<Index, IoError> {
    Ok(Index::parse(&read_bytes(shared)?.unwrap_or_default()))
}

/// Takes Barman's lock on the index.
pub(super) fn lock(shared: &Shared, why: &str, ctx: &Ctx<'_>) -> Result<LockGuard, WalError> {
    let name = LockName::XlogDb(shared.paths.server.clone());
    Ok(shared.locks.lock_within(&name, why, PATIENCE, ctx)?)
}

/// Whether the index is at its place. One of the old name is moved there; the caller holds the lock.
pub(super) fn settle(shared: &Shared, _lock: &LockGuard) -> Result<bool, IoError> {
    let (path, old) = (shared.paths.index(), shared.paths.old_index());
    if shared.disk.exists(&path)? {
        return Ok(true);
    }
    match shared.disk.read(&old) {
        Err(e) if e.is_not_found() => return Ok(false),
        Err(e) => return Err(e),
        Ok(bytes) => {
            durable::mkdir_all_durable(&*shared.disk, &shared.paths.xlogdb_directory, 0o777)?;
            durable::replace_durable(&*shared.disk, &path, &bytes, None)?;
            durable::remove_durable(&*shared.disk, &old)?;
        }
    }
    Ok(true)
}

/// Replaces the index by the lines of the current one that are not about `gone`, and `more`. Lines that cannot be read
/// stay as they are. The caller holds the lock.
pub(super) fn rewrite(
    shared: &Shared,
    _lock: &LockGuard,
    gone: &HashSet<WalFileName>,
    more: &str,
) -> Result<(), IoError> {
    let bytes = read_bytes(shared)?.unwrap_or_default();
    let mut kept = Vec::with_capacity(bytes.len() + more.len());
    for line in xlogdb::lines(&bytes).filter(|line| line.terminated) {
        if !line.parsed.is_ok_and(|line| gone.contains(&line.name)) {
            kept.extend_from_slice(line.raw);
            kept.push(b'\n');
        }
    }
    kept.extend_from_slice(more.as_bytes());
    write(shared, &kept)
}

/// Puts a whole index in its place, durably.
pub(super) fn write(shared: &Shared, bytes: &[u8]) -> Result<(), IoError> {
    let path = shared.paths.index();
    durable::mkdir_all_durable(&*shared.disk, &shared.paths.xlogdb_directory, 0o777)?;
    let mode = match shared.disk.stat(&path) {
        Ok(stat) => Some(stat.mode),
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(e),
    };
    durable::replace_durable(&*shared.disk, &path, bytes, mode)
}

/// Where an error of the index is reported.
pub(super) fn no_space(error: IoError, path: &Utf8Path) -> WalError {
    if error.kind() == crate::io::IoErrorKind::NoSpace {
        WalError::NoSpace { path: path.to_owned() }
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_file_counts_and_damage_hides_nothing() {
        let text = b"000000010000000000000001\t16518\t1795383933.2333202\tgzip\tNone\n\
                     nonsense\n\
                     000000010000000000000001\t99\t5.5\tNone\tNone\n\
                     00000002.history\t81\t1795384945.0\n\
                     000000010000000000000002\t1";
        let index = Index::parse(text);
        let entry = index.get(&"000000010000000000000001".parse().unwrap()).unwrap();
        assert_eq!((entry.size, entry.compression, entry.mtime.nanos), (99, None, 500_000_000));
        assert!(index.contains(&"00000002.history".parse().unwrap()));
        assert!(!index.contains(&"000000010000000000000002".parse().unwrap()), "a torn line is no line");
    }

    #[test]
    fn times_survive_the_way_through_the_index() {
        for nanos in [0, 1_000, 123_456_000, 999_999_000] {
            let time = FileTime { seconds: 1_795_383_933, nanos };
            let back = file_time(python_mtime(time));
            assert!((back.as_nanos() - time.as_nanos()).abs() < 500, "{time:?} {back:?}");
        }
    }
}
