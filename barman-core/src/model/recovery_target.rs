//! [`RecoveryTarget`]: where a recovery stops and what the server does then.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;

use super::{Lsn, ParseError, Timeline};

/// The point at which replay stops (PostgreSQL documentation, "Recovery Target").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopPoint {
    /// The end of the archived WAL.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// A commit time.
    Time(OffsetDateTime),
    /// A transaction id, decimal, as PostgreSQL takes it.
    Xid(u64),
    /// A point made with `pg_create_restore_point`.
    Name(String),
    /// A WAL position.
    Lsn(Lsn),
}

/// Which timeline to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetTimeline {
    /// Nothing was said: PostgreSQL's default (latest since 12, the backup's own before).
    #[default]
    Default,
    /// The timeline of the backup.
    Current,
    /// The newest one in the archive.
    Latest,
    /// This one.
    Id(Timeline),
}

impl fmt::Display for TargetTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str(""),
            Self::Current => f.write_str("current"),
            Self::Latest => f.write_str("latest"),
            Self::Id(timeline) => timeline.fmt(f),
        }
    }
}

impl FromStr for TargetTimeline {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "current" => Ok(Self::Current),
            "latest" => Ok(Self::Latest),
            id => id.parse().map(Self::Id).map_err(|_| ParseError::new("target timeline", text)),
        }
    }
}

/// What the server does when it reaches the stop point (`recovery_target_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetAction {
    /// Pause, answering queries if hot standby is on.
    Pause,
    /// Stop the server.
    Shutdown,
    /// End recovery on a new timeline.
    Promote,
}

impl TargetAction {
    /// The value of the setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
            Self::Promote => "promote",
        }
    }
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TargetAction {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        [Self::Pause, Self::Shutdown, Self::Promote]
            .into_iter()
            .find(|a| a.as_str() == text)
            .ok_or_else(|| ParseError::new("recovery target action", text))
    }
}

/// A whole recovery target. Exactly one stop point, by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryTarget {
    /// Where to stop.
    pub stop: StopPoint,
    /// Whether the transaction at the stop point is part of the result (`recovery_target_inclusive`).
    pub inclusive: bool,
    /// Which history to follow.
    pub timeline: TargetTimeline,
    /// What to do then; `None` leaves PostgreSQL's default.
    pub action: Option<TargetAction>,
}

impl RecoveryTarget {
    /// All WAL there is, on PostgreSQL's default timeline.
    pub fn latest() -> Self {
        Self { stop: StopPoint::Latest, inclusive: true, timeline: TargetTimeline::Default, action: None }
    }

    /// Whether anything was asked for beyond replaying all WAL of the default timeline.
    pub fn is_point_in_time(&self) -> bool {
        self.stop != StopPoint::Latest || self.timeline != TargetTimeline::Default
    }
}
