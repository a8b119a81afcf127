//! Listing a source tree and deciding, file by file, what is to be done ([`WorkList`]).

use std::collections::VecDeque;
use std::ops::ControlFlow;

use camino::Utf8PathBuf;

use super::exclude::{Exclusions, Verdict};
use super::reuse::{Decision, Reuse};
use crate::catalog::{DirSpec, FileProof, FileSpec, Root};
use crate::ctx::Cancel;
use crate::model::{Entry, EntryKind, FileTime, PgVersion};
use crate::transport::{Lane, TransportError};

/// A directory of the source that becomes a tree of the backup.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    /// Where its files go.
    pub(crate) root: Root,
    /// Its absolute path at the source.
    pub(crate) source: Utf8PathBuf,
    /// Its name in `copy_stats`.
    pub(crate) label: String,
    /// Directories below it that other trees bring.
    pub(crate) foreign: Vec<Utf8PathBuf>,
}

/// A file to be read from the source.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Facts from the listing.
    pub(crate) entry: Entry,
    /// The parent's file to compare with, when the content decides.
    pub(crate) compare: Option<FileProof>,
    /// Whether the file may be missing without a reason (an optional configuration file).
    pub(crate) optional: bool,
    /// How often it was read already and could not be used.
    pub(crate) tries: u8,
}

impl Wanted {
    /// A file to copy.
    pub(crate) fn copy(entry: Entry) -> Self {
        Self { entry, compare: None, optional: false, tries: 0 }
    }

    /// A file that was to be taken from the parent.
    pub(crate) fn of(spec: &FileSpec) -> Self {
        let FileSpec { path, mode, mtime, size, .. } = spec.clone();
        Self::copy(Entry { path, kind: EntryKind::File, size, mtime, mode })
    }

    /// A file known by name only.
    pub(crate) fn by_name(path: Utf8PathBuf, optional: bool) -> Self {
        let entry = Entry { path, kind: EntryKind::File, size: 0, mtime: FileTime::default(), mode: 0o600 };
        Self { optional, ..Self::copy(entry) }
    }
}

/// What is to be done for one tree.
#[derive(Debug, Default)]
pub(crate) struct WorkList {
    /// Permission bits of the top directory; `None` when it is made already.
    pub(crate) top_mode: Option<u32>,
    /// Directories, parents first.
    pub(crate) directories: Vec<DirSpec>,
    /// Files to take from the parent without reading them.
    pub(crate) reuse: Vec<(FileSpec, FileProof)>,
    /// Files to read, the largest first, so that no worker ends with a long one alone.
    pub(crate) fetch: VecDeque<Wanted>,
    /// Bytes in `fetch` as listed.
    pub(crate) fetch_bytes: u64,
}

