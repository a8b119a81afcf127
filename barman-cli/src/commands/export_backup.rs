//! `barman export-backup SERVER BACKUP DIRECTORY`

use barman_core::codec::Algorithm;
use barman_core::server::ExportOptions;
use camino::Utf8PathBuf;

use crate::app::App;
use crate::commands::diagnose;
use crate::error::Failure;

/// Arguments of `export-backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman export-backup main latest /srv/exports\n  \
                  barman export-backup --compression gzip main latest /srv/exports")]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, latest, oldest …
    backup_id: String,
    /// Where the archive goes.
    output_directory: Utf8PathBuf,
    /// How the archive is packed.
    #[arg(long, value_name = "ALGORITHM", value_parser = ["gzip", "bzip2", "xz"])]
    compression: Option<String>,
    /// How hard it is packed.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    compression_level: Option<i32>,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let server = app.open(config)?;
    let backup = server.resolve(&arguments.backup_id, &app.ctx())?;
    let options = ExportOptions {
        directory: arguments.output_directory.clone(),
        compression: arguments.compression.as_deref().map(|word| match word {
            "gzip" => Algorithm::Gzip,
            "bzip2" => Algorithm::Bzip2,
            _ => Algorithm::Xz,
        }),
        level: arguments.compression_level,
        about: diagnose::system_info(app),
    };
    server.check_export(&backup, &options)?;
    app.output.info(&format!(
        "Exporting backup '{}' from server '{}' to '{}'",
        arguments.backup_id, config.name, options.directory
    ));
    let path = server.export_backup(&backup, &options, &app.ctx()).map_err(Failure::transfer)?;
    app.output.info(&format!("Export completed successfully: {path}"));
    Ok(())
}
