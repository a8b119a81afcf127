//! `replication-status`: who streams from the server.

use super::{Server, ServerError};
use crate::model::Lsn;
use crate::pg::ReplicationClient;

/// Which clients are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicationTarget {
    /// All physical ones.
    #[default]
    All,
    /// Those that replay: standbys.
    HotStandby,
    /// Those that do not: receivers of WAL.
    WalStreamer,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplicationSource {
    /// The server in `conninfo`.
    #[default]
    BackupHost,
    /// The server that WAL is received from.
    WalHost,
}

/// The physical clients of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// Where the server stands; `None` when a standby has received nothing.
    pub lsn: Option<Lsn>,
    /// The clients that were asked for.
    pub clients: Vec<ReplicationClient>,
}

impl Server {
    /// Asks a server for its physical clients.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn replication_status(
        &self,
        target: ReplicationTarget,
        source: ReplicationSource,
    ) -> Result<ReplicationStatus, ServerError> {
        self.enabled()?;
        let mut session = match source {
            ReplicationSource::BackupHost => self.session()?,
            ReplicationSource::WalHost => self.wal_session()?,
        };
        let primary = !session.is_in_recovery()?;
        let lsn = if primary {
            session.current_wal()?.map(|position| position.lsn)
        } else {
            session.received_wal()?
        };
        let mut clients = session.replication_clients()?;
        clients.retain(|client| match target {
            ReplicationTarget::All => true,
            ReplicationTarget::HotStandby => client.replayed.is_some(),
            ReplicationTarget::WalStreamer => client.replayed.is_none(),
        });
        Ok(ReplicationStatus { lsn, clients })
    }
}
