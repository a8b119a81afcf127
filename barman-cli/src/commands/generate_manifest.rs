//! `barman generate-manifest SERVER BACKUP`

use barman_core::catalog::CatalogError;
use barman_core::server::ServerError;

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `generate-manifest`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman generate-manifest main latest")]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, latest, oldest …
    backup_id: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    if skipped(config, app) {
        return Ok(());
    }
    let server = app.open(config)?;
    let backup = server.resolve(&arguments.backup_id, &app.ctx())?;
    server.generate_manifest(&backup.id, &app.ctx()).map_err(|error| match error {
        ServerError::Catalog(exists @ CatalogError::Exists { .. }) => Failure::Exception(exists.to_string()),
        other => other.into(),
    })?;
    app.output.info(&format!(
        "Backup manifest for backup '{}' successfully generated for server ['{}']",
        arguments.backup_id, config.name
    ));
    Ok(())
}
