//! The commands, a file each: arguments, one call into the library, and how its result is drawn.

mod archive_wal;
mod backup;
mod generated;
mod later;
mod list_backups;
mod list_files;
mod list_servers;
mod restore;
mod show_backup;

use clap::Subcommand;

use crate::app::App;
use crate::error::Failure;

/// Every command word of Barman. Those of later versions are known and refuse.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Move WAL files that have come in to the archive.
    ArchiveWal(archive_wal::Arguments),
    /// Take a backup of one or more servers.
    Backup(backup::Arguments),
    /// List the backups of one or more servers.
    #[command(visible_alias = "list-backup")]
    ListBackups(list_backups::Arguments),
    /// List the files of a backup.
    ListFiles(list_files::Arguments),
    /// List the configured servers.
    #[command(visible_alias = "list-server")]
    ListServers(list_servers::Arguments),
    /// Restore a backup, to its end or to a point in time.
    #[command(visible_alias = "recover")]
    Restore(restore::Arguments),
    /// Show a backup.
    #[command(visible_alias = "show-backups")]
    ShowBackup(show_backup::Arguments),

    /// Print a completion script for a shell.
    #[command(hide = true)]
    NativeCompletions(generated::Completions),
    /// Write manual pages into a directory.
    #[command(hide = true)]
    NativeMan(generated::Man),

    /// Check that a backup has all its WAL (not in this version).
    #[command(hide = true)]
    CheckBackup(later::Arguments),
    /// Check a server's archive before its first use (not in this version).
    #[command(hide = true)]
    CheckWalArchive(later::Arguments),
    /// Archive WAL to the cloud (not in this version).
    #[command(hide = true)]
    CloudWalArchive(later::Arguments),
    /// Restore WAL from the cloud (not in this version).
    #[command(hide = true)]
    CloudWalRestore(later::Arguments),
    /// Apply a configuration model (not in this version).
    #[command(hide = true)]
    ConfigSwitch(later::Arguments),
    /// Change configuration options (not in this version).
    #[command(hide = true)]
    ConfigUpdate(later::Arguments),
    /// Collect diagnostic information (not in this version).
    #[command(hide = true)]
    Diagnose(later::Arguments),
    /// Export a backup (not in this version).
    #[command(hide = true)]
    ExportBackup(later::Arguments),
    /// Generate a backup manifest (not in this version).
    #[command(hide = true)]
    GenerateManifest(later::Arguments),
    /// Import a backup (not in this version).
    #[command(hide = true)]
    ImportBackup(later::Arguments),
    /// Receive WAL over the replication protocol (not in this version).
    #[command(hide = true)]
    ReceiveWal(later::Arguments),
    /// Show the clients of replication (not in this version).
    #[command(hide = true)]
    ReplicationStatus(later::Arguments),
    /// Copy a backup from another Barman (not in this version).
    #[command(hide = true)]
    SyncBackup(later::Arguments),
    /// Tell another Barman what there is (not in this version).
    #[command(hide = true)]
    SyncInfo(later::Arguments),
    /// Copy WAL from another Barman (not in this version).
    #[command(hide = true)]
    SyncWals(later::Arguments),
    /// Verify the files of a backup (not in this version).
    #[command(hide = true, alias = "verify")]
    VerifyBackup(later::Arguments),
}

/// Runs a command that needs no configuration; `None` for all others.
pub(crate) fn run_without_configuration(command: &Command) -> Option<Result<(), Failure>> {
    match command {
        Command::NativeCompletions(arguments) => Some(generated::completions(arguments)),
        Command::NativeMan(arguments) => Some(generated::man(arguments)),
        _ => None,
    }
}

/// Runs a command.
pub(crate) fn run(command: Command, app: &App) -> Result<(), Failure> {
    match command {
        Command::ArchiveWal(arguments) => archive_wal::run(&arguments, app),
        Command::Backup(arguments) => backup::run(&arguments, app),
        Command::ListBackups(arguments) => list_backups::run(&arguments, app),
        Command::ListFiles(arguments) => list_files::run(&arguments, app),
        Command::ListServers(arguments) => list_servers::run(&arguments, app),
        Command::Restore(arguments) => restore::run(&arguments, app),
        Command::ShowBackup(arguments) => show_backup::run(&arguments, app),
        Command::CheckBackup(_) => later::refuse("check-backup"),
        Command::NativeCompletions(arguments) => generated::completions(&arguments),
        Command::NativeMan(arguments) => generated::man(&arguments),
        Command::CheckWalArchive(_) => later::refuse("check-wal-archive"),
        Command::CloudWalArchive(_) => later::refuse("cloud-wal-archive"),
        Command::CloudWalRestore(_) => later::refuse("cloud-wal-restore"),
        Command::ConfigSwitch(_) => later::refuse("config-switch"),
        Command::ConfigUpdate(_) => later::refuse("config-update"),
        Command::Diagnose(_) => later::refuse("diagnose"),
        Command::ExportBackup(_) => later::refuse("export-backup"),
        Command::GenerateManifest(_) => later::refuse("generate-manifest"),
        Command::ImportBackup(_) => later::refuse("import-backup"),
        Command::ReceiveWal(_) => later::refuse("receive-wal"),
        Command::ReplicationStatus(_) => later::refuse("replication-status"),
        Command::SyncBackup(_) => later::refuse("sync-backup"),
        Command::SyncInfo(_) => later::refuse("sync-info"),
        Command::SyncWals(_) => later::refuse("sync-wals"),
        Command::VerifyBackup(_) => later::refuse("verify-backup"),
    }
}
