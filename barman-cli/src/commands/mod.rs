//! The commands, a file each: arguments, one call into the library, and how its result is drawn.

mod active;
mod archive_wal;
mod backup;
mod check;
mod check_backup;
mod check_wal_archive;
mod config_switch;
mod cron;
mod delete;
mod detach;
mod diagnose;
mod export_backup;
mod generate_manifest;
mod generated;
mod get_wal;
mod import_backup;
mod keep;
mod later;
mod list_backups;
mod list_files;
mod list_servers;
mod native_commits;
mod native_wal;
mod lock_directory_cleanup;
mod plan;
mod processes;
mod put_wal;
mod receive_wal;
mod rebuild_xlogdb;
mod replication_status;
mod restore;
mod restore_plan;
mod restore_staging;
mod show_backup;
mod show_servers;
mod status;
mod switch_wal;
mod verify_backup;

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
    /// Check what backups and WAL archiving need.
    Check(check::Arguments),
    /// Check that a backup has all its WAL.
    CheckBackup(check_backup::Arguments),
    /// Check that the archive of a server is empty, before its first use.
    CheckWalArchive(check_wal_archive::Arguments),
    /// Put a configuration model over a server's configuration.
    ConfigSwitch(config_switch::Arguments),
    /// Do what is due for all servers; to be run every minute.
    Cron(cron::Arguments),
    /// Delete a backup and the WAL that nobody needs any more.
    Delete(delete::Arguments),
    /// Print all there is to know, for whoever looks for a fault.
    Diagnose(diagnose::Arguments),
    /// Write a full backup with the WAL that it needs into one archive.
    ExportBackup(export_backup::Arguments),
    /// Write the backup_manifest of a backup that has none.
    GenerateManifest(generate_manifest::Arguments),
    /// Send a WAL file to stdout or into a directory.
    GetWal(get_wal::Arguments),
    /// Take a backup in that export-backup wrote.
    ImportBackup(import_backup::Arguments),
    /// Keep a backup from retention and deletion.
    Keep(keep::Arguments),
    /// List the processes that work for a server.
    #[command(visible_alias = "list-process")]
    ListProcesses(processes::ListArguments),
    /// List the backups of one or more servers.
    #[command(visible_alias = "list-backup")]
    ListBackups(list_backups::Arguments),
    /// List the files of a backup.
    ListFiles(list_files::Arguments),
    /// List the configured servers.
    #[command(visible_alias = "list-server")]
    ListServers(list_servers::Arguments),
    /// Remove locks that nobody holds.
    LockDirectoryCleanup(lock_directory_cleanup::Arguments),
    /// Take WAL files that barman-wal-archive sends.
    PutWal(put_wal::Arguments),
    /// Receive WAL over the replication protocol, and manage its slot.
    ReceiveWal(receive_wal::Arguments),
    /// Make the index of the WAL archive anew from its files.
    RebuildXlogdb(rebuild_xlogdb::Arguments),
    /// Show who streams from one or more servers.
    ReplicationStatus(replication_status::Arguments),
    /// Restore a backup, to its end or to a point in time.
    #[command(visible_alias = "recover")]
    Restore(Box<restore::Arguments>),
    /// Show a backup.
    #[command(visible_alias = "show-backups")]
    ShowBackup(show_backup::Arguments),
    /// Show the configuration and the state of one or more servers.
    #[command(visible_alias = "show-server")]
    ShowServers(show_servers::Arguments),
    /// Show how one or more servers are.
    Status(status::Arguments),
    /// Close the current WAL segment of a server.
    #[command(visible_alias = "switch-xlog")]
    SwitchWal(switch_wal::Arguments),
    /// End a process that works for a server.
    TerminateProcess(processes::TerminateArguments),
    /// Compare every byte of a backup with what was stored, and judge its WAL.
    #[command(visible_alias = "verify")]
    VerifyBackup(verify_backup::Arguments),

    /// Show what the WAL archive holds, where it has holes, and what can be restored.
    NativeWal(native_wal::View),
    /// Show which transactions ended when, and what they dropped.
    NativeCommits(native_commits::Arguments),
    /// List, retry or remove files that the WAL archive did not take.
    NativeErrors(native_wal::Errors),

    /// Print a completion script for a shell.
    #[command(hide = true)]
    NativeCompletions(generated::Completions),
    /// Write manual pages into a directory.
    #[command(hide = true)]
    NativeMan(generated::Man),

    /// Archive WAL to the cloud (not in this version).
    #[command(hide = true)]
    CloudWalArchive(later::Arguments),
    /// Restore WAL from the cloud (not in this version).
    #[command(hide = true)]
    CloudWalRestore(later::Arguments),
    /// Change configuration options (not in this version).
    #[command(hide = true)]
    ConfigUpdate(later::Arguments),
    /// Copy a backup from another Barman (not in this version).
    #[command(hide = true)]
    SyncBackup(later::Arguments),
    /// Tell another Barman what there is (not in this version).
    #[command(hide = true)]
    SyncInfo(later::Arguments),
    /// Copy WAL from another Barman (not in this version).
    #[command(hide = true)]
    SyncWals(later::Arguments),
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
        Command::Check(arguments) => check::run(&arguments, app),
        Command::CheckBackup(arguments) => check_backup::run(&arguments, app),
        Command::ConfigSwitch(arguments) => config_switch::run(&arguments, app),
        Command::Cron(arguments) => cron::run(&arguments, app),
        Command::Delete(arguments) => delete::run(&arguments, app),
        Command::Diagnose(arguments) => diagnose::run(&arguments, app),
        Command::ExportBackup(arguments) => export_backup::run(&arguments, app),
        Command::ImportBackup(arguments) => import_backup::run(&arguments, app),
        Command::GenerateManifest(arguments) => generate_manifest::run(&arguments, app),
        Command::GetWal(arguments) => get_wal::run(&arguments, app),
        Command::Keep(arguments) => keep::run(&arguments, app),
        Command::ListProcesses(arguments) => processes::list(&arguments, app),
        Command::LockDirectoryCleanup(arguments) => lock_directory_cleanup::run(&arguments, app),
        Command::PutWal(arguments) => put_wal::run(&arguments, app),
        Command::RebuildXlogdb(arguments) => rebuild_xlogdb::run(&arguments, app),
        Command::CheckWalArchive(arguments) => check_wal_archive::run(&arguments, app),
        Command::ReplicationStatus(arguments) => replication_status::run(&arguments, app),
        Command::ReceiveWal(arguments) => receive_wal::run(&arguments, app),
        Command::SwitchWal(arguments) => switch_wal::run(&arguments, app),
        Command::TerminateProcess(arguments) => processes::terminate(&arguments, app),
        Command::VerifyBackup(arguments) => verify_backup::run(&arguments, app),
        Command::ListServers(arguments) => list_servers::run(&arguments, app),
        Command::Restore(arguments) => restore::run(&arguments, app),
        Command::ListBackups(arguments) => list_backups::run(&arguments, app),
        Command::ListFiles(arguments) => list_files::run(&arguments, app),
        Command::ShowBackup(arguments) => show_backup::run(&arguments, app),
        Command::ShowServers(arguments) => show_servers::run(&arguments, app),
        Command::Status(arguments) => status::run(&arguments, app),
        Command::NativeWal(arguments) => native_wal::view(&arguments, app),
        Command::NativeCommits(arguments) => native_commits::run(&arguments, app),
        Command::NativeErrors(arguments) => native_wal::errors(&arguments, app),
        Command::NativeCompletions(arguments) => generated::completions(&arguments),
        Command::NativeMan(arguments) => generated::man(&arguments),
        Command::CloudWalArchive(_) => later::refuse("cloud-wal-archive"),
        Command::CloudWalRestore(_) => later::refuse("cloud-wal-restore"),
        Command::ConfigUpdate(_) => later::refuse("config-update"),
        Command::SyncBackup(_) => later::refuse("sync-backup"),
        Command::SyncInfo(_) => later::refuse("sync-info"),
        Command::SyncWals(_) => later::refuse("sync-wals"),
    }
}

/// The exit status when a command cannot even begin: where that means something to whoever runs it, another than 1.
pub(crate) fn early_status(command: &Command) -> u8 {
    match command {
        Command::GetWal(_) => get_wal::trouble_status(1),
        _ => 1,
    }
}
