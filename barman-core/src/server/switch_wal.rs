//! `switch-wal`: closing the current segment, and waiting until it is archived.

use std::time::Duration;

use super::{ArchiveOutcome, Server, ServerError};
use crate::ctx::Ctx;
use crate::model::{SegmentName, WalFileName};
use crate::pg::SwitchedWal;
use crate::wal::{TakenHow, WalArchive};

/// How often a waiting command looks for WAL.
const POLL: Duration = Duration::from_millis(100);

/// What became of an order to close the current segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// This segment was closed.
    Closed(SegmentName),
    /// Nothing was written since the last one was closed.
    NotRequired,
    /// The server is a standby, which writes no WAL.
    Standby,
}

impl Server {
    /// Closes the current segment; that of the primary where `conninfo` leads to a standby and `primary_conninfo` is set. With `force` a checkpoint is written first, so that there is something to close.
    ///
    /// # Errors
    /// [`ServerError::MayNotForce`], [`ServerError::Switch`], or no connection.
    pub fn switch_wal(&self, force: bool, ctx: &Ctx<'_>) -> Result<Switch, ServerError> {
        self.enabled()?;
        let mut session = self.session()?;
        if session.is_in_recovery()? {
            // Its primary closes the segment for it.
            let Some(primary) = self.config.options.primary_conninfo.as_deref() else {
                return Ok(Switch::Standby);
            };
            session = self.session_by(primary)?;
            if session.is_in_recovery()? {
                return Ok(Switch::Standby);
            }
        }
        if force {
            if !session.privileges()?.checkpoint {
                return Err(ServerError::MayNotForce);
            }
            ctx.debug("Requesting a checkpoint");
            session.checkpoint()?;
        }
        let switched = session.switch_wal();
        Ok(match switched.map_err(|source| ServerError::Switch { server: self.name().clone(), source })? {
            SwitchedWal::Closed(name) => Switch::Closed(name),
            SwitchedWal::NotRequired => Switch::NotRequired,
        })
    }

    /// Archives until the file (or, without one, any) is in the archive, at most so long; gives whether it is. Each run
    /// that archived something is told to `each`.
    pub fn wait_archived(
        &self,
        wanted: Option<SegmentName>,
        limit: Duration,
        each: &mut dyn FnMut(&ArchiveOutcome),
        ctx: &Ctx<'_>,
    ) -> Result<bool, ServerError> {
        let began = ctx.clock.monotonic();
        loop {
            let outcome = self.archive_wal(ctx)?;
            let arrived = match wanted {
                Some(name) => self.wal.find(&WalFileName::Segment(name))?.is_some(),
                None => {
                    outcome.files().any(|t| matches!(t.how, TakenHow::Archived(_) | TakenHow::Replaced(_)))
                }
            };
            if !outcome.is_empty() {
                each(&outcome);
            }
            if arrived {
                return Ok(true);
            }
            if ctx.clock.monotonic().saturating_sub(began) >= limit {
                return Ok(false);
            }
            ctx.clock.pause(POLL, ctx.cancel)?;
        }
    }
}
