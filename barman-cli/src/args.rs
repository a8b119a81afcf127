//! The command line: global options, and the table of commands.

use std::io::Write;
use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};

use crate::commands::Command;

/// What `barman --version` prints: the version of Barman that this command is compatible with comes first, as scripts
/// expect.
pub(crate) const VERSION: &str =
    concat!("3.19.1 Barman-compatible, by barman-rs ", env!("CARGO_PKG_VERSION"));

/// Backup and recovery manager for PostgreSQL.
#[derive(Debug, Parser)]
#[command(
    name = "barman",
    version = VERSION,
    disable_version_flag = true,
    infer_long_args = true,
    max_term_width = 110,
    after_help = "Global options come before the command: 'barman -q cron'. \
                  'barman COMMAND --help' explains a command."
)]
pub(crate) struct Arguments {
    /// Print the version and end.
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Configuration file. Default: $BARMAN_CONFIG_FILE, else the first of ~/.barman.conf, /etc/barman.conf,
    /// /etc/barman/barman.conf.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<Utf8PathBuf>,
    /// Whether to use colours.
    #[arg(long, visible_alias = "colour", value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
    /// Level of the log, in place of the configured one.
    #[arg(long, value_name = "LEVEL", value_parser = ["NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])]
    pub(crate) log_level: Option<String>,
    /// Print warnings and errors only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print messages for those who look for a fault, too.
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Console)]
    pub(crate) format: Format,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// See [`Arguments::color`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// Never.
    Never,
    /// Always.
    Always,
    /// When stdout and stderr are terminals.
    Auto,
}

/// See [`Arguments::format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Console,
    /// One JSON object.
    Json,
}

/// Reads the process's arguments. What ends here (help, version, a usage error) has been printed.
pub(crate) fn parse() -> Result<Arguments, ExitCode> {
    let given: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // Without a command, and for `help`, Barman prints its help and is content.
    let wants_help = given.len() < 2 || given.get(1).is_some_and(|a| a == "help");
    let parsed = if wants_help {
        Arguments::try_parse_from(["barman", "--help"])
    } else {
        Arguments::try_parse_from(given)
    };
    parsed.map_err(|error| {
        if error.kind() == ErrorKind::DisplayVersion {
            // As Barman: the version first, without the program's name.
            let _ = writeln!(std::io::stdout(), "{VERSION}");
            return ExitCode::SUCCESS;
        }
        // A reader that went away is no failure.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => ExitCode::SUCCESS,
            _ => ExitCode::from(2),
        }
    })
}
