//! The only place that puts create, write, fsync, rename and fsync of the directory in order. Each function says what
//! holds after a crash at any point of it; `barman-core/tests/crash.rs` proves it on a disk that loses what was not
//! fsynced.
//!
//! A failed fsync is final (I29): nothing is tried again, the temporary file is given up and the error goes to the
//! caller.

use std::collections::BTreeSet;
use std::io::{Read, SeekFrom};

use camino::{Utf8Path, Utf8PathBuf};

use super::{Disk, DiskFile, IoContext, IoError};

/// What the name of a file ends with while it is being written; Barman uses the same and ignores such names.
pub const TMP_SUFFIX: &str = ".tmp";

/// The directory that holds a path's name.
pub fn parent_of(path: &Utf8Path) -> &Utf8Path {
    match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent,
        _ => Utf8Path::new("."),
    }
}

/// The temporary name of a file that is being written: `<path>.tmp`.
pub fn tmp_of(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{path}{TMP_SUFFIX}"))
}

/// Creates the temporary file of `path`. A left-over of an earlier crash is removed: whoever writes a path holds the
/// lock for it, so nobody else can be writing there.
pub fn create_tmp(disk: &dyn Disk, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
    let tmp = tmp_of(path);
    match disk.create_new(&tmp) {
        Err(e) if e.is_already_exists() => {
            disk.unlink(&tmp)?;
            disk.create_new(&tmp)
        }
        other => other,
    }
}

/// Writes a file that must not exist.
///
/// When it returns, the whole file is durable under its name. After a crash at any point the name is either absent or
/// leads to the whole content; `<path>.tmp` may be left over. Fails with
/// [`super::IoErrorKind::AlreadyExists`], and changes nothing, where the name is taken.
pub fn write_new_durable(disk: &dyn Disk, path: &Utf8Path, bytes: &[u8]) -> Result<(), IoError> {
    publish_noreplace(disk, filled_tmp(disk, path, bytes, None)?, path)
}

/// Writes a file whether it exists or not, as a new inode, so that hard links to the old one keep their content.
/// `mode` None means 0666 less the umask.
///
/// When it returns, the new content is durable under the name. After a crash at any point the name leads to the whole
/// old or the whole new content (or to nothing where there was nothing); `<path>.tmp` may be left over.
pub fn replace_durable(
    disk: &dyn Disk,
    path: &Utf8Path,
    bytes: &[u8],
    mode: Option<u32>,
) -> Result<(), IoError> {
    let file = filled_tmp(disk, path, bytes, mode)?;
    publish_replacing(disk, file, path)
}

fn filled_tmp(
    disk: &dyn Disk,
    path: &Utf8Path,
    bytes: &[u8],
    mode: Option<u32>,
) -> Result<Box<dyn DiskFile>, IoError> {
    let mut file = create_tmp(disk, path)?;
    let filled = file.put(bytes).and_then(|()| mode.map_or(Ok(()), |mode| file.set_mode(mode)));
    match filled {
        Ok(()) => Ok(file),
        Err(e) => Err(give_up(disk, file, e)),
    }
}

/// Drops a file that will not be published. The first error is the one that counts, so trouble with the removal is not
/// reported: the name is temporary and the next writer removes it.
fn give_up(disk: &dyn Disk, file: Box<dyn DiskFile>, error: IoError) -> IoError {
    let path = file.path().to_owned();
    drop(file);
    let _ = disk.unlink(&path);
    error
}

/// Publishes a finished file under a name that must be free (I1), and makes both durable. `to` must lie on the same
/// file system.
///
/// After a crash at any point `to` is absent or leads to the whole file; the temporary name may be left over, on file
/// systems without RENAME_NOREPLACE as a second name of the same file. When it fails, the temporary file is removed.
pub fn publish_noreplace(disk: &dyn Disk, file: Box<dyn DiskFile>, to: &Utf8Path) -> Result<(), IoError> {
    let mut publisher = Publisher::new(disk);
    publisher.publish(file, to)?;
    publisher.commit()
}

/// Publishes a finished file under a name, in the place of what has it, and makes both durable. The guarantees of
/// [`replace_durable`].
pub fn publish_replacing(disk: &dyn Disk, file: Box<dyn DiskFile>, to: &Utf8Path) -> Result<(), IoError> {
    let mut publisher = Publisher::new(disk);
    publisher.publish_replacing(file, to)?;
    publisher.commit()
}

/// Publishes many files and fsyncs each directory once.
///
/// What [`Publisher::publish`] accepted is visible but durable only after [`Publisher::commit`]; whoever sends the
/// source away in between can lose it. After a crash each name is absent (or old) or leads to a whole file.
#[must_use = "nothing is durable before commit()"]
pub struct Publisher<'d> {
    disk: &'d dyn Disk,
    dirs: BTreeSet<Utf8PathBuf>,
}

impl<'d> Publisher<'d> {
    /// Nothing to do yet.
    pub fn new(disk: &'d dyn Disk) -> Self {
        Self { disk, dirs: BTreeSet::new() }
    }

    /// Makes the content durable and gives it a name that must be free. When it fails, the temporary file is removed.
    pub fn publish(&mut self, file: Box<dyn DiskFile>, to: &Utf8Path) -> Result<(), IoError> {
        self.publish_with(file, to, |disk, from, to| disk.rename_noreplace(from, to))
    }

