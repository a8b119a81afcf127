//! Which timelines a recovery passes, and how far the archive reaches along them.

use crate::format::history::TimelineHistory;
use crate::model::{Lsn, SegmentName, SegmentNo, SegmentSize, Timeline};

/// The way from a backup to a timeline: consecutive stretches of the log, each on one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimelinePath {
    /// Timeline and the position where it is left; `None` for the last.
    stretches: Vec<(Timeline, Option<Lsn>)>,
}

impl TimelinePath {
    /// The way that stays on one timeline.
    pub(crate) fn single(timeline: Timeline) -> Self {
        Self { stretches: vec![(timeline, None)] }
    }

    /// The way from `from` at `at` to `target`, or why there is none. `at` is where the backup is consistent: a branch
    /// that left earlier does not contain the backup.
    pub(crate) fn find(
        from: Timeline,
        at: Lsn,
        target: Timeline,
        histories: &[TimelineHistory],
    ) -> Result<Self, String> {
        if from == target {
            return Ok(Self::single(from));
        }
        let history = histories
            .iter()
            .find(|h| h.timeline == target)
            .ok_or_else(|| format!("{}.history is not in the archive", target.hex()))?;
        let mut stretches: Vec<(Timeline, Option<Lsn>)> = history
            .entries
            .iter()
            .skip_while(|entry| entry.parent != from)
            .map(|entry| (entry.parent, Some(entry.switch)))
            .collect();
        match stretches.first() {
            None => return Err(format!("it does not descend from timeline {from}")),
            Some((_, Some(left))) if *left < at => {
                return Err(format!(
                    "it left timeline {from} at {left}, before the backup is consistent at {at}"
                ));
            }
            Some(_) => {}
        }
        stretches.push((target, None));
        Ok(Self { stretches })
    }

    /// The timeline at the end.
    pub(crate) fn last(&self) -> Option<Timeline> {
        self.stretches.last().map(|(timeline, _)| *timeline)
    }

    /// Where the path leaves a timeline; `None` for the last one, and for those it does not pass.
    pub(crate) fn left(&self, timeline: Timeline) -> Option<Lsn> {
        self.stretches.iter().find(|(passed, _)| *passed == timeline).and_then(|(_, left)| *left)
    }

    /// Every timeline passed.
    pub(crate) fn timelines(&self) -> impl Iterator<Item = Timeline> {
        self.stretches.iter().map(|(timeline, _)| *timeline)
    }

    /// The names under which segment `number` can serve replay, the best first. At a switch the segment exists on both
    /// timelines: the later one begins with a copy of the earlier one's pages, so it holds everything; PostgreSQL looks
    /// for it first.
    pub(crate) fn names(&self, number: SegmentNo, size: SegmentSize) -> Vec<SegmentName> {
        let Some(start) = Lsn::segment_start(number, size) else { return Vec::new() };
        let end = start.checked_add(size.bytes()).unwrap_or(Lsn::new(u64::MAX));
        let mut entered = Lsn::INVALID;
        let mut names = Vec::new();
        for (timeline, left) in &self.stretches {
            let overlaps = entered < end && left.is_none_or(|left| left > start);
            // A timeline entered inside this segment starts a file of its own for it.
            let starts_here = entered < end && entered >= start;
            if overlaps || starts_here {
                names.push(SegmentName::new(*timeline, number, size));
            }
            entered = left.unwrap_or(Lsn::new(u64::MAX));
        }
        names.reverse();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::history::HistoryEntry;

    fn tl(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }

    fn history(timeline: u32, entries: &[(u32, &str)]) -> TimelineHistory {
        TimelineHistory {
            timeline: tl(timeline),
            entries: entries
                .iter()
                .map(|(parent, switch)| HistoryEntry {
                    parent: tl(*parent),
                    switch: switch.parse().unwrap(),
                    reason: String::new(),
                })
                .collect(),
        }
    }

    fn texts(path: &TimelinePath, number: u64) -> Vec<String> {
        path.names(SegmentNo::new(number), SegmentSize::DEFAULT).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_segment_with_a_switch_exists_on_both_timelines() {
        let histories = [history(3, &[(1, "0/5000100"), (2, "0/7000000")])];
        let path = TimelinePath::find(tl(1), "0/3000028".parse().unwrap(), tl(3), &histories).unwrap();
        assert_eq!(path.last(), Some(tl(3)));
        assert_eq!(texts(&path, 4), ["000000010000000000000004"]);
        assert_eq!(texts(&path, 5), ["000000020000000000000005", "000000010000000000000005"]);
        assert_eq!(texts(&path, 6), ["000000020000000000000006"]);
        assert_eq!(texts(&path, 7), ["000000030000000000000007"]);
    }

    #[test]
    fn branches_that_left_too_early_or_are_foreign_are_refused() {
        let histories = [history(2, &[(1, "0/2000000")]), history(5, &[(4, "0/9000000")])];
        let at = "0/3000028".parse().unwrap();
        assert!(TimelinePath::find(tl(1), at, tl(2), &histories).unwrap_err().contains("before the backup"));
        assert!(TimelinePath::find(tl(1), at, tl(5), &histories).unwrap_err().contains("descend"));
        assert!(TimelinePath::find(tl(1), at, tl(7), &histories).unwrap_err().contains("00000007.history"));
        assert_eq!(TimelinePath::find(tl(9), at, tl(9), &[]).unwrap(), TimelinePath::single(tl(9)));
    }
}
