//! `barman put-wal SERVER`: takes what `barman-wal-archive` sends.

use crate::app::App;
use crate::error::Failure;

/// Arguments of `put-wal`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// Only see whether the server would take WAL.
    #[arg(short, long)]
    test: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let name = &config.name;
    if !config.is_active() {
        return Err(Failure::Error(format!("Inactive server: {name}")));
    }
    if config.is_passive() {
        return Err(Failure::Error(format!("The passive server '{name}' takes no WAL files")));
    }
    let server = app.open(config)?;
    if arguments.test {
        server.may_put_wal(&app.ctx())?;
        app.output.info(&format!("Ready to accept WAL files for the server {name}"));
        return Ok(());
    }
    let delivery = server.put_wal(&mut std::io::stdin().lock(), &app.ctx())?;
    for (wal, aside) in &delivery.conflicts {
        // Barman exits with 0 here, and PostgreSQL believes that its file is archived.
        app.output.error(&format!(
            "{wal} is already present in server {name} with another content. The file was moved to {aside}"
        ));
    }
    Ok(())
}
