//! `barman list-processes SERVER` and `barman terminate-process SERVER TASK`

use serde_json::json;

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `list-processes`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// The server.
    server_name: String,
}

pub(crate) fn list(arguments: &ListArguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    if skipped(config, app) {
        return Ok(());
    }
    let name = &config.name;
    let processes = app.open(config)?.processes()?;
    if processes.is_empty() {
        app.output.print(&format!("No active subprocesses found for server {name}."));
    } else {
        app.output.print(&format!("Active subprocesses for server {name}:"));
    }
    for process in &processes {
        let pid = process.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        app.output.print(&format!("{pid} {}", process.task));
        app.output.debug(&format!("{}: {}", process.task, process.description));
    }
    let members = processes.iter().map(|p| json!({"name": p.task, "pid": p.pid})).collect();
    app.output.put(name.as_str(), members);
    Ok(())
}

/// Arguments of `terminate-process`.
#[derive(Debug, clap::Args)]
pub(crate) struct TerminateArguments {
    /// The server.
    server_name: String,
    /// What to end: backup, cron, archive-wal, receive-wal, sync-wal or sync-backup.
    task_name: String,
}

pub(crate) fn terminate(arguments: &TerminateArguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    if skipped(config, app) {
        return Ok(());
    }
    let task = &arguments.task_name;
    let pid = app.open(config)?.terminate(task, &app.ctx())?;
    app.output.info(&format!("Stopped process {task}({pid})"));
    Ok(())
}
