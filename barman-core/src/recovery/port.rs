//! The seam of this room: [`RecoveryPlanner`], what it is asked, what it knows and what it answers.

use std::collections::BTreeMap;
use std::fmt;

use camino::Utf8PathBuf;
use time::OffsetDateTime;

use crate::catalog::Root;
use crate::format::history::TimelineHistory;
use crate::format::timestamp::python_str;
use crate::model::{
    BackupId, BackupInfo, Lsn, Oid, RecoveryTarget, SegmentName, SegmentNo, Status, Timeline, WalFileName,
};
use crate::wal::{PartialWal, WalEntry};

/// Turns a wish into a plan, or into the reason why it cannot be had. Pure: it touches nothing.
pub trait RecoveryPlanner: Send + Sync {
    /// Plans a recovery. Nothing has been written when it fails, and nothing when it succeeds.
    fn plan(&self, request: &RecoveryRequest, facts: &Facts<'_>) -> Result<RecoveryPlan, PlanError>;
}

/// What the user wants.
#[derive(Debug, Clone)]
pub struct RecoveryRequest {
    /// The data directory to make, absolute.
    pub destination: Utf8PathBuf,
    /// Where replay stops.
    pub target: RecoveryTarget,
    /// Tablespaces to put elsewhere, by name.
    pub tablespaces: BTreeMap<String, Utf8PathBuf>,
    /// How the server will get its WAL.
    pub wal: WalDelivery,
    /// Make a standby that follows on (`standby.signal`).
    pub standby: bool,
    /// Use the last, unfinished segment too.
    pub partial: bool,
    /// File that recovery settings are appended to (12 and later); `postgresql.auto.conf` when `None`.
    pub settings_file: Option<String>,
}

/// How the restored server gets its WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalDelivery {
    /// It is copied along with the data.
    Copy {
        /// Where to, when the target is a point in time; `barman_wal` in the destination when `None`.
        directory: Option<Utf8PathBuf>,
    },
    /// The server fetches it by this `restore_command`; `comment` stands above it.
    Fetch {
        /// The command.
        restore_command: String,
        /// A line for the reader of the file, without `#`.
        comment: Option<String>,
    },
}

/// What the planner knows.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The backup to start from.
    pub backup: &'a BackupInfo,
    /// Every timeline history in the archive.
    pub histories: &'a [TimelineHistory],
    /// Every file in the archive, in archive order, whether or not the index has a line for it.
    pub wals: &'a [WalEntry],
    /// Looks into the archive; asked only where the answer decides.
    pub last_record: &'a LastRecord<'a>,
    /// Finds where replay to a time stops.
    pub stop_after: &'a StopAfter<'a>,
    /// Looks for what there is of a segment that is not whole.
    pub unfinished: &'a Unfinished<'a>,
}

/// Where replay of these segments, which follow one another, stops for a target time (inclusive or not): at the first end of
/// a transaction that is later. Source: `recoveryStopsBefore` in `xlogrecovery.c`.
pub type StopAfter<'a> = dyn Fn(&[SegmentName], OffsetDateTime, bool) -> TimeStop + 'a;

/// See [`StopAfter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeStop {
    /// Before this record, which ends in that segment.
    At {
        /// Where the record begins.
        lsn: Lsn,
        /// The segment that is needed to read all of it.
        segment: SegmentNo,
    },
    /// Nowhere: no transaction ended later.
    Never {
        /// The last end of a transaction, with its position.
        last: Option<(OffsetDateTime, Lsn)>,
    },
    /// The segments could not be asked.
    Unknown,
}

/// What there is of a segment that never became whole; `None` when there is nothing.
pub type Unfinished<'a> = dyn Fn(SegmentName) -> Option<PartialWal> + 'a;

/// Where the last record begins that lies whole in a segment of the archive; `None` when the segment has none or cannot
/// be read. PostgreSQL stops at a target position only after it has read a record that begins there or later, so the
/// end of a segment before a hole is no target.
pub type LastRecord<'a> = dyn Fn(SegmentName) -> Option<Lsn> + 'a;

