//! Whether a backup has all the WAL that makes it consistent.

use crate::model::{BackupInfo, SegmentName, Status};

/// What the archive says about a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// Its first or last segment is not known yet: there is nothing to say.
    Unknown,
    /// The archive has not got as far as its end.
    Waiting,
    /// Every segment from begin to end is there.
    Complete,
    /// A segment is not there although a later one of the timeline is.
    Missing(SegmentName),
}

impl Completeness {
    /// The status that follows, or `None` when it stays as it is.
    pub fn status(self) -> Option<Status> {
        match self {
            Self::Unknown => None,
            Self::Waiting => Some(Status::WaitingForWals),
            Self::Complete => Some(Status::Done),
            Self::Missing(_) => Some(Status::Failed),
        }
    }

    /// Barman's words for the error that is recorded in the backup.
    pub fn error(self) -> Option<String> {
        match self {
            Self::Missing(name) => {
                Some(format!("At least one WAL file is missing. The first missing WAL file is {name}"))
            }
            _ => None,
        }
    }
}

/// Compares what a backup requires with the archive.
///
/// `newest` is the last whole segment in the archive on the timeline on which the backup began; `present` says whether
/// the archive has a segment. A missing one is final only once the archive went past it: PostgreSQL archives in order.
pub fn completeness(
    backup: &BackupInfo,
    newest: Option<SegmentName>,
    mut present: impl FnMut(SegmentName) -> bool,
) -> Completeness {
    let (Some(begin), Some(end)) = (backup.begin_wal, backup.end_wal) else { return Completeness::Unknown };
    let size = backup.xlog_segment_size;
    let position = |name: SegmentName| name.number(size);
    let (Some(first), Some(last)) = (position(begin), position(end)) else { return Completeness::Unknown };
    if last < first {
        return Completeness::Unknown;
    }
    let reached = newest.filter(|name| name.timeline == begin.timeline).and_then(position);
    let Some(reached) = reached.filter(|reached| *reached >= first) else { return Completeness::Waiting };
    for name in backup.required_wals() {
        if position(name).is_none_or(|number| number > reached) {
            return Completeness::Waiting;
        }
        if !present(name) {
            return Completeness::Missing(name);
        }
    }
    Completeness::Complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{done, on_wal, seg};

    #[test]
    fn i11_done_needs_every_segment_from_begin_to_end() {
        use Completeness::*;
        let archive = |list: &'static [u64]| list;
        for (begin, end, present, expected) in [
            (5, 7, archive(&[]), Waiting),
            (5, 7, &[1, 2, 3, 4], Waiting),
            (5, 7, &[5], Waiting),
            (5, 7, &[5, 6], Waiting),
            (5, 7, &[5, 6, 7], Complete),
            (5, 7, &[5, 6, 7, 8], Complete),
            (5, 7, &[6], Missing(seg(1, 5))),
            (5, 7, &[5, 7], Missing(seg(1, 6))),
            (5, 7, &[5, 6, 8], Missing(seg(1, 7))),
            (5, 7, &[9], Missing(seg(1, 5))),
            (5, 5, &[5], Complete),
            (255, 257, &[255, 256, 257], Complete),
            (255, 257, &[255, 257], Missing(seg(1, 256))),
        ] {
            let backup = on_wal(done(1), 1, begin, end);
            let newest = present.iter().max().map(|n| seg(1, *n));
            let names: Vec<SegmentName> = present.iter().map(|n| seg(1, *n)).collect();
            let verdict = completeness(&backup, newest, |name| names.contains(&name));
            assert_eq!(verdict, expected, "{begin}..{end} {present:?}");
        }
    }

    #[test]
    fn nothing_is_said_before_the_end_is_known() {
        let mut backup = done(1);
        backup.end_wal = None;
        assert_eq!(completeness(&backup, Some(seg(1, 9)), |_| true), Completeness::Unknown);
        assert_eq!(completeness(&on_wal(done(1), 1, 7, 5), Some(seg(1, 9)), |_| true), Completeness::Unknown);
    }

    #[test]
    fn a_segment_of_another_timeline_proves_nothing() {
        let backup = on_wal(done(1), 1, 5, 7);
        assert_eq!(completeness(&backup, Some(seg(2, 9)), |_| true), Completeness::Waiting);
    }

    #[test]
    fn what_follows() {
        assert_eq!(Completeness::Missing(seg(1, 6)).status(), Some(Status::Failed));
        assert_eq!(
            Completeness::Missing(seg(1, 6)).error().unwrap(),
            "At least one WAL file is missing. The first missing WAL file is 000000010000000000000006"
        );
        assert_eq!(Completeness::Complete.status(), Some(Status::Done));
        assert_eq!(Completeness::Waiting.status(), Some(Status::WaitingForWals));
        assert_eq!((Completeness::Unknown.status(), Completeness::Unknown.error()), (None, None));
    }
}