    /// Makes the content durable and gives it a name, in the place of what has it.
    pub fn publish_replacing(&mut self, file: Box<dyn DiskFile>, to: &Utf8Path) -> Result<(), IoError> {
        self.publish_with(file, to, |disk, from, to| disk.replace(from, to))
    }

    fn publish_with(
        &mut self,
        mut file: Box<dyn DiskFile>,
        to: &Utf8Path,
        rename: impl FnOnce(&dyn Disk, &Utf8Path, &Utf8Path) -> Result<(), IoError>,
    ) -> Result<(), IoError> {
        // sync_all, not sync_data: the mode and the time of modification are part of what is published.
        if let Err(e) = file.sync_all() {
            return Err(give_up(self.disk, file, e));
        }
        if let Err(e) = rename(self.disk, file.path(), to) {
            return Err(give_up(self.disk, file, e));
        }
        // The old directory too: otherwise the temporary name could come back with a crash.
        self.dirs.insert(parent_of(file.path()).to_owned());
        self.dirs.insert(parent_of(to).to_owned());
        Ok(())
    }

    /// Remembers a directory that must be fsynced although nothing was published in it by this publisher: a name was
    /// removed, or was found already published. (Whoever finds his file already there cannot know whether the one who
    /// published it lived until its fsync of the directory, so he must not acknowledge it without one.)
    pub fn touched(&mut self, dir: &Utf8Path) {
        self.dirs.insert(dir.to_owned());
    }

    /// Makes the names durable. After an error nothing is known about any of them except that files are whole.
    pub fn commit(self) -> Result<(), IoError> {
        self.dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir))
    }
}

/// Appends lines to a text file with one fsync for all of them; the file is created when absent. The caller holds the
/// lock of the file. `lines` ends with a line end.
///
/// When it returns, all of them are durable. After a crash lines that were there before are untouched, and of the new
/// ones any part may be there: a torn last line is cut off by the next call, since it was never acknowledged; where the
/// batch was larger than a block a reader may also meet a run of NUL bytes. An error leaves the file as it was, where
/// the file system lets it.
pub fn append_durable(disk: &dyn Disk, path: &Utf8Path, lines: &[u8]) -> Result<(), IoError> {
    debug_assert!(lines.last().is_none_or(|last| *last == b'\n'), "lines end with a line end");
    if lines.is_empty() {
        return Ok(());
    }
    cut_torn_line(disk, path)?;
    let mut file = disk.append(path)?;
    let before = file.len()?;
    if before == 0 {
        // The file may be new. First, so that a file with content always has a durable name, also when this process is
        // killed in between and the next one appends.
        disk.sync_dir(parent_of(path))?;
    }
    if let Err(e) = file.put(lines) {
        // A full disk must not leave half a line. The write error is the one that counts.
        let _ = file.set_len(before);
        return Err(e);
    }
    file.sync_data()
}

/// Cuts what follows the last line end: the torn end of an append that a crash interrupted.
fn cut_torn_line(disk: &dyn Disk, path: &Utf8Path) -> Result<(), IoError> {
    let mut source = match disk.open_read(path) {
        Err(e) if e.is_not_found() => return Ok(()),
        other => other?,
    };
    let whole = whole_lines(&mut *source).context("read", path)?;
    if whole < source.stat()?.size {
        disk.open_write(path)?.set_len(whole)?;
    }
    Ok(())
}

/// The length of a file up to and with its last line end.
fn whole_lines(source: &mut dyn super::SourceFile) -> std::io::Result<u64> {
    const STEP: u64 = 4096;
    let mut end = source.seek(SeekFrom::End(0))?;
    let mut block = Vec::new();
    while end > 0 {
        // An ordinary file ends with a line end, which a look at one byte shows.
        let start = if block.is_empty() { end - 1 } else { end.saturating_sub(STEP) };
        source.seek(SeekFrom::Start(start))?;
        block.clear();
        source.take(end - start).read_to_end(&mut block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Makes a directory and those above it which are missing, each with `mode` less the umask.
///
/// When it returns, all of them that this call made are durable. After a crash any number of them may be there, each
/// with those above it.
pub fn mkdir_all_durable(disk: &dyn Disk, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
    match disk.mkdir(path, mode) {
        Ok(()) => return disk.sync_dir(parent_of(path)),
        Err(e) if e.is_already_exists() && disk.stat(path)?.is_dir() => return Ok(()),
        Err(e) if e.is_not_found() && parent_of(path) != path => {}
        Err(e) => return Err(e),
    }
    mkdir_all_durable(disk, parent_of(path), mode)?;
    match disk.mkdir(path, mode) {
        Err(e) if e.is_already_exists() && disk.stat(path)?.is_dir() => {}
        other => other?,
    }
    disk.sync_dir(parent_of(path))
}

/// Removes a name of a file; one that is absent is success.
///
/// When it returns, the removal is durable. After a crash the name may still be there, with its whole content.
pub fn remove_durable(disk: &dyn Disk, path: &Utf8Path) -> Result<(), IoError> {
    match disk.unlink(path) {
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
        Ok(()) => disk.sync_dir(parent_of(path)),
    }
}

/// Renames a file or directory to a name that must be free, within a file system.
///
/// When it returns, the new name is durable and the old one durably gone. After a crash it has one of the two names.
/// The content is not synced.
pub fn rename_noreplace_durable(disk: &dyn Disk, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError> {
    disk.rename_noreplace(from, to)?;
    disk.sync_dir(parent_of(to))?;
    if parent_of(from) != parent_of(to) { disk.sync_dir(parent_of(from)) } else { Ok(()) }
}
