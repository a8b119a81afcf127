//! The walk of a local tree by the rules of [`super::Lane::list`].

use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use crate::ctx::Cancel;
use crate::io::{DirItem, Disk, FileKind, IoError, Stat};
use crate::model::{Entry, EntryKind};

use super::TransportError;
use super::local::file_error;

/// Whether a link with this path below the root is reported instead of followed: PostgreSQL makes it, and it leads to
/// another tree that is copied by itself (a tablespace) or not at all (WAL).
pub(super) fn is_kept_link(path: &Utf8Path) -> bool {
    let mut parts = path.as_str().split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("pg_wal" | "pg_xlog"), None, None) => true,
        (Some("pg_tblspc"), Some(name), None) => !name.is_empty(),
        _ => false,
    }
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    root: &'a Utf8Path,
    cancel: &'a Cancel,
    each: &'a mut dyn FnMut(Entry) -> ControlFlow<()>,
    /// The directories from the root to the current one: a link to one of them would never end.
    above: Vec<(u64, u64)>,
}

pub(super) fn walk(
    disk: &dyn Disk,
    root: &Utf8Path,
    cancel: &Cancel,
    each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), TransportError> {
    let stat = disk.stat(root).map_err(|e| file_error(&e))?;
    if !stat.is_dir() {
        return Err(file_error(&IoError::new("list", root, std::io::ErrorKind::NotADirectory)));
    }
    let mut walk = Walk { disk, root, cancel, each, above: vec![(stat.dev, stat.inode)] };
    walk.directory(Utf8Path::new("")).map(|_| ())
}

impl Walk<'_> {
    fn directory(&mut self, dir: &Utf8Path) -> Result<ControlFlow<()>, TransportError> {
        self.cancel.check()?;
        let mut items: Vec<DirItem> = Vec::new();
        let listed = self.disk.list(&self.root.join(dir), &mut |item| {
            items.push(item);
            ControlFlow::Continue(())
        });
        match listed {
            Err(e) if e.is_not_found() && !dir.as_str().is_empty() => return Ok(ControlFlow::Continue(())),
            other => other.map_err(|e| file_error(&e))?,
        }
        for item in items {
            let path =
                if dir.as_str().is_empty() { Utf8PathBuf::from(&item.name) } else { dir.join(&item.name) };
            if self.item(&path, item.kind)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn item(&mut self, path: &Utf8Path, found: FileKind) -> Result<ControlFlow<()>, TransportError> {
        let full = self.root.join(path);
        let looked = if found == FileKind::Symlink && is_kept_link(path) {
            self.link(&full)
        } else {
            self.followed(&full, found)
        };
        let (stat, kind) = match looked {
            Ok(looked) => looked,
            // It vanished between the listing and the look.
            Err(e) if e.is_not_found() => return Ok(ControlFlow::Continue(())),
            Err(e) => return Err(file_error(&e)),
        };
        let is_dir = kind == EntryKind::Directory;
        let size = if kind == EntryKind::File { stat.size } else { 0 };
        let entry = Entry { path: path.to_owned(), kind, size, mtime: stat.mtime, mode: stat.mode };
        if (self.each)(entry).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if !is_dir {
            return Ok(ControlFlow::Continue(()));
        }
        if self.above.contains(&(stat.dev, stat.inode)) {
            return Err(TransportError::File {
                target: "localhost".into(),
                verb: "list",
                path: full,
                reason: "the link leads back to a directory above it".into(),
                kind: std::io::ErrorKind::InvalidData,
            });
        }
        self.above.push((stat.dev, stat.inode));
        let flow = self.directory(path);
        self.above.pop();
        flow
    }

    fn link(&self, full: &Utf8Path) -> Result<(Stat, EntryKind), IoError> {
        let target = self.disk.read_link(full)?;
        Ok((self.disk.lstat(full)?, EntryKind::Symlink(target)))
    }

    fn followed(&self, full: &Utf8Path, found: FileKind) -> Result<(Stat, EntryKind), IoError> {
        let stat = match self.disk.stat(full) {
            // A link to nothing; if it is gone by now too, that is found out by reading it.
            Err(e) if e.is_not_found() && found == FileKind::Symlink => return self.link(full),
            other => other?,
        };
        let kind = match stat.kind {
            FileKind::File => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink | FileKind::Other => EntryKind::Other,
        };
        Ok((stat, kind))
    }
}
