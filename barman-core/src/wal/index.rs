//! The index of an archive, `<server>-xlog.db`: read in one pass, appended to in batches, rewritten when files go and
//! made anew from the directories when it is lost.
//!
//! Readers take no lock: the file only grows at its end, where a torn line is left out, or is replaced as a whole.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::time::Duration;

use camino::Utf8Path;

use super::{Shared, WalEntry, WalError};
use crate::ctx::Ctx;
use crate::format::xlogdb::{self, XlogLine, python_mtime};
use crate::io::{IoContext, IoError, LockGuard, LockName, durable};
use crate::model::{FileTime, SegmentName, WalFileName};

/// Appending to the index and rewriting it take less; whoever holds the lock longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of the index that are read at once.
const CHUNK: usize = 256 << 10;

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
    /// Takes one more line. Of two lines for a file the last one counts.
    fn add(&mut self, line: &XlogLine<'_>) {
        let XlogLine { name, size, mtime, ref compression, ref encryption } = *line;
        let (compression, encryption) = (self.word(compression.as_deref()), self.word(encryption.as_deref()));
        self.by_name.insert(name, Indexed { size, mtime, compression, encryption });
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
    let mut index = Index::default();
    each_line(shared, None, &mut |line| index.add(&line))?;
    Ok(index)
}

/// Visits the lines of the index, if there is one, in constant memory. Lines that are no lines are left out: one damaged line
/// must not hide the others, and the files are found in their directories all the same. So is one that a crash cut.
///
/// Segments before `from` in archive order are passed over without a look at the rest of their lines.
pub(super) fn each_line(
    shared: &Shared,
    from: Option<SegmentName>,
    each: &mut dyn FnMut(XlogLine<'_>),
) -> Result<(), IoError> {
    let from = from.map(|name| name.to_string());
    let from = from.as_deref().map(str::as_bytes);
    for path in [shared.paths.index(), shared.paths.old_index()] {
        match shared.disk.open_read(&path) {
            Err(e) if e.is_not_found() => {}
            other => return lines_of(&mut other?, from, each).context("read", &path),
        }
    }
    Ok(())
}

/// Whether a line is about a segment before `from`: digits of one length are in the order of their bytes. A name in small
/// letters is not known as one, and read.
fn is_before(raw: &[u8], from: Option<&[u8]>) -> bool {
    let name = raw.split_at_checked(24).filter(|(_, rest)| rest.first() == Some(&b'\t'));
    matches!((name, from), (Some((name, _)), Some(from)) if name < from)
}

fn lines_of(file: &mut dyn Read, from: Option<&[u8]>, each: &mut dyn FnMut(XlogLine<'_>)) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    // How much of the buffer is the beginning of a line whose rest has not been read.
    let mut begun = 0;
    loop {
        if begun == buffer.len() {
            buffer.resize(2 * begun, 0);
        }
        let filled = match file.read(buffer.get_mut(begun..).unwrap_or_default()) {
            Ok(0) => return Ok(()),
            Ok(count) => begun + count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let new = buffer.get(begun..filled).unwrap_or_default();
        let Some(end) = memchr::memrchr(b'\n', new).map(|at| begun + at + 1) else {
            begun = filled;
            continue;
        };
        let mut rest = buffer.get(..end).unwrap_or_default();
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (raw, next) = rest.split_at(at);
            if !is_before(raw, from)
                && let Ok(line) = xlogdb::parse_line(raw)
            {
                each(line);
            }
            rest = next.get(1..).unwrap_or_default();
        }
        buffer.copy_within(end..filled, 0);
        begun = filled - end;
    }
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
        let mut index = Index::default();
        lines_of(&mut &text[..], None, &mut |line| index.add(&line)).unwrap();
        let entry = index.get(&"000000010000000000000001".parse().unwrap()).unwrap();
        assert_eq!((entry.size, entry.compression, entry.mtime.nanos), (99, None, 500_000_000));
        assert!(index.contains(&"00000002.history".parse().unwrap()));
        assert!(!index.contains(&"000000010000000000000002".parse().unwrap()), "a torn line is no line");
    }

    /// Gives a few bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let count = buf.len().min(self.1);
            self.0.read(&mut buf[..count])
        }
    }

    #[test]
    fn lines_are_the_same_in_pieces_of_any_size() {
        let mut text = String::new();
        // Longer than the buffer, so that it grows.
        text.push_str(&"x".repeat(CHUNK + 5));
        text.push('\n');
        for n in 0..5_000 {
            text.push_str(&format!("0000000100000000{n:08X}\t{n}\t{n}.5\tgzip\tNone\n"));
        }
        text.push_str("000000010000000000FFFFFF\t1\t1.5\tgzip\tNone");
        for piece in [1, 7, 4096, CHUNK, usize::MAX] {
            let mut sizes = Vec::new();
            lines_of(&mut Drip(text.as_bytes(), piece), None, &mut |line| sizes.push(line.size)).unwrap();
            assert_eq!(sizes, (0..5_000).collect::<Vec<u64>>(), "{piece}");
        }
    }

    #[test]
    fn only_segments_before_the_first_wanted_are_passed_over() {
        let mut text = String::new();
        let mut names: Vec<String> = (0..40u32)
            .map(|n| format!("{:08X}{:08X}{:08X}", n % 3 + 1, n * 7 % 5, n.wrapping_mul(0x9E) % 300))
            .collect();
        names.extend(["00000002.history", "000000010000000000000001.00000028.backup"].map(String::from));
        names.extend(["000000010000000000000002.partial", "0000000a0000000000000001"].map(String::from));
        names.iter().for_each(|name| text.push_str(&format!("{name}\t1\t1.5\tNone\tNone\n")));
        let read = |from: Option<&[u8]>| {
            let mut found = Vec::new();
            lines_of(&mut text.as_bytes(), from, &mut |line| found.push(line.name)).unwrap();
            found
        };
        let all = read(None);
        assert!(all.len() >= 43, "{}", all.len());
        for from in all.iter().filter_map(|name| name.as_segment()) {
            let wanted: Vec<WalFileName> =
                all.iter().copied().filter(|name| name.as_segment().is_none_or(|s| s >= from)).collect();
            assert_eq!(read(Some(from.to_string().as_bytes())), wanted, "{from}");
        }
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
