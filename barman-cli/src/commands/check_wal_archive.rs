//! `barman check-wal-archive SERVER`

use serde_json::json;

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `check-wal-archive`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only WAL of this timeline and of later ones is in the way.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    timeline: Option<u32>,
    /// The server.
    server_name: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    if skipped(config, app) {
        return Ok(());
    }
    let name = &config.name;
    let server = app.open(config)?;
    app.output.print(&format!("Server {name}:"));
    app.output.put(name.as_str(), json!({}));
    server.check_wal_archive(arguments.timeline)?;
    let passed = format!("WAL archive check for server {name} passed");
    app.output.print(&format!(" - {passed}"));
    app.output.put(name.as_str(), json!(passed));
    Ok(())
}
