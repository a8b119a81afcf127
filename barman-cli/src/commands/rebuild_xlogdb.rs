//! `barman rebuild-xlogdb SERVER …`

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `rebuild-xlogdb`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    // Those that are left out are named first, as by Barman.
    let mut servers = app.servers(&arguments.server_names);
    servers.retain(|config| !skipped(config, app));
    for config in servers {
        let name = &config.name;
        let outcome = app.open(config).and_then(|server| {
            app.output.info(&format!("Rebuilding xlogdb for server {name}"));
            Ok(server.rebuild_index(&app.ctx())?)
        });
        match outcome {
            Ok(found) => {
                app.output.info(&format!(
                    "Done rebuilding xlogdb for server {name} (history: {}, backup_labels: {}, wal_file: {})",
                    found.history, found.backup_labels, found.segments
                ));
            }
            Err(Failure::Error(text)) => app.output.error(&text),
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
