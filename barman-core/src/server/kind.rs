//! [`ErrorKind`]: what sort of trouble an error is, for exit statuses, hints and retries.

use super::ServerError;
use crate::backup::BackupError;
use crate::catalog::CatalogError;
use crate::io::{IoError, IoErrorKind, LockError};
use crate::pg::PgError;
use crate::recovery::{PlanError, RecoveryError};
use crate::transport::TransportError;
use crate::wal::WalError;

/// What sort of trouble an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense.
    Usage,
    /// The configuration does not allow it.
    Config,
    /// There is no such thing.
    NotFound,
    /// Somebody else is at work.
    Busy,
    /// What is there stands in the way: a destination that is not empty, a keep, another cluster.
    Conflict,
    /// Stored data are not what they should be.
    Corrupt,
    /// Something that is needed is not there (yet): WAL, a fact, a check that passes.
    Incomplete,
    /// A host or a server does not answer.
    Unreachable,
    /// Rights are missing, or a login was refused.
    Denied,
    /// This version, the host or the server cannot do it.
    Unsupported,
    /// A disk is full.
    NoSpace,
    /// The file system failed otherwise.
    Io,
    /// A hook stopped it.
    Hook,
    /// It was stopped by its caller.
    Cancelled,
    /// Nobody expected it.
    Bug,
}

impl ServerError {
    /// What sort of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disabled { .. } | Self::NoConninfo { .. } | Self::Config(_) => ErrorKind::Config,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Usage(_) => ErrorKind::Usage,
            Self::NotReady { .. } | Self::WalNotReceived { .. } => ErrorKind::Incomplete,
            Self::WalRefused { .. } => ErrorKind::Corrupt,
            Self::BackupRunning { .. } | Self::ReceiverRunning { .. } | Self::ResetBlocked { .. } => {
                ErrorKind::Busy
            }
            Self::NoSlot { .. } => ErrorKind::NotFound,
            Self::NotStreaming { .. } | Self::WalGone { .. } => ErrorKind::Incomplete,
            Self::OtherCluster { .. } => ErrorKind::Conflict,
            Self::Backup { error } => of_backup(error),
            Self::Recovery(error) => of_recovery(error),
            Self::Catalog(error) => of_catalog(error),
            Self::Wal(error) => of_wal(error),
            Self::Pg(error) => of_pg(error),
            Self::Transport(error) => of_transport(error),
            Self::Codec(_) => ErrorKind::Corrupt,
            Self::Hook(_) => ErrorKind::Hook,
            Self::Lock(error) => of_lock(error),
            Self::Resolve(_) => ErrorKind::NotFound,
            Self::Io(error) => of_io(error),
            Self::Cancelled(_) => ErrorKind::Cancelled,
            // A refusal of the catalog's rules.
            _ => ErrorKind::Conflict,
        }
    }

    /// Whether the same call may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_transient(),
            Self::Pg(error) => error.is_transient(),
            other => matches!(other.kind(), ErrorKind::Busy | ErrorKind::Unreachable),
        }
    }
}