/// Lists a tree and decides. Without `reuse` everything is read. `stop` ends the listing early, with an error.
pub(crate) fn examine(
    lane: &mut dyn Lane,
    tree: &Tree,
    version: PgVersion,
    reuse: Option<&Reuse>,
    stop: &Cancel,
) -> Result<WorkList, TransportError> {
    let mut listing = Vec::new();
    lane.list(&tree.source, &mut |entry| {
        listing.push(entry);
        if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    stop.check()?;
    let rules = Exclusions::new(tree.root, version, &listing, tree.foreign.clone());
    Ok(decide(tree.root, listing, &rules, reuse))
}

fn decide(root: Root, listing: Vec<Entry>, rules: &Exclusions, reuse: Option<&Reuse>) -> WorkList {
    let mut work = WorkList { top_mode: Some(top_mode(root, &listing)), ..WorkList::default() };
    let mut files = Vec::new();
    for entry in listing {
        if rules.verdict(&entry) == Verdict::Leave {
            continue;
        }
        match entry.kind {
            EntryKind::Directory => {
                work.directories.push(DirSpec { root, path: entry.path, mode: entry.mode })
            }
            // `pg_wal` on another disk: the backup has a plain directory of that name.
            EntryKind::Symlink(_) if is_wal_directory(&entry) => {
                work.directories.push(DirSpec { root, path: entry.path, mode: 0o700 });
            }
            EntryKind::Symlink(_) | EntryKind::Other => {}
            EntryKind::File => match reuse.map_or(Decision::Copy, |r| r.decide(root, &entry)) {
                Decision::Reuse(proof) => work.reuse.push((spec_of(root, &entry), proof.clone())),
                Decision::Compare(proof) => {
                    files.push(Wanted { compare: Some(proof.clone()), ..Wanted::copy(entry) });
                }
                Decision::Copy => files.push(Wanted::copy(entry)),
            },
        }
    }
    work.directories.sort_by(|a, b| a.path.cmp(&b.path));
    files.sort_by(|a, b| b.entry.size.cmp(&a.entry.size).then_with(|| a.entry.path.cmp(&b.entry.path)));
    work.fetch_bytes = files.iter().map(|w| w.entry.size).sum();
    work.fetch = files.into();
    work
}

/// The permission bits of the top directory of a tree: 0750 for a cluster with group access (`initdb -g`), else 0700.
///
/// Listings leave the top itself out; the server gives every directory that it makes the same bits
/// (`pg_dir_create_mode`, `src/common/file_perm.c`), and takes no data directory with others than these two.
pub(crate) fn top_mode(root: Root, listing: &[Entry]) -> u32 {
    let made_by_server = |entry: &&Entry| match root {
        Root::Data => entry.path == "global",
        Root::Tablespace(_) => entry.path.as_str().starts_with("PG_") && entry.path.components().count() == 1,
    };
    let mode = listing.iter().filter(|e| e.is_dir()).find(made_by_server).map_or(0o700, |e| e.mode);
    if mode & 0o777 == 0o750 { 0o750 } else { 0o700 }
}

/// The specification of a file as listed.
pub(crate) fn spec_of(root: Root, entry: &Entry) -> FileSpec {
    FileSpec { root, path: entry.path.clone(), mode: entry.mode, mtime: entry.mtime, size: entry.size }
}

fn is_wal_directory(entry: &Entry) -> bool {
    matches!(entry.path.as_str(), "pg_wal" | "pg_xlog")
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
        Entry { path: path.into(), kind, size, mtime: FileTime { seconds: 1_000, nanos: 1 }, mode: 0o600 }
    }

    #[test]
    fn parents_come_first_and_the_largest_files_first() {
        let listing = vec![
            entry("base/5/1", EntryKind::File, 10),
            entry("base/5", EntryKind::Directory, 0),
            entry("base/5/2", EntryKind::File, 30),
            entry("base", EntryKind::Directory, 0),
            entry("pg_wal", EntryKind::Symlink("/elsewhere".into()), 0),
            entry("pg_tblspc/16386", EntryKind::Symlink("/ts".into()), 0),
            entry("PG_VERSION", EntryKind::File, 3),
        ];
        let rules = Exclusions::new(Root::Data, PgVersion::new(150_020), &listing, Vec::new());
        let work = decide(Root::Data, listing, &rules, None);
        let directories: Vec<&str> = work.directories.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(directories, ["base", "base/5", "pg_wal"]);
        let files: Vec<&str> = work.fetch.iter().map(|w| w.entry.path.as_str()).collect();
        assert_eq!(files, ["base/5/2", "base/5/1", "PG_VERSION"]);
        assert_eq!(work.fetch_bytes, 43);
    }

    #[test]
    fn group_access_is_kept() {
        let dir = |path: &str, mode| Entry { mode, ..entry(path, EntryKind::Directory, 0) };
        for (mode, expected) in [(0o750, 0o750), (0o700, 0o700), (0o755, 0o700)] {
            assert_eq!(top_mode(Root::Data, &[dir("base", 0o777), dir("global", mode)]), expected);
            let tablespace = Root::Tablespace(crate::model::Oid(16386));
            assert_eq!(top_mode(tablespace, &[dir("PG_15_202209061", mode)]), expected);
        }
        assert_eq!(top_mode(Root::Data, &[]), 0o700);
    }

    #[test]
    fn unchanged_files_are_not_read() {
        let old = entry("base/5/1", EntryKind::File, 10);
        let proof = FileProof {
            root: Root::Data,
            path: old.path.clone(),
            size: 10,
            mtime: old.mtime,
            mode: 0o600,
            crc32c: 1,
            sha256: None,
        };
        let reuse = Reuse::new(datetime!(2026-01-01 00:00 UTC), [proof]);
        let listing = vec![old, entry("base/5/2", EntryKind::File, 10)];
        let rules = Exclusions::new(Root::Data, PgVersion::new(150_020), &listing, Vec::new());
        let work = decide(Root::Data, listing, &rules, Some(&reuse));
        assert_eq!((work.reuse.len(), work.fetch.len()), (1, 1));
    }
}
