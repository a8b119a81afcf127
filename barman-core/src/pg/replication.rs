//! Physical replication without its streams: identity, slots, who is connected.

use postgres_protocol::escape::escape_identifier;

use super::error::PgError;
use super::query::Row;
use super::session::Session;
use crate::model::{Lsn, SystemId, Timeline};

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier.
    pub system_id: SystemId,
    /// The timeline the server is on.
    pub timeline: Timeline,
    /// Flushed on a primary, received on a standby.
    pub position: Lsn,
}

/// A physical replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationSlot {
    /// Its name.
    pub name: String,
    /// Whether someone streams from it now.
    pub active: bool,
    /// The oldest WAL it keeps; `None` before its first use.
    pub restart_lsn: Option<Lsn>,
}

/// A row of `pg_stat_replication` of a physical client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationClient {
    /// The process that serves it.
    pub pid: i32,
    /// Its role.
    pub user: Option<String>,
    /// Its `application_name`.
    pub application_name: Option<String>,
    /// Its address; `None` on a Unix socket.
    pub address: Option<String>,
    /// Its host name, where the server looks names up.
    pub host: Option<String>,
    /// Its port; -1 on a Unix socket.
    pub port: Option<i32>,
    /// When it connected, as the server prints it.
    pub backend_start: Option<String>,
    /// What it holds back vacuum by.
    pub backend_xmin: Option<String>,
    /// `streaming`, `catchup`, `backup` …
    pub state: Option<String>,
    /// Sent to it.
    pub sent: Option<Lsn>,
    /// Written by it.
    pub written: Option<Lsn>,
    /// Flushed by it.
    pub flushed: Option<Lsn>,
    /// Replayed by it; `None` for a receiver, which replays nothing.
    pub replayed: Option<Lsn>,
    /// `sync_priority`.
    pub sync_priority: i32,
    /// `async`, `sync`, `potential`, `quorum`.
    pub sync_state: Option<String>,
    /// The slot it uses.
    pub slot: Option<String>,
}

impl Session {
    /// Who the server is and where it stands; on a replication connection.
    ///
    /// # Errors
    /// When the server does not answer, or this is not a replication connection.
    pub fn identify_system(&mut self) -> Result<SystemIdentity, PgError> {
        let answer = self.query_one("IDENTIFY_SYSTEM")?;
        let row = answer.single()?;
        Ok(SystemIdentity {
            system_id: row.parse("systemid")?,
            timeline: row.parse("timeline")?,
            position: row.parse("xlogpos")?,
        })
    }

    /// A setting, on a replication connection (10 and later).
    ///
    /// # Errors
    /// When the server does not know it or the role may not see it.
    pub fn replication_show(&mut self, name: &str) -> Result<String, PgError> {
        let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
        if !plain {
            return Err(PgError::settings(format!("\"{name}\" is not the name of a setting")));
        }
        self.required_scalar(&format!("SHOW {name}"))
    }

    /// Makes a physical slot; on a replication connection. It reserves WAL from its first use on.
    ///
    /// # Errors
    /// When it is there already (SQLSTATE 42710), or there are too many.
    pub fn create_physical_slot(&mut self, name: &str) -> Result<(), PgError> {
        let name = slot_name(name)?;
        self.query(&format!("CREATE_REPLICATION_SLOT {name} PHYSICAL")).map(drop)
    }

    /// Drops a slot; on a replication connection.
    ///
    /// # Errors
    /// When there is none (SQLSTATE 42704), or it is in use (55006).
    pub fn drop_slot(&mut self, name: &str) -> Result<(), PgError> {
        let name = slot_name(name)?;
        self.query(&format!("DROP_REPLICATION_SLOT {name}")).map(drop)
    }

    /// The state of a physical slot, `None` when there is none of that name; on an ordinary connection.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn physical_slot(&mut self, name: &str) -> Result<Option<ReplicationSlot>, PgError> {
        let answer = self.query_with(
            "SELECT slot_name, active, restart_lsn FROM pg_catalog.pg_replication_slots \
             WHERE slot_type = 'physical' AND slot_name = $1",
            &[Some(name)],
        )?;
        answer
            .iter()
            .next()
            .map(|row| {
                Ok(ReplicationSlot {
                    name: row.required("slot_name")?.to_owned(),
                    active: row.boolean("active")?,
                    restart_lsn: row.optional("restart_lsn")?,
                })
            })
            .transpose()
    }

    /// The physical clients of the server, those that matter most for synchronous replication first.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn replication_clients(&mut self) -> Result<Vec<ReplicationClient>, PgError> {
        let suffix = self.wal_function("lsn", "location");
        let answer = self.query_one(&format!(
            "SELECT r.pid, r.usename, r.application_name, r.client_addr, r.client_hostname, r.client_port, \
             r.backend_start, r.backend_xmin, r.state, r.sent_{suffix} AS sent, r.write_{suffix} AS written, \
             r.flush_{suffix} AS flushed, r.replay_{suffix} AS replayed, r.sync_priority, r.sync_state, s.slot_name \
             FROM pg_catalog.pg_stat_replication r \
             LEFT JOIN pg_catalog.pg_replication_slots s ON s.active_pid = r.pid \
             WHERE s.slot_type IS NULL OR s.slot_type = 'physical' \
             ORDER BY r.sync_state DESC, r.sync_priority"
        ))?;
        answer.iter().map(client).collect()
    }
}

fn client(row: Row<'_>) -> Result<ReplicationClient, PgError> {
    let text = |column| Ok::<_, PgError>(row.text(column)?.map(str::to_owned));
    Ok(ReplicationClient {
        pid: row.parse("pid")?,
        user: text("usename")?,
        application_name: text("application_name")?,
        address: text("client_addr")?,
        host: text("client_hostname")?,
        port: row.optional("client_port")?,
        backend_start: text("backend_start")?,
        backend_xmin: text("backend_xmin")?,
        state: text("state")?,
        sent: row.optional("sent")?,
        written: row.optional("written")?,
        flushed: row.optional("flushed")?,
        replayed: row.optional("replayed")?,
        sync_priority: row.optional("sync_priority")?.unwrap_or(0),
        sync_state: text("sync_state")?,
        slot: text("slot_name")?,
    })
}

/// The server's own rule for the names of slots, checked here because the name becomes part of a command.
pub(super) fn slot_name(name: &str) -> Result<String, PgError> {
    let legal = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if legal {
        Ok(escape_identifier(name))
    } else {
        Err(PgError::settings(format!(
            "replication slot name \"{name}\" is not valid: it may only contain lower case letters, numbers, and the \
             underscore character, and at most 63 of them"
        )))
    }
}
