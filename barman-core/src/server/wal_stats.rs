//! [`WalStats`]: how much WAL belongs to which backup. One pass over the index answers for all backups of a catalog.
//!
//! The numbers are those of Barman: whole segments of the backup's own timeline as the index has them, in their stored
//! sizes. Files are not looked at.

use crate::format::xlogdb::XlogLine;
use crate::model::{BackupInfo, SegmentName, SegmentSize, Timeline, WalFileName};

/// Segments in a row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WalSpan {
    /// How many.
    pub files: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// Modification of the first one, in seconds since the epoch.
    pub first_time: Option<f64>,
    /// Modification of the last one.
    pub last_time: Option<f64>,
    /// The last one.
    pub last: Option<SegmentName>,
}

impl WalSpan {
    /// How much smaller the files are than the segments they hold, as a share of one; `None` where nothing was saved.
    pub fn saved(&self, size: SegmentSize) -> Option<f64> {
        let plain = self.files as f64 * size.bytes() as f64;
        let saved = 1.0 - self.bytes as f64 / plain;
        (self.files > 0 && saved > 0.0).then_some(saved)
    }
}

/// The WAL of one backup.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BackupWal {
    /// From `begin_wal` to `end_wal`: what makes the backup consistent.
    pub required: WalSpan,
    /// After `end_wal`, until the end of the next backup.
    pub until_next: WalSpan,
}

impl BackupWal {
    /// Segments a second, from the first of the backup to the last before the next backup's end.
    pub fn rate(&self) -> Option<f64> {
        let first = self.required.first_time.or(self.until_next.first_time)?;
        let last = self.until_next.last_time.or(self.required.last_time)?;
        let files = self.required.files + self.until_next.files;
        (last > first).then(|| files as f64 / (last - first))
    }

    /// The last segment that there is for this backup.
    pub fn last(&self) -> Option<SegmentName> {
        self.until_next.last.or(self.required.last)
    }
}

/// The sizes of all segments of an archive, summed up so that any row of them is answered by two binary searches.
#[derive(Debug, Clone, Default)]
pub struct WalStats {
    /// In archive order, each name once.
    segments: Vec<Segment>,
    /// `sums[n]` is the bytes of the first `n` segments.
    sums: Vec<u64>,
    histories: Vec<Timeline>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    name: SegmentName,
    size: u64,
    time: f64,
}

impl WalStats {
    /// Reads one more line of the index.
    pub fn add(&mut self, line: &XlogLine<'_>) {
        match line.name {
            WalFileName::Segment(name) => {
                self.segments.push(Segment { name, size: line.size, time: line.mtime });
            }
            WalFileName::History(timeline) => self.histories.push(timeline),
            WalFileName::Partial(_) | WalFileName::BackupLabel { .. } => {}
        }
    }

    /// Makes the sums; of two lines for a file the last one counts.
    #[must_use]
    pub fn finish(mut self) -> Self {
        // Stable, so that the last line of a name is the last of its group. Nearly always there is nothing to do.
        if !self.segments.is_sorted_by(|a, b| a.name < b.name) {
            self.segments.sort_by_key(|segment| segment.name);
            self.segments.reverse();
            self.segments.dedup_by_key(|segment| segment.name);
            self.segments.reverse();
        }
        self.sums = std::iter::once(0)
            .chain(self.segments.iter().scan(0u64, |sum, segment| {
                *sum = sum.saturating_add(segment.size);
                Some(*sum)
            }))
            .collect();
        self.histories.sort_unstable();
        self.histories.dedup();
        self
    }

    /// The segments from `from` to `to`, both included, that are on the timeline of `from`; without `to` all of them.
    pub fn span(&self, from: SegmentName, to: Option<SegmentName>) -> WalSpan {
        let (start, end) = self.bounds(from, to);
        self.between(start, end)
    }

    /// The names of such segments.
    pub fn names(&self, from: SegmentName, to: Option<SegmentName>) -> impl Iterator<Item = SegmentName> {
        let (start, end) = self.bounds(from, to);
        self.segments.get(start..end).unwrap_or_default().iter().map(|segment| segment.name)
    }

    /// The timelines whose history is in the archive, in order.
    pub fn histories(&self) -> &[Timeline] {
        &self.histories
    }

    /// The WAL of a backup; `next` is the next newer backup with complete files.
    pub fn of_backup(&self, backup: &BackupInfo, next: Option<&BackupInfo>) -> BackupWal {
        let (Some(begin), Some(end)) = (backup.begin_wal, backup.end_wal) else {
            return BackupWal::default();
        };
        let limit = next.and_then(|next| next.end_wal);
        let (start, middle) = self.bounds(begin, Some(end));
        let (_, stop) = self.bounds(begin, limit);
        let middle = middle.min(stop);
        BackupWal { required: self.between(start, middle), until_next: self.between(middle, stop) }
    }

