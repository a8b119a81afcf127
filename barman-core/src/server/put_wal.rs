//! `put-wal`: WAL from `barman-wal-archive` on the PostgreSQL host into incoming.

use std::io::Read;

use super::{Server, ServerError};
use crate::config::Operation;
use crate::ctx::Ctx;
use crate::wal::Delivery;

impl Server {
    /// Whether a delivery would be taken: an error says why not.
    pub fn may_put_wal(&self, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        self.usable(Operation::Archive, ctx)
    }

    /// Takes a delivery: files and their checksums in a tar stream. What the outcome calls stored or known is durable.
    ///
    /// # Errors
    /// See [`crate::wal::LocalWalArchive::receive`]. A conflict is no error here: the delivery lists it, and whoever
    /// answers the sender must not call it success (I3).
    pub fn put_wal(&self, stream: &mut dyn Read, ctx: &Ctx<'_>) -> Result<Delivery, ServerError> {
        self.may_put_wal(ctx)?;
        self.make_directories()?;
        Ok(self.wal.receive(stream, ctx)?)
    }
}
