//! Questions and orders about the write-ahead log: where it stands, closing a segment, restore points, checkpoints.

use super::error::PgError;
use super::session::Session;
use crate::model::{Lsn, SegmentName};

/// Where the server's WAL stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPosition {
    /// The position: what is written on a primary, what is replayed on a standby.
    pub lsn: Lsn,
    /// The segment that holds it and the offset in it, as the server names them; `None` on a standby, where the
    /// functions for it may not be called.
    pub file: Option<(SegmentName, u32)>,
}

/// What became of an order to close the current segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchedWal {
    /// This segment was closed.
    Closed(SegmentName),
    /// Nothing was written since the last switch, so there was nothing to close.
    NotRequired,
}

impl Session {
    /// The current position; `None` on a standby that has replayed nothing.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn current_wal(&mut self) -> Result<Option<WalPosition>, PgError> {
        if self.is_in_recovery()? {
            let function = self.wal_function("pg_last_wal_replay_lsn", "pg_last_xlog_replay_location");
            let answer = self.query_one(&format!("SELECT pg_catalog.{function}() AS lsn"))?;
            let lsn: Option<Lsn> = answer.single()?.optional("lsn")?;
            return Ok(lsn.map(|lsn| WalPosition { lsn, file: None }));
        }
        let current = self.wal_function("pg_current_wal_lsn", "pg_current_xlog_location");
        let offset = self.wal_function("pg_walfile_name_offset", "pg_xlogfile_name_offset");
        let answer = self.query_one(&format!(
            "SELECT lsn, file.file_name, file.file_offset \
             FROM pg_catalog.{current}() AS lsn, pg_catalog.{offset}(lsn) AS file"
        ))?;
        let row = answer.single()?;
        let file = Some((row.parse("file_name")?, row.parse("file_offset")?));
        Ok(Some(WalPosition { lsn: row.parse("lsn")?, file }))
    }

    /// What a standby received last; `None` when it received nothing.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn received_wal(&mut self) -> Result<Option<Lsn>, PgError> {
        let function = self.wal_function("pg_last_wal_receive_lsn", "pg_last_xlog_receive_location");
        self.query_one(&format!("SELECT pg_catalog.{function}() AS lsn"))?.single()?.optional("lsn")
    }

    /// Closes the current segment.
    ///
    /// # Errors
    /// [`PgError::Unsupported`] on a standby, which writes no WAL; or the server's error.
    pub fn switch_wal(&mut self) -> Result<SwitchedWal, PgError> {
        self.refuse_on_standby("a WAL segment cannot be closed on a standby")?;
        let before = self.insert_segment()?;
        let switch = self.wal_function("pg_switch_wal", "pg_switch_xlog");
        self.query_one(&format!("SELECT pg_catalog.{switch}()"))?;
        let after = self.insert_segment()?;
        Ok(if before < after { SwitchedWal::Closed(before) } else { SwitchedWal::NotRequired })
    }

    /// The segment that the next record will be written to.
    fn insert_segment(&mut self) -> Result<SegmentName, PgError> {
        let insert = self.wal_function("pg_current_wal_insert_lsn", "pg_current_xlog_insert_location");
        let name = self.wal_function("pg_walfile_name", "pg_xlogfile_name");
        let sql = format!("SELECT pg_catalog.{name}(pg_catalog.{insert}()) AS file");
        self.query_one(&sql)?.single()?.parse("file")
    }

    /// Writes a named restore point and gives its position.
    ///
    /// # Errors
    /// [`PgError::Unsupported`] on a standby; or the server's error.
    pub fn create_restore_point(&mut self, name: &str) -> Result<Lsn, PgError> {
        self.refuse_on_standby("a restore point cannot be made on a standby")?;
        self.query_with("SELECT pg_catalog.pg_create_restore_point($1) AS lsn", &[Some(name)])?
            .single()?
            .parse("lsn")
    }

    /// Runs a checkpoint (a restartpoint on a standby) and waits for it.
    ///
    /// # Errors
    /// When the role may not (SQLSTATE 42501).
    pub fn checkpoint(&mut self) -> Result<(), PgError> {
        self.query("CHECKPOINT").map(drop)
    }

    /// The name of a function since 10, or before.
    pub(super) fn wal_function(&self, new: &'static str, old: &'static str) -> &'static str {
        if self.version().has_wal_names() { new } else { old }
    }

    fn refuse_on_standby(&mut self, reason: &str) -> Result<(), PgError> {
        if self.is_in_recovery()? {
            return Err(PgError::Unsupported { reason: reason.to_owned() });
        }
        Ok(())
    }
}
