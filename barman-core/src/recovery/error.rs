//! [`RecoveryError`]: why a plan could not be carried out.

use camino::Utf8PathBuf;

use super::PlanError;
use crate::catalog::CatalogError;
use crate::ctx::Cancelled;
use crate::transport::TransportError;
use crate::wal::WalError;

/// Why a recovery failed. Whatever was written by then cannot be started as a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// It cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The destination holds something.
    #[error(
        "The restore operation cannot proceed because the destination folder '{path}' is not empty. \
         To prevent accidental data loss, the destination must be empty. \
         Please choose a different location or manually empty the folder."
    )]
    NotEmpty {
        /// The destination.
        path: Utf8PathBuf,
    },
    /// A tablespace's place holds something.
    #[error(
        "The restore operation cannot proceed. The destination path '{path}' for the tablespace '{name}' is not empty. \
         To prevent accidental data loss, the tablespace destination must be empty. \
         Please choose a different location or manually empty the folder."
    )]
    TablespaceNotEmpty {
        /// The place.
        path: Utf8PathBuf,
        /// The tablespace.
        name: String,
    },
    /// A server runs in the destination, or left its lock file.
    #[error(
        "The restore operation cannot proceed because a PostgreSQL server runs in the destination folder '{path}', \
         or was killed there (postmaster.pid is present). Stop the server, or choose a different location."
    )]
    InUse {
        /// The destination.
        path: Utf8PathBuf,
    },
    /// A delta restore would remove what is no cluster.
    #[error(
        "The delta restore cannot proceed because the destination folder '{path}' is not empty and is no PostgreSQL data \
         directory (it has no PG_VERSION): what is in it would be removed. Choose a different location or empty the folder."
    )]
    NotACluster {
        /// The destination.
        path: Utf8PathBuf,
    },
    /// The same for the place of a tablespace.
    #[error(
        "The delta restore cannot proceed because '{path}' is no place of a tablespace: '{odd}' lies in it and would be \
         removed. Choose a different location or empty the folder."
    )]
    NotATablespace {
        /// The place.
        path: Utf8PathBuf,
        /// What no tablespace has.
        odd: Utf8PathBuf,
    },
    /// The destination cannot be used.
    #[error("The destination '{path}' cannot be used: {why}")]
    Unusable {
        /// The destination.
        path: Utf8PathBuf,
        /// Why.
        why: &'static str,
    },
    /// It would not fit.
    #[error(
        "'{path}' has {free} bytes free and the restore needs {needed}; free some space or choose a different location"
    )]
    NoRoom {
        /// The destination.
        path: Utf8PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A file of the backup is not what was stored.
    #[error("{path} cannot be restored: {reason}")]
    Damaged {
        /// The file in the repository.
        path: Utf8PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The host or its disk failed.
    #[error("Cannot write the restored files")]
    Transport(#[source] TransportError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The archive failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<TransportError> for RecoveryError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Transport(other),
        }
    }
}
