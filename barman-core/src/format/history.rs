//! [`TimelineHistory`]: the `.history` files that say where each timeline left its parent.
//!
//! Source: `readTimeLineHistory` and `writeTimeLineHistory` in PostgreSQL's `src/backend/access/transam/timeline.c`.

use std::fmt;

use crate::model::{Lsn, SegmentName, SegmentNo, SegmentSize, Timeline};

/// One line: until where the parent counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub parent: Timeline,
    /// The position at which it was left: its WAL counts up to here and not further.
    pub switch: Lsn,
    /// Why, in the server's words ("no recovery target specified").
    pub reason: String,
}

/// The ancestors of a timeline, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline whose history it is.
    pub timeline: Timeline,
    /// Its ancestors, oldest first; ids increase.
    pub entries: Vec<HistoryEntry>,
}

/// A text that is no history of the timeline in its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Line {line} of {}.history is not sound: {reason}", timeline.hex())]
pub struct HistoryError {
    /// The timeline in the file's name.
    pub timeline: Timeline,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl TimelineHistory {
    /// Reads the content of `<timeline>.history`. Empty lines and comments are skipped, as the server does. Ids stand in
    /// **decimal** in the file, unlike in its name.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.trim_start();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let error = |reason| HistoryError { timeline, line: index + 1, reason };
            let (parent, rest) =
                word(content).ok_or_else(|| error("a timeline id and a position are expected"))?;
            let parent: Timeline = parent.parse().map_err(|_| error("the timeline id is not a number"))?;
            let (switch, rest) = word(rest).ok_or_else(|| error("the position is missing"))?;
            let switch: Lsn = switch.parse().map_err(|_| error("the position is not an LSN"))?;
            if entries.last().is_some_and(|last| last.parent >= parent) {
                return Err(error("timeline ids must increase"));
            }
            if entries.last().is_some_and(|last| last.switch > switch) {
                return Err(error("the positions must not go back"));
            }
            if parent >= timeline {
                return Err(error("an ancestor must have a smaller id than the timeline itself"));
            }
            entries.push(HistoryEntry { parent, switch, reason: rest.trim().to_owned() });
        }
        // The server writes at least the line of the parent, and one that does not end is cut short: without its last
        // lines a timeline would seem to have other ancestors than it has.
        if entries.is_empty() {
            return Err(HistoryError { timeline, line: 1, reason: "a parent is expected" });
        }
        Ok(Self { timeline, entries })
    }

    /// The timeline that the byte at `lsn` belongs to in this history (`tliOfPointInHistory`).
    pub fn timeline_of(&self, lsn: Lsn) -> Timeline {
        self.entries.iter().find(|entry| lsn < entry.switch).map_or(self.timeline, |entry| entry.parent)
    }

    /// Whether `other` is this timeline or one of its ancestors.
    pub fn includes(&self, other: Timeline) -> bool {
        other == self.timeline || self.entries.iter().any(|entry| entry.parent == other)
    }

    /// Where this history leaves `timeline`, `None` when it never was on it or is on it to the end.
    pub fn left(&self, timeline: Timeline) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.parent == timeline).map(|entry| entry.switch)
    }

    /// The name under which segment `number` is complete in this history: that of the timeline at the segment's last
    /// byte, whose file begins with a copy of what came before the switch.
    pub fn segment_name(&self, number: SegmentNo, size: SegmentSize) -> SegmentName {
        let last = Lsn::segment_start(number, size).and_then(|start| start.checked_add(size.bytes() - 1));
        SegmentName::new(self.timeline_of(last.unwrap_or(Lsn::new(u64::MAX))), number, size)
    }
}

impl fmt::Display for TimelineHistory {
    /// The content of the file, as the server writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.entries {
            writeln!(f, "{}\t{}\t{}", entry.parent, entry.switch, entry.reason)?;
        }
        Ok(())
    }
}

/// The first word and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    Some(text.split_at(text.find(char::is_whitespace).unwrap_or(text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tl(id: u32) -> Timeline {
        Timeline::new(id).unwrap()
    }

    const TEXT: &str = "1\t0/5000100\tno recovery target specified\n\n\
                        # a comment\n9\t0/7000000\tbefore 2026-11-22 12:00:00+00\n";

    #[test]
    fn ids_in_the_file_are_decimal_and_in_the_name_hexadecimal() {
        let history = TimelineHistory::parse(tl(26), TEXT).unwrap();
        assert_eq!(history.entries.len(), 2);
        assert_eq!(history.entries[1].parent, tl(9));
        assert_eq!(history.entries[1].reason, "before 2026-11-22 12:00:00+00");
        let size = SegmentSize::DEFAULT;
        let names: Vec<String> =
            (4..8).map(|n| history.segment_name(SegmentNo::new(n), size).to_string()).collect();
        assert_eq!(
            names,
            [
                "000000010000000000000004",
                "000000090000000000000005",
                "000000090000000000000006",
                "0000001A0000000000000007"
            ]
        );
        assert_eq!(history.timeline_of("0/50000FF".parse().unwrap()), tl(1));
        assert_eq!(history.timeline_of("0/5000100".parse().unwrap()), tl(9));
        assert!(history.includes(tl(9)) && history.includes(tl(26)) && !history.includes(tl(2)));
        assert_eq!(history.left(tl(9)), Some("0/7000000".parse().unwrap()));
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        for (text, reason) in [
            ("", "a parent is expected"),
            ("# only a comment\n\n", "a parent is expected"),
            ("1\t0/2\tr\n2\t0/1\tr\n", "the positions must not go back"),
            ("x\t0/1\tr\n", "the timeline id is not a number"),
            ("1\n", "the position is missing"),
            ("1\t01\tr\n", "the position is not an LSN"),
            ("2\t0/1\tr\n1\t0/2\tr\n", "timeline ids must increase"),
            ("3\t0/1\tr\n", "an ancestor must have a smaller id than the timeline itself"),
        ] {
            assert_eq!(TimelineHistory::parse(tl(3), text).unwrap_err().reason, reason, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trip(switches in proptest::collection::vec(any::<u64>(), 1..6)) {
            let mut switches = switches;
            switches.sort_unstable();
            let entries = switches.iter().zip(1u32..).map(|(switch, id)| HistoryEntry {
                parent: tl(id),
                switch: Lsn::new(*switch),
                reason: "a reason".to_owned(),
            }).collect();
            let history = TimelineHistory { timeline: tl(40), entries };
            prop_assert_eq!(TimelineHistory::parse(tl(40), &history.to_string()).unwrap(), history);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
            let _ = TimelineHistory::parse(tl(40), &text);
        }
    }
}
