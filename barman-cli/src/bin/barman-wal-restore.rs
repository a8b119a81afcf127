//! `barman-wal-restore`: a `restore_command` that fetches WAL with `barman get-wal` over ssh.

#[path = "../client.rs"]
mod client;

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use barman_core::codec::{Algorithm, MAGIC_LEN, decompressor, detect};
use barman_core::io::RealDisk;
use barman_core::server::Caller;
use camino::{Utf8Path, Utf8PathBuf};
use clap::Parser;

use client::{Remote, SSH_FAILED, fail, status_of};

/// Trouble is met again after each of these pauses before the server is told.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// More of the other side's words than this is not kept.
const LONGEST: u64 = 64 << 10;

/// Fetch a WAL file from Barman: restore_command = 'barman-wal-restore BARMAN_HOST SERVER_NAME %f %p'.
#[derive(Debug, Parser)]
#[command(
    name = "barman-wal-restore",
    version = client::VERSION,
    disable_version_flag = true,
    after_help = "Exit status: 0 when the file is there; 1 when Barman has no such file; 2 when it could not be fetched, 3 when \
                  WAL_DEST cannot be written. A server in archive recovery takes any status up to 125 for the end of the WAL: \
                  to it, trouble is 126, so that it stops and can be started again. WAL_DEST is not touched before the \
                  whole file is there."
)]
struct Arguments {
    #[command(flatten)]
    remote: Remote,
    /// Print the version and end.
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Wait so many seconds after a failure.
    #[arg(short, long, value_name = "SECONDS")]
    sleep: Option<u64>,
    /// How many files to fetch at a time. This version fetches one a call, whatever is given.
    #[arg(short, long, value_name = "JOBS")]
    parallel: Option<u32>,
    /// Where files that were fetched ahead would wait; not used by this version.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walrestore")]
    spool_dir: Utf8PathBuf,
    /// Take the unfinished last segment of a lost primary, too.
    #[arg(short = 'P', long)]
    partial: bool,
    /// Deprecated: compress with gzip on the way.
    #[arg(short = 'z', long, conflicts_with_all = ["bzip2", "keep_compression"])]
    gzip: bool,
    /// Deprecated: compress with bzip2 on the way.
    #[arg(short = 'j', long, conflicts_with = "keep_compression")]
    bzip2: bool,
    /// Send the file as it is stored and unpack it here.
    #[arg(long)]
    keep_compression: bool,
    /// Only see whether Barman can be asked.
    #[arg(short, long)]
    test: bool,
    /// The name of the WAL file; what PostgreSQL puts in place of %f.
    #[arg(value_name = "WAL_NAME")]
    wal_name: String,
    /// Where to put it; what PostgreSQL puts in place of %p.
    #[arg(value_name = "WAL_DEST")]
    wal_dest: Utf8PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let status = run(&arguments);
    if let Some(seconds) = arguments.sleep.filter(|_| status != 0) {
        let _ = writeln!(io::stdout(), "Sleeping for {seconds} seconds.");
        pause(Duration::from_secs(seconds));
    }
    ExitCode::from(status)
}

#[allow(clippy::disallowed_methods, reason = "a command of its own: nobody else could cancel this pause")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn run(arguments: &Arguments) -> u8 {
    let remote = &arguments.remote;
    if arguments.test {
        return client::test(remote, &["get-wal", "--test", &remote.server, &arguments.wal_name]);
    }
    for (used, option) in [(arguments.gzip, "-z"), (arguments.bzip2, "-j")] {
        if used {
            let _ = writeln!(io::stdout(), "WARNING: {option} is deprecated, use --keep-compression instead");
        }
    }
    let dest = &arguments.wal_dest;
    if dest.is_dir() {
        return fail(&format!("WAL_DEST cannot be a directory: {dest}"), 3);
    }
    let caller = match std::env::current_dir().ok().and_then(|d| Utf8PathBuf::from_path_buf(d).ok()) {
        Some(directory) => Caller::of(&directory, &RealDisk),
        None => Caller::Unknown,
    };
    let mut pauses = PAUSES.into_iter();
    loop {
        let trouble = match attempt(arguments) {
            Ok(()) => return 0,
            Err(trouble) => trouble,
        };
        match trouble {
            Trouble::Absent(said) => {
                let _ = io::stderr().write_all(said.as_bytes());
                return fail("Remote 'barman get-wal' command has failed!", 1);
            }
            Trouble::Final(text, status) => return fail(&text, caller.trouble_status(status)),
            Trouble::Passing(text, status) => match pauses.next() {
                Some(length) => pause(length),
                None => return fail(&text, caller.trouble_status(status)),
            },
        }
    }
}

