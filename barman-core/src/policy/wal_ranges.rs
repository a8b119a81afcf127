//! Where the WAL of an archive is without a hole, and where it is not.

use crate::model::{SegmentName, SegmentNo, SegmentSize, Timeline};

/// Consecutive segments of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRange {
    /// The timeline.
    pub timeline: Timeline,
    /// The first segment.
    pub first: SegmentNo,
    /// The last segment, which may be the first.
    pub last: SegmentNo,
}

impl SegmentRange {
    /// How many segments it has.
    pub fn count(&self) -> u64 {
        self.last.get() - self.first.get() + 1
    }

    /// The name of its first segment.
    pub fn first_name(&self, size: SegmentSize) -> SegmentName {
        SegmentName::new(self.timeline, self.first, size)
    }

    /// The name of its last segment.
    pub fn last_name(&self, size: SegmentSize) -> SegmentName {
        SegmentName::new(self.timeline, self.last, size)
    }
}

/// Collects segments that come in archive order into ranges; what lies between two of one timeline is a hole.
#[derive(Debug, Clone, Default)]
pub struct RangeBuilder {
    ranges: Vec<SegmentRange>,
}

impl RangeBuilder {
    /// Takes the next segment.
    pub fn add(&mut self, timeline: Timeline, number: SegmentNo) {
        match self.ranges.last_mut() {
            Some(range) if range.timeline == timeline && range.last.next() == Some(number) => {
                range.last = number;
            }
            Some(range) if range.timeline == timeline && range.last >= number => {}
            _ => self.ranges.push(SegmentRange { timeline, first: number, last: number }),
        }
    }

    /// The ranges, in archive order.
    pub fn ranges(&self) -> &[SegmentRange] {
        &self.ranges
    }

    /// The holes between ranges of the same timeline, in archive order.
    pub fn holes(&self) -> Vec<SegmentRange> {
        let between = |pair: &[SegmentRange]| match pair {
            [one, other] if one.timeline == other.timeline => Some(SegmentRange {
                timeline: one.timeline,
                first: one.last.next()?,
                last: other.first.previous()?,
            }),
            _ => None,
        };
        self.ranges.windows(2).filter_map(between).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_holes() {
        let tli = |id| Timeline::new(id).unwrap();
        let mut builder = RangeBuilder::default();
        for (timeline, number) in [(1, 3), (1, 4), (1, 4), (1, 7), (1, 9), (1, 10), (2, 10), (2, 11)] {
            builder.add(tli(timeline), SegmentNo::new(number));
        }
        let shown = |ranges: &[SegmentRange]| -> Vec<(u32, u64, u64)> {
            ranges.iter().map(|r| (r.timeline.get(), r.first.get(), r.last.get())).collect()
        };
        assert_eq!(shown(builder.ranges()), [(1, 3, 4), (1, 7, 7), (1, 9, 10), (2, 10, 11)]);
        assert_eq!(shown(&builder.holes()), [(1, 5, 6), (1, 8, 8)]);
        assert_eq!(builder.holes()[0].count(), 2);
        assert!(RangeBuilder::default().holes().is_empty());
    }
}
