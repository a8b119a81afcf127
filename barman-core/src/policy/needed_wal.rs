//! Which archived WAL must stay: the one computation that every deleter uses.
//!
//! It rests on positions and timeline histories, never on clocks or on the order of ids, and where something is not
//! known it keeps.

use std::collections::HashMap;
use std::fmt;

use super::Held;
use super::reachability::{Descent, Histories};
use crate::model::{
    BackupId, BackupInfo, Keep, SegmentName, SegmentNo, SegmentSize, Status, Timeline, WalFileName,
};

/// Why an archived file stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// A recovery from this backup may replay it.
    Needed(BackupId),
    /// This backup, kept standalone, needs it to be consistent.
    Consistency(BackupId),
    /// It is not older than the backup at which this deletion stops.
    Limit(BackupId),
    /// It is not known where the WAL of this backup begins, so that all WAL stays.
    BeginUnknown(BackupId),
    /// Timeline histories stay forever.
    History,
    /// Its timeline is newer than that of any backup: the next backup may be of it.
    NewerTimeline,
    /// Its name does not occur with the segment size of the backups.
    NotPlaced,
    /// No backup says from where on WAL is needed.
    NoBackup,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needed(id) => write!(f, "a recovery from backup {id} may need it"),
            Self::Consistency(id) => write!(f, "backup {id}, kept standalone, needs it"),
            Self::Limit(id) => write!(f, "it is not older than backup {id}"),
            Self::BeginUnknown(id) => write!(f, "it is not known where the WAL of backup {id} begins"),
            Self::History => f.write_str("timeline histories are always kept"),
            Self::NewerTimeline => f.write_str("its timeline is newer than that of any backup"),
            Self::NotPlaced => f.write_str("its name does not fit the WAL segment size of the backups"),
            Self::NoBackup => f.write_str("there is no backup to tell what is needed"),
        }
    }
}

/// Archived files, parted. Both lists keep the order of the names that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parted {
    /// No backup needs them.
    pub removable: Vec<WalFileName>,
    /// They stay.
    pub kept: Vec<(WalFileName, Why)>,
}

/// What the backups of a catalog need of the archive.
#[derive(Debug, Clone)]
pub struct Needs<'a> {
    histories: &'a Histories,
    rules: Vec<Rule>,
    everything: Option<BackupId>,
}

/// The need of one backup.
#[derive(Debug, Clone)]
struct Rule {
    why: Why,
    size: SegmentSize,
    /// The timelines the backup itself touches: one, unless it was taken from a standby that followed a promotion.
    timelines: Vec<Timeline>,
    first: SegmentNo,
    /// `None`: everything from `first` on.
    last: Option<SegmentNo>,
}

/// Segments of one timeline that must stay.
#[derive(Debug, Clone)]
struct Range {
    why: Why,
    size: SegmentSize,
    first: SegmentNo,
    last: Option<SegmentNo>,
}

