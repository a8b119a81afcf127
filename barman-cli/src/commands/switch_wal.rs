//! `barman switch-wal SERVER …`

use std::time::Duration;

use barman_core::config::ServerConfig;
use barman_core::server::Switch;

use crate::app::App;
use crate::commands::active::skipped;
use crate::commands::archive_wal;
use crate::error::Failure;

/// Arguments of `switch-wal`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
    /// Write a checkpoint first, so that there is a segment to close.
    #[arg(long)]
    force: bool,
    /// Wait until the segment is archived.
    #[arg(long)]
    archive: bool,
    /// Most seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    archive_timeout: u32,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    // Those that are left out are named first, as by Barman.
    let mut servers = app.servers(&arguments.server_names);
    servers.retain(|config| !skipped(config, app));
    for config in servers {
        if config.is_passive() {
            app.output.info(&format!("Skipping passive server '{}'", config.name));
            continue;
        }
        match one(arguments, config, app) {
            Err(Failure::Error(text)) => app.output.error(&text),
            other => other?,
        }
    }
    Ok(())
}

fn one(arguments: &Arguments, config: &ServerConfig, app: &App) -> Result<(), Failure> {
    let (name, out) = (&config.name, &app.output);
    let server = app.open(config)?;
    let switch = server.switch_wal(arguments.force, &app.ctx())?;
    let wanted = match switch {
        Switch::Closed(wal) => {
            out.info(&format!("The WAL file {wal} has been closed on server '{name}'"));
            Some(wal)
        }
        Switch::NotRequired => {
            out.info(&format!("No switch required for server '{name}'"));
            None
        }
        Switch::Standby => {
            out.info(&format!("No switch performed because server '{name}' is a standby."));
            None
        }
    };
    if !arguments.archive {
        return Ok(());
    }
    let seconds = arguments.archive_timeout;
    out.info(&match wanted {
        Some(wal) => format!("Waiting for the WAL file {wal} from server '{name}' (max: {seconds} seconds)"),
        None => {
            format!("Waiting for a WAL file from server '{name}' to be archived (max: {seconds} seconds)")
        }
    });
    let limit = Duration::from_secs(u64::from(seconds));
    let arrived = server.wait_archived(
        wanted,
        limit,
        &mut |outcome| archive_wal::draw(name.as_str(), outcome, app),
        &app.ctx(),
    )?;
    match wanted {
        _ if arrived => {}
        Some(wal) => out.error(&format!("The WAL file {wal} has not been received in {seconds} seconds")),
        None => out.info(&format!("A WAL file has not been received in {seconds} seconds")),
    }
    Ok(())
}
