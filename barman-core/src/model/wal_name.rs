//! [`SegmentName`] and [`WalFileName`]: the whole grammar of names in `pg_wal` and in an archive.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::{Lsn, ParseError, SegmentNo, SegmentSize, Timeline};

/// The name of a WAL segment: timeline, log and segment, eight hexadecimal digits each.
///
/// The name alone does not say where the segment lies in the log: that depends on the segment size
/// ([`SegmentName::number`]). Order is by timeline, then position, which is also the order of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// First eight digits.
    pub timeline: Timeline,
    /// Middle eight digits: the high half of the position.
    pub log: u32,
    /// Last eight digits: the segment within the log.
    pub segment: u32,
}

impl SegmentName {
    /// The name of segment `number` on `timeline` (`XLogFileName` in PostgreSQL's `xlog_internal.h`).
    pub fn new(timeline: Timeline, number: SegmentNo, size: SegmentSize) -> Self {
        let per_log = size.segments_per_log();
        Self { timeline, log: (number.get() / per_log) as u32, segment: (number.get() % per_log) as u32 }
    }

    /// The name of the segment that holds `lsn`.
    pub fn containing(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self::new(timeline, lsn.segment(size), size)
    }

    /// The number of this segment for the given size, or `None` when the name cannot occur with that size.
    pub fn number(self, size: SegmentSize) -> Option<SegmentNo> {
        let per_log = size.segments_per_log();
        let within = u64::from(self.segment);
        (within < per_log).then(|| SegmentNo::new(u64::from(self.log) * per_log + within))
    }

    /// The first byte of this segment, or `None` when the name cannot occur with that size.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        Lsn::segment_start(self.number(size)?, size)
    }

    /// The next segment on the same timeline.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        Some(Self::new(self.timeline, self.number(size)?.next()?, size))
    }

    /// The same position on another timeline.
    pub fn on(self, timeline: Timeline) -> Self {
        Self { timeline, ..self }
    }

    /// The archive directory this segment lies in: the first sixteen digits of its name.
    pub fn hash_dir(self) -> String {
        format!("{:08X}{:08X}", self.timeline.get(), self.log)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.segment)
    }
}

impl FromStr for SegmentName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::new("WAL segment name", text);
        if text.len() != 24 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(fail());
        }
        let part = |range: std::ops::Range<usize>| {
            text.get(range).and_then(|t| u32::from_str_radix(t, 16).ok()).ok_or_else(fail)
        };
        Ok(Self {
            timeline: Timeline::new(part(0..8)?).ok_or_else(fail)?,
            log: part(8..16)?,
            segment: part(16..24)?,
        })
    }
}

/// Any file that PostgreSQL hands to its `archive_command`.
///
/// Order is archive order: that of the text, in which a history file sorts before the segments of its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// A whole segment, `000000010000000000000001`.
    Segment(SegmentName),
    /// The unfinished last segment of an old timeline or of a receiver, `….partial`.
    Partial(SegmentName),
    /// A backup history file, `….00000028.backup`: where a base backup started.
    BackupLabel {
        /// The segment in which the backup started.
        start: SegmentName,
        /// The byte offset in that segment at which the backup started.
        offset: u32,
    },
    /// A timeline history file, `00000002.history`.
    History(Timeline),
}

impl WalFileName {
    /// The name of the whole segment, when this is one.
    pub fn as_segment(&self) -> Option<SegmentName> {
        match self {
            Self::Segment(name) => Some(*name),
            _ => None,
        }
    }

    /// The timeline in the name.
    pub fn timeline(&self) -> Timeline {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupLabel { start: name, .. } => {
                name.timeline
            }
            Self::History(timeline) => *timeline,
        }
    }

    /// The archive directory the file lies in (sixteen digits), or `None` for a history file, which lies at the top.
    pub fn hash_dir(&self) -> Option<String> {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupLabel { start: name, .. } => {
                Some(name.hash_dir())
            }
            Self::History(_) => None,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::BackupLabel { start, offset } => write!(f, "{start}.{offset:08X}.backup"),
            Self::History(timeline) => write!(f, "{}.history", timeline.hex()),
        }
    }
}

