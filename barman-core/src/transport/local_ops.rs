//! The small operations of the local lane: looking at paths, [`FileOp`]s, and making things durable.

use std::io;
use std::ops::ControlFlow;

use camino::Utf8Path;

use crate::io::{Disk, FileKind, IoContext, IoError, IoErrorKind, durable};

use super::{FileOp, Probe, ProbeKind};

pub(super) fn probe(disk: &dyn Disk, path: &Utf8Path) -> Probe {
    let kind = match disk.stat(path) {
        Ok(stat) if stat.is_file() => ProbeKind::File,
        Ok(stat) if stat.is_dir() => directory_kind(disk, path),
        Ok(_) => ProbeKind::Other,
        Err(e) => match e.kind() {
            IoErrorKind::NotFound => ProbeKind::Missing,
            IoErrorKind::Denied => ProbeKind::Denied,
            _ => ProbeKind::Other,
        },
    };
    let existing = path.ancestors().find_map(|path| Some((path, disk.space(path).ok()?)));
    Probe {
        path: path.to_owned(),
        kind,
        free: existing.map(|(_, space)| space.available),
        file_system: existing.and_then(|(path, _)| disk.stat(path).ok()).map(|stat| stat.dev.to_string()),
    }
}

fn directory_kind(disk: &dyn Disk, path: &Utf8Path) -> ProbeKind {
    let mut kind = ProbeKind::EmptyDirectory;
    let listed = disk.list(path, &mut |_| {
        kind = ProbeKind::Directory;
        ControlFlow::Break(())
    });
    match listed {
        Err(e) if e.kind() == IoErrorKind::Denied => ProbeKind::Denied,
        // A name that is not UTF-8 is something in it, too.
        Err(e) if e.kind() == IoErrorKind::NotUtf8 => ProbeKind::Directory,
        _ => kind,
    }
}

pub(super) fn apply(disk: &dyn Disk, op: &FileOp) -> Result<(), IoError> {
    match op {
        FileOp::MakeDirs { path, mode } => {
            make_dirs(disk, path)?;
            disk.set_mode(path, *mode)
        }
        FileOp::WriteFile { path, content, mode } => {
            durable::replace_durable(disk, path, content, Some(*mode))
        }
        FileOp::Rename { from, to } => {
            disk.replace(from, to)?;
            let (old, new) = (durable::parent_of(from), durable::parent_of(to));
            disk.sync_dir(new)?;
            if old == new { Ok(()) } else { disk.sync_dir(old) }
        }
        FileOp::RemoveFile(path) => unless_missing(disk.unlink(path)),
        FileOp::RemoveTree(path) => unless_missing(remove_tree(disk, path)),
        FileOp::Symlink { link, target } => replace_link(disk, target, link),
        FileOp::ProveWritable(dir) => {
            let path = dir.join(".barman-write-test");
            // What an interrupted proof left behind would look like a refusal.
            unless_missing(disk.unlink(&path))?;
            disk.create_new(&path)?.put(b"writable\n")?;
            disk.unlink(&path)
        }
    }
}

fn unless_missing(result: Result<(), IoError>) -> Result<(), IoError> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

fn make_dirs(disk: &dyn Disk, path: &Utf8Path) -> Result<(), IoError> {
    match disk.mkdir(path, 0o777) {
        Err(e) if e.is_not_found() => {
            let Some(parent) = path.parent().filter(|p| !p.as_str().is_empty()) else { return Err(e) };
            make_dirs(disk, parent)?;
            disk.mkdir(path, 0o777)
        }
        Err(e) if e.is_already_exists() && disk.stat(path)?.is_dir() => Ok(()),
        other => other,
    }
}

fn remove_tree(disk: &dyn Disk, path: &Utf8Path) -> Result<(), IoError> {
    if disk.lstat(path)?.kind != FileKind::Directory {
        return disk.unlink(path);
    }
    let mut items = Vec::new();
    disk.list(path, &mut |item| {
        items.push(item);
        ControlFlow::Continue(())
    })?;
    for item in items {
        let path = path.join(item.name);
        unless_missing(if item.kind == FileKind::Directory {
            remove_tree(disk, &path)
        } else {
            disk.unlink(&path)
        })?;
    }
    disk.rmdir(path)
}

/// Makes a symbolic link in the place of a link that may be there; anything else that is there stays, with an error.
pub(super) fn replace_link(disk: &dyn Disk, target: &Utf8Path, link: &Utf8Path) -> Result<(), IoError> {
    match disk.symlink(target, link) {
        Err(e) if e.is_already_exists() && disk.lstat(link)?.kind == FileKind::Symlink => {
            let tmp = durable::tmp_of(link);
            unless_missing(disk.unlink(&tmp))?;
            disk.symlink(target, &tmp)?;
            disk.replace(&tmp, link)
        }
        other => other,
    }
}

/// Makes the file system of `root` durable, at once where the kernel tells of errors, else file by file.
pub(super) fn sync(disk: &dyn Disk, root: &Utf8Path) -> Result<(), IoError> {
    if syncfs_reports_errors(&rustix::system::uname().release().to_string_lossy()) {
        disk.syncfs(root)
    } else {
        sync_tree(disk, root)
    }
}

/// Whether `syncfs` of this kernel fails when an earlier writeback did: since Linux 5.8, commit 735e4ae5ba28.
fn syncfs_reports_errors(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

fn sync_tree(disk: &dyn Disk, dir: &Utf8Path) -> Result<(), IoError> {
    let mut items = Vec::new();
    disk.list(dir, &mut |item| {
        items.push(item);
        ControlFlow::Continue(())
    })?;
    for item in items {
        let path = dir.join(item.name);
        match item.kind {
            FileKind::Directory => sync_tree(disk, &path)?,
            FileKind::File => sync_file(disk, &path)?,
            FileKind::Symlink | FileKind::Other => {}
        }
    }
    disk.sync_dir(dir)
}

fn sync_file(disk: &dyn Disk, path: &Utf8Path) -> Result<(), IoError> {
    match disk.open_write(path) {
        // fsync needs a descriptor, not the right to write; a file may be stored without that right.
        Err(e) if e.source.kind() == io::ErrorKind::PermissionDenied => {
            let file = std::fs::File::open(path).context("open", path)?;
            file.sync_all().context("fsync", path)
        }
        other => other?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_whose_syncfs_can_be_trusted() {
        for (release, trusted) in
            [("4.19.0-25-amd64", false), ("5.7.19", false), ("5.8", true), ("5.10.0-8", true), ("6.1", true)]
        {
            assert_eq!(syncfs_reports_errors(release), trusted, "{release}");
        }
    }
}
