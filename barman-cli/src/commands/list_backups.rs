//! `barman list-backups SERVER …`

use barman_core::config::ServerConfig;
use barman_core::format::text::pretty_size;
use barman_core::format::timestamp;
use barman_core::model::Status;
use barman_core::policy::retention::RetentionStatus;
use barman_core::server::ListedBackup;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::Failure;

/// Arguments of `list-backups`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman list-backups main\n  barman list-backups --minimal all")]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
    /// Ids only.
    #[arg(long)]
    minimal: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    app.each(&arguments.server_names, |config| one(arguments, config, app))
}

fn one(arguments: &Arguments, config: &ServerConfig, app: &App) -> Result<(), Failure> {
    let server = app.open(config)?;
    let name = config.name.as_str();
    app.output.put(name, json!([]));
    if arguments.minimal {
        let ids = server.backup_ids(&app.ctx())?;
        ids.iter().for_each(|id| app.output.print(id.as_str()));
        app.output.put(name, ids.iter().map(|id| json!(id.as_str())).collect());
        return Ok(());
    }
    let overview = server.overview(&app.ctx())?;
    let mut list = Vec::new();
    for listed in overview.newest_first() {
        app.output.print(&line(name, &listed));
        if app.output.is_json() {
            list.push(member(&listed));
        }
    }
    app.output.put(name, Value::Array(list));
    Ok(())
}

/// `SERVER ID[ 'NAME'] - T - CTIME - Size: X - WAL Size: Y[ - WAITING_FOR_WALS][ - RETENTION]`
fn line(server: &str, listed: &ListedBackup<'_>) -> String {
    let backup = listed.backup;
    let kind = backup.backup_type().as_str();
    let letter = kind.get(..1).unwrap_or_default().to_uppercase();
    let name = backup.backup_name.as_deref().map(|name| format!(" '{name}'")).unwrap_or_default();
    let mut line = format!("{server} {}{name} - {letter} - ", backup.id);
    if !backup.status.is_available() {
        return line + backup.status.as_str();
    }
    line += &format!(
        "{} - Size: {} - WAL Size: {}",
        backup.end_time.map(timestamp::ctime).unwrap_or_default(),
        pretty_size(listed.size()),
        pretty_size(listed.wal.until_next.bytes)
    );
    if backup.status == Status::WaitingForWals {
        line += &format!(" - {}", backup.status);
    }
    if let Some(retention) = shown(listed) {
        line += &format!(" - {retention}");
    }
    line
}

/// What the policy says, where it is worth a word.
fn shown(listed: &ListedBackup<'_>) -> Option<RetentionStatus> {
    listed.retention.filter(|status| !matches!(status, RetentionStatus::Valid | RetentionStatus::None))
}

fn member(listed: &ListedBackup<'_>) -> Value {
    let backup = listed.backup;
    let mut member = json!({
        "backup_id": backup.id.as_str(),
        "backup_type": backup.backup_type().as_str(),
        "status": backup.status.as_str(),
    });
    if let Some(name) = &backup.backup_name {
        member["backup_name"] = json!(name);
    }
    if backup.status.is_available() {
        member["end_time"] = json!(backup.end_time.map(timestamp::ctime));
        member["end_time_timestamp"] = json!(backup.end_time.map(|t| t.unix_timestamp().to_string()));
        member["size"] = json!(pretty_size(listed.size()));
        member["size_bytes"] = json!(listed.size());
        member["wal_size"] = json!(pretty_size(listed.wal.until_next.bytes));
        member["wal_size_bytes"] = json!(listed.wal.until_next.bytes);
        member["retention_status"] = json!(shown(listed).unwrap_or(RetentionStatus::None).as_str());
    }
    member
}
