//! What a base backup leaves out (I14): the union of the server's own list and Barman's.
//!
//! Sources: `excludeDirContents`, `excludeFiles` and `sendDir` in PostgreSQL's `src/backend/backup/basebackup.c` (every
//! version from 10 to 18), and Barman's documented exclusion list for file-level copies.

use std::collections::HashSet;

use camino::Utf8Path;

use crate::catalog::Root;
use crate::format::relfile::{Fork, RelFile};
use crate::model::{Entry, EntryKind, PgVersion};

/// Directories below the data directory that are kept but empty.
const EMPTY_DIRECTORIES: &[&str] = &[
    "log",
    "pg_dynshmem",
    "pg_log",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
    "pg_xlog",
];

/// Files left out wherever they stand.
const FILES: &[&str] = &[
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "postmaster.pid",
    "postmaster.opts",
    "recovery.conf",
    "standby.signal",
    ".DS_Store",
];

/// Files left out at the top of the data directory: the backup brings its own, or none.
const TOP_FILES: &[&str] = &["backup_label", "tablespace_map", "backup_manifest"];

/// Decides entry by entry. Make one for each tree with the whole listing of that tree.
#[derive(Debug)]
pub struct Exclusions {
    root: Root,
    version: PgVersion,
    /// `directory/relfilenode` of every relation whose init fork is in the listing.
    unlogged: HashSet<String>,
    /// Directories below this tree that belong to another tree of the backup.
    foreign: Vec<camino::Utf8PathBuf>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is copied.
    Copy,
    /// It is left out, and what lies below it too.
    Leave,
}

impl Exclusions {
    /// Rules for the tree `root` of a server of this version. `listing` must hold every file of the tree, so that
    /// unlogged relations are known by their init forks; `foreign` are directories below the tree that another tree
    /// brings (a tablespace inside the data directory).
    pub fn new<'a>(
        root: Root,
        version: PgVersion,
        listing: impl IntoIterator<Item = &'a Entry>,
        foreign: Vec<camino::Utf8PathBuf>,
    ) -> Self {
        let unlogged = listing
            .into_iter()
            .filter(|entry| entry.is_file())
            .filter_map(|entry| {
                let file = RelFile::parse(&entry.path)?;
                (file.fork == Fork::Init).then(|| relation_key(&entry.path, &file))
            })
            .collect();
        Self { root, version, unlogged, foreign }
    }

    /// Whether an entry is part of the backup.
    pub fn verdict(&self, entry: &Entry) -> Verdict {
        if self.leaves(entry) { Verdict::Leave } else { Verdict::Copy }
    }

    fn leaves(&self, entry: &Entry) -> bool {
        let path = entry.path.as_path();
        if self.foreign.iter().any(|tree| path.starts_with(tree)) {
            return true;
        }
        let mut parts = path.components().map(|c| c.as_str());
        let Some(top) = parts.next() else { return false };
        let below_top = parts.next().is_some();
        match self.root {
            Root::Data => {
                let emptied = EMPTY_DIRECTORIES.contains(&top) && below_top;
                let link = top == "pg_tblspc" && below_top;
                if emptied || link || (!below_top && TOP_FILES.contains(&top)) {
                    return true;
                }
                // Copied after everything else, by its own rule (I10).
                if path == Utf8Path::new("global/pg_control") {
                    return true;
                }
            }
            // Servers of several majors may share a tablespace; each has its directory.
            Root::Tablespace(_) if !top.starts_with(&format!("PG_{}_", self.version.major_text())) => {
                return true;
            }
            Root::Tablespace(_) => {}
        }
        path.components().map(|c| c.as_str()).any(is_temporary)
            || (entry.is_file() && self.leaves_file(entry))
            || matches!(entry.kind, EntryKind::Other)
    }

    fn leaves_file(&self, entry: &Entry) -> bool {
        let name = entry.path.file_name().unwrap_or_default();
        if FILES.contains(&name) || name.starts_with("pg_internal.init") {
            return true;
        }
        match RelFile::parse(&entry.path) {
            Some(file) if file.temporary => true,
            // Recreated from the init fork when recovery ends.
            Some(file) => {
                file.fork != Fork::Init && self.unlogged.contains(&relation_key(&entry.path, &file))
            }
            None => false,
        }
    }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with("pgsql_tmp")
}