/// Everything that a recovery will do. Display prints it for the user.
#[derive(Debug, Clone)]
pub struct RecoveryPlan {
    /// From which backup.
    pub backup: BackupId,
    /// The data directory.
    pub destination: Utf8PathBuf,
    /// Data directory and tablespaces, in the order in which they are written.
    pub trees: Vec<TreePlan>,
    /// Links in `pg_tblspc`.
    pub tablespaces: Vec<TablespacePlan>,
    /// WAL to copy; `None` when the server fetches it.
    pub wal: Option<WalPlan>,
    /// What is written for recovery; `None` for a plain restore that only becomes consistent.
    pub settings: Option<SettingsPlan>,
    /// The timeline that is followed.
    pub timeline: Timeline,
    /// The last position that the archive allows on that timeline, when WAL is copied.
    pub reachable: Option<Lsn>,
    /// Things the user should know.
    pub warnings: Vec<String>,
}

/// One tree to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePlan {
    /// Which tree of the backup.
    pub root: Root,
    /// Where to.
    pub destination: Utf8PathBuf,
}

/// One tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespacePlan {
    /// Name of the link.
    pub oid: Oid,
    /// The tablespace's name.
    pub name: String,
    /// Where it will lie.
    pub location: Utf8PathBuf,
}

/// WAL to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPlan {
    /// Where to, absolute.
    pub directory: Utf8PathBuf,
    /// Whether it is the server's own WAL directory, where each file gets a `.done` mark.
    pub own_directory: bool,
    /// What, in archive order.
    pub files: Vec<WalFileName>,
    /// The unfinished segment that follows them, which is stored under the segment's name.
    pub partial: Option<PartialWal>,
    /// Bytes as stored in the archive.
    pub stored_bytes: u64,
}

impl WalPlan {
    /// How many files of a segment's size are written.
    pub fn segments(&self) -> u64 {
        let whole = self.files.iter().filter(|name| name.as_segment().is_some()).count() as u64;
        whole + u64::from(self.partial.is_some())
    }
}

/// What is written for recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsPlan {
    /// File the lines go to, relative to the destination.
    pub file: String,
    /// The lines, in Barman's order.
    pub lines: Vec<String>,
    /// `recovery.signal` or `standby.signal`; `None` before 12.
    pub signal: Option<&'static str>,
}

impl fmt::Display for RecoveryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restore of backup {} on timeline {}", self.backup, self.timeline)?;
        for tree in &self.trees {
            let what = match tree.root {
                Root::Data => "data directory".to_owned(),
                Root::Tablespace(oid) => format!("tablespace {oid}"),
            };
            writeln!(f, "  write {what} to {}", tree.destination)?;
        }
        for tablespace in &self.tablespaces {
            writeln!(f, "  link pg_tblspc/{} to {}", tablespace.oid, tablespace.location)?;
        }
        if let Some(wal) = &self.wal {
            let range = match (wal.files.first(), wal.files.last()) {
                (Some(first), Some(last)) => format!(" ({first} to {last})"),
                _ => String::new(),
            };
            writeln!(
                f,
                "  copy {} WAL files{range}, {} bytes as stored, to {}",
                wal.files.len(),
                wal.stored_bytes,
                wal.directory
            )?;
        }
        if let Some(partial) = self.wal.as_ref().and_then(|wal| wal.partial.as_ref()) {
            writeln!(f, "  use {} up to {}", partial.path, partial.valid_until)?;
        }
        if let Some(settings) = &self.settings {
            writeln!(f, "  write to {}:", settings.file)?;
            for line in &settings.lines {
                writeln!(f, "    {line}")?;
            }
            if let Some(signal) = settings.signal {
                writeln!(f, "  make {signal}")?;
            }
        }
        if let Some(reachable) = self.reachable {
            writeln!(f, "  WAL reaches {reachable}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  note: {warning}")?;
        }
        Ok(())
    }
}

