//! [`RelFile`]: the grammar of relation file names below a data directory or a tablespace.
//!
//! Source: `src/common/relpath.c` and `looks_like_temp_rel_name` in `src/backend/storage/file/reinit.c` of PostgreSQL.

use camino::Utf8Path;

/// Which fork of a relation a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The rows or index entries.
    Main,
    /// `_fsm`: the free space map.
    Fsm,
    /// `_vm`: the visibility map.
    Vm,
    /// `_init`: the empty image of an unlogged relation.
    Init,
}

/// A file that holds a part of a relation fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelFile {
    /// The file node number.
    pub filenode: u32,
    /// The fork.
    pub fork: Fork,
    /// Which part of the fork: files are cut at 1 GiB (or what `pg_control` says).
    pub segment: u32,
    /// Whether it belongs to a temporary relation of one backend (`t3_16384`).
    pub temporary: bool,
}

impl RelFile {
    /// Reads a path relative to a data directory (`base/5/16384_vm.1`, `global/1262`) or to a tablespace
    /// (`PG_15_202209061/5/16384`). `None` for every other file.
    pub fn parse(path: &Utf8Path) -> Option<Self> {
        let mut parts = path.components().rev().map(|c| c.as_str());
        let name = parts.next()?;
        let database = parts.next()?;
        let in_place = match (database, parts.next(), parts.next()) {
            ("global", None, _) => true,
            (oid, Some("base"), None) => is_number(oid),
            (oid, Some(version), None) => is_number(oid) && version.starts_with("PG_"),
            _ => false,
        };
        in_place.then(|| Self::parse_name(name)).flatten()
    }

    /// Reads a bare file name.
    pub fn parse_name(name: &str) -> Option<Self> {
        let (temporary, rest) = match name.strip_prefix('t') {
            Some(rest) => {
                let (backend, rest) = rest.split_once('_')?;
                is_number(backend).then_some((true, rest))?
            }
            None => (false, name),
        };
        let (stem, segment) = match rest.split_once('.') {
            Some((stem, number)) => (stem, is_number(number).then(|| number.parse().ok()).flatten()?),
            None => (rest, 0),
        };
        let (node, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((node, "fsm")) => (node, Fork::Fsm),
            Some((node, "vm")) => (node, Fork::Vm),
            Some((node, "init")) => (node, Fork::Init),
            Some(_) => return None,
        };
        let filenode = is_number(node).then(|| node.parse().ok()).flatten()?;
        Some(Self { filenode, fork, segment, temporary })
    }

    /// The block number, counted over the whole fork, of block `index` of this file, for files of `blocks_per_file`
    /// blocks. The page checksum includes it.
    pub fn block(&self, index: u32, blocks_per_file: u32) -> u32 {
        self.segment.wrapping_mul(blocks_per_file).wrapping_add(index)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<(u32, Fork, u32, bool)> {
        RelFile::parse(Utf8Path::new(path)).map(|f| (f.filenode, f.fork, f.segment, f.temporary))
    }

    #[test]
    fn grammar() {
        assert_eq!(parse("base/5/16384"), Some((16384, Fork::Main, 0, false)));
        assert_eq!(parse("base/5/16384_fsm"), Some((16384, Fork::Fsm, 0, false)));
        assert_eq!(parse("base/5/16384_vm.12"), Some((16384, Fork::Vm, 12, false)));
        assert_eq!(parse("PG_15_202209061/5/16384_init"), Some((16384, Fork::Init, 0, false)));
        assert_eq!(parse("global/1262.1"), Some((1262, Fork::Main, 1, false)));
        assert_eq!(parse("base/5/t3_16400"), Some((16400, Fork::Main, 0, true)));
        assert_eq!(parse("base/5/t3_16400_fsm.1"), Some((16400, Fork::Fsm, 1, true)));
        for other in [
            "global/pg_control",
            "global/pg_filenode.map",
            "base/5/PG_VERSION",
            "base/5/16384_old",
            "base/5/16384.bak",
            "base/5/x/16384",
            "pg_xact/0000",
            "base/pgsql_tmp/16384",
            "16384",
            "base/5/99999999999",
            "base/5/t_1",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn blocks_count_over_the_whole_fork() {
        let file = RelFile::parse_name("16384.2").unwrap();
        assert_eq!(file.block(5, 131_072), 262_149);
    }
}
