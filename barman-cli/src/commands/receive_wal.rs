//! `barman receive-wal SERVER`

use barman_core::server::{Reset, ServerError};

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::{Failure, explain};

/// Arguments of `receive-wal`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without options WAL is received until the command is interrupted; 'barman cron' starts it where \
                        streaming_archiver is on. It needs a login with the REPLICATION attribute (streaming_conninfo), \
                        and should have a replication slot (slot_name), so that the server keeps the WAL that is still \
                        to be received."
)]
pub(crate) struct Arguments {
    /// Stop the process that receives the WAL of this server.
    #[arg(long)]
    stop: bool,
    /// Begin anew where the slot keeps WAL from, or else where the server stands.
    #[arg(long)]
    reset: bool,
    /// Create the replication slot that slot_name names.
    #[arg(long, conflicts_with = "drop_slot")]
    create_slot: bool,
    /// With --create-slot: do nothing if the slot is there already.
    #[arg(long, requires = "create_slot")]
    if_not_exists: bool,
    /// Drop the replication slot that slot_name names.
    #[arg(long)]
    drop_slot: bool,
    /// The server.
    server_name: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let out = &app.output;
    if arguments.stop && arguments.reset {
        return Err(Failure::Error("--stop and --reset options are not compatible".to_owned()));
    }
    let config = app.server(&arguments.server_name)?;
    let name = &config.name;
    let manages = arguments.stop || arguments.reset || arguments.create_slot || arguments.drop_slot;
    if !manages && skipped(config, app) {
        return Ok(());
    }
    let server = app.open(config)?;
    if arguments.stop {
        let pid = server.terminate("receive-wal", &app.ctx())?;
        out.info(&format!("Stopped process receive-wal({pid})"));
        return Ok(());
    }
    if let Some(text) = server.wal_overrides() {
        out.info(&text);
    }
    if arguments.create_slot {
        let (slot, made) = server.create_slot(arguments.if_not_exists, &app.ctx())?;
        out.info(&if made {
            format!("Replication slot '{slot}' created")
        } else {
            format!(
                "Replication slot '{slot}' already exists and --if-not-exists was specified. Skipping creation"
            )
        });
    } else if arguments.drop_slot {
        let slot = server.drop_slot(&app.ctx())?;
        out.info(&format!("Replication slot '{slot}' dropped"));
    } else if arguments.reset {
        match server.reset_receiver(&app.ctx())? {
            Reset::Aligned => out.info("Nothing to do. Position of receive-wal is aligned."),
            Reset::Moved { removed, created } => {
                out.info("Resetting receive-wal directory status");
                if let Some(removed) = removed {
                    out.info(&format!("Removing status file {removed}"));
                }
                out.info(&format!("Creating status file {created}"));
            }
        }
    } else {
        return match server.receive_wal(&app.ctx()) {
            // One is enough: whoever starts a second one by hand wants to know that it runs, and which process it is.
            Err(error @ ServerError::ReceiverRunning { .. }) => Err(Failure::Error(explain(&error))),
            Err(error) => Err(error.into()),
            Ok(()) => {
                out.info(&format!("Stopped receive-wal for server {name}"));
                Ok(())
            }
        };
    }
    Ok(())
}
