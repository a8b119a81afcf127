//! `backup_label` and the backup history files (`….backup`) in an archive: where a base backup starts and ends.
//!
//! Source: `build_backup_content` in PostgreSQL's `src/backend/access/transam/xlogbackup.c` writes both, `read_backup_label`
//! in `xlogrecovery.c` reads the former.

use crate::model::{Lsn, SegmentName, Timeline};

/// What a `backup_label` or a backup history file says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupLabel {
    /// Where replay starts: the redo position of the checkpoint.
    pub start: Lsn,
    /// The segment that holds it, with the timeline of the server at that time.
    pub start_segment: SegmentName,
    /// Where the backup ended; only in a backup history file.
    pub stop: Option<(Lsn, SegmentName)>,
    /// The checkpoint record.
    pub checkpoint: Lsn,
    /// `streamed` or `pg_start_backup`.
    pub method: Option<String>,
    /// `primary` or `standby` (9.2 and later).
    pub from: Option<String>,
    /// The server's text of the time, with its own abbreviation of the time zone.
    pub start_time: Option<String>,
    /// What the backup was called when it was started.
    pub label: Option<String>,
    /// The timeline of the start (11 and later), as it stands in the file.
    pub start_timeline: Option<Timeline>,
    /// The server's text of the time at the end; only in a backup history file.
    pub stop_time: Option<String>,
    /// The timeline of the end; only in a backup history file.
    pub stop_timeline: Option<Timeline>,
    /// The start of the backup that an incremental one builds on, and its timeline (17 and later).
    pub incremental_from: Option<(Lsn, Timeline)>,
}

/// Why a text is no backup label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupLabelError {
    /// A line that every label has is not there.
    #[error("the backup label has no line '{line}'")]
    Missing {
        /// How the line begins.
        line: &'static str,
    },
    /// A line has a value that cannot be read.
    #[error("the backup label has an unreadable line '{line}: {value}'")]
    BadValue {
        /// How the line begins.
        line: &'static str,
        /// What follows.
        value: String,
    },
    /// The timeline of the start is not the one in the name of the first segment.
    #[error("the backup label names timeline {timeline} but starts in segment {segment}")]
    TimelinesDiffer {
        /// `START TIMELINE`.
        timeline: Timeline,
        /// The segment of `START WAL LOCATION`.
        segment: SegmentName,
    },
}

const START: &str = "START WAL LOCATION";
const STOP: &str = "STOP WAL LOCATION";
const CHECKPOINT: &str = "CHECKPOINT LOCATION";
const LABEL: &str = "LABEL";

impl BackupLabel {
    /// Reads the content of either file.
    ///
    /// The user's own label may hold line breaks: what stands before the line `LABEL` is read from the top, what
    /// PostgreSQL writes after it from the bottom, so that a label cannot pass for either.
    ///
    /// # Errors
    /// When the start or checkpoint position is missing, a value cannot be read, or the timelines disagree.
    pub fn parse(text: &str) -> Result<Self, BackupLabelError> {
        let lines: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|l| l.split_once(':'))
            .map(|(key, value)| (key, value.strip_prefix(' ').unwrap_or(value)))
            .collect();
        let label_at = lines.iter().position(|(key, _)| *key == LABEL).unwrap_or(lines.len());
        let (head, tail) = lines.split_at_checked(label_at).unwrap_or((&lines, &[]));
        let above = |line: &'static str| head.iter().find(|(k, _)| *k == line).map(|(_, v)| (line, *v));
        let below = |line: &'static str| tail.iter().rev().find(|(k, _)| *k == line).map(|(_, v)| (line, *v));
        let text_of = |found: Option<(&'static str, &str)>| found.map(|(_, v)| v.to_owned());

        let (start, start_segment) =
            position(above(START).ok_or(BackupLabelError::Missing { line: START })?)?;
        let stop = above(STOP).map(position).transpose()?;
        let checkpoint = above(CHECKPOINT).ok_or(BackupLabelError::Missing { line: CHECKPOINT })?;
        let start_timeline = below("START TIMELINE").map(value::<Timeline>).transpose()?;
        if let Some(timeline) = start_timeline
            && timeline != start_segment.timeline
        {
            return Err(BackupLabelError::TimelinesDiffer { timeline, segment: start_segment });
        }
        let from_lsn = below("INCREMENTAL FROM LSN").map(value::<Lsn>).transpose()?;
        let from_timeline = below("INCREMENTAL FROM TLI").map(value::<Timeline>).transpose()?;
        let incremental_from = match (from_lsn, from_timeline) {
            (Some(lsn), Some(timeline)) => Some((lsn, timeline)),
            (None, None) => None,
            (Some(_), None) => return Err(BackupLabelError::Missing { line: "INCREMENTAL FROM TLI" }),
            (None, Some(_)) => return Err(BackupLabelError::Missing { line: "INCREMENTAL FROM LSN" }),
        };
        Ok(Self {
            start,
            start_segment,
            stop,
            checkpoint: value(checkpoint)?,
            method: text_of(above("BACKUP METHOD")),
            from: text_of(above("BACKUP FROM")),
            start_time: text_of(above("START TIME")),
            label: tail.first().map(|(_, v)| (*v).to_owned()),
            start_timeline,
            stop_time: text_of(below("STOP TIME")),
            stop_timeline: below("STOP TIMELINE").map(value::<Timeline>).transpose()?,
            incremental_from,
        })
    }
}

