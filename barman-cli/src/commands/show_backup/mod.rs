//! `barman show-backup SERVER BACKUP`

mod console;
mod json;

use crate::app::App;
use crate::error::Failure;

/// What both forms say instead of a neighbour.
const OLDEST: &str = "- (this is the oldest base backup)";
const LATEST: &str = "- (this is the latest base backup)";
/// What stands for the verdict where no policy is enforced.
const NOT_ENFORCED: &str = "not enforced";

/// Arguments of `show-backup`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  barman show-backup main latest\n  barman -f json show-backup main 20261122T214528"
)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, latest, oldest …
    backup_id: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let server = app.open(app.server(&arguments.server_name)?)?;
    let overview = server.overview_of(&arguments.backup_id, &app.ctx())?;
    let backup = overview.resolve(&arguments.backup_id, &server)?;
    let shown = server.shown(&overview, backup)?;
    if app.output.is_json() {
        app.output.put(server.name().as_str(), json::document(&shown));
    } else {
        console::lines(server.name().as_str(), &shown).iter().for_each(|line| app.output.print(line));
    }
    Ok(())
}
