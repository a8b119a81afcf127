//! `barman backup SERVER …`

use std::time::Duration;

use barman_core::config::ServerConfig;
use barman_core::format::backup_json;
use barman_core::server::BackupOptions;

use crate::app::App;
use crate::error::Failure;

/// Words that mean a backup by its place in the catalog, and so are no names.
const RESERVED: &[&str] =
    &["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto"];

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  barman backup main\n  barman backup main --wait --name before-upgrade\n  \
                        barman backup all --jobs 4\n  barman backup main --incremental latest"
)]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
    /// Ask PostgreSQL for the checkpoint at once.
    #[arg(long, overrides_with = "no_immediate_checkpoint")]
    immediate_checkpoint: bool,
    /// Let PostgreSQL spread the checkpoint.
    #[arg(long)]
    no_immediate_checkpoint: bool,
    /// Take only the blocks that changed since this backup: an id, a name, latest, last-full (PostgreSQL 17 and later).
    #[arg(long, value_name = "BACKUP")]
    incremental: Option<String>,
    /// What becomes of files that did not change: hard links, copies, or a fresh copy of everything.
    #[arg(long, value_name = "MODE", num_args = 0..=1, default_missing_value = "link",
          value_parser = ["copy", "link", "off"])]
    reuse_backup: Option<String>,
    /// How often a copy that broke off is taken up again.
    #[arg(long, value_name = "N")]
    retry_times: Option<u32>,
    /// Seconds between attempts.
    #[arg(long, value_name = "SECONDS")]
    retry_sleep: Option<u32>,
    /// Give up at the first failure.
    #[arg(long, conflicts_with = "retry_times")]
    no_retry: bool,
    /// Parallel workers.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Seconds of a window in which only so many workers start.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    jobs_start_batch_period: Option<u32>,
    /// How many workers may start in a window.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs_start_batch_size: Option<u32>,
    /// Most KiB a second.
    #[arg(long, value_name = "KBPS")]
    bwlimit: Option<u32>,
    /// Wait until the WAL that the backup needs is archived.
    #[arg(short, long)]
    wait: bool,
    /// But not longer than this.
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u32>,
    /// Seconds between signs of life on the backup's connection; 0 for none.
    #[arg(long, value_name = "SECONDS")]
    keepalive_interval: Option<u32>,
    /// A name of your own for the backup.
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Write a backup_manifest.
    #[arg(long, overrides_with = "no_manifest")]
    manifest: bool,
    /// Write none.
    #[arg(long)]
    no_manifest: bool,
    /// Most seconds for the checks before the backup.
    #[arg(long, value_name = "SECONDS")]
    check_timeout: Option<u32>,
}

fn name(text: &str) -> Result<String, String> {
    let is_id = text.parse::<barman_core::model::BackupId>().is_ok();
    if text.is_empty() || is_id || RESERVED.contains(&text) {
        return Err(format!(
            "Backup name '{text}' is not allowed: it is empty, looks like a backup id, or is reserved"
        ));
    }
    Ok(text.to_owned())
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    for server in app.servers(&arguments.server_names) {
        let name = &server.name;
        if !server.is_active() {
            app.output.info(&format!("Skipping inactive server '{name}'"));
            continue;
        }
        if server.is_passive() {
            app.output.info(&format!("Skipping passive server '{name}'"));
            continue;
        }
        if let Err(Failure::Error(text)) = one(arguments, server, app) {
            app.output.error(&text);
        }
        if app.host.cancel.is_cancelled() {
            return Err(Failure::Said);
        }
    }
    Ok(())
}

fn one(arguments: &Arguments, server: &ServerConfig, app: &App) -> Result<(), Failure> {
    let mut config = server.clone();
    for (option, value) in overrides(arguments) {
        config.apply_override(option, &value).map_err(|e| Failure::Error(e.to_string()))?;
    }
    let options = BackupOptions {
        name: arguments.name.clone(),
        wait: arguments.wait,
        wait_timeout: arguments.wait_timeout.map(|s| Duration::from_secs(u64::from(s))),
        incremental: arguments.incremental.clone(),
    };
    let info = app.open(&config)?.backup(&options, &app.ctx())?;
    let clock = app.host.clock.as_ref();
    for (key, value) in backup_json::to_json(&info, &|instant| clock.to_local(instant)) {
        app.output.put(&key, value);
    }
    Ok(())
}

/// Options of the command that stand for options of the configuration.
fn overrides(arguments: &Arguments) -> Vec<(&'static str, String)> {
    let number = |value: Option<u32>| value.map(|v| v.to_string());
    let switch = |on: bool, off: bool| match (on, off) {
        (true, _) => Some("true".to_owned()),
        (false, true) => Some("false".to_owned()),
        (false, false) => None,
    };
    let retry_times = if arguments.no_retry { Some(0) } else { arguments.retry_times };
    [
        ("immediate_checkpoint", switch(arguments.immediate_checkpoint, arguments.no_immediate_checkpoint)),
        ("reuse_backup", arguments.reuse_backup.clone()),
        ("basebackup_retry_times", number(retry_times)),
        ("basebackup_retry_sleep", number(arguments.retry_sleep)),
        ("parallel_jobs", number(arguments.jobs)),
        ("parallel_jobs_start_batch_period", number(arguments.jobs_start_batch_period)),
        ("parallel_jobs_start_batch_size", number(arguments.jobs_start_batch_size)),
        ("bandwidth_limit", number(arguments.bwlimit)),
        ("keepalive_interval", number(arguments.keepalive_interval)),
        ("autogenerate_manifest", switch(arguments.manifest, arguments.no_manifest)),
        ("check_timeout", number(arguments.check_timeout)),
    ]
    .into_iter()
    .filter_map(|(option, value)| Some((option, value?)))
    .collect()
}
