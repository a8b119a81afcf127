//! Which files may vanish or shrink while a server runs (I15).

use camino::{Utf8Path, Utf8PathBuf};

use crate::catalog::Root;
use crate::format::relfile::RelFile;

/// Directories at the top of the data directory whose files a running server removes by itself.
const SELF_CLEANING: &[&str] =
    &["pg_commit_ts", "pg_logical", "pg_multixact", "pg_stat", "pg_twophase", "pg_xact", "pg_clog"];

/// What it means that a file that was listed is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vanished {
    /// It may rightly be gone, for this reason.
    Rightly(&'static str),
    /// Only together with this directory, which belongs to one database.
    WithDatabase(Utf8PathBuf),
    /// A healthy server never removes it.
    Never,
}

/// Judges a file that was listed and is gone now. [`Vanished::Never`] means that the copy is not a backup.
///
/// Relations are dropped and truncated, databases dropped with everything in their directory, SLRU segments and logical
/// decoding state cut off: replay of the backup's own WAL does the same again. Nothing else disappears from a healthy
/// data directory.
pub fn may_vanish(root: Root, path: &Utf8Path) -> Vanished {
    if RelFile::parse(path).is_some() {
        return Vanished::Rightly("the relation was dropped or truncated");
    }
    // Written beside the map and renamed over it (`relmapper.c`, since 16).
    if path.file_name() == Some("pg_filenode.map.tmp") {
        return Vanished::Rightly("it is a temporary file of the server");
    }
    let parts: Vec<&str> = path.components().map(|c| c.as_str()).collect();
    match (root, parts.as_slice()) {
        (Root::Data, ["base", database, _, ..]) => {
            Vanished::WithDatabase(Utf8Path::new("base").join(database))
        }
        (Root::Tablespace(_), [version, database, _, ..]) => {
            Vanished::WithDatabase(Utf8Path::new(version).join(database))
        }
        (Root::Data, [dir, _, ..]) if SELF_CLEANING.contains(dir) => {
            Vanished::Rightly("the server removes such files by itself")
        }
        (Root::Data, [name]) if is_short_lived(name) => {
            Vanished::Rightly("it is a temporary file of the server")
        }
        _ => Vanished::Never,
    }
}

/// Whether a file that became shorter while it was read may be taken as far as it goes: a relation fork cut at a block
/// boundary. `got` and `block_size` are in bytes.
pub fn may_shrink_to(path: &Utf8Path, got: u64, block_size: u32) -> bool {
    RelFile::parse(path).is_some() && block_size > 0 && got.is_multiple_of(u64::from(block_size))
}

fn is_short_lived(name: &str) -> bool {
    name == "current_logfiles" || name == "postmaster.pid" || name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Oid;

    #[test]
    fn i15_only_what_the_server_may_drop_may_vanish() {
        for gone in [
            "base/5/16384",
            "base/5/16384_vm.1",
            "global/4060",
            "base/16385/pg_filenode.map.tmp",
            "global/pg_filenode.map.tmp",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "pg_logical/snapshots/0-1.snap",
            "pg_twophase/00000001",
            "current_logfiles",
            "pg_stat/pgstat.stat",
        ] {
            let verdict = may_vanish(Root::Data, Utf8Path::new(gone));
            assert!(matches!(verdict, Vanished::Rightly(_)), "{gone}: {verdict:?}");
        }
        for needed in [
            "PG_VERSION",
            "postgresql.conf",
            "pg_hba.conf",
            "global/pg_control",
            "global/pg_filenode.map",
            "server.key",
            "notes/base/5/1",
        ] {
            assert_eq!(may_vanish(Root::Data, Utf8Path::new(needed)), Vanished::Never, "{needed}");
        }
        let tablespace = Root::Tablespace(Oid(16386));
        let relation = may_vanish(tablespace, Utf8Path::new("PG_15_1/5/16400"));
        assert!(matches!(relation, Vanished::Rightly(_)), "{relation:?}");
    }

    #[test]
    fn i15_what_every_database_has_goes_with_its_directory_only() {
        let tablespace = Root::Tablespace(Oid(16386));
        for (root, path, directory) in [
            (Root::Data, "base/16385/PG_VERSION", "base/16385"),
            (Root::Data, "base/16385/pg_filenode.map", "base/16385"),
            (tablespace, "PG_15_1/5/PG_VERSION", "PG_15_1/5"),
        ] {
            assert_eq!(
                may_vanish(root, Utf8Path::new(path)),
                Vanished::WithDatabase(directory.into()),
                "{path}"
            );
        }
    }

    #[test]
    fn i15_a_shrunk_file_is_taken_only_when_cut_at_a_block() {
        assert!(may_shrink_to(Utf8Path::new("base/5/16384"), 16384, 8192));
        assert!(may_shrink_to(Utf8Path::new("base/5/16384"), 0, 8192));
        assert!(!may_shrink_to(Utf8Path::new("base/5/16384"), 16383, 8192));
        assert!(!may_shrink_to(Utf8Path::new("postgresql.conf"), 8192, 8192));
    }
}
