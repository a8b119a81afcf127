//! The values everything else is made of: LSN, timeline, WAL names, backup ids and facts. Pure: no I/O, no clock.

mod backup_id;
mod backup_info;
mod check;
mod entry;
mod keep;
mod lsn;
mod pg_version;
mod recovery_target;
mod retention;
mod secret;
mod segment;
mod server_name;
mod status;
mod system_id;
mod tablespace;
mod timeline;
mod wal_name;

pub use backup_id::BackupId;
pub use backup_info::{BackupInfo, BackupMethod, BackupType, PyValue};
pub use check::{Check, Outcome};
pub use entry::{Entry, EntryKind, FileTime};
pub use keep::Keep;
pub use lsn::Lsn;
pub use pg_version::PgVersion;
pub use recovery_target::{RecoveryTarget, StopPoint, TargetAction, TargetTimeline};
pub use retention::{RetentionPolicy, Span, SpanUnit};
pub use secret::Secret;
pub use segment::{SegmentNo, SegmentSize};
pub use server_name::ServerName;
pub use status::Status;
pub use system_id::SystemId;
pub use tablespace::{Oid, Tablespace};
pub use timeline::Timeline;
pub use wal_name::{SegmentName, WalFileName};

/// A text that is not a value of the type it was parsed as. Display is one sentence naming both.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid {what}")]
pub struct ParseError {
    /// What was expected, in words ("LSN", "backup id").
    pub what: &'static str,
    /// The offending text.
    pub text: String,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, text: text.into() }
    }
}
