//! `barman lock-directory-cleanup`

use barman_core::io::Locks;

use crate::app::App;
use crate::error::{Failure, explain};

/// Arguments of `lock-directory-cleanup`: none.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments, app: &App) -> Result<(), Failure> {
    let locks = Locks::new(app.config.globals.barman_lock_directory.clone(), app.host.command.clone());
    let removed = locks.cleanup().map_err(|e| Failure::Error(explain(&e)))?;
    app.output.debug(&format!("{removed} locks that nobody held were removed"));
    Ok(())
}