impl<'a> Needs<'a> {
    /// The needs of these backups.
    ///
    /// DONE, WAITING_FOR_WALS, STARTED and SYNCING backups need all WAL from their begin on, also on timelines forked
    /// later; those kept standalone only the WAL from begin to end, unless they are in use. EMPTY and FAILED ones need WAL
    /// only while they are in use.
    pub fn of<'h>(backups: impl IntoIterator<Item = &'h Held<'h>>, histories: &'a Histories) -> Self {
        let mut needs = Self { histories, rules: Vec::new(), everything: None };
        for held in backups {
            let needs_wal = match held.backup.status {
                Status::Done | Status::WaitingForWals | Status::Started | Status::Syncing => true,
                Status::Empty | Status::Failed => held.in_use,
            };
            if needs_wal {
                let standalone = held.keep == Some(Keep::Standalone) && !held.in_use;
                needs.add(held.backup, Why::Needed(held.backup.id), standalone);
            }
        }
        needs
    }

    /// Keeps, besides, everything from the begin of this backup on.
    pub fn and_all_from(mut self, backup: &BackupInfo) -> Self {
        self.add(backup, Why::Limit(backup.id), false);
        self
    }

    fn add(&mut self, backup: &BackupInfo, why: Why, standalone: bool) {
        let size = backup.xlog_segment_size;
        let Some((timelines, first)) = begin(backup) else {
            self.everything.get_or_insert(backup.id);
            return;
        };
        let by_name = backup.end_wal.and_then(|name| name.number(size));
        let by_lsn = backup.end_xlog.map(|lsn| lsn.previous_segment(size));
        // A backup without a known end needs, for safety, everything.
        let last = by_name.max(by_lsn).filter(|last| standalone && *last >= first);
        let why = if last.is_some() { Why::Consistency(backup.id) } else { why };
        self.rules.push(Rule { why, size, timelines, first, last });
    }

    /// Parts archived files into what may go and what must stay, and says why.
    pub fn part(&self, names: impl IntoIterator<Item = WalFileName>) -> Parted {
        let newest = self.rules.iter().flat_map(|r| &r.timelines).max().copied();
        let mut by_timeline: HashMap<Timeline, Vec<Range>> = HashMap::new();
        let mut sizes: Vec<SegmentSize> = self.rules.iter().map(|r| r.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut parted = Parted::default();
        for name in names {
            let why = match name {
                WalFileName::History(_) => Some(Why::History),
                WalFileName::Segment(at)
                | WalFileName::Partial(at)
                | WalFileName::BackupLabel { start: at, .. } => match (self.everything, newest) {
                    (Some(id), _) => Some(Why::BeginUnknown(id)),
                    (None, None) => Some(Why::NoBackup),
                    (None, Some(newest)) => {
                        let ranges =
                            by_timeline.entry(at.timeline).or_insert_with(|| self.ranges(at.timeline));
                        place(at, &sizes, ranges).or((at.timeline > newest).then_some(Why::NewerTimeline))
                    }
                },
            };
            match why {
                Some(why) => parted.kept.push((name, why)),
                None => parted.removable.push(name),
            }
        }
        parted
    }

    /// Why one file must stay, or `None` when it may go.
    pub fn why(&self, name: WalFileName) -> Option<Why> {
        self.part([name]).kept.first().map(|(_, why)| *why)
    }

    /// What must stay of a timeline: of the open ends only the earliest, then the closed ranges.
    fn ranges(&self, timeline: Timeline) -> Vec<Range> {
        let mut open: Vec<Range> = Vec::new();
        let mut closed: Vec<Range> = Vec::new();
        for rule in self.rules.iter().filter(|rule| self.concerns(rule, timeline)) {
            let range = Range { why: rule.why, size: rule.size, first: rule.first, last: rule.last };
            if range.last.is_some() {
                closed.push(range);
                continue;
            }
            match open.iter_mut().find(|r| r.size == range.size) {
                Some(earliest) if earliest.first <= range.first => {}
                Some(earliest) => *earliest = range,
                None => open.push(range),
            }
        }
        open.extend(closed);
        open
    }

    fn concerns(&self, rule: &Rule, timeline: Timeline) -> bool {
        // The beginning of the first segment: earlier than the backup itself, to be on the safe side.
        let from = crate::model::Lsn::segment_start(rule.first, rule.size).unwrap_or_default();
        let within = rule.last.is_none() || rule.timelines.iter().any(|own| timeline <= *own);
        within && rule.timelines.iter().any(|own| self.histories.descent(timeline, *own, from) != Descent::No)
    }
}

fn place(name: SegmentName, sizes: &[SegmentSize], ranges: &[Range]) -> Option<Why> {
    if sizes.iter().any(|size| name.number(*size).is_none()) {
        return Some(Why::NotPlaced);
    }
    let holds = |range: &&Range| {
        name.number(range.size)
            .is_some_and(|number| number >= range.first && range.last.is_none_or(|last| number <= last))
    };
    ranges.iter().find(holds).map(|range| range.why)
}

/// Where the WAL of a backup begins, and on which timelines.
fn begin(backup: &BackupInfo) -> Option<(Vec<Timeline>, SegmentNo)> {
    let size = backup.xlog_segment_size;
    let by_name = backup.begin_wal.map(|name| name.number(size));
    // A name that cannot occur with the segment size says that one of the two is wrong.
    if by_name == Some(None) {
        return None;
    }
    let by_lsn = backup.begin_xlog.filter(|lsn| !lsn.is_invalid()).map(|lsn| lsn.segment(size));
    let first = by_name.flatten().into_iter().chain(by_lsn).min()?;
    let names = [backup.begin_wal, backup.end_wal];
    let mut timelines: Vec<Timeline> =
        names.into_iter().flatten().map(|name| name.timeline).chain(backup.timeline).collect();
    timelines.sort_unstable();
    timelines.dedup();
    (!timelines.is_empty()).then_some((timelines, first))
}

