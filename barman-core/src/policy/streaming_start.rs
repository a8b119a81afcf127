//! Where a receiver of WAL begins: after what is here already, on the way that the server's timelines went.

use crate::format::history::TimelineHistory;
use crate::model::{Lsn, SegmentNo, SegmentSize, Timeline, WalFileName};

/// What the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct StartFacts<'a> {
    /// What a receiver wrote before, in archive order.
    pub streamed: &'a [WalFileName],
    /// The newest whole segment that is archived of each timeline, ascending.
    pub archived: &'a [(Timeline, SegmentNo)],
    /// The server's timeline.
    pub timeline: Timeline,
    /// How the server got there; `None` on the first timeline.
    pub history: Option<&'a TimelineHistory>,
    /// Where the server's slot keeps WAL from.
    pub slot: Option<Lsn>,
    /// Where the server stands.
    pub position: Lsn,
    /// How long its segments are.
    pub size: SegmentSize,
}

/// Why a receiver begins where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It goes on with what a receiver left.
    Streaming,
    /// It goes on after what is archived.
    Archive,
    /// From the oldest WAL that the slot keeps.
    Slot,
    /// From where the server stands.
    Server,
}

/// Where a receiver begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamingStart {
    /// On this timeline.
    pub timeline: Timeline,
    /// With this segment.
    pub segment: SegmentNo,
    /// Why there.
    pub origin: Origin,
}

impl StreamingStart {
    /// Its position.
    pub fn lsn(&self, size: SegmentSize) -> Option<Lsn> {
        Lsn::segment_start(self.segment, size)
    }
}

/// There is WAL of a timeline that the server has not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the WAL that was received last is of timeline {ours}, and the server is on timeline {server}: it is behind, or it is \
     another server. If it was taken back on purpose, 'barman receive-wal --reset' archives what was received and begins anew"
)]
pub struct ServerIsBehind {
    /// The timeline of what was received.
    pub ours: Timeline,
    /// The server's.
    pub server: Timeline,
}

/// Decides where to begin. Never after a byte that is not here, where there is a choice.
///
/// # Errors
/// [`ServerIsBehind`].
pub fn streaming_start(facts: &StartFacts<'_>) -> Result<StreamingStart, ServerIsBehind> {
    // What was written of a timeline that the server did not come by is of no use to go on from.
    let on_path = |timeline: Timeline| {
        timeline == facts.timeline || facts.history.is_some_and(|history| history.includes(timeline))
    };
    let mut streamed = facts.streamed.iter().rev().filter_map(|name| match *name {
        WalFileName::Partial(name) => Some((name.timeline, name.number(facts.size)?)),
        WalFileName::Segment(name) => Some((name.timeline, name.number(facts.size)?.next()?)),
        _ => None,
    });
    if let Some((ours, _)) = streamed.clone().next().filter(|(ours, _)| *ours > facts.timeline) {
        return Err(ServerIsBehind { ours, server: facts.timeline });
    }
    let begin = |timeline, segment, origin| {
        let (timeline, segment) = descend(facts, timeline, segment);
        Ok(StreamingStart { timeline, segment, origin })
    };
    if let Some((timeline, segment)) = streamed.find(|(timeline, _)| on_path(*timeline)) {
        return begin(timeline, segment, Origin::Streaming);
    }
    let archived = facts.archived.iter().rev().find(|(timeline, _)| on_path(*timeline));
    let archived = archived.and_then(|(timeline, number)| Some((*timeline, number.next()?)));
    let slot = facts.slot.map(|lsn| lsn.segment(facts.size));
    match (archived, slot) {
        // The archive may have come by another way and may have holes: what the slot keeps is sent anyway.
        (Some((_, next)), Some(kept)) if kept < next => begin(facts.timeline_of(kept), kept, Origin::Slot),
        (Some((timeline, next)), _) => begin(timeline, next, Origin::Archive),
        (None, Some(kept)) => begin(facts.timeline_of(kept), kept, Origin::Slot),
        (None, None) => begin(facts.timeline, facts.position.segment(facts.size), Origin::Server),
    }
}

impl StartFacts<'_> {
    /// The timeline that the server was on at the beginning of a segment.
    fn timeline_of(&self, segment: SegmentNo) -> Timeline {
        match (self.history, Lsn::segment_start(segment, self.size)) {
            (Some(history), Some(start)) => history.timeline_of(start),
            _ => self.timeline,
        }
    }
}

