//! Walking and emptying the tree of a backup. Symbolic links are reported, or removed themselves, and never followed.

use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use crate::io::{DirItem, Disk, FileKind, IoError, Stat};

/// One name found by [`walk`].
pub(super) struct Found<'a> {
    /// Relative to where the walk began; empty for that itself.
    pub(super) path: &'a Utf8Path,
    /// Where it lies.
    pub(super) full: &'a Utf8Path,
    pub(super) stat: Stat,
}

/// Visits a directory and everything below it, parents first, the names of a directory in byte order. A name that
/// vanishes between the listing and the look at it is left out. Memory grows with the entries of single directories,
/// not with the tree.
pub(super) fn walk<E: From<IoError>>(
    disk: &dyn Disk,
    top: &Utf8Path,
    skip: &[&str],
    each: &mut dyn FnMut(Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let stat = disk.lstat(top)?;
    each(Found { path: Utf8Path::new(""), full: top, stat })?;
    if stat.is_dir() { below(disk, top, &mut Utf8PathBuf::new(), skip, each) } else { Ok(()) }
}

fn below<E: From<IoError>>(
    disk: &dyn Disk,
    dir: &Utf8Path,
    path: &mut Utf8PathBuf,
    skip: &[&str],
    each: &mut dyn FnMut(Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut full = dir.to_owned();
    for item in items(disk, dir)? {
        let at_top = path.as_str().is_empty();
        if at_top && skip.contains(&item.name.as_str()) {
            continue;
        }
        path.push(&item.name);
        full.push(&item.name);
        match disk.lstat(&full) {
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
            Ok(stat) => {
                each(Found { path, full: &full, stat })?;
                if stat.is_dir() {
                    below(disk, &full, path, &[], each)?;
                }
            }
        }
        path.pop();
        full.pop();
    }
    Ok(())
}

/// The entries of a directory in byte order.
pub(super) fn items(disk: &dyn Disk, dir: &Utf8Path) -> Result<Vec<DirItem>, IoError> {
    let mut items = Vec::new();
    disk.list(dir, &mut |item| {
        items.push(item);
        ControlFlow::Continue(())
    })?;
    items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

/// Removes everything in a directory except the names in `spare`, and gives the number of files and links removed.
/// A directory that is not there has nothing to remove. `stop` is asked before each directory.
pub(super) fn empty<E: From<IoError>>(
    disk: &dyn Disk,
    dir: &Utf8Path,
    spare: &[&str],
    stop: &dyn Fn() -> Result<(), E>,
) -> Result<u64, E> {
    stop()?;
    let found = match items(disk, dir) {
        Err(e) if e.is_not_found() => return Ok(0),
        other => other?,
    };
    let mut removed = 0;
    for item in found.iter().filter(|item| !spare.contains(&item.name.as_str())) {
        let path = dir.join(&item.name);
        if item.kind == FileKind::Directory {
            removed += empty(disk, &path, &[], stop)?;
            gone(disk.rmdir(&path))?;
        } else {
            gone(disk.unlink(&path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Success also when there was nothing to remove.
pub(super) fn gone(removed: Result<(), IoError>) -> Result<(), IoError> {
    match removed {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}