fn relation_key(path: &Utf8Path, file: &RelFile) -> String {
    format!("{}/{}", path.parent().unwrap_or(Utf8Path::new("")), file.filenode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileTime, Oid};
    use camino::Utf8PathBuf;

    fn file(path: &str) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::File,
            size: 8192,
            mtime: FileTime::default(),
            mode: 0o600,
        }
    }

    fn dir(path: &str) -> Entry {
        Entry { kind: EntryKind::Directory, size: 0, mode: 0o700, ..file(path) }
    }

    fn rules(root: Root, listing: &[Entry]) -> Exclusions {
        Exclusions::new(root, PgVersion::new(150_020), listing, Vec::new())
    }

    #[test]
    fn i14_what_the_server_and_barman_leave_out() {
        let rules = rules(Root::Data, &[]);
        for left in [
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_xlog/000000010000000000000001",
            "log/postgresql.log",
            "pg_log/x",
            "pg_replslot/barman/state",
            "pg_stat_tmp/global.stat",
            "pg_dynshmem/mmap.1",
            "pg_notify/0000",
            "pg_serial/0000",
            "pg_snapshots/x",
            "pg_subtrans/0000",
            "postmaster.pid",
            "postmaster.opts",
            "recovery.conf",
            "standby.signal",
            "backup_label",
            "tablespace_map",
            "backup_manifest",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "base/pgsql_tmp/pgsql_tmp1234.0",
            "base/5/t3_16400",
            "base/5/t3_16400_fsm.1",
            "global/pg_control",
            "pg_tblspc/16386/PG_15_202209061/5/16400",
        ] {
            assert_eq!(rules.verdict(&file(left)), Verdict::Leave, "{left}");
        }
        for kept in [
            "PG_VERSION",
            "postgresql.conf",
            "recovery.signal",
            "base/5/16384",
            "base/5/backup_label",
            "global/pg_filenode.map",
            "pg_xact/0000",
            "pg_logical/replorigin_checkpoint",
            "my_notes/log/x",
            "current_logfiles",
        ] {
            assert_eq!(rules.verdict(&file(kept)), Verdict::Copy, "{kept}");
        }
        for kept in ["pg_wal", "log", "pg_replslot", "pg_tblspc", "base", "pg_subtrans"] {
            assert_eq!(rules.verdict(&dir(kept)), Verdict::Copy, "{kept}");
        }
        assert_eq!(rules.verdict(&dir("base/pgsql_tmp")), Verdict::Leave);
        assert_eq!(rules.verdict(&dir("pg_wal/archive_status")), Verdict::Leave);
    }

    #[test]
    fn i14_an_unlogged_relation_leaves_only_its_init_fork() {
        let listing = [
            file("base/5/16384"),
            file("base/5/16384_init"),
            file("base/5/16384.1"),
            file("base/5/16384_fsm"),
            file("base/6/16384"),
        ];
        let rules = rules(Root::Data, &listing);
        let kept: Vec<&str> =
            listing.iter().filter(|e| rules.verdict(e) == Verdict::Copy).map(|e| e.path.as_str()).collect();
        assert_eq!(kept, ["base/5/16384_init", "base/6/16384"]);
    }

    #[test]
    fn a_tablespace_holds_only_the_directory_of_this_major() {
        let rules = rules(Root::Tablespace(Oid(16386)), &[]);
        assert_eq!(rules.verdict(&dir("PG_15_202209061")), Verdict::Copy);
        assert_eq!(rules.verdict(&file("PG_15_202209061/5/16400")), Verdict::Copy);
        assert_eq!(rules.verdict(&dir("PG_14_202107181")), Verdict::Leave);
        assert_eq!(rules.verdict(&file("PG_14_202107181/5/16400")), Verdict::Leave);
        assert_eq!(rules.verdict(&file("stray")), Verdict::Leave);
        assert_eq!(rules.verdict(&file("PG_15_202209061/pgsql_tmp/pgsql_tmp1.0")), Verdict::Leave);
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_is_left_to_its_own_tree() {
        let rules =
            Exclusions::new(Root::Data, PgVersion::new(150_020), &[], vec![Utf8PathBuf::from("ts/one")]);
        assert_eq!(rules.verdict(&file("ts/one/PG_15_1/5/1")), Verdict::Leave);
        assert_eq!(rules.verdict(&file("ts/oneself/x")), Verdict::Copy);
    }
}
