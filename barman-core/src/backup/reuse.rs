//! Which files of an earlier backup can be taken again.

use std::collections::HashMap;

use camino::{Utf8Path, Utf8PathBuf};
use time::{Duration, OffsetDateTime};

use crate::catalog::{FileProof, Root};
use crate::model::{Entry, FileTime};

/// How far before the parent's begin a modification must lie to be believed: file systems stamp with the time of the
/// last tick, remote ones with their own clock, and a file written twice within one tick keeps its time.
const MARGIN: Duration = Duration::seconds(2);

/// What to do with a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It is unchanged since the parent: same size, same time to the nanosecond, older than the parent's begin.
    Reuse(&'a FileProof),
    /// Same size and time, but too young to be believed: equal only if the content is.
    Compare(&'a FileProof),
    /// It changed, or the parent does not have it.
    Copy,
}

/// The files of the parent by tree and path, with the moment before which their times are believed.
#[derive(Debug)]
pub struct Reuse {
    horizon_nanos: i128,
    proofs: HashMap<(Root, Utf8PathBuf), FileProof>,
}

impl Reuse {
    /// From the full manifest of the parent (rows without a digest do not exist there) and its begin time.
    pub fn new(parent_begin: OffsetDateTime, proofs: impl IntoIterator<Item = FileProof>) -> Self {
        let horizon_nanos = (parent_begin - MARGIN).unix_timestamp_nanos();
        let proofs = proofs.into_iter().map(|p| ((p.root, p.path.clone()), p)).collect();
        Self { horizon_nanos, proofs }
    }

    /// Decides for one source file. `entry` must have been taken *before* the file is read.
    pub fn decide(&self, root: Root, entry: &Entry) -> Decision<'_> {
        let Some(proof) = self.find(root, &entry.path) else { return Decision::Copy };
        if proof.size != entry.size || proof.mtime != entry.mtime {
            Decision::Copy
        } else if self.believed(entry.mtime) && proof.mode == entry.mode {
            Decision::Reuse(proof)
        } else {
            Decision::Compare(proof)
        }
    }

    fn believed(&self, mtime: FileTime) -> bool {
        mtime.as_nanos() < self.horizon_nanos
    }

    fn find(&self, root: Root, path: &Utf8Path) -> Option<&FileProof> {
        self.proofs.get(&(root, path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EntryKind;
    use time::macros::datetime;

    const BEGIN: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);

    fn at(offset_ms: i64) -> FileTime {
        let nanos = BEGIN.unix_timestamp_nanos() + i128::from(offset_ms) * 1_000_000;
        FileTime { seconds: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as u32 }
    }

    fn case(proof_mtime: FileTime, mtime: FileTime, size: u64, mode: u32) -> &'static str {
        let proof = FileProof {
            root: Root::Data,
            path: "base/5/1".into(),
            size: 8192,
            mtime: proof_mtime,
            mode: 0o600,
            crc32c: 7,
            sha256: None,
        };
        let reuse = Reuse::new(BEGIN, [proof]);
        let entry = Entry { path: "base/5/1".into(), kind: EntryKind::File, size, mtime, mode };
        match reuse.decide(Root::Data, &entry) {
            Decision::Reuse(_) => "reuse",
            Decision::Compare(_) => "compare",
            Decision::Copy => "copy",
        }
    }

    #[test]
    fn only_old_and_equal_files_are_reused() {
        let old = at(-60_000);
        assert_eq!(case(old, old, 8192, 0o600), "reuse");
        assert_eq!(case(old, old, 8193, 0o600), "copy");
        assert_eq!(case(old, FileTime { nanos: old.nanos + 1, ..old }, 8192, 0o600), "copy");
        assert_eq!(case(at(-2_001), at(-2_001), 8192, 0o600), "reuse");
        assert_eq!(case(at(-2_000), at(-2_000), 8192, 0o600), "compare");
        assert_eq!(case(at(5_000), at(5_000), 8192, 0o600), "compare");
        assert_eq!(case(old, old, 8192, 0o640), "compare");
    }

    #[test]
    fn unknown_files_are_copied() {
        let reuse = Reuse::new(BEGIN, []);
        let entry =
            Entry { path: "x".into(), kind: EntryKind::File, size: 1, mtime: at(-60_000), mode: 0o600 };
        assert_eq!(reuse.decide(Root::Data, &entry), Decision::Copy);
    }
}
