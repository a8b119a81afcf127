//! `cargo xtask bench`: the criterion benches, then whole commands of the release program against `cp`, codecs' own
//! programs and the original Barman.

use std::process::Command;

use barman_testkit::{Error, Result, oracle, os};
use camino::{Utf8Path, Utf8PathBuf};

#[path = "bench_backup.rs"]
mod backup;
#[path = "bench_catalog.rs"]
mod catalog;
#[path = "bench_chain.rs"]
mod chain;
#[path = "bench_clients.rs"]
mod clients;
mod measure;
#[path = "bench_stream.rs"]
mod stream;
#[path = "bench_wal.rs"]
mod wal;

use measure::Row;

pub(crate) const USAGE: &str = "\
  bench [OPTIONS] [-- FILTER]   setup, then the criterion benches (those that match) and the whole-command benches
        --size-mb N    how large the cluster is (200; real figures need 2200)
        --rounds N     how often everybody runs (3)
        --segments N   how many WAL segments are archived (40; real figures need 200)
        --only NAME    only backup, stream, chain, wal, catalog, clients, receive or components
        --seconds N    how long the receiver is followed (20; real figures need 120)
        --barman PATH  this program instead of the release build of this workspace
        --no-oracle    without the original Barman
        --no-setup     without a look at what is installed
";

/// What the user asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) size_mb: u64,
    pub(crate) rounds: usize,
    pub(crate) segments: u64,
    seconds: u64,
    only: Option<String>,
    program: Option<Utf8PathBuf>,
    pub(crate) oracle: bool,
    /// Whether what the benches need is installed first.
    pub(crate) setup: bool,
}

impl Options {
    /// Nothing when an argument is wrong.
    pub(crate) fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self {
            size_mb: 200,
            rounds: 3,
            segments: 40,
            seconds: 20,
            only: None,
            program: None,
            oracle: true,
            setup: true,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--size-mb" => options.size_mb = rest.next()?.parse().ok()?,
                "--rounds" => options.rounds = rest.next()?.parse().ok()?,
                "--segments" => options.segments = rest.next()?.parse().ok()?,
                "--seconds" => options.seconds = rest.next()?.parse().ok()?,
                "--only" => options.only = Some((*rest.next()?).to_owned()),
                "--barman" => options.program = Some((*rest.next()?).into()),
                "--no-oracle" => options.oracle = false,
                "--no-setup" => options.setup = false,
                _ => return None,
            }
        }
        Some(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

/// Runs them. `cargo` makes a command of cargo.
pub(crate) fn run(options: &Options, filter: &[String], cargo: impl Fn(&[&str]) -> Command) -> Result<()> {
    if options.wants("components") {
        let mut components = cargo(&["bench", "--package", "barman-benches", "--"]);
        components.args(filter);
        visible(components)?;
    }
    if !["backup", "stream", "chain", "wal", "catalog", "clients", "receive"]
        .iter()
        .any(|part| options.wants(part))
    {
        return Ok(());
    }
    let program = match &options.program {
        Some(program) => program.clone(),
        None => {
            visible(cargo(&["build", "--release", "--package", "barman-cli", "--bins"]))?;
            release_program()?
        }
    };
    let options = Options { oracle: options.oracle && oracle::Barman::find().is_some(), ..options.clone() };
    if !options.oracle {
        println!("without the original Barman");
    }
    let mut rows: Vec<Row> = Vec::new();
    if options.wants("catalog") {
        rows.extend(catalog::run(&options, &program)?);
    }
    if options.wants("wal") {
        rows.extend(wal::run(&options, &program)?);
    }
    if options.wants("clients") {
        rows.extend(clients::run(&options, &program)?);
    }
    if options.wants("receive") {
        clients::receive(options.seconds, &program)?;
    }
    if options.wants("backup") {
        rows.extend(backup::run(&options, &program)?);
    }
    if options.wants("stream") {
        rows.extend(stream::run(&options, &program)?);
    }
    if options.wants("chain") {
        rows.extend(chain::run(&options, &program)?);
    }
    println!("\nMedians of {} rounds; every ratio is taken within one round.", options.rounds);
    measure::print(&rows, true);
    Ok(())
}

fn release_program() -> Result<Utf8PathBuf> {
    let target = std::env::var("CARGO_TARGET_DIR")
        .map_or_else(|_| Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), Utf8PathBuf::from);
    let program = target.join("release/barman");
    program.canonicalize_utf8().map_err(|source| Error::Spawn { program: program.into_string(), source })
}

/// Runs a command on this terminal.
fn visible(mut command: Command) -> Result<()> {
    let program = format!("{command:?}");
    println!("+ {program}");
    let status = command.status().map_err(|source| Error::Spawn { program: program.clone(), source })?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Program { program, status, output: "see above".into() })
    }
}

/// Runs a line of shell to its end; not measured.
pub(crate) fn shell(line: &str) -> Result<()> {
    os::run(Command::new("sh").args(["-c", line])).map(drop)
}
