//! Connections of a server: to PostgreSQL and to its host.

use std::sync::Arc;

use super::{Server, ServerError};
use crate::backup::{BackupError, BackupServer, PgBackupServer};
use crate::ctx::{Cancel, Ctx};
use crate::format::conninfo::ConnInfo;
use crate::pg::Session;
use crate::transport::{self, Prefer, Transport};

/// Why a backup cannot speak with the server.
fn no_session(error: ServerError) -> BackupError {
    match error {
        ServerError::Pg(source) => BackupError::Server { action: "connecting to PostgreSQL", source },
        other => BackupError::Identity(other.to_string()),
    }
}

impl Server {
    /// Connects to PostgreSQL by `conninfo`.
    pub fn session(&self) -> Result<Session, ServerError> {
        let text = self.config.options.conninfo.as_deref();
        let text = text.ok_or_else(|| ServerError::NoConninfo { server: self.name().clone() })?;
        self.session_by(text)
    }

    pub(crate) fn session_by(&self, conninfo: &str) -> Result<Session, ServerError> {
        let info = self.own_conninfo(conninfo)?;
        Ok(Session::connect(&info, &self.host.environment, &self.host.cancel)?)
    }

    /// A connection string with our name in it, where the user gave none.
    pub(crate) fn own_conninfo(&self, conninfo: &str) -> Result<ConnInfo, ServerError> {
        let mut info = self.parse_conninfo(conninfo)?;
        if info.get("application_name").is_none() {
            info.set("application_name", "barman").map_err(|e| ServerError::Usage(e.to_string()))?;
        }
        Ok(info)
    }

    pub(crate) fn parse_conninfo(&self, conninfo: &str) -> Result<ConnInfo, ServerError> {
        conninfo.parse().map_err(|e: crate::format::conninfo::ConnInfoError| {
            ServerError::Usage(format!("Cannot connect to postgres: {e}"))
        })
    }

    /// The session that a backup lives in.
    pub(crate) fn backup_session(&self, _ctx: &Ctx<'_>) -> Result<Box<dyn BackupServer>, BackupError> {
        Ok(Box::new(PgBackupServer::new(self.session().map_err(no_session)?)))
    }

    /// The replication connection that a base backup comes through; the flag ends it.
    pub(crate) fn backup_stream(&self, stop: &Cancel) -> Result<Session, BackupError> {
        let options = &self.config.options;
        let text = options.streaming_conninfo.as_ref().or(options.conninfo.as_ref());
        let text = text.ok_or_else(|| ServerError::NoConninfo { server: self.name().clone() });
        let info = text.and_then(|text| self.own_conninfo(text)).map_err(no_session)?;
        Session::connect_replication(&info, &self.host.environment, stop).map_err(|e| no_session(e.into()))
    }

    /// The transport for an ssh command; this host without one. With `compressed` what crosses the network is compressed
    /// by ssh.
    pub(crate) fn transport_by(
        &self,
        ssh_command: Option<&str>,
        compressed: bool,
    ) -> Result<Arc<dyn Transport>, ServerError> {
        let host = &self.host;
        let command =
            ssh_command.map(|c| if compressed { format!("{c} -o Compression=yes") } else { c.to_owned() });
        let opened = transport::open(
            command.as_deref(),
            Prefer::Program,
            &host.ssh,
            Arc::clone(&host.disk),
            &host.cancel,
        )?;
        Ok(opened.transport)
    }
}
