//! Commands of Barman that this version knows by name only.

use crate::error::Failure;

/// Whatever follows the command word.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Ignored, since the command refuses.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Says that the command is not there yet.
pub(crate) fn refuse(command: &str) -> Result<(), Failure> {
    Err(Failure::Error(format!("The command '{command}' is not available in this version")))
}