    /// The first segment in archive order beyond `limit`, whatever its timeline.
    pub fn first_beyond(&self, limit: SegmentName) -> Option<SegmentName> {
        let at = self.segments.partition_point(|segment| segment.name <= limit);
        self.segments.get(at).map(|segment| segment.name)
    }

    fn bounds(&self, from: SegmentName, to: Option<SegmentName>) -> (usize, usize) {
        let start = self.segments.partition_point(|segment| segment.name < from);
        let end = self.segments.partition_point(|segment| {
            segment.name.timeline <= from.timeline && to.is_none_or(|to| segment.name <= to)
        });
        (start, end.max(start))
    }

    fn between(&self, start: usize, end: usize) -> WalSpan {
        let sum = |at: usize| self.sums.get(at).copied().unwrap_or_default();
        let last = end.checked_sub(1).filter(|_| start < end).and_then(|at| self.segments.get(at));
        WalSpan {
            files: end.saturating_sub(start) as u64,
            bytes: sum(end).saturating_sub(sum(start)),
            first_time: last.and_then(|_| self.segments.get(start)).map(|segment| segment.time),
            last_time: last.map(|segment| segment.time),
            last: last.map(|segment| segment.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(timeline: u32, n: u32) -> SegmentName {
        SegmentName { timeline: Timeline::new(timeline).unwrap(), log: n / 256, segment: n % 256 }
    }

    fn line(timeline: u32, n: u32, size: u64) -> XlogLine<'static> {
        let name = WalFileName::Segment(name(timeline, n));
        XlogLine { name, size, mtime: f64::from(n), compression: None, encryption: None }
    }

    fn stats(lines: &[(u32, u32, u64)]) -> WalStats {
        let mut stats = WalStats::default();
        lines.iter().for_each(|(t, n, size)| stats.add(&line(*t, *n, *size)));
        stats.finish()
    }

    #[test]
    fn the_last_line_of_a_name_counts_once() {
        let stats = stats(&[(1, 2, 10), (1, 1, 5), (1, 2, 7)]);
        assert_eq!((stats.span(name(1, 0), None).files, stats.span(name(1, 0), None).bytes), (2, 12));
    }

    #[test]
    fn a_backup_owns_its_wal_until_the_end_of_the_next() {
        let stats = stats(&[(1, 1, 1), (1, 2, 2), (1, 3, 4), (1, 4, 8), (2, 4, 16), (2, 5, 32)]);
        let mut backup = BackupInfo::empty("20260101T000000".parse().unwrap());
        (backup.begin_wal, backup.end_wal) = (Some(name(1, 1)), Some(name(1, 2)));
        let mut next = BackupInfo::empty("20260101T000001".parse().unwrap());
        for (end, until) in [((1, 3), 4), ((2, 5), 12)] {
            next.end_wal = Some(name(end.0, end.1));
            let wal = stats.of_backup(&backup, Some(&next));
            assert_eq!((wal.required.bytes, wal.until_next.bytes), (3, until), "{end:?}");
        }
        let wal = stats.of_backup(&backup, None);
        assert_eq!((wal.last(), wal.rate()), (Some(name(1, 4)), Some(4.0 / 3.0)));
        backup.end_wal = None;
        assert_eq!(stats.of_backup(&backup, None), BackupWal::default());
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_plain_walk(
            lines in proptest::collection::vec((1u32..3, 0u32..600, 0u64..100), 0..60),
            from in (1u32..3, 0u32..600), to in proptest::option::of((1u32..3, 0u32..600)),
        ) {
            let stats = stats(&lines);
            let last: std::collections::BTreeMap<_, _> =
                lines.iter().map(|(t, n, size)| (name(*t, *n), *size)).collect();
            let (from, to) = (name(from.0, from.1), to.map(|to| name(to.0, to.1)));
            let plain: Vec<(SegmentName, u64)> = last.into_iter()
                .filter(|(n, _)| *n >= from && n.timeline == from.timeline && to.is_none_or(|to| *n <= to))
                .collect();
            let span = stats.span(from, to);
            prop_assert_eq!(span.files, plain.len() as u64);
            prop_assert_eq!(span.bytes, plain.iter().map(|(_, size)| size).sum::<u64>());
            prop_assert_eq!(span.last, plain.last().map(|(n, _)| *n));
            prop_assert_eq!(stats.names(from, to).collect::<Vec<_>>(), plain.iter().map(|(n, _)| *n).collect::<Vec<_>>());
        }
    }
}