#[cfg(test)]
mod tests {
    use super::super::reachability::Fork;
    use super::*;
    use crate::model::Lsn;
    use crate::policy::testing::{done, held, kept, on_wal, seg, with};

    fn tl(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }

    fn lsn(segment: u64) -> Lsn {
        Lsn::new(segment << 24 | 0x28)
    }

    fn removable(held: &[Held<'_>], histories: &Histories, names: &[&str]) -> Vec<String> {
        let names = names.iter().map(|n| n.parse().unwrap());
        Needs::of(held, histories).part(names).removable.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn i17_a_done_backup_needs_all_wal_from_its_begin_on() {
        let backups = vec![on_wal(done(1), 1, 5, 6)];
        let names = [
            "000000010000000000000004",
            "000000010000000000000004.00000028.backup",
            "000000010000000000000005",
            "000000010000000000000005.00000028.backup",
            "000000010000000100000000",
            "000000010000000000000003.partial",
            "000000010000000000000007.partial",
            "00000001.history",
        ];
        assert_eq!(
            removable(&held(&backups), &Histories::new(), &names),
            [
                "000000010000000000000004",
                "000000010000000000000004.00000028.backup",
                "000000010000000000000003.partial"
            ]
        );
    }

    #[test]
    fn i17_by_status_and_use() {
        let old = "000000010000000000000007";
        for (status, in_use, keep, needed) in [
            (Status::Done, false, None, true),
            (Status::WaitingForWals, false, None, true),
            (Status::Started, false, None, true),
            (Status::Syncing, false, None, true),
            (Status::Failed, false, None, false),
            (Status::Failed, true, None, true),
            (Status::Empty, true, None, true),
            (Status::Done, false, Some(Keep::Full), true),
            (Status::Done, false, Some(Keep::Standalone), false),
            (Status::Done, true, Some(Keep::Standalone), true),
        ] {
            // Segment 7 lies between the end of the first backup (6) and the begin of the second (9).
            let backups = vec![with(on_wal(done(1), 1, 5, 6), status), on_wal(done(2), 1, 9, 9)];
            let mut all = held(&backups);
            all[0].in_use = in_use;
            all[0].keep = keep;
            let gone = removable(&all, &Histories::new(), &[old]);
            assert_eq!(gone.is_empty(), needed, "{status} {in_use} {keep:?}");
        }
    }

    #[test]
    fn i17_a_standalone_backup_keeps_its_own_range() {
        let backups = vec![on_wal(done(1), 1, 5, 6), on_wal(done(2), 1, 9, 9)];
        let mut all = held(&backups);
        kept(&mut all, 0, Keep::Standalone);
        let names: Vec<WalFileName> = (3..=10).map(|n| WalFileName::Segment(seg(1, n))).collect();
        let parted = Needs::of(&all, &Histories::new()).part(names);
        let gone: Vec<u32> = parted.removable.iter().map(|n| n.as_segment().unwrap().segment).collect();
        assert_eq!(gone, [3, 4, 7, 8]);
        assert_eq!(parted.kept[0], (WalFileName::Segment(seg(1, 5)), Why::Consistency(backups[0].id)));
        assert_eq!(parted.kept[2].1, Why::Needed(backups[1].id));
    }

    #[test]
    fn i17_an_unknown_begin_keeps_everything() {
        let mut lost = done(1);
        (lost.begin_wal, lost.begin_xlog) = (None, None);
        for status in [Status::Done, Status::Started] {
            let backups = vec![with(lost.clone(), status), on_wal(done(2), 1, 9, 9)];
            assert!(removable(&held(&backups), &Histories::new(), &["000000010000000000000001"]).is_empty());
        }
        let backups = vec![with(lost, Status::Failed), on_wal(done(2), 1, 9, 9)];
        assert_eq!(removable(&held(&backups), &Histories::new(), &["000000010000000000000001"]).len(), 1);
    }

    #[test]
    fn i17_without_any_backup_nothing_goes() {
        let needs = Histories::new();
        let needs = Needs::of([], &needs);
        assert_eq!(needs.why(WalFileName::Segment(seg(1, 1))), Some(Why::NoBackup));
        assert_eq!(needs.why("00000002.history".parse().unwrap()), Some(Why::History));
    }

    #[test]
    fn i20_across_timelines_by_position_and_history() {
        let mut histories = Histories::new();
        histories.insert(tl(2), [Fork { parent: tl(1), at: lsn(20) }]);
        histories.insert(tl(3), [Fork { parent: tl(1), at: lsn(3) }]);
        histories.insert(tl(5), [Fork { parent: tl(1), at: lsn(20) }, Fork { parent: tl(2), at: lsn(30) }]);
        // 4 has no history; 6 is newer than any backup.
        let backups = vec![on_wal(done(1), 1, 10, 11), on_wal(done(2), 5, 40, 41)];
        let all = held(&backups);
        let needs = Needs::of(&all, &histories);
        for (timeline, segment, why) in [
            (1, 9, None),
            (1, 10, Some(Why::Needed(backups[0].id))),
            (1, 25, Some(Why::Needed(backups[0].id))),
            (2, 20, Some(Why::Needed(backups[0].id))),
            (3, 3, None),
            (3, 50, None),
            (4, 5, None),
            (4, 15, Some(Why::Needed(backups[0].id))),
            (5, 30, Some(Why::Needed(backups[0].id))),
            (6, 1, Some(Why::NewerTimeline)),
        ] {
            assert_eq!(needs.why(WalFileName::Segment(seg(timeline, segment))), why, "{timeline} {segment}");
        }
    }

    #[test]
    fn i20_a_backup_on_a_newer_timeline_does_not_need_the_older_one() {
        let backups = vec![on_wal(done(1), 2, 10, 11)];
        let all = held(&backups);
        let mut histories = Histories::new();
        histories.insert(tl(2), [Fork { parent: tl(1), at: lsn(5) }]);
        let needs = Needs::of(&all, &histories);
        assert_eq!(needs.why(WalFileName::Segment(seg(1, 12))), None);
        assert_eq!(needs.why(WalFileName::Segment(seg(2, 9))), None);
        assert!(needs.why(WalFileName::Segment(seg(2, 10))).is_some());
    }

    #[test]
    fn i20_a_backup_that_crossed_a_promotion_needs_both_timelines() {
        let mut crossed = on_wal(done(1), 1, 10, 11);
        crossed.end_wal = Some(seg(2, 12));
        let backups = vec![crossed];
        let all = held(&backups);
        let histories = Histories::new();
        let needs = Needs::of(&all, &histories);
        for (timeline, segment) in [(1, 10), (1, 11), (2, 11), (2, 12), (2, 99)] {
            assert!(
                needs.why(WalFileName::Segment(seg(timeline, segment))).is_some(),
                "{timeline} {segment}"
            );
        }
    }

    #[test]
    fn other_segment_sizes_are_placed_or_kept() {
        let mut backup = done(1);
        backup.xlog_segment_size = SegmentSize::from_bytes(64 << 20).unwrap();
        backup.begin_wal = Some("000000010000000000000005".parse().unwrap());
        backup.begin_xlog = backup.begin_wal.unwrap().start(backup.xlog_segment_size);
        let backups = vec![backup];
        let all = held(&backups);
        let histories = Histories::new();
        let needs = Needs::of(&all, &histories);
        assert_eq!(needs.why("000000010000000000000004".parse().unwrap()), None);
        assert_eq!(needs.why("0000000100000000000000F0".parse().unwrap()), Some(Why::NotPlaced));
    }

    #[test]
    fn a_hundred_thousand_names_are_no_burden() {
        let backups: Vec<BackupInfo> =
            (1..200).map(|n| on_wal(done(n), 1, 50_000 + u64::from(n), 50_300)).collect();
        let all = held(&backups);
        let names = (0..100_000).map(|n| WalFileName::Segment(seg(1, n)));
        let histories = Histories::new();
        let parted = Needs::of(&all, &histories).part(names);
        assert_eq!((parted.removable.len(), parted.kept.len()), (50_001, 49_999));
    }
}
