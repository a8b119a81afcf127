//! PostgreSQL's wire protocol: our own client on `postgres-protocol`. tokio lives in this room only.
//!
//! [`Session`] is the blocking handle that other rooms use; [`Connection`] is the async connection under it. Settings
//! come from a connection string ([`crate::format::conninfo::ConnInfo`]) and an [`Environment`], and are resolved as
//! libpq resolves them.

mod admin;
mod auth;
mod backup;
mod base_backup;
mod connect;
mod environment;
mod error;
mod instant;
mod privileges;
mod query;
mod replication;
mod session;
mod settings;
mod socket;
mod startup;
mod stream;
mod tls;
mod unpack;
mod upload;
mod verify;
mod wal;
mod wire;
mod x509;

pub use admin::{ArchiverStats, ConfigFiles, Setting};
pub use backup::{BackupStart, BackupStop};
pub use base_backup::{
    BaseBackupArchive, BaseBackupEnd, BaseBackupRequest, BaseBackupSink, BaseBackupStart, ServerCompression,
};
pub use environment::Environment;
pub use error::{PgError, ServerError};
pub use privileges::Privileges;
pub use query::{ResultSet, Row};
pub use replication::{ReplicationClient, ReplicationSlot, SystemIdentity};
pub use session::{Session, replication_conninfo};
pub use stream::{StreamEnd, StreamError, StreamRequest, WalSink};
pub use wal::{SwitchedWal, WalPosition};
pub use wire::Connection;