/// Where a timeline ended before the segment begins, the one that follows begins with the segment of the switch.
fn descend(facts: &StartFacts<'_>, mut timeline: Timeline, mut segment: SegmentNo) -> (Timeline, SegmentNo) {
    let Some(history) = facts.history else { return (timeline, segment) };
    for (entry, next) in history
        .entries
        .iter()
        .zip(history.entries.iter().skip(1).map(|entry| entry.parent).chain([history.timeline]))
    {
        let begins = Lsn::segment_start(segment, facts.size);
        if entry.parent == timeline && begins.is_none_or(|begins| begins >= entry.switch) {
            (timeline, segment) = (next, entry.switch.segment(facts.size));
        }
    }
    (timeline, segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tli(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }

    fn size() -> SegmentSize {
        SegmentSize::from_bytes(MIB).unwrap()
    }

    struct Case<'a> {
        streamed: &'a [&'a str],
        archived: &'a [(u32, u64)],
        timeline: u32,
        /// In tenths of a segment: parent, switch.
        history: &'a [(u32, u64)],
        slot: Option<u64>,
        position: u64,
    }

    const NOTHING: Case<'static> =
        Case { streamed: &[], archived: &[], timeline: 1, history: &[], slot: None, position: 95 };

    fn start(case: &Case<'_>) -> Result<(u32, u64, Origin), ServerIsBehind> {
        let lsn = |tenths: u64| Lsn::new(tenths * MIB / 10);
        let text: String = case.history.iter().map(|(p, s)| format!("{p}\t{}\tx\n", lsn(*s))).collect();
        let history = (!text.is_empty()).then(|| TimelineHistory::parse(tli(case.timeline), &text).unwrap());
        let streamed: Vec<WalFileName> = case.streamed.iter().map(|name| name.parse().unwrap()).collect();
        let archived: Vec<_> = case.archived.iter().map(|(t, n)| (tli(*t), SegmentNo::new(*n))).collect();
        let facts = StartFacts {
            streamed: &streamed,
            archived: &archived,
            timeline: tli(case.timeline),
            history: history.as_ref(),
            slot: case.slot.map(lsn),
            position: lsn(case.position),
            size: size(),
        };
        streaming_start(&facts).map(|s| (s.timeline.get(), s.segment.get(), s.origin))
    }

    #[test]
    fn one_timeline() {
        use Origin::{Archive, Server, Slot, Streaming};
        for (case, expected) in [
            (Case { ..NOTHING }, (1, 9, Server)),
            (Case { slot: Some(42), ..NOTHING }, (1, 4, Slot)),
            (Case { archived: &[(1, 6)], ..NOTHING }, (1, 7, Archive)),
            (Case { archived: &[(1, 6)], slot: Some(42), ..NOTHING }, (1, 4, Slot)),
            (Case { archived: &[(1, 6)], slot: Some(92), ..NOTHING }, (1, 7, Archive)),
            (
                Case { streamed: &["000000010000000000000005.partial"], slot: Some(42), ..NOTHING },
                (1, 5, Streaming),
            ),
            (Case { streamed: &["000000010000000000000005"], ..NOTHING }, (1, 6, Streaming)),
            (
                Case {
                    streamed: &["000000010000000000000005", "000000010000000000000006.partial"],
                    archived: &[(1, 8)],
                    ..NOTHING
                },
                (1, 6, Streaming),
            ),
            (Case { streamed: &["00000002.history"], ..NOTHING }, (1, 9, Server)),
        ] {
            assert_eq!(start(&case), Ok(expected), "{:?}", case.streamed);
        }
    }

    #[test]
    fn timelines() {
        use Origin::{Archive, Server, Slot, Streaming};
        let second = Case { timeline: 2, history: &[(1, 75)], ..NOTHING };
        for (case, expected) in [
            // The rest of the first timeline is fetched first.
            (Case { streamed: &["000000010000000000000005.partial"], ..second }, (1, 5, Streaming)),
            (Case { streamed: &["000000010000000000000007.partial"], ..second }, (1, 7, Streaming)),
            // More was received than the new primary had when it left: its own copy of that segment is needed.
            (Case { streamed: &["000000010000000000000007"], ..second }, (2, 7, Streaming)),
            (Case { streamed: &["000000010000000000000009.partial"], ..second }, (2, 7, Streaming)),
            (Case { archived: &[(1, 9)], ..second }, (2, 7, Archive)),
            (Case { archived: &[(1, 3), (2, 8)], ..second }, (2, 9, Archive)),
            (Case { slot: Some(61), ..second }, (1, 6, Slot)),
            (Case { slot: Some(76), ..second }, (1, 7, Slot)),
            (Case { slot: Some(86), ..second }, (2, 8, Slot)),
            (Case { ..second }, (2, 9, Server)),
            // Twice promoted meanwhile, the second time within the same segment.
            (
                Case {
                    streamed: &["000000010000000000000008.partial"],
                    timeline: 3,
                    history: &[(1, 75), (2, 77)],
                    ..NOTHING
                },
                (2, 7, Streaming),
            ),
            // Beside it lies what was streamed on the way that the server came.
            (
                Case {
                    streamed: &["000000010000000000000006.partial", "000000020000000000000008.partial"],
                    archived: &[(1, 4)],
                    timeline: 3,
                    history: &[(1, 82)],
                    ..NOTHING
                },
                (1, 6, Streaming),
            ),
            // What was streamed is of a branch that the server did not come by.
            (
                Case {
                    streamed: &["000000020000000000000008.partial"],
                    archived: &[(1, 6), (2, 7)],
                    timeline: 3,
                    history: &[(1, 82)],
                    ..NOTHING
                },
                (1, 7, Archive),
            ),
        ] {
            assert_eq!(start(&case), Ok(expected), "{:?} {:?}", case.streamed, case.archived);
        }
        let behind = Case { streamed: &["000000020000000000000005.partial"], ..NOTHING };
        assert_eq!(start(&behind), Err(ServerIsBehind { ours: tli(2), server: tli(1) }));
    }
}
