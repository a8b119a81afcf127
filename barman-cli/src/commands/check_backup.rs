//! `barman check-backup SERVER BACKUP`

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `check-backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup.
    backup_id: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    if skipped(config, app) {
        return Ok(());
    }
    let server = app.open(config)?;
    let backup = server.resolve(&arguments.backup_id, &app.ctx())?;
    server.check_backup(&backup.id, &app.ctx())?;
    Ok(())
}
