//! What is configured but cannot be done yet. Nothing that is configured is ignored in silence: the operation that
//! would need it refuses, the others warn.

use super::server::ServerConfig;
use super::types::Location;
use super::words::BackupMethod;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// A base backup.
    Backup,
    /// Taking WAL into the archive.
    Archive,
    /// Deleting backups or WAL.
    Delete,
    /// A restore.
    Restore,
    /// Receiving WAL over the replication protocol.
    Receive,
    /// Copying from another Barman.
    Sync,
    /// Anything that only looks.
    Look,
}

impl Operation {
    /// Whether what [`refusals`] says stops the operation. Looking and restoring go on, and it is a warning: nobody is
    /// to be kept from getting data back by a configuration. What cannot be done without the option fails by itself.
    pub fn stops(self) -> bool {
        !matches!(self, Self::Look | Self::Restore)
    }
}

/// In Barman's words.
pub(crate) const NO_KEY: &str = "Encryption is set as gpg, but encryption_key_id is unset";

/// One sentence for each configured option that `operation` would need and this version does not have. For
/// [`Operation::Look`]: all that any operation lacks.
pub fn refusals(server: &ServerConfig, operation: Operation) -> Vec<String> {
    use Operation::{Archive, Backup, Delete, Receive, Restore, Sync};
    let options = &server.options;
    let name = &server.name;
    let mut found = Vec::new();
    let mut lacking = |option: &str, value: &str, needed_by: &[Operation]| {
        if operation == Operation::Look || needed_by.contains(&operation) {
            found.push(format!("{option} = {value} of server '{name}' is not available in this version"));
        }
    };
    match options.backup_method {
        BackupMethod::Rsync | BackupMethod::LocalRsync | BackupMethod::Postgres => {}
        method => lacking("backup_method", method.as_str(), &[Backup]),
    }
    if let Location::Cloud(_) = options.basebackups_directory {
        lacking("basebackups_directory", "(a cloud URL)", &[Backup, Delete, Restore]);
    }
    if let Location::Cloud(_) = options.wals_directory {
        lacking("wals_directory", "(a cloud URL)", &[Backup, Archive, Delete, Restore, Receive]);
    }
    if server.is_passive() {
        lacking("primary_ssh_command", "(a passive node)", &[Sync]);
    }
    if options.encryption.is_some()
        && options.encryption_key_id.is_none()
        && matches!(operation, Archive | Operation::Look)
    {
        found.push(format!("{NO_KEY} (server '{name}')"));
    }
    found
}

/// One sentence for each configured option that `operation` carries out in another way than it says. Warnings, never
/// reasons to stop.
pub fn remarks(server: &ServerConfig, operation: Operation) -> Vec<String> {
    let options = &server.options;
    let name = &server.name;
    let mut found = Vec::new();
    if operation != Operation::Backup {
        return found;
    }
    if options.backup_options.exclusive_backup {
        found.push(format!("exclusive_backup of server '{name}' is carried out as a concurrent backup"));
    }
    found
}
