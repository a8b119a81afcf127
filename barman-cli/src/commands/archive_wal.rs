//! `barman archive-wal SERVER`

use barman_core::server::{ArchiveOutcome, ArchiverRun};
use barman_core::wal::TakenHow;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `archive-wal`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let name = &config.name;
    if !config.is_active() {
        app.output.info(&format!("Skipping inactive server '{name}'"));
        return Ok(());
    }
    if config.is_passive() {
        app.output.info(&format!("Skipping passive server '{name}'"));
        return Ok(());
    }
    let outcome = app.open(config)?.archive_wal(&app.ctx())?;
    draw(name.as_str(), &outcome, app);
    Ok(())
}

/// What an archiver did, in Barman's words.
pub(crate) fn draw(name: &str, outcome: &ArchiveOutcome, app: &App) {
    let out = &app.output;
    if let Some(holder) = &outcome.busy {
        out.info(&format!(
            "Another archive-wal process is already running on server {name}. Skipping to the next server"
        ));
        out.info(&format!("DETAILS: {holder}"));
        return;
    }
    outcome.runs.iter().for_each(|run| draw_run(name, run, app));
}

fn draw_run(name: &str, run: &ArchiverRun, app: &App) {
    let out = &app.output;
    out.info(&format!("Processing xlog segments from {} for {name}", run.source));
    if run.files.is_empty() {
        out.info("\tno file found");
    }
    for taken in &run.files {
        let wal = taken.name;
        match &taken.how {
            TakenHow::Archived(_) | TakenHow::Known | TakenHow::Growing => {}
            TakenHow::Replaced(_) => {
                out.warning(&format!(
                    "{wal} replaces an unsound file of that name, which was moved to the errors directory"
                ));
            }
            TakenHow::Conflict { .. } => {
                out.info(&format!(
                    "\tError: {wal} is already present in server {name}. File moved to errors directory."
                ));
            }
            TakenHow::Refused { aside, reason } => {
                out.warning(&format!("{wal} is not a sound WAL file and was moved to {aside}: {reason}"));
            }
            TakenHow::Failed { reason } => {
                out.error(&format!("{wal} could not be archived and stays where it is: {reason}"));
            }
        }
        if matches!(taken.how, TakenHow::Archived(_) | TakenHow::Replaced(_)) {
            out.info(&format!("\t{wal}"));
        }
    }
    if !run.unknown.is_empty() {
        out.info(&format!(
            "Some unknown objects have been found while processing xlog segments for {name}. \
             Objects moved to errors directory:"
        ));
        for (object, _) in &run.unknown {
            out.info(&format!("\t{object}"));
        }
    }
}
