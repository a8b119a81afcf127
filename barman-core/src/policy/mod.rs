//! What decides: retention, minimum redundancy, chains, needed WAL, verdicts of checks. Pure: values in, values out.
//!
//! Everything that deletes goes through [`prune`], which rests on [`needed_wal`]: one computation of what must stay,
//! with a reason for each answer.

pub mod chain;
pub mod check_backup;
pub mod freshness;
pub mod needed_wal;
pub mod prune;
pub mod reachability;
pub mod redundancy;
pub mod resolve;
pub mod retention;
pub mod streaming_start;
pub mod wal_ranges;

use crate::model::{BackupInfo, Keep};

/// A backup of a catalog with what else decides about its future.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Its facts.
    pub backup: &'a BackupInfo,
    /// Its keep annotation.
    pub keep: Option<Keep>,
    /// A process works with it now: it is being taken, restored, or read as the parent of another.
    pub in_use: bool,
    /// A deletion of it was begun and not finished (`delete_this`).
    pub deleting: bool,
}

impl<'a> Held<'a> {
    /// A backup without annotations that nobody works with.
    pub fn plain(backup: &'a BackupInfo) -> Self {
        Self { backup, keep: None, in_use: false, deleting: false }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Short ways to make backups.

    use time::OffsetDateTime;

    use crate::model::{
        BackupInfo, BackupMethod, Keep, SegmentName, SegmentNo, SegmentSize, Status, Timeline,
    };

    use super::Held;

    /// Minute `n` of 2026-01-01 as an id's text.
    pub(crate) fn id_text(n: u32) -> String {
        format!("20260101T{:02}{:02}00", n / 60, n % 60)
    }

    /// 2026-01-01 00:00 UTC plus `n` minutes.
    pub(crate) fn minute(n: u32) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_767_225_600 + i64::from(n) * 60).unwrap()
    }

    /// Segment `n` of a timeline, 16 MiB.
    pub(crate) fn seg(timeline: u32, n: u64) -> SegmentName {
        SegmentName::new(Timeline::new(timeline).unwrap(), SegmentNo::new(n), SegmentSize::DEFAULT)
    }

    /// A DONE file-level backup that began and ended in minute `n`, with segments `n` to `n` of timeline 1.
    pub(crate) fn done(n: u32) -> BackupInfo {
        let mut info = BackupInfo::empty(id_text(n).parse().unwrap());
        info.status = Status::Done;
        info.mode = Some(BackupMethod::RsyncConcurrent);
        info.begin_time = Some(minute(n));
        info.end_time = Some(minute(n));
        on_wal(info, 1, u64::from(n), u64::from(n))
    }

    pub(crate) fn on_wal(mut info: BackupInfo, timeline: u32, begin: u64, end: u64) -> BackupInfo {
        info.timeline = Timeline::new(timeline);
        info.begin_wal = Some(seg(timeline, begin));
        info.begin_xlog = seg(timeline, begin).start(SegmentSize::DEFAULT);
        info.end_wal = Some(seg(timeline, end));
        info.end_xlog = seg(timeline, end).start(SegmentSize::DEFAULT).and_then(|lsn| lsn.checked_add(0x100));
        info
    }

    pub(crate) fn with(mut info: BackupInfo, status: Status) -> BackupInfo {
        info.status = status;
        info
    }

    /// A DONE incremental of minute `n` on a parent of minute `parent`.
    pub(crate) fn child(n: u32, parent: u32) -> BackupInfo {
        let mut info = done(n);
        info.mode = Some(BackupMethod::Postgres);
        info.parent_backup_id = Some(id_text(parent).parse().unwrap());
        info
    }

    /// A DONE full backup by the postgres method.
    pub(crate) fn full(n: u32) -> BackupInfo {
        let mut info = done(n);
        info.mode = Some(BackupMethod::Postgres);
        info
    }

    pub(crate) fn held(backups: &[BackupInfo]) -> Vec<Held<'_>> {
        backups.iter().map(Held::plain).collect()
    }

    pub(crate) fn kept<'a>(held: &mut [Held<'a>], at: usize, keep: Keep) {
        held[at].keep = Some(keep);
    }
}
