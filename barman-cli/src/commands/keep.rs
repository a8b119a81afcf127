//! `barman keep SERVER BACKUP`

use barman_core::catalog::Catalog;
use barman_core::model::Keep;
use clap::ValueEnum;
use serde_json::json;

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `keep`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  barman keep main 20261122T214528 --target standalone\n  barman keep main latest --status"
)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup.
    backup_id: String,
    /// Let retention have it again.
    #[arg(short, long)]
    release: bool,
    /// Say whether it is kept.
    #[arg(short, long)]
    status: bool,
    /// Keep it with all WAL after it, or with only the WAL that makes it consistent.
    #[arg(long)]
    target: Option<Target>,
}

/// See [`Arguments::target`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// With all WAL after it.
    Full,
    /// With the WAL that makes it consistent.
    Standalone,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    if !arguments.release && !arguments.status && arguments.target.is_none() {
        return Err(Failure::Error(
            "one of the arguments -r/--release -s/--status --target is required".to_owned(),
        ));
    }
    let config = app.server(&arguments.server_name)?;
    if skipped(config, app) {
        return Ok(());
    }
    let server = app.open(config)?;
    let backup = server.resolve(&arguments.backup_id, &app.ctx())?;
    if arguments.status {
        let kept = server.catalog().kept(&backup.id).map_err(|e| Failure::Error(e.to_string()))?;
        let word = kept.map_or("nokeep", |keep| keep.as_str());
        app.output.print(&format!("Server {}:", config.name));
        app.output.print(&format!("\tKeep: {word}"));
        let status = json!({"keep_status": {"description": "Keep", "message": word}});
        app.output.put(config.name.as_str(), status);
        return Ok(());
    }
    match arguments.target {
        _ if arguments.release => server.release(&backup.id)?,
        Some(Target::Full) => server.keep(&backup.id, Keep::Full)?,
        Some(Target::Standalone) => server.keep(&backup.id, Keep::Standalone)?,
        None => {}
    }
    Ok(())
}
