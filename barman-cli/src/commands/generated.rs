//! `barman native-completions` and `barman native-man`: what packagers install beside the command.

use std::io::Write;

use camino::Utf8PathBuf;
use clap::CommandFactory;

use crate::args::Arguments as Whole;
use crate::error::Failure;

/// Arguments of `native-completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Arguments of `native-man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Where the pages are written: barman.1, and one for each command.
    directory: Utf8PathBuf,
}

/// Prints a completion script to stdout.
pub(crate) fn completions(arguments: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Whole::command(), "barman", &mut script);
    // A reader that went away is no failure.
    let _ = std::io::stdout().write_all(&script);
    Ok(())
}

/// Writes the manual pages.
pub(crate) fn man(arguments: &Man) -> Result<(), Failure> {
    clap_mangen::generate_to(Whole::command(), &arguments.directory)
        .map_err(|e| Failure::Error(format!("Cannot write manual pages to {}: {e}", arguments.directory)))
}
