//! Which files may vanish or shrink while a server runs (I15).

use camino::Utf8Path;

use crate::catalog::Root;
use crate::format::relfile::RelFile;

/// Directories at the top of the data directory whose files a running server removes by itself.
const SELF_CLEANING: &[&str] =
    &["pg_commit_ts", "pg_logical", "pg_multixact", "pg_stat", "pg_twophase", "pg_xact", "pg_clog"];

/// Why a file that was listed and is gone now may rightly be gone, or `None` when it may not: then the copy is not a
/// backup.
///
/// Relations are dropped and truncated, databases dropped with everything in their directory, SLRU segments and logical
/// decoding state cut off: replay of the backup's own WAL does the same again. Nothing else disappears from a healthy
/// data directory.
pub fn may_vanish(root: Root, path: &Utf8Path) -> Option<&'static str> {
    if RelFile::parse(path).is_some() {
        return Some("the relation was dropped or truncated");
    }
    let mut parts = path.components().map(|c| c.as_str());
    let (top, second, third) = (parts.next(), parts.next(), parts.next());
    match (root, top) {
        (Root::Data, Some("base")) if third.is_some() => Some("the database was dropped"),
        (Root::Tablespace(_), _) if second.is_some() && third.is_some() => Some("the database was dropped"),
        (Root::Data, Some(dir)) if SELF_CLEANING.contains(&dir) && second.is_some() => {
            Some("the server removes such files by itself")
        }
        (Root::Data, Some(name)) if second.is_none() && is_short_lived(name) => {
            Some("it is a temporary file of the server")
        }
        _ => None,
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
            "base/16385/PG_VERSION",
            "base/16385/pg_filenode.map",
            "pg_xact/0000",
            "pg_multixact/offsets/0000",
            "pg_logical/snapshots/0-1.snap",
            "pg_twophase/00000001",
            "current_logfiles",
            "pg_stat/pgstat.stat",
        ] {
            assert!(may_vanish(Root::Data, Utf8Path::new(gone)).is_some(), "{gone}");
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
            assert!(may_vanish(Root::Data, Utf8Path::new(needed)).is_none(), "{needed}");
        }
        let tablespace = Root::Tablespace(Oid(16386));
        assert!(may_vanish(tablespace, Utf8Path::new("PG_15_1/5/16400")).is_some());
        assert!(may_vanish(tablespace, Utf8Path::new("PG_15_1/5/PG_VERSION")).is_some());
    }

    #[test]
    fn i15_a_shrunk_file_is_taken_only_when_cut_at_a_block() {
        assert!(may_shrink_to(Utf8Path::new("base/5/16384"), 16384, 8192));
        assert!(may_shrink_to(Utf8Path::new("base/5/16384"), 0, 8192));
        assert!(!may_shrink_to(Utf8Path::new("base/5/16384"), 16383, 8192));
        assert!(!may_shrink_to(Utf8Path::new("postgresql.conf"), 8192, 8192));
    }
}
