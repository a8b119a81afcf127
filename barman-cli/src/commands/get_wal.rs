//! `barman get-wal SERVER WAL`: the `restore_command` of a server on this host, or of `barman-wal-restore` over ssh.

use barman_core::model::WalFileName;
use barman_core::server::{Caller, Server, ServerError};
use barman_core::wal::{Packing, Request};
use camino::Utf8PathBuf;

use crate::app::App;
use crate::error::{Failure, explain};

/// Barman's status for what is wrong with the arguments.
const BAD_REQUEST: u8 = 3;

/// Arguments of `get-wal`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 sent; 1 not in the archive; 3 a bad name, or the output cannot be opened. To a server \
    in archive recovery that runs this as its restore_command any trouble but 'not in the archive' is 126, so that \
    recovery stops and does not end early.\n\n\
    Example, in postgresql.conf:\n  restore_command = 'barman get-wal -P main %f > %p'"
)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The WAL file.
    wal_name: String,
    /// Write it into this directory, under its name, in place of stdout.
    #[arg(short, long, value_name = "DIRECTORY")]
    output_directory: Option<Utf8PathBuf>,
    /// An unfinished segment will do.
    #[arg(short = 'P', long)]
    partial: bool,
    /// Compress it with gzip.
    #[arg(short = 'z', short_alias = 'x', long, overrides_with = "bzip2")]
    gzip: bool,
    /// Compress it with bzip2.
    #[arg(short = 'j', long, overrides_with = "gzip")]
    bzip2: bool,
    /// Send it as it is stored.
    #[arg(long)]
    keep_compression: bool,
    /// Print the names of at most so many files from this one on that are there.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    peek: Option<u32>,
    /// Only see whether the server could be asked.
    #[arg(short, long)]
    test: bool,
}

/// Why it ended without the file.
enum Ended {
    /// It is not in the archive: to a server in recovery the end of the WAL.
    Absent(String),
    /// Anything else, with the status that Barman has for it.
    Trouble(Failure, u8),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Trouble(failure, 1)
    }
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    match attempt(arguments, app) {
        Ok(()) => Ok(()),
        Err(Ended::Absent(text)) => Err(Failure::Status(text, 1)),
        Err(Ended::Trouble(failure, usual)) => {
            // Whatever is said of it, interruption included.
            app.output.exit_with(trouble_status(usual));
            match failure {
                Failure::Error(text) => {
                    app.output.error(&text);
                    Err(Failure::Said)
                }
                other => Err(other),
            }
        }
    }
}

/// The exit status for trouble, as the server that runs this must understand it (I25).
pub(crate) fn trouble_status(usual: u8) -> u8 {
    let here = std::env::current_dir().ok().and_then(|d| Utf8PathBuf::from_path_buf(d).ok());
    here.map_or(Caller::Unknown, |d| Caller::of(&d, &barman_core::io::RealDisk)).trouble_status(usual)
}

fn attempt(arguments: &Arguments, app: &App) -> Result<(), Ended> {
    let config = app.server(&arguments.server_name)?;
    let server = app.open(config)?;
    let name = &config.name;
    if arguments.test {
        app.output.info(&format!("Ready to retrieve WAL files from the server {name}"));
        return Ok(());
    }
    let (wal, from) = (&arguments.wal_name, caller_host());
    let bad = |text: String| Ended::Trouble(Failure::Error(text), BAD_REQUEST);
    let file: WalFileName =
        wal.parse().map_err(|_| bad(format!("'{wal}' is not a valid wal file name{from}")))?;
    if let Some(count) = arguments.peek {
        let names = server.peek_wal(&file, count as usize).map_err(Failure::from)?;
        names.iter().for_each(|name| app.output.print(&name.to_string()));
        return Ok(());
    }
    let request = Request { name: file, partial: arguments.partial, packing: packing(arguments)? };
    let outcome = match &arguments.output_directory {
        None => to_stdout(&server, &request, app),
        Some(directory) => {
            let path = directory.join(wal);
            app.output.info(&format!("Sending WAL '{wal}' for server '{name}' into '{path}' file{from}"));
            server.get_wal_into(&request, directory, &app.ctx())
        }
    };
    outcome.map(drop).map_err(|error| match error {
        absent if absent.is_absent_wal() => {
            Ended::Absent(format!("WAL file '{wal}' not found in server '{name}'{from}"))
        }
        output @ ServerError::Output { .. } => bad(output.to_string()),
        other => Ended::Trouble(Failure::Error(explain(&other)), 1),
    })
}

fn to_stdout(server: &Server, request: &Request, app: &App) -> Result<barman_core::wal::Served, ServerError> {
    // The bytes are the result; no document may follow them.
    let served = server.get_wal(request, &mut std::io::stdout().lock(), &app.ctx())?;
    app.output.no_document();
    Ok(served)
}

fn packing(arguments: &Arguments) -> Result<Packing, Failure> {
    let asked = [(arguments.gzip, "gzip", Packing::Gzip), (arguments.bzip2, "bzip2", Packing::Bzip2)];
    match asked.into_iter().find(|(given, ..)| *given) {
        Some((_, word, _)) if arguments.keep_compression => {
            Err(Failure::Error(format!("argument `{word}` not allowed with argument `keep-compression`")))
        }
        Some((.., packing)) => Ok(packing),
        None if arguments.keep_compression => Ok(Packing::AsStored),
        None => Ok(Packing::Plain),
    }
}

/// Who asks over ssh, for messages.
#[allow(clippy::disallowed_methods, reason = "the environment of the process is read here, for a message")]
pub(crate) fn caller_host() -> String {
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let host = connection.split_whitespace().next();
    host.map(|host| format!(" (SSH host: {host})")).unwrap_or_default()
}
