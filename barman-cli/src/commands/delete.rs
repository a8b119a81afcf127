//! `barman delete SERVER BACKUP`

use serde_json::json;

use crate::app::App;
use crate::commands::plan;
use crate::error::Failure;

/// Arguments of `delete`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  barman delete main 20261122T214528\n  barman delete --native-dry-run main oldest"
)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, oldest, latest, last-failed.
    backup_id: String,
    /// Show what would go and why, and what stays and why; do nothing.
    #[arg(long)]
    native_dry_run: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let server = app.open(config)?;
    let backup = server.resolve(&arguments.backup_id, &app.ctx())?;
    if arguments.native_dry_run {
        let found = server.plan_delete(backup.id, &app.ctx())?;
        let lines = plan::lines(&found);
        lines.iter().for_each(|line| app.output.print(line));
        app.output.put("native_plan", json!(lines));
        return Ok(());
    }
    server.delete(backup.id, &app.ctx())?;
    Ok(())
}
