//! [`ServerError`]: why an operation on a server failed.

use crate::backup::BackupError;
use crate::catalog::CatalogError;
use crate::codec::CodecError;
use crate::config::ConfigError;
use crate::ctx::Cancelled;
use crate::hooks::HookError;
use crate::io::{IoError, LockError};
use crate::model::{BackupId, ServerName};
use crate::pg::PgError;
use crate::policy::prune::PruneError;
use crate::policy::resolve::ResolveError;
use crate::recovery::{PlanError, RecoveryError};
use crate::transport::TransportError;
use crate::wal::WalError;

/// Why an operation on a server failed: an error of one of the rooms, or of their playing together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The configuration of the server has an error.
    #[error("{message}")]
    Disabled {
        /// The first one, in Barman's words.
        message: String,
    },
    /// The configuration or the command asks for what this version cannot do.
    #[error("{what} is not supported by this version")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A check failed that a backup must not go without.
    #[error(
        "Impossible to start the backup. Check the log for more details, or run 'barman check {server}'\n\
         DETAILS: these checks failed: {}", failed.join(", ")
    )]
    NotReady {
        /// The server.
        server: ServerName,
        /// The checks that failed, with their hints.
        failed: Vec<String>,
    },
    /// Another backup of the server is being taken.
    #[error("Another backup process is running")]
    BackupRunning {
        /// Who holds the lock, since when and why.
        #[source]
        source: LockError,
    },
    /// There is no connection string.
    #[error("No conninfo is configured for server {server}")]
    NoConninfo {
        /// The server.
        server: ServerName,
    },
    /// The server in conninfo is not the one that the directory belongs to.
    #[error(
        "The PostgreSQL server that conninfo leads to has the system identifier {found}, and the backups in {directory} \
         belong to {expected}: correct conninfo, or use another name for the new server. Only after a pg_upgrade of the same \
         server: set \"systemid\" to \"{found}\" in {directory}/identity.json (make the file where it is missing), and take a backup"
    )]
    OtherCluster {
        /// The cluster of the directory.
        expected: crate::model::SystemId,
        /// The cluster that answered.
        found: crate::model::SystemId,
        /// The directory.
        directory: camino::Utf8PathBuf,
    },
    /// WAL did not come in time.
    #[error("The WAL file {name} has not been received in {seconds} seconds")]
    WalNotReceived {
        /// The file.
        name: String,
        /// The time waited.
        seconds: u64,
    },
    /// WAL that was waited for came and is not sound.
    #[error(
        "The WAL file {name} was received and refused: {reason}. It lies in {aside}; the backup stays incomplete until a \
         sound copy of that file is put into the incoming directory"
    )]
    WalRefused {
        /// The file.
        name: String,
        /// Where it lies now.
        aside: camino::Utf8PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// A backup may not be deleted; why was told as a warning. (Barman prints all facts of the backup here.)
    #[error("Cannot delete backup ({server} {id})")]
    NotDeleted {
        /// The server.
        server: ServerName,
        /// The backup.
        id: BackupId,
    },
    /// Another receiver of the server's WAL runs.
    #[error("Another receive-wal process is already running for server {server}.")]
    ReceiverRunning {
        /// The server.
        server: ServerName,
        /// Who holds the lock, since when and why.
        #[source]
        source: LockError,
    },
    /// A receiver runs, whose place to go on cannot be changed.
    #[error("Unable to reset the status of receive-wal for server {server}. Process is still running")]
    ResetBlocked {
        /// The server.
        server: ServerName,
        /// Who holds the lock, since when and why.
        #[source]
        source: LockError,
    },
    /// WAL cannot be streamed from the server.
    #[error(
        "Impossible to start WAL streaming. Check the log for more details, or run 'barman check {server}'\n\
         DETAILS: {reason}"
    )]
    NotStreaming {
        /// The server.
        server: ServerName,
        /// Why.
        reason: String,
    },
    /// The configured slot is not there.
    #[error(
        "ArchiverFailure:replication slot '{slot}' doesn't exist. Please execute 'barman receive-wal --create-slot {server}'"
    )]
    NoSlot {
        /// The server.
        server: ServerName,
        /// The slot.
        slot: String,
    },
    /// More was received than the server has.
    #[error("The receive-wal position is ahead of PostgreSQL current WAL lsn ({ours} > {server})")]
    AheadOfServer {
        /// What was received.
        ours: crate::model::Lsn,
        /// Where the server stands.
        server: crate::model::Lsn,
    },
    /// The server has WAL no longer that was not received.
    #[error(
        "The server {server} has no longer the WAL from {lsn} (timeline {timeline}) on, where receiving has to go on. Points \
         in time from there on cannot be restored from what is here. If the files still lie elsewhere, copy them into the \
         incoming directory; to receive what the server has now, run 'barman receive-wal --reset {server}', and then take a \
         new backup. A replication slot (slot_name) keeps this from happening"
    )]
    WalGone {
        /// The server.
        server: ServerName,
        /// From here on.
        lsn: crate::model::Lsn,
        /// On this timeline.
        timeline: crate::model::Timeline,
        /// What the server said.
        #[source]
        source: PgError,
    },
    /// Another backup or deletion works on the server.
    #[error("Another process in running on server {server}. Impossible to delete the backup.")]
    DeletionBlocked {
        /// The server.
        server: ServerName,
        /// Who holds the lock, since when and why.
        #[source]
        source: LockError,
    },
    /// Somebody works with the backup.
    #[error("Another process is holding the lock for backup {id} of server {server}.\nDETAILS: {holder}")]
    BackupInUse {
        /// The server.
        server: ServerName,
        /// The backup.
        id: BackupId,
        /// Who, since when and why.
        holder: String,
    },
    /// A backup cannot be kept.
    #[error("{reason}")]
    NotKept {
        /// Barman's words.
        reason: String,
    },
    /// WAL is missing that a backup needs.
    #[error("This backup has been marked as FAILED due to the following reason: {reason}")]
    MarkedFailed {
        /// What is missing.
        reason: String,
    },
    /// Whether a failed backup has its WAL is of no interest.
    #[error("The validity of a failed backup cannot be checked")]
    AlreadyFailed,
    /// A checkpoint cannot be asked for.
    #[error("Barman switch-wal --force requires superuser rights or the 'pg_checkpoint' role")]
    MayNotForce,
    /// PostgreSQL did not close the segment.
    #[error("Unable to perform pg_switch_wal for server '{server}'.")]
    Switch {
        /// The server.
        server: ServerName,
        /// Why.
        #[source]
        source: PgError,
    },
    /// The archive has WAL already.
    #[error("WAL archive check failed for server {server}: {what}")]
    ArchiveInUse {
        /// The server.
        server: ServerName,
        /// What there is.
        what: String,
    },
    /// A process was not ended.
    #[error("Termination of {task} failed: {reason} for server {server}")]
    NotTerminated {
        /// What it does.
        task: String,
        /// For which server.
        server: ServerName,
        /// Why not.
        reason: String,
    },
    /// The file that WAL should go to cannot be made.
    #[error("Unable to open '{path}' file: {}", reason(source))]
    Output {
        /// The file.
        path: camino::Utf8PathBuf,
        /// Why.
        #[source]
        source: IoError,
    },
    /// Taking the backup failed.
    #[error("{error}")]
    Backup {
        /// Why.
        #[source]
        error: Box<BackupError>,
    },
    /// The recovery failed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The archive failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// PostgreSQL failed.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// A host cannot be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A codec cannot be used.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A script of the user stopped the operation.
    #[error(transparent)]
    Hook(HookError),
    /// A lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The backup argument means nothing.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A deletion cannot be planned.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The system's words below an error of the file system.
fn reason(error: &IoError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl From<BackupError> for ServerError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Backup { error: Box::new(other) },
        }
    }
}

impl From<HookError> for ServerError {
    fn from(error: HookError) -> Self {
        match error {
            HookError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            other => Self::Hook(other),
        }
    }
}

impl From<PlanError> for ServerError {
    fn from(error: PlanError) -> Self {
        Self::Recovery(error.into())
    }
}

impl ServerError {
    /// What a failed backup records: `failure <action> (<first line>)`.
    pub(crate) fn as_failure(&self) -> String {
        let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
        let chain = |error: &dyn std::error::Error| {
            let mut text = first(error.to_string());
            let mut source = error.source();
            while let Some(next) = source {
                text = format!("{text}: {}", first(next.to_string()));
                source = next.source();
            }
            text
        };
        match self {
            Self::Backup { error } => match error.as_ref() {
                BackupError::Server { action, source } => format!("failure {action} ({})", chain(source)),
                other => format!("failure copying files ({})", chain(other)),
            },
            Self::Hook(error) => format!("failure starting backup ({})", chain(error)),
            Self::Cancelled(_) => "failure copying files (the backup was interrupted)".to_owned(),
            other => format!("failure calculating backup size ({})", chain(other)),
        }
    }
}
