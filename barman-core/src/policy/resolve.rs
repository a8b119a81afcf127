//! The backup argument of the commands: `latest`, `oldest`, `last-failed`, an id, a name …

use crate::model::{BackupId, BackupInfo, BackupType, ServerName, Status};

/// A backup argument that names no single backup. Display is Barman's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// There is none.
    #[error("Unknown backup '{token}' for server '{server}'")]
    Unknown {
        /// The argument.
        token: String,
        /// The server.
        server: ServerName,
    },
    /// Several backups have the name.
    #[error("Multiple backups found matching name '{name}' (try using backup ID instead): {}", list(ids))]
    Several {
        /// The name.
        name: String,
        /// Their ids, oldest first. (Barman has them in the order of the disk.)
        ids: Vec<BackupId>,
    },
}

fn list(ids: &[BackupId]) -> String {
    ids.iter().map(BackupId::as_str).collect::<Vec<_>>().join(" ")
}

/// The backup that an argument means.
///
/// | token | meaning |
/// |---|---|
/// | `latest`, `last` | newest with complete files (DONE, WAITING_FOR_WALS) |
/// | `oldest`, `first` | oldest such |
/// | `latest-full`, `last-full` | newest such that is neither incremental nor a snapshot |
/// | `last-failed` | newest FAILED |
/// | other | the backup with this id, else the one with this name |
///
/// Newest and oldest go by id. `auto` is a matter of restore and unknown here. Barman takes any part of the word
/// `last-failed` for it; only the whole word is accepted here.
///
/// # Errors
/// [`ResolveError::Unknown`] and, for a name, [`ResolveError::Several`].
pub fn resolve<'a>(
    token: &str,
    server: &ServerName,
    backups: impl IntoIterator<Item = &'a BackupInfo>,
) -> Result<&'a BackupInfo, ResolveError> {
    let mut backups: Vec<&BackupInfo> = backups.into_iter().collect();
    backups.sort_by_key(|b| b.id);
    let available = || backups.iter().copied().filter(|b| b.status.is_available());
    let found = match token {
        "latest" | "last" => available().next_back(),
        "oldest" | "first" => available().next(),
        "latest-full" | "last-full" => available().rfind(|b| is_full(b)),
        "last-failed" => backups.iter().copied().rfind(|b| b.status == Status::Failed),
        _ => match backups.iter().copied().find(|b| b.id.as_str() == token) {
            Some(backup) => Some(backup),
            None => by_name(token, &backups)?,
        },
    };
    found.ok_or_else(|| ResolveError::Unknown { token: token.to_owned(), server: server.clone() })
}

fn is_full(backup: &BackupInfo) -> bool {
    !matches!(backup.backup_type(), BackupType::Incremental | BackupType::Snapshot)
}

fn by_name<'a>(name: &str, backups: &[&'a BackupInfo]) -> Result<Option<&'a BackupInfo>, ResolveError> {
    let named: Vec<&BackupInfo> =
        backups.iter().copied().filter(|b| b.backup_name.as_deref() == Some(name)).collect();
    match named.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        many => {
            Err(ResolveError::Several { name: name.to_owned(), ids: many.iter().map(|b| b.id).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackupMethod;
    use crate::policy::testing::{child, done, id_text, with};

    fn named(mut info: BackupInfo, name: &str) -> BackupInfo {
        info.backup_name = Some(name.to_owned());
        info
    }

    fn catalog() -> Vec<BackupInfo> {
        let mut snapshot = done(9);
        snapshot.mode = Some(BackupMethod::from("snapshot-concurrent"));
        vec![
            with(done(11), Status::Started),
            with(done(1), Status::Failed),
            named(done(2), "weekly"),
            named(done(3), "twin"),
            named(with(done(4), Status::Failed), "twin"),
            done(5),
            with(child(8, 5), Status::WaitingForWals),
            snapshot,
            with(done(10), Status::Failed),
            with(done(12), Status::Empty),
        ]
    }

    #[test]
    fn tokens() {
        let backups = catalog();
        let server: ServerName = "pg".parse().unwrap();
        let by = |token: &str| resolve(token, &server, &backups).map(|b| b.id.to_string());
        for (token, n) in [
            ("latest", 9),
            ("last", 9),
            ("oldest", 2),
            ("first", 2),
            ("latest-full", 5),
            ("last-full", 5),
            ("last-failed", 10),
            (&id_text(1), 1),
            (&id_text(12), 12),
            ("weekly", 2),
        ] {
            assert_eq!(by(token), Ok(id_text(n)), "{token}");
        }
        for token in ["", "auto", "previous", "last-f", "LATEST", "week", "20260101T000099"] {
            assert_eq!(
                by(token).unwrap_err().to_string(),
                format!("Unknown backup '{token}' for server 'pg'"),
                "{token}"
            );
        }
        assert_eq!(
            by("twin").unwrap_err().to_string(),
            "Multiple backups found matching name 'twin' (try using backup ID instead): 20260101T000300 20260101T000400"
        );
    }

    #[test]
    fn an_empty_catalog_has_none() {
        let server: ServerName = "pg".parse().unwrap();
        for token in ["latest", "oldest", "last-full", "last-failed", "x"] {
            assert!(resolve(token, &server, []).is_err(), "{token}");
        }
    }
}
