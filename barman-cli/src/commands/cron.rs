//! `barman cron`: the maintenance of all servers, run every minute.

use barman_core::config::{Operation, ServerConfig, refusals};
use barman_core::io::Locks;
use barman_core::server::CronStart;

use crate::app::App;
use crate::commands::detach::Detached;
use crate::error::{Failure, explain};

/// Arguments of `cron`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave stdout and stderr to the processes that are started.
    #[arg(long)]
    keep_descriptors: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let detached = Detached::new(app, arguments.keep_descriptors)?;
    if !app.config.conflicts.is_empty() {
        app.config.conflicts.iter().for_each(|text| app.output.error(text));
        return Err(Failure::Said);
    }
    queue(app);
    for config in app.config.servers.values() {
        let name = &config.name;
        if !config.is_active() {
            app.output.info(&format!("Skipping inactive server '{name}'"));
        } else if config.is_disabled() {
            app.output.info(&format!("Skipping temporarily disabled server '{name}'"));
        } else {
            // What fails for one server is said, and the others have their turn.
            match one(config, &detached, app) {
                Err(Failure::Error(text)) => app.output.error(&format!(
                    "Unable to run cron on server '{name}', please look in the barman log file for more details.\n\
                     DETAILS: {text}"
                )),
                other => other?,
            }
        }
        if app.host.cancel.is_cancelled() {
            return Err(Failure::Said);
        }
    }
    if app.config.globals.lock_directory_cleanup {
        let locks = Locks::new(app.config.globals.barman_lock_directory.clone(), app.host.command.clone());
        locks.cleanup().map_err(|e| Failure::Error(explain(&e)))?;
    }
    Ok(())
}

fn one(config: &ServerConfig, detached: &Detached, app: &App) -> Result<(), Failure> {
    let (name, out) = (&config.name, &app.output);
    let server = app.open(config)?;
    let _guard = match server.begin_cron(&app.ctx())? {
        CronStart::Ours(guard) => guard,
        CronStart::Busy(holder) => {
            out.info(&format!(
                "Another cron process is already running on server {name}. Skipping to the next server"
            ));
            out.info(&format!("DETAILS: {holder}"));
            return Ok(());
        }
    };
    if config.is_passive() {
        let texts = refusals(config, Operation::Sync);
        texts.iter().for_each(|text| out.error(text));
        return Ok(());
    }
    let stops = refusals(config, Operation::Archive);
    if stops.is_empty() {
        if server.archive_is_due()? {
            out.info(&format!("Starting WAL archiving for server {name}"));
            detached.start(&["archive-wal", name.as_str()])?;
        }
        if server.receiver_is_due()? {
            out.info(&format!("Starting streaming archiver for server {name}"));
            detached.start(&["receive-wal", name.as_str()])?;
        } else if let Some(pid) = server.stop_unwanted_receiver(&app.ctx())? {
            out.info(&format!("Stopped process receive-wal({pid})"));
        }
    } else {
        stops.iter().for_each(|text| out.error(text));
    }
    if let Some(id) = server.oldest_waiting()? {
        out.info(&format!("Starting check-backup for backup {id} of server {name}"));
        detached.start(&["check-backup", name.as_str(), id.as_str()])?;
    }
    server.enforce_retention(&app.ctx())?;
    Ok(())
}

/// Changes of the configuration that Barman's `config-update` left behind are not carried out here.
fn queue(app: &App) {
    let path = &app.config.globals.config_changes_queue;
    let waiting = app.host.disk.read_text(path).unwrap_or_default();
    if !matches!(waiting.trim(), "" | "[]") {
        app.output.warning(&format!(
            "The configuration changes that wait in {path} are not applied by this version"
        ));
    }
}