/// Why a file could not be fetched, and the status that says so.
enum Trouble {
    /// Barman answered, and has no such file.
    Absent(String),
    /// It will not get better.
    Final(String, u8),
    /// It may get better.
    Passing(String, u8),
}

/// One login: the file goes to a name beside the destination, and under that of the destination when all of it is there.
fn attempt(arguments: &Arguments) -> Result<(), Trouble> {
    let dest = &arguments.wal_dest;
    let cannot =
        |error: io::Error| Trouble::Final(format!("Cannot open '{dest}' (WAL_DEST) for writing: {error}"), 3);
    let directory = dest.parent().filter(|d| !d.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let mut packed =
        tempfile::Builder::new().prefix(".barman-wal-restore-").tempfile_in(directory).map_err(cannot)?;
    fetch(arguments, packed.as_file_mut())?;
    let unpacked = unpack(packed.path(), directory).map_err(|error| {
        Trouble::Passing(format!("{} cannot be unpacked: {error}", arguments.wal_name), 2)
    })?;
    // PostgreSQL syncs what it takes into pg_wal; a crash before that only makes it ask again.
    unpacked.unwrap_or(packed).persist(dest).map(drop).map_err(|error| cannot(error.error))
}

fn fetch(arguments: &Arguments, to: &mut File) -> Result<(), Trouble> {
    let remote = &arguments.remote;
    let mut words = vec!["get-wal"];
    let options = [
        (arguments.gzip, "--gzip"),
        (arguments.bzip2, "--bzip2"),
        (arguments.keep_compression, "--keep-compression"),
        (arguments.partial, "--partial"),
    ];
    words.extend(options.into_iter().filter_map(|(wanted, option)| wanted.then_some(option)));
    words.extend([remote.server.as_str(), &arguments.wal_name]);
    let lost = |error: io::Error| Trouble::Passing(format!("ssh got lost: {error}"), 2);
    let mut ssh = remote
        .command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Trouble::Final(format!("ssh cannot be executed: {error}"), 2))?;
    let (mut out, mut err) = (ssh.stdout.take(), ssh.stderr.take());
    let mut said = String::new();
    let copied = std::thread::scope(|scope| {
        let said = &mut said;
        scope.spawn(move || {
            let mut bytes = Vec::new();
            if let Some(err) = &mut err {
                // Read to its end, so that nobody waits; the beginning is kept.
                let _ = err.by_ref().take(LONGEST).read_to_end(&mut bytes);
                let _ = io::copy(err, &mut io::sink());
            }
            *said = String::from_utf8_lossy(&bytes).into_owned();
        });
        out.as_mut().map_or(Ok(0), |out| io::copy(out, to))
    });
    // Where there is no room, the other side would never be read to its end.
    drop(out);
    let status = status_of(ssh.wait().map_err(lost)?);
    let bytes = copied.map_err(|error| Trouble::Passing(format!("Cannot write the WAL file: {error}"), 2))?;
    match status {
        0 if bytes > 0 => Ok(()),
        0 => Err(Trouble::Passing(format!("The required file is not available: {}", arguments.wal_name), 2)),
        SSH_FAILED => Err(Trouble::Passing("Connection problem with ssh".to_owned(), 2)),
        1 if said.contains("not found in server") => Err(Trouble::Absent(said)),
        status => {
            let text = format!("{}\nERROR: Remote 'barman get-wal' command has failed!", said.trim_end());
            let text = text.strip_prefix("ERROR: ").unwrap_or(&text).to_owned();
            let status = u8::try_from(status).unwrap_or(2);
            // A name that is none, and an unknown server, stay so.
            let hopeless = status == 3 || said.contains("Unknown server");
            Err(if hopeless { Trouble::Final(text, status) } else { Trouble::Passing(text, status) })
        }
    }
}

/// What `--keep-compression` and the like bring is unpacked into another file beside it; `None` for a plain one.
fn unpack(path: &std::path::Path, directory: &Utf8Path) -> io::Result<Option<tempfile::NamedTempFile>> {
    let mut packed = File::open(path)?;
    let mut start = Vec::new();
    Read::by_ref(&mut packed).take(MAGIC_LEN as u64).read_to_end(&mut start)?;
    let algorithm = detect(&start, None).unwrap_or(Algorithm::None);
    if algorithm == Algorithm::None {
        return Ok(None);
    }
    let codec = |error: barman_core::codec::CodecError| io::Error::other(error.to_string());
    let reader = BufReader::with_capacity(256 << 10, fs::File::open(path)?);
    let packing = decompressor(algorithm, None).map_err(codec)?;
    let mut plain = packing.decoder(Box::new(reader)).map_err(codec)?;
    let mut to = tempfile::Builder::new().prefix(".barman-wal-restore-").tempfile_in(directory)?;
    io::copy(&mut plain, to.as_file_mut())?;
    drop(plain);
    Ok(Some(to))
}
