//! The directories of an archive: listing names, describing files, removing them, and the index made from them.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use camino::Utf8Path;

use super::layout::is_hash_dir;
use super::local::Rebuilt;
use super::{Reclaimed, Shared, WalEntry, WalError, WalRange, commits, index};
use crate::cipher::is_encrypted;
use crate::codec::{Algorithm, MAGIC_LEN, detect};
use crate::ctx::Ctx;
use crate::io::{FileKind, IoError, IoErrorKind, LockGuard, durable};
use crate::model::{SegmentName, Timeline, WalFileName};

/// The entries of a directory in byte order, which is archive order; one that is not there has none.
fn sorted(shared: &Shared, dir: &Utf8Path) -> Result<Vec<(String, FileKind)>, IoError> {
    let mut found = Vec::new();
    let listed = shared.disk.list(dir, &mut |item| {
        found.push((item.name, item.kind));
        ControlFlow::Continue(())
    });
    match listed {
        // Names that are not UTF-8 are not those of WAL files.
        Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::NotUtf8) => {}
        other => other?,
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Visits the names of all WAL files of a range in archive order.
pub(super) fn each_name(
    shared: &Shared,
    range: &WalRange,
    each: &mut dyn FnMut(WalFileName) -> Result<ControlFlow<()>, WalError>,
) -> Result<(), WalError> {
    let wals = &shared.paths.wals_directory;
    // Directories that lie outside the range as a whole are not read. Their names are those of their files' beginnings.
    let first = range.from.and_then(|name| name.hash_dir());
    let last = range.to.and_then(|name| name.hash_dir());
    for (entry, kind) in sorted(shared, wals)? {
        if kind == FileKind::Directory && is_hash_dir(&entry) {
            let upper = entry.to_ascii_uppercase();
            if first.as_ref().is_some_and(|first| upper < *first)
                || last.as_ref().is_some_and(|last| upper > *last)
            {
                continue;
            }
            for (file, _) in sorted(shared, &wals.join(&entry))? {
                // A file in the directory of another, or with digits in lower case, is not found by its name.
                let name = file.parse::<WalFileName>().ok();
                let name = name.filter(|n| n.to_string() == file && n.hash_dir().as_ref() == Some(&entry));
                if let Some(name) = name.filter(|name| range.contains(name))
                    && each(name)?.is_break()
                {
                    return Ok(());
                }
            }
        } else if let Ok(name @ WalFileName::History(_)) = entry.parse::<WalFileName>()
            && name.to_string() == entry
            && range.contains(&name)
            && each(name)?.is_break()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// What is known of a file without the index.
pub(super) fn describe(shared: &Shared, name: &WalFileName) -> Result<WalEntry, WalError> {
    let file = shared.disk.open_read(&shared.paths.file(name))?;
    let stat = file.stat()?;
    let magic = shared.options.custom_magic.as_deref();
    let mut start = vec![0; magic.map_or(0, <[u8]>::len).max(MAGIC_LEN)];
    let n = file.read_at(&mut start, 0)?;
    start.truncate(n);
    let encrypted = is_encrypted(&start);
    let algorithm = detect(&start, magic).filter(|a| *a != Algorithm::None && !encrypted);
    Ok(WalEntry {
        name: *name,
        size: stat.size,
        mtime: stat.mtime,
        compression: algorithm.map(|a| a.to_string()),
        encryption: encrypted.then(|| "gpg".to_owned()),
        indexed: false,
    })
}

/// The newest whole segment of a timeline.
pub(super) fn latest(shared: &Shared, timeline: Timeline) -> Result<Option<SegmentName>, IoError> {
    let wals = &shared.paths.wals_directory;
    let prefix = timeline.hex();
    for (dir, kind) in sorted(shared, wals)?.into_iter().rev() {
        if kind == FileKind::Directory && is_hash_dir(&dir) && dir.starts_with(&prefix) {
            let files = sorted(shared, &wals.join(&dir))?;
            let newest = files.iter().rev().find_map(|(file, _)| file.parse::<SegmentName>().ok());
            if newest.is_some() {
                return Ok(newest);
            }
        }
    }
    Ok(None)
}

/// Removes files, and directories in which nothing is left. The index is not touched.
fn remove(shared: &Shared, names: &[WalFileName]) -> Result<Reclaimed, IoError> {
    let disk = &*shared.disk;
    let mut reclaimed = Reclaimed::default();
    let mut dirs = BTreeSet::new();
    for name in names {
        let path = shared.paths.file(name);
        match disk.lstat(&path) {
            Err(e) if e.is_not_found() => continue,
            Err(e) => return Err(e),
            Ok(stat) => {
                match disk.unlink(&path) {
                    Err(e) if e.is_not_found() => continue,
                    other => other?,
                }
                reclaimed.files += 1;
                reclaimed.bytes += stat.size;
                dirs.insert(shared.paths.dir_of(name));
            }
        }
    }
    let wals = &shared.paths.wals_directory;
    for dir in &dirs {
        if dir == wals {
            continue;
        }
        // Only what is empty goes: never a directory with a file that nobody asked to remove.
        match disk.rmdir(dir) {
            Err(e) if e.kind() == IoErrorKind::NotEmpty => disk.sync_dir(dir)?,
            Err(e) if e.is_not_found() => {}
            other => other?,
        }
    }
    if !dirs.is_empty() {
        disk.sync_dir(wals)?;
    }
    Ok(reclaimed)
}

/// Removes lines from the index and then the files.
///
/// The index first: a crash in between leaves files without lines, which are found again, and never lines without files.
pub(super) fn forget(shared: &Shared, names: &[WalFileName], ctx: &Ctx<'_>) -> Result<Reclaimed, WalError> {
    if names.is_empty() {
        return Ok(Reclaimed::default());
    }
    {
        let lock = index::lock(shared, "the removal of WAL", ctx)?;
        if index::settle(shared, &lock)? {
            let gone: HashSet<WalFileName> = names.iter().copied().collect();
            index::rewrite(shared, &lock, &gone, "")
                .map_err(|e| index::no_space(e, &shared.paths.index()))?;
        }
    }
    commits::forget(shared, &names.iter().copied().collect());
    Ok(remove(shared, names)?)
}

/// No more than twice as many files are looked at at a time.
const READERS: usize = 16;

/// Makes the index from the files; the caller holds its lock.
pub(super) fn rebuild_index(shared: &Shared, lock: &LockGuard) -> Result<Rebuilt, WalError> {
    let mut names = Vec::new();
    each_name(shared, &WalRange::default(), &mut |name| {
        names.push(name);
        Ok(ControlFlow::Continue(()))
    })?;
    let mut rebuilt = Rebuilt::default();
    for name in &names {
        *match name {
            WalFileName::Segment(_) => &mut rebuilt.segments,
            WalFileName::Partial(_) => &mut rebuilt.partial,
            WalFileName::BackupLabel { .. } => &mut rebuilt.backup_labels,
            WalFileName::History(_) => &mut rebuilt.history,
        } += 1;
    }
    // Opening a file is waiting for the disk: many at a time, and the lines in the order of the names.
    let share = names.len().div_ceil(shared.options.workers.clamp(1, READERS) * 2).max(1);
    let texts = std::thread::scope(|scope| {
        let described = |some: &[WalFileName]| -> Result<String, WalError> {
            let mut text = String::new();
            for name in some {
                index::line(&describe(shared, name)?, &mut text);
            }
            Ok(text)
        };
        let threads: Vec<_> = names.chunks(share).map(|some| scope.spawn(move || described(some))).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(text) => text,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<Vec<String>, WalError>>()
    })?;
    let text = texts.concat();
    let _held = lock;
    index::write(shared, text.as_bytes()).map_err(|e| index::no_space(e, &shared.paths.index()))?;
    durable::remove_durable(&*shared.disk, &shared.paths.old_index())?;
    Ok(rebuilt)
}
