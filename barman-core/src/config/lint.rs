//! What is configured but cannot be done yet. Nothing that is configured is ignored in silence: the operation that
//! would need it refuses, the others warn.

use super::schema::ServerOptions;
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
    /// Whether [`refusals`] stop the operation; else they are warnings. Looking goes on, and so does a restore, except
    /// that what it needs itself (a hook, the cloud) is refused where it comes to it.
    pub fn stops(self) -> bool {
        !matches!(self, Self::Look | Self::Restore)
    }
}

/// One sentence for each configured option that `operation` would need and this version does not have.
pub fn refusals(server: &ServerConfig, operation: Operation) -> Vec<String> {
    let mut missing = Vec::new();
    let options = &server.options;
    let mut lacking = |option: &str, value: &str| {
        missing
            .push(format!("{option} = {value} is not available in this version (server '{}')", server.name));
    };
    let touches_backups = !matches!(operation, Operation::Archive | Operation::Receive);
    let touches_wal = true;
    if matches!(operation, Operation::Backup) {
        match options.backup_method {
            BackupMethod::Rsync | BackupMethod::LocalRsync => {}
            other => lacking("backup_method", other.as_str()),
        }
    }
    if touches_backups && let Location::Cloud(url) = &options.basebackups_directory {
        lacking("basebackups_directory", url);
    }
    if touches_wal && let Location::Cloud(url) = &options.wals_directory {
        lacking("wals_directory", url);
    }
    if options.encryption.is_some() {
        lacking("encryption", "gpg");
    }
    if options.streaming_archiver
        && matches!(operation, Operation::Receive | Operation::Backup | Operation::Archive)
    {
        lacking("streaming_archiver", "on");
    }
    if server.is_passive() && matches!(operation, Operation::Sync) {
        lacking("primary_ssh_command", options.primary_ssh_command.as_deref().unwrap_or_default());
    }
    if options.worm_mode && matches!(operation, Operation::Delete | Operation::Backup) {
        lacking("worm_mode", "on");
    }
    for (option, script) in hooks(options, operation) {
        if let Some(script) = script {
            lacking(option, script);
        }
    }
    missing
}

/// The scripts that Barman would run around an operation. A backup deletes old WAL, and archiving may be part of a
/// backup, but each script is asked for only where it would run for sure.
fn hooks(options: &ServerOptions, operation: Operation) -> Vec<(&'static str, Option<&str>)> {
    macro_rules! scripts {
        ($($name:ident),+) => { vec![$((stringify!($name), options.$name.as_deref())),+] };
    }
    match operation {
        Operation::Backup => scripts![
            pre_backup_script,
            pre_backup_retry_script,
            post_backup_script,
            post_backup_retry_script,
            pre_wal_delete_script,
            pre_wal_delete_retry_script,
            post_wal_delete_script,
            post_wal_delete_retry_script
        ],
        Operation::Archive => scripts![
            pre_archive_script,
            pre_archive_retry_script,
            post_archive_script,
            post_archive_retry_script
        ],
        Operation::Delete => scripts![
            pre_delete_script,
            pre_delete_retry_script,
            post_delete_script,
            post_delete_retry_script,
            pre_wal_delete_script,
            pre_wal_delete_retry_script,
            post_wal_delete_script,
            post_wal_delete_retry_script
        ],
        Operation::Restore => scripts![
            pre_recovery_script,
            pre_recovery_retry_script,
            post_recovery_script,
            post_recovery_retry_script
        ],
        Operation::Receive | Operation::Sync | Operation::Look => Vec::new(),
    }
}
