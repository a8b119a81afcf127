//! `barman list-files SERVER BACKUP`

use barman_core::server::FileTarget;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `list-files`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  barman list-files main latest\n  barman list-files --target full main latest"
)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, latest, oldest …
    backup_id: String,
    /// Which files: those of the backup (data), its WAL (wal), both (full), or what a restore needs at least.
    #[arg(long, value_name = "TARGET", default_value = "standalone",
          value_parser = ["standalone", "data", "wal", "full"])]
    target: String,
    /// Directories with nothing in them, too.
    #[arg(long)]
    list_empty_directories: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let server = app.open(app.server(&arguments.server_name)?)?;
    let overview = server.overview(&app.ctx())?;
    let backup = overview.resolve(&arguments.backup_id, &server)?;
    let target: FileTarget = arguments.target.parse().unwrap_or_default();
    for path in server.backup_files(&overview, backup, target, arguments.list_empty_directories)? {
        app.output.result(path.as_str());
    }
    Ok(())
}
