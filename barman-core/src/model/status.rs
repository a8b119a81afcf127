//! [`Status`]: the life of a backup.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// Where a backup stands. `EMPTY → STARTED → WAITING_FOR_WALS → DONE`, or `FAILED` from any of the first three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Known to the catalog; PostgreSQL was not asked to start a backup yet.
    Empty,
    /// PostgreSQL is in backup mode and files are being copied.
    Started,
    /// All files are safe; WAL needed for consistency has not all arrived.
    WaitingForWals,
    /// Complete and restorable.
    Done,
    /// A passive node is copying it from its primary.
    Syncing,
    /// It cannot be restored.
    Failed,
}

impl Status {
    /// Every status, in the order of a backup's life.
    pub const ALL: [Self; 6] =
        [Self::Empty, Self::Started, Self::WaitingForWals, Self::Done, Self::Syncing, Self::Failed];

    /// The word in `backup.info`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::Started => "STARTED",
            Self::WaitingForWals => "WAITING_FOR_WALS",
            Self::Done => "DONE",
            Self::Syncing => "SYNCING",
            Self::Failed => "FAILED",
        }
    }

    /// Whether a catalog may record this change. Staying the same is always allowed.
    ///
    /// `DONE` is reached only from `WAITING_FOR_WALS` or `SYNCING`; a DONE backup may still become FAILED when a check
    /// finds required WAL missing, and SYNCING when a passive node copies it again.
    pub fn can_become(self, next: Self) -> bool {
        use Status::*;
        self == next
            || matches!(
                (self, next),
                (Empty, Started | WaitingForWals | Failed | Syncing)
                    | (Started, WaitingForWals | Failed)
                    | (WaitingForWals, Done | Failed | Syncing)
                    | (Syncing, Done | WaitingForWals | Failed)
                    | (Done, Failed | Syncing)
                    | (Failed, Syncing)
            )
    }

    /// Whether the backup's files are complete: DONE or WAITING_FOR_WALS.
    pub fn is_available(self) -> bool {
        matches!(self, Self::Done | Self::WaitingForWals)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Status {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| ParseError::new("backup status", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_comes_only_after_waiting_or_syncing() {
        let before_done: Vec<Status> =
            Status::ALL.into_iter().filter(|s| *s != Status::Done && s.can_become(Status::Done)).collect();
        assert_eq!(before_done, [Status::WaitingForWals, Status::Syncing]);
        assert!(!Status::Failed.can_become(Status::Started));
        assert!(Status::ALL.iter().all(|s| s.to_string().parse() == Ok(*s)));
    }
}
