//! `barman import-backup SERVER TARBALL`

use camino::Utf8PathBuf;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `import-backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman import-backup main \
                  /srv/exports/backup-export-main-20261128T003203-20261128T003214-86ba652e.tar")]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The archive that export-backup wrote, under its name.
    tarball: Utf8PathBuf,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let server = app.open(config)?;
    let tarball = &arguments.tarball;
    server.check_import(tarball)?;
    app.output.info(&format!("Importing backup from '{tarball}' to server '{}'", config.name));
    let info = server.import_backup(tarball, &app.ctx()).map_err(Failure::transfer)?;
    app.output.info(&format!("Successfully imported backup '{}' into server '{}'", info.id, config.name));
    Ok(())
}