fn of_io(error: &IoError) -> ErrorKind {
    match error.kind() {
        IoErrorKind::Denied => ErrorKind::Denied,
        IoErrorKind::NoSpace => ErrorKind::NoSpace,
        IoErrorKind::UnexpectedEof | IoErrorKind::InvalidData => ErrorKind::Corrupt,
        IoErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

fn of_lock(error: &LockError) -> ErrorKind {
    match error {
        LockError::Busy { .. } => ErrorKind::Busy,
        LockError::Cancelled(_) => ErrorKind::Cancelled,
        LockError::Io(error) => of_io(error),
    }
}

fn of_catalog(error: &CatalogError) -> ErrorKind {
    match error {
        CatalogError::NotFound { .. } => ErrorKind::NotFound,
        CatalogError::Corrupt { .. }
        | CatalogError::Damaged { .. }
        | CatalogError::Foreign { .. }
        | CatalogError::Manifest { .. } => ErrorKind::Corrupt,
        CatalogError::Encrypted { .. } => ErrorKind::Unsupported,
        CatalogError::Busy { .. } => ErrorKind::Busy,
        CatalogError::WrongStatus { .. }
        | CatalogError::Exists { .. }
        | CatalogError::Taken { .. }
        | CatalogError::IllegalStatus { .. }
        | CatalogError::MustStay { .. } => ErrorKind::Conflict,
        CatalogError::Lock(error) => of_lock(error),
        CatalogError::Io(error) => of_io(error),
        CatalogError::Cancelled(_) => ErrorKind::Cancelled,
    }
}

fn of_wal(error: &WalError) -> ErrorKind {
    match error {
        WalError::NotFound { .. } => ErrorKind::NotFound,
        WalError::NoSpace { .. } => ErrorKind::NoSpace,
        WalError::Undecodable { .. } => ErrorKind::Unsupported,
        WalError::Lock(error) => of_lock(error),
        WalError::Io(error) => of_io(error),
        WalError::Cancelled(_) => ErrorKind::Cancelled,
        _ => ErrorKind::Corrupt,
    }
}

fn of_transport(error: &TransportError) -> ErrorKind {
    match error {
        TransportError::Unreachable { .. } | TransportError::Lost { .. } => ErrorKind::Unreachable,
        TransportError::HostKey { .. } | TransportError::Denied { .. } => ErrorKind::Denied,
        TransportError::Unsupported { .. } => ErrorKind::Unsupported,
        TransportError::Cancelled(_) => ErrorKind::Cancelled,
        TransportError::File { kind, .. } => match kind {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        },
        TransportError::Sink { source, .. } | TransportError::Source { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        },
        TransportError::Protocol { .. } => ErrorKind::Bug,
    }
}

fn of_pg(error: &PgError) -> ErrorKind {
    if error.is_permission_denied() {
        return ErrorKind::Denied;
    }
    match error {
        PgError::Unreachable { .. }
        | PgError::Timeout { .. }
        | PgError::Lost { .. }
        | PgError::NoServer(_) => ErrorKind::Unreachable,
        PgError::Auth { .. } | PgError::Refused { .. } | PgError::Tls { .. } => ErrorKind::Denied,
        PgError::ConnInfo(_) | PgError::Settings { .. } | PgError::File { .. } => ErrorKind::Config,
        PgError::Cancelled => ErrorKind::Cancelled,
        PgError::Unsupported { .. } => ErrorKind::Unsupported,
        PgError::Protocol { .. } | PgError::Answer { .. } => ErrorKind::Bug,
        _ => ErrorKind::Conflict,
    }
}

fn of_backup(error: &BackupError) -> ErrorKind {
    match error {
        BackupError::Server { source, .. } => of_pg(source),
        BackupError::SessionLost => ErrorKind::Unreachable,
        BackupError::Transfer { source } => of_transport(source),
        BackupError::Identity(_) | BackupError::Source { .. } => ErrorKind::Conflict,
        BackupError::CorruptPages { .. } => ErrorKind::Corrupt,
        BackupError::Catalog(error) => of_catalog(error),
        BackupError::Cancelled(_) => ErrorKind::Cancelled,
        BackupError::Housekeeping { .. } => ErrorKind::Io,
    }
}

fn of_recovery(error: &RecoveryError) -> ErrorKind {
    match error {
        RecoveryError::Plan(plan) => match plan {
            PlanError::Hole { .. }
            | PlanError::NotConsistent { .. }
            | PlanError::BeyondArchive { .. }
            | PlanError::Incomplete { .. }
            | PlanError::NotRestorable { .. } => ErrorKind::Incomplete,
            _ => ErrorKind::Usage,
        },
        RecoveryError::NoRoom { .. } => ErrorKind::NoSpace,
        RecoveryError::Damaged { .. } => ErrorKind::Corrupt,
        RecoveryError::Transport(error) => of_transport(error),
        RecoveryError::Catalog(error) => of_catalog(error),
        RecoveryError::Wal(error) => of_wal(error),
        RecoveryError::Cancelled(_) => ErrorKind::Cancelled,
        _ => ErrorKind::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_decide_whatever_room_they_came_through() {
        let full = || IoError::new("write", "/x", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(ServerError::from(full()).kind(), ErrorKind::NoSpace);
        let through_catalog = BackupError::from(CatalogError::from(full()));
        assert_eq!(ServerError::from(through_catalog).kind(), ErrorKind::NoSpace);
        let lost = TransportError::Unreachable { target: "h".into(), reason: "r".into() };
        let error = ServerError::from(BackupError::Transfer { source: lost });
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.is_transient());
        assert!(!ServerError::Usage("x".into()).is_transient());
    }
}