/// Why a recovery cannot be planned. Each names the nearest thing that can be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The backup is not complete.
    #[error("backup status is not DONE")]
    NotRestorable {
        /// What it is.
        status: Status,
    },
    /// The backup lacks facts that a restore needs.
    #[error("Backup {id} has no {fact}, so that it cannot be restored")]
    Incomplete {
        /// The backup.
        id: BackupId,
        /// The missing key.
        fact: &'static str,
    },
    /// The target lies before the backup is consistent.
    #[error(
        "The requested target time {} is before the backup end time {end}; restore from an older backup, or to {end} or later",
        python_str(*.target), end = python_str(*.end)
    )]
    TimeBeforeEnd {
        /// What was asked.
        target: OffsetDateTime,
        /// The nearest reachable time.
        end: OffsetDateTime,
    },
    /// The same for a position.
    #[error(
        "The requested target LSN {target} is before the backup end LSN {end}; restore from an older backup, or to {end} or later"
    )]
    LsnBeforeEnd {
        /// What was asked.
        target: Lsn,
        /// The nearest reachable position.
        end: Lsn,
    },
    /// WAL is missing that the target needs.
    #[error(
        "WAL file {missing} is not in the archive, so that {target} cannot be reached on timeline {timeline}; \
         the nearest reachable point is {}",
        nearest_point(.nearest)
    )]
    Hole {
        /// The first missing segment.
        missing: SegmentName,
        /// What was asked, in words.
        target: String,
        /// The timeline that is followed.
        timeline: Timeline,
        /// The last position before the hole at which recovery can stop; `None` when only the end of the backup is
        /// known to be one.
        nearest: Option<Lsn>,
    },
    /// WAL is missing that every restore of this backup needs.
    #[error(
        "WAL file {missing} is not in the archive, and backup {id} cannot become consistent without it; \
         restore from another backup"
    )]
    NotConsistent {
        /// The first missing segment.
        missing: SegmentName,
        /// The backup.
        id: BackupId,
    },
    /// No transaction ended after the target time: the server would not know that it has come there.
    #[error(
        "No transaction in the archive ended after {}, so that PostgreSQL could not tell that the target is reached; {}",
        python_str(*.target), latest_time(.last)
    )]
    TimeBeyondArchive {
        /// What was asked.
        target: OffsetDateTime,
        /// The last end of a transaction, `None` when there is none after the backup.
        last: Option<(OffsetDateTime, Lsn)>,
    },
    /// The position lies beyond what is archived.
    #[error(
        "The archive does not reach LSN {target} on timeline {timeline}; the nearest reachable point is {}",
        nearest_point(.nearest)
    )]
    BeyondArchive {
        /// What was asked.
        target: Lsn,
        /// The timeline that is followed.
        timeline: Timeline,
        /// The last archived position at which recovery can stop; `None` when only the end of the backup is known to
        /// be one.
        nearest: Option<Lsn>,
    },
    /// The timeline is not in the archive or does not come from the backup.
    #[error("Timeline {timeline} cannot be reached from backup {id}: {reason}")]
    Timeline {
        /// What was asked.
        timeline: Timeline,
        /// The backup.
        id: BackupId,
        /// Why.
        reason: String,
    },
    /// A tablespace rule names no tablespace of the backup.
    #[error("Invalid tablespace name '{name}'")]
    UnknownTablespace {
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Two trees would lie in one place, or one in another where it must not.
    #[error("{0}")]
    Overlap(String),
    /// A setting that needs something else.
    #[error("{0}")]
    Invalid(String),
}

fn latest_time(last: &Option<(OffsetDateTime, Lsn)>) -> String {
    match last {
        Some((time, lsn)) => format!(
            "the last one ended at {time} (LSN {lsn}). To get all that there is, restore without a target; to stop before that \
             transaction, use --target-time '{time}' with --exclusive",
            time = python_str(*time)
        ),
        None => {
            "there is none after the end of the backup. Restore without a target, or with --target-immediate"
                .to_owned()
        }
    }
}

fn nearest_point(nearest: &Option<Lsn>) -> String {
    match nearest {
        Some(lsn) => format!("LSN {lsn} (--target-lsn {lsn})"),
        None => "the end of the backup (--target-immediate)".to_owned(),
    }
}