impl FromStr for WalFileName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::new("WAL file name", text);
        if let Some(stem) = text.strip_suffix(".history") {
            return Timeline::from_hex(stem).map(Self::History).map_err(|_| fail());
        }
        if let Some(stem) = text.strip_suffix(".partial") {
            return stem.parse().map(Self::Partial).map_err(|_| fail());
        }
        if let Some(stem) = text.strip_suffix(".backup") {
            let (start, offset) = stem.split_once('.').ok_or_else(fail)?;
            if offset.len() != 8 || !offset.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(fail());
            }
            let offset = u32::from_str_radix(offset, 16).map_err(|_| fail())?;
            return Ok(Self::BackupLabel { start: start.parse().map_err(|_| fail())?, offset });
        }
        text.parse().map(Self::Segment).map_err(|_| fail())
    }
}

impl Ord for WalFileName {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |name: &Self| match *name {
            Self::History(timeline) => (timeline.get(), 0, 0, 0, 0),
            Self::Segment(s) => (s.timeline.get(), 1 + u64::from(s.log), s.segment, 0, 0),
            Self::BackupLabel { start: s, offset } => {
                (s.timeline.get(), 1 + u64::from(s.log), s.segment, 1, offset)
            }
            Self::Partial(s) => (s.timeline.get(), 1 + u64::from(s.log), s.segment, 2, 0),
        };
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for WalFileName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_name() -> impl Strategy<Value = WalFileName> {
        let segment = (1u32.., any::<u32>(), any::<u32>()).prop_map(|(timeline, log, segment)| SegmentName {
            timeline: Timeline::new(timeline).unwrap(),
            log,
            segment,
        });
        prop_oneof![
            segment.clone().prop_map(WalFileName::Segment),
            segment.clone().prop_map(WalFileName::Partial),
            (segment, any::<u32>()).prop_map(|(start, offset)| WalFileName::BackupLabel { start, offset }),
            (1u32..).prop_map(|t| WalFileName::History(Timeline::new(t).unwrap())),
        ]
    }

    proptest! {
        #[test]
        fn text_round_trip(name in any_name()) {
            prop_assert_eq!(name.to_string().parse::<WalFileName>().unwrap(), name);
        }

        #[test]
        fn numbers_round_trip(number in 0u64..1 << 33, log2 in 20u32..=30) {
            let size = SegmentSize::from_bytes(1 << log2).unwrap();
            let number = SegmentNo::new(number % (size.segments_per_log() << 32));
            let name = SegmentName::new(Timeline::FIRST, number, size);
            prop_assert_eq!(name.number(size), Some(number));
        }
    }

    #[test]
    fn grammar() {
        for good in [
            "000000010000000000000001",
            "0000000A00000001000000FE.partial",
            "000000010000000000000002.00000028.backup",
            "0000001A.history",
        ] {
            assert_eq!(good.parse::<WalFileName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000G",
            "000000000000000000000001",
            "000000010000000000000002.backup",
            "000000010000000000000002.28.backup",
            "1A.history",
            "0000001A.History",
            "000000010000000000000001.partial.partial",
            "../000000010000000000000001",
        ] {
            assert!(bad.parse::<WalFileName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn next_crosses_the_log_boundary_for_every_segment_size() {
        let next = |text: &str, mib: u64| {
            let size = SegmentSize::from_bytes(mib << 20).unwrap();
            text.parse::<SegmentName>().unwrap().next(size).unwrap().to_string()
        };
        assert_eq!(next("0000000100000000000000FF", 16), "000000010000000100000000");
        assert_eq!(next("000000010000000000000FFF", 1), "000000010000000100000000");
        assert_eq!(next("00000001000000000000003F", 64), "000000010000000100000000");
        let size = SegmentSize::DEFAULT;
        assert_eq!("000000010000000000000100".parse::<SegmentName>().unwrap().number(size), None);
    }

    #[test]
    fn history_sorts_before_its_segments() {
        let mut names: Vec<WalFileName> = [
            "000000020000000000000003",
            "000000010000000000000003.partial",
            "00000002.history",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000003",
        ]
        .iter()
        .map(|t| t.parse().unwrap())
        .collect();
        let mut texts: Vec<String> = names.iter().map(ToString::to_string).collect();
        names.sort();
        texts.sort();
        assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), texts_in_archive_order(texts));
    }

    /// Text order, but for history files: `.` sorts before digits, so the two orders agree.
    fn texts_in_archive_order(texts: Vec<String>) -> Vec<String> {
        texts
    }
}
