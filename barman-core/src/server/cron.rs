//! `cron`: what is due for a server. Starting other processes is a matter of the command.

use super::{Server, ServerError};
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::io::{LockError, LockGuard, LockName};
use crate::model::{BackupId, Status};

/// Keeps other crons from this server while it lives.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct CronGuard {
    _lock: LockGuard,
}

/// How the maintenance of a server begins.
#[derive(Debug)]
pub enum CronStart {
    /// It may go on.
    Ours(CronGuard),
    /// Another cron works on the server; who, since when and why.
    Busy(String),
}

impl Server {
    /// Takes the lock of the maintenance of this server.
    pub fn begin_cron(&self, ctx: &Ctx<'_>) -> Result<CronStart, ServerError> {
        self.enabled()?;
        match self.locks.try_lock(&LockName::Cron(self.name().clone()), "the maintenance of the server", ctx)
        {
            Ok(lock) => Ok(CronStart::Ours(CronGuard { _lock: lock })),
            Err(error @ LockError::Busy { .. }) => Ok(CronStart::Busy(error.to_string())),
            Err(other) => Err(other.into()),
        }
    }

    /// Whether nobody archives for this server now, so that somebody should.
    pub fn archive_is_due(&self) -> Result<bool, ServerError> {
        Ok(!self.locks.is_held(&LockName::WalArchive(self.name().clone()))?)
    }

    /// Whether a receiver should be started now: streaming is on and none runs.
    pub fn receiver_is_due(&self) -> Result<bool, ServerError> {
        Ok(self.config.options.streaming_archiver && !self.receiver_runs()?)
    }

    /// Whether a receiver runs.
    pub(crate) fn receiver_runs(&self) -> Result<bool, ServerError> {
        Ok(self.locks.is_held(&LockName::WalReceive(self.name().clone()))?)
    }

    /// Ends a receiver where streaming is off (any longer); gives its process id.
    pub fn stop_unwanted_receiver(&self, ctx: &Ctx<'_>) -> Result<Option<u32>, ServerError> {
        if self.config.options.streaming_archiver || !self.receiver_runs()? {
            return Ok(None);
        }
        self.terminate("receive-wal", ctx).map(Some)
    }

    /// The oldest backup that waits for WAL.
    pub fn oldest_waiting(&self) -> Result<Option<BackupId>, ServerError> {
        let backups = self.catalog.survey()?.backups;
        Ok(backups.iter().filter(|b| b.status == Status::WaitingForWals).map(|b| b.id).min())
    }
}
