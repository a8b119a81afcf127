//! The two calls between which files are copied: `pg_backup_start` and `pg_backup_stop`, always non-exclusive.
//!
//! Source: PostgreSQL's documentation, chapter "Backup and Restore", section "Making a Base Backup Using the Low Level API".

use time::OffsetDateTime;

use super::error::PgError;
use super::instant::Instant;
use super::session::Session;
use crate::model::{Lsn, Timeline};

/// What the server said when the backup started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// The REDO position that recovery of this backup begins at.
    pub lsn: Lsn,
    /// The timeline of the checkpoint.
    pub timeline: Timeline,
    /// `now()` of the statement: when the checkpoint was asked for, not when it was done.
    pub time: OffsetDateTime,
}

/// What the server said when the backup stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStop {
    /// Recovery must reach this position before the copy is consistent.
    pub lsn: Lsn,
    /// The timeline at the end: on a standby that of its minimum recovery point, else that of the last checkpoint.
    pub timeline: Timeline,
    /// `now()` of the statement.
    pub time: OffsetDateTime,
    /// The text of `backup_label`.
    pub label: String,
    /// The text of `tablespace_map`; empty where no tablespace has a location of its own.
    pub tablespace_map: String,
}

impl Session {
    /// Makes this session fit for a backup: no limit of the role or the database may end it while files are copied.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn prepare_backup_session(&mut self) -> Result<(), PgError> {
        let mut sql = "SET statement_timeout TO 0; SET lock_timeout TO 0; \
                       SET idle_in_transaction_session_timeout TO 0"
            .to_owned();
        if self.version().has_idle_session_timeout() {
            sql.push_str("; SET idle_session_timeout TO 0");
        }
        // transaction_timeout came with 17.
        if self.version().num() >= 170_000 {
            sql.push_str("; SET transaction_timeout TO 0");
        }
        self.query(&sql).map(drop)
    }

    /// The server's time.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn now(&mut self) -> Result<OffsetDateTime, PgError> {
        let answer = self.query_one("SELECT pg_catalog.clock_timestamp() AS now")?;
        Ok(answer.single()?.parse::<Instant>("now")?.0)
    }

    /// Starts a backup and waits for its checkpoint (`fast`: at once, else spread out as
    /// `checkpoint_completion_target` says). The backup lives as long as this session.
    ///
    /// # Errors
    /// When the role may not, the server keeps too little WAL (`wal_level = minimal`), or the connection is lost.
    pub fn start_backup(&mut self, label: &str, fast: bool) -> Result<BackupStart, PgError> {
        self.prepare_backup_session()?;
        let call = if self.version().has_nonexclusive_only() {
            "pg_catalog.pg_backup_start($1, $2)"
        } else {
            "pg_catalog.pg_start_backup($1, $2, false)"
        };
        let answer = self.query_with(
            &format!("SELECT lsn, pg_catalog.now() AS now FROM {call} AS lsn"),
            &[Some(label), Some(if fast { "t" } else { "f" })],
        )?;
        let row = answer.single()?;
        let (lsn, time) = (row.parse("lsn")?, row.parse::<Instant>("now")?.0);
        // On a primary the checkpoint above wrote it just now; on a standby it is that of the restartpoint used.
        let timeline = self.checkpoint_timeline()?;
        Ok(BackupStart { lsn, timeline, time })
    }

    /// Stops the backup that this session started. Does not wait until the server archived the last segment: the caller
    /// waits, with a bound. (A server before 10 waits by itself, without a bound.)
    ///
    /// # Errors
    /// When this session did not start one, the standby was promoted meanwhile, or the connection is lost: the backup is
    /// then worthless.
    pub fn stop_backup(&mut self) -> Result<BackupStop, PgError> {
        let call = if self.version().has_nonexclusive_only() {
            "pg_catalog.pg_backup_stop(false)"
        } else if self.version().has_wal_names() {
            "pg_catalog.pg_stop_backup(false, false)"
        } else {
            "pg_catalog.pg_stop_backup(false)"
        };
        let answer = self.query_one(&format!(
            "SELECT lsn, labelfile, spcmapfile, pg_catalog.now() AS now FROM {call} AS stop"
        ))?;
        let row = answer.single()?;
        let timeline = self.end_timeline()?;
        Ok(BackupStop {
            lsn: row.parse("lsn")?,
            timeline,
            time: row.parse::<Instant>("now")?.0,
            label: row.required("labelfile")?.to_owned(),
            tablespace_map: row.text("spcmapfile")?.unwrap_or_default().to_owned(),
        })
    }

    fn end_timeline(&mut self) -> Result<Timeline, PgError> {
        if self.is_in_recovery()? {
            let answer = self.query_one(
                "SELECT min_recovery_end_timeline AS timeline FROM pg_catalog.pg_control_recovery()",
            )?;
            // 0 while the standby has not yet written a minimum recovery point.
            if let Some(timeline) = answer.single()?.optional::<u32>("timeline")?.and_then(Timeline::new) {
                return Ok(timeline);
            }
        }
        self.checkpoint_timeline()
    }
}
