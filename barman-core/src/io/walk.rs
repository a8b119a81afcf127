//! Walking, measuring, syncing and removing directory trees. Symbolic links are not followed unless asked for.

use std::io;
use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};
use crossbeam_channel::bounded;
use rustix::io::Errno;

use crate::model::{Entry, EntryKind};

use super::{Disk, FileKind, IoError, IoErrorKind, Stat};

/// What to do after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Go on, into it if it is a directory.
    Go,
    /// Go on, but not into it.
    Skip,
    /// The walk is over.
    Stop,
}

/// Decides by relative path whether a symbolic link is followed.
pub type FollowLink<'a> = &'a dyn Fn(&Utf8Path) -> bool;

/// How to walk.
#[derive(Clone, Copy, Default)]
pub struct WalkOptions<'a> {
    /// The names of each directory in byte order; otherwise in the order of the disk.
    pub sorted: bool,
    /// Which links to follow; None: none of them. A link that leads back to a directory it lies in is an error.
    pub follow: Option<FollowLink<'a>>,
}

/// Visits everything below `root` (not itself), each directory before what is in it.
///
/// What vanishes while it is walked is left out; a root that is absent is an error. Names that are not UTF-8 are left out
/// too, and the answer then is [`IoErrorKind::NotUtf8`] after everything else was visited. Memory: the names of the
/// directories on the way down.
pub fn walk(
    disk: &dyn Disk,
    root: &Utf8Path,
    options: WalkOptions<'_>,
    each: &mut dyn FnMut(Entry, &Stat) -> Step,
) -> Result<(), IoError> {
    let mut walker = Walker { disk, root, options, each, above: vec![disk.stat(root)?], odd: None };
    let _ = walker.dir(Utf8Path::new(""))?;
    walker.odd.map_or(Ok(()), Err)
}

struct Walker<'a> {
    disk: &'a dyn Disk,
    root: &'a Utf8Path,
    options: WalkOptions<'a>,
    each: &'a mut dyn FnMut(Entry, &Stat) -> Step,
    /// The directories on the way down, for finding circles.
    above: Vec<Stat>,
    odd: Option<IoError>,
}

impl Walker<'_> {
    fn dir(&mut self, dir: &Utf8Path) -> Result<ControlFlow<()>, IoError> {
        let mut names = Vec::new();
        let listed = self.disk.list(&self.root.join(dir), &mut |item| {
            names.push(item.name);
            ControlFlow::Continue(())
        });
        match listed {
            Err(e) if e.kind() == IoErrorKind::NotUtf8 => self.odd = Some(e),
            Err(e) if e.is_not_found() && self.above.len() > 1 => return Ok(ControlFlow::Continue(())),
            other => other?,
        }
        if self.options.sorted {
            names.sort_unstable();
        }
        for name in names {
            if self.entry(dir.join(name))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn entry(&mut self, path: Utf8PathBuf) -> Result<ControlFlow<()>, IoError> {
        let full = self.root.join(&path);
        let Some((kind, stat)) = present(self.look(&path, &full))? else {
            return Ok(ControlFlow::Continue(()));
        };
        let into = kind == EntryKind::Directory;
        if into && self.above.iter().any(|above| above.same_inode(&stat)) {
            return Err(IoError::new("walk in a circle through", full, Errno::LOOP));
        }
        let size = if stat.is_file() { stat.size } else { 0 };
        let entry = Entry { path: path.clone(), kind, size, mtime: stat.mtime, mode: stat.mode };
        match (self.each)(entry, &stat) {
            Step::Stop => Ok(ControlFlow::Break(())),
            Step::Go if into => {
                self.above.push(stat);
                let flow = self.dir(&path);
                self.above.pop();
                flow
            }
            Step::Go | Step::Skip => Ok(ControlFlow::Continue(())),
        }
    }

    fn look(&self, path: &Utf8Path, full: &Utf8Path) -> Result<(EntryKind, Stat), IoError> {
        let stat = self.disk.lstat(full)?;
        let kind = match stat.kind {
            FileKind::File => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Other => EntryKind::Other,
            FileKind::Symlink if self.options.follow.is_some_and(|follow| follow(path)) => {
                let stat = self.disk.stat(full)?;
                let kind = match stat.kind {
                    FileKind::File => EntryKind::File,
                    FileKind::Directory => EntryKind::Directory,
                    FileKind::Symlink | FileKind::Other => EntryKind::Other,
                };
                return Ok((kind, stat));
            }
            FileKind::Symlink => EntryKind::Symlink(self.disk.read_link(full)?),
        };
        Ok((kind, stat))
    }
}

fn present<T>(result: Result<T, IoError>) -> Result<Option<T>, IoError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a file, a link, or a directory with everything in it, and never follows a link. What is absent is success, so an
/// interrupted removal can be done again. Nothing is durable before the directory above is synced.
pub fn remove_tree(disk: &dyn Disk, path: &Utf8Path) -> Result<(), IoError> {
    let Some(stat) = present(disk.lstat(path))? else { return Ok(()) };
    if !stat.is_dir() {
        return present(disk.unlink(path)).map(drop);
    }
    for name in present(disk.names(path))?.unwrap_or_default() {
        remove_tree(disk, &path.join(name))?;
    }
    present(disk.rmdir(path)).map(drop)
}

/// How large a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeSize {
    /// Bytes of all regular files by their lengths.
    pub bytes: u64,
    /// Bytes of those files that have only one name: what removing the tree would set free.
    pub unshared: u64,
    /// Regular files.
    pub files: u64,
}