fn value<T: std::str::FromStr>((line, text): (&'static str, &str)) -> Result<T, BackupLabelError> {
    text.trim_end().parse().map_err(|_| BackupLabelError::BadValue { line, value: text.to_owned() })
}

/// `0/6000028 (file 000000010000000000000006)`.
fn position((line, text): (&'static str, &str)) -> Result<(Lsn, SegmentName), BackupLabelError> {
    let bad = || BackupLabelError::BadValue { line, value: text.to_owned() };
    let (lsn, file) = text.trim_end().split_once(" (file ").ok_or_else(bad)?;
    let name = file.strip_suffix(')').ok_or_else(bad)?;
    Ok((lsn.parse().map_err(|_| bad())?, name.parse().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PG15: &str = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\nCHECKPOINT LOCATION: 0/6000098\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 21:45:01 UTC\n\
        LABEL: Barman backup pg 20261122T214417\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_of_15_and_an_incremental_one_of_17() {
        let label = BackupLabel::parse(PG15).unwrap();
        assert_eq!(
            (label.start.to_string(), label.checkpoint.to_string()),
            ("0/6000028".into(), "0/6000098".into())
        );
        assert_eq!(label.start_segment.to_string(), "000000010000000000000006");
        assert_eq!(label.label.as_deref(), Some("Barman backup pg 20261122T214417"));
        assert_eq!(label.start_time.as_deref(), Some("2026-11-22 21:45:01 UTC"));
        assert_eq!(
            (label.start_timeline, label.stop, label.incremental_from),
            (Some(Timeline::FIRST), None, None)
        );
        let text = format!("{PG15}INCREMENTAL FROM LSN: 0/4000028\nINCREMENTAL FROM TLI: 1\n");
        let from = BackupLabel::parse(&text).unwrap().incremental_from.unwrap();
        assert_eq!((from.0.to_string().as_str(), from.1), ("0/4000028", Timeline::FIRST));
    }

    #[test]
    fn a_backup_history_file() {
        let text = "START WAL LOCATION: 0/2000028 (file 0000001A0000000000000002)\n\
            STOP WAL LOCATION: 0/2000100 (file 0000001A0000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
            BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 21:40:50 UTC\n\
            LABEL: pg_basebackup base backup\nSTART TIMELINE: 26\nSTOP TIME: 2026-11-22 21:40:51 UTC\nSTOP TIMELINE: 26\n";
        let label = BackupLabel::parse(text).unwrap();
        assert_eq!(label.stop.unwrap().0.to_string(), "0/2000100");
        assert_eq!(label.stop_timeline.unwrap().get(), 26);
        assert_eq!(label.stop_time.as_deref(), Some("2026-11-22 21:40:51 UTC"));
    }

    #[test]
    fn a_label_cannot_pass_for_what_postgresql_writes() {
        let text = PG15.replace(
            "LABEL: Barman backup",
            "LABEL: x\nSTART WAL LOCATION: 0/1 (file 000000090000000000000000)\nSTART TIMELINE: 9\nLABEL: y",
        );
        let label = BackupLabel::parse(&text).unwrap();
        assert_eq!((label.start.get(), label.start_timeline), (0x600_0028, Some(Timeline::FIRST)));
    }

    #[test]
    fn refusals() {
        let parse = |from: &str, to: &str| BackupLabel::parse(&PG15.replace(from, to)).unwrap_err();
        assert_eq!(BackupLabel::parse(""), Err(BackupLabelError::Missing { line: START }));
        assert_eq!(parse("CHECKPOINT", "X"), BackupLabelError::Missing { line: CHECKPOINT });
        assert!(matches!(parse("0/6000028", "600"), BackupLabelError::BadValue { line: START, .. }));
        assert!(matches!(parse("TIMELINE: 1", "TIMELINE: 2"), BackupLabelError::TimelinesDiffer { .. }));
        assert!(matches!(parse("TIMELINE: 1", "TIMELINE: x"), BackupLabelError::BadValue { .. }));
    }

    proptest! {
        #[test]
        fn never_panics(text: String, cut in 0usize..300) {
            let _ = BackupLabel::parse(&text);
            let _ = BackupLabel::parse(PG15.get(..cut).unwrap_or(""));
            let _ = BackupLabel::parse(&format!("{}{text}", PG15.get(..cut).unwrap_or("")));
        }
    }
}