/// Measures the regular files below a directory; links are not followed.
pub fn tree_size(disk: &dyn Disk, root: &Utf8Path) -> Result<TreeSize, IoError> {
    let mut size = TreeSize::default();
    walk(disk, root, WalkOptions::default(), &mut |entry, stat| {
        if entry.is_file() {
            size.bytes += stat.size;
            size.unshared += if stat.nlink == 1 { stat.size } else { 0 };
            size.files += 1;
        }
        Step::Go
    })?;
    Ok(size)
}

/// Fsyncs every regular file and directory of a tree, `root` included, with several at a time. Links are not followed. The
/// name of `root` itself is not made durable: that is for [`Disk::sync_dir`] of the directory above.
///
/// For file systems on which [`Disk::watch_writes`] cannot tell of errors, and for small trees on a busy machine.
pub fn sync_tree(disk: &dyn Disk, root: &Utf8Path, workers: usize) -> Result<(), IoError> {
    let workers = workers.max(1);
    let (send, queue) = bounded::<(Utf8PathBuf, bool)>(workers * 4);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let queue = queue.clone();
                scope.spawn(move || {
                    for (path, is_dir) in queue {
                        if is_dir { disk.sync_dir(&path)? } else { disk.sync_file(&path)? }
                    }
                    Ok(())
                })
            })
            .collect();
        drop(queue);
        // Fails when all workers have ended with errors; theirs is returned below.
        let _ = send.send((root.to_owned(), true));
        let walked = walk(disk, root, WalkOptions::default(), &mut |entry, _| {
            let sync = entry.is_file() || entry.is_dir();
            let sent = !sync || send.send((root.join(&entry.path), entry.is_dir())).is_ok();
            if sent { Step::Go } else { Step::Stop }
        });
        drop(send);
        for thread in threads {
            match thread.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        walked
    })
}

/// Whether bytes of this many would fit, leaving `reserve` free.
pub fn require_space(disk: &dyn Disk, path: &Utf8Path, needed: u64, reserve: u64) -> Result<(), IoError> {
    let available = disk.space(path)?.available;
    let wanted = needed.saturating_add(reserve);
    if available >= wanted {
        return Ok(());
    }
    let reason = format!("{needed} bytes are needed and {available} are free");
    Err(IoError::new("find enough space in", path, io::Error::new(io::ErrorKind::StorageFull, reason)))
}
