//! `barman-wal-restore`: a `restore_command` that fetches WAL with `barman get-wal` over ssh.

#[path = "../client.rs"]
mod client;
#[path = "../spool.rs"]
mod spool;

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use barman_core::codec::{Algorithm, MAGIC_LEN, decompressor, detect};
use barman_core::io::{Disk, RealDisk};
use barman_core::server::Caller;
use camino::{Utf8Path, Utf8PathBuf};
use clap::Parser;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use barman_core::model::SegmentName;
use client::{Remote, SSH_FAILED, fail, status_of};
use spool::{Cluster, Fetched, Spool};

/// Trouble is met again after each of these pauses before the server is told.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// More of the other side's words than this is not kept.
const LONGEST: u64 = 64 << 10;
/// No WAL file is larger (`IsValidWalSegSize`).
const LARGEST: u64 = 1 << 30;

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
    /// Fetch so many files ahead, at the same time, while the server replays. A process of its own does it, which ends when
    /// nobody has asked for a minute.
    #[arg(short, long, value_name = "JOBS", value_parser = clap::value_parser!(u32).range(..=64))]
    parallel: Option<u32>,
    /// Where files that were fetched ahead wait.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walrestore")]
    spool_dir: Utf8PathBuf,
    /// Be the process that fetches ahead.
    #[arg(long, hide = true)]
    native_prefetch: bool,
    /// How many seconds that process waits for another call.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 60)]
    native_idle: u64,
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
    // PostgreSQL runs it in its data directory.
    let pgdata = std::env::current_dir().ok().and_then(|d| Utf8PathBuf::from_path_buf(d).ok());
    let caller = pgdata.as_deref().map_or(Caller::Unknown, |directory| Caller::of(directory, &RealDisk));
    let cluster = pgdata.as_deref().map(Cluster::of).unwrap_or_default();
    let spool = match arguments.parallel {
        Some(1..) => {
            Spool::open(&arguments.spool_dir, remote, pgdata.as_deref().unwrap_or(Utf8Path::new("/")))
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let spool = match spool {
        Ok(spool) => Some(spool),
        Err(error) => {
            // Without it everything works, only slower.
            if arguments.parallel.is_some_and(|n| n > 0) {
                let _ = writeln!(io::stderr(), "WARNING: nothing is fetched ahead: {error}");
            }
            None
        }
    };
    if arguments.native_prefetch {
        return prefetch(arguments, spool.as_ref(), cluster);
    }
    if let Some(spool) = &spool
        && let Ok(segment) = arguments.wal_name.parse::<SegmentName>()
        && matches!(spool.take(&segment.to_string(), cluster, dest), Ok(true))
    {
        announce(spool, segment, dest);
        return 0;
    }
    let mut pauses = PAUSES.into_iter();
    loop {
        let trouble = match attempt(arguments, cluster) {
            Ok(()) => {
                if let Some(spool) = &spool
                    && let Ok(segment) = arguments.wal_name.parse()
                {
                    announce(spool, segment, dest);
                }
                return 0;
            }
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

/// Says what was delivered, so that what follows is fetched. Trouble with that is none of the server's.
fn announce(spool: &Spool, segment: SegmentName, dest: &Utf8Path) {
    let said = fs::metadata(dest).and_then(|facts| spool.delivered(segment, facts.len()));
    if let Err(error) = said {
        let _ = writeln!(io::stderr(), "WARNING: nothing is fetched ahead: {error}");
    }
}

/// The work of the process that fetches ahead.
fn prefetch(arguments: &Arguments, spool: Option<&Spool>, cluster: Cluster) -> u8 {
    let Some(spool) = spool else { return 2 };
    let (ahead, idle) =
        (arguments.parallel.unwrap_or(1) as usize, Duration::from_secs(arguments.native_idle));
    let done = spool.prefetch(&arguments.remote, ahead, idle, cluster, &|remote, name, file| {
        match fetch(arguments, remote, name, file) {
            // The process works in its spool.
            Ok(()) if unpack(file, Utf8Path::new(".")).is_ok() => Fetched::Plain,
            Err(Trouble::Absent(_)) => Fetched::Absent,
            _ => Fetched::Trouble,
        }
    });
    u8::from(done.is_err()) * 2
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
fn attempt(arguments: &Arguments, cluster: Cluster) -> Result<(), Trouble> {
    let dest = &arguments.wal_dest;
    let cannot =
        |error: io::Error| Trouble::Final(format!("Cannot open '{dest}' (WAL_DEST) for writing: {error}"), 3);
    let directory = dest.parent().filter(|d| !d.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let mut temporary = Temporary::beside(directory, &arguments.wal_name).map_err(cannot)?;
    fetch(arguments, &arguments.remote, &arguments.wal_name, &mut temporary.file)?;
    unpack(&mut temporary.file, directory).map_err(|error| {
        Trouble::Passing(format!("{} cannot be unpacked: {error}", arguments.wal_name), 2)
    })?;
    // Barman sends what it has, sound or not.
    match cluster.verify(&temporary.path, &arguments.wal_name, arguments.partial) {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => {
            let text = format!("The WAL file {} that Barman sent is not sound: {reason}", arguments.wal_name);
            return Err(Trouble::Passing(text, 2));
        }
        Err(error) => return Err(cannot(error)),
    }
    // PostgreSQL syncs what it takes into pg_wal; a crash before that only makes it ask again.
    RealDisk.replace(&temporary.path, dest).map_err(|error| cannot(io::Error::other(error)))
}

/// A file beside the destination. It has the same name whenever the same WAL is asked for, so that what a killed call left is
/// used by the next one; where that name cannot be used it has another. It goes when this is dropped, if it has not become the
/// destination.
struct Temporary {
    path: Utf8PathBuf,
    file: File,
}

impl Temporary {
    fn beside(directory: &Utf8Path, name: &str) -> io::Result<Self> {
        // A name of WAL has no directory in it; others are refused by the other side.
        let name = Utf8Path::new(name).file_name().unwrap_or("file");
        let path = directory.join(format!(".barman-wal-restore-{name}"));
        if let Some(file) = Self::again(&path)? {
            return Ok(Self { path, file });
        }
        let (file, path) =
            tempfile::Builder::new().prefix(".barman-wal-restore-").tempfile_in(directory)?.keep()?;
        let path = Utf8PathBuf::try_from(path).map_err(io::Error::other)?;
        Ok(Self { path, file })
    }

    /// The file of that name, empty; `None` when it is somebody else's, or another call works with it.
    fn again(path: &Utf8Path) -> io::Result<Option<File>> {
        let mut options = fs::OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let file = match options.open(path) {
            Ok(file) => file,
            // Of another user, or a link.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::ACCESS | Errno::PERM | Errno::LOOP)) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Another call may have given it its name meanwhile, or taken it away.
        match fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (file.metadata()?.dev(), file.metadata()?.ino()) => {}
            _ => return Ok(None),
        }
        file.set_len(0)?;
        Ok(Some(file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is not there any more when it has become the destination; another call may have made one of its own.
        let own = self.file.metadata().map(|facts| (facts.dev(), facts.ino())).ok();
        let there = fs::symlink_metadata(&self.path).map(|facts| (facts.dev(), facts.ino())).ok();
        if own.is_some() && own == there {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn fetch(arguments: &Arguments, remote: &Remote, name: &str, to: &mut File) -> Result<(), Trouble> {
    let mut words = vec!["get-wal"];
    let options = [
        (arguments.gzip, "--gzip"),
        (arguments.bzip2, "--bzip2"),
        (arguments.keep_compression, "--keep-compression"),
        // Unfinished segments are for who asks for them now, not for later.
        (arguments.partial && !arguments.native_prefetch, "--partial"),
    ];
    words.extend(options.into_iter().filter_map(|(wanted, option)| wanted.then_some(option)));
    words.extend([remote.server.as_str(), name]);
    let lost = |error: io::Error| Trouble::Passing(format!("ssh got lost: {error}"), 2);
    let mut ssh = remote
        .command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Trouble::Final(format!("ssh cannot be executed: {error}"), 2))?;
    let (out, mut err) = (ssh.stdout.take(), ssh.stderr.take());
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
        // It is closed here, also when there is no room: ssh would wait for ever to be read, and the thread for ssh.
        out.map_or(Ok(0), |mut out| io::copy(&mut out, to))
    });
    let status = status_of(ssh.wait().map_err(lost)?);
    let bytes = copied.map_err(|error| Trouble::Passing(format!("Cannot write the WAL file: {error}"), 2))?;
    match status {
        0 if bytes > 0 => Ok(()),
        0 => Err(Trouble::Passing(format!("The required file is not available: {name}"), 2)),
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

/// What `--keep-compression` and the like bring becomes plain, by way of another file in a directory.
fn unpack(file: &mut File, directory: &Utf8Path) -> io::Result<()> {
    file.rewind()?;
    let mut start = Vec::new();
    Read::by_ref(file).take(MAGIC_LEN as u64).read_to_end(&mut start)?;
    file.rewind()?;
    let algorithm = detect(&start, None).unwrap_or(Algorithm::None);
    if algorithm == Algorithm::None {
        return Ok(());
    }
    let codec = |error: barman_core::codec::CodecError| io::Error::other(error.to_string());
    let packing = decompressor(algorithm, None).map_err(codec)?;
    let reader = BufReader::with_capacity(256 << 10, file.try_clone()?);
    let plain = packing.decoder(Box::new(reader)).map_err(codec)?;
    let mut to = tempfile::tempfile_in(directory)?;
    if io::copy(&mut plain.take(LARGEST + 1), &mut to)? > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any WAL file"));
    }
    to.rewind()?;
    file.rewind()?;
    file.set_len(0)?;
    io::copy(&mut to, file).map(drop)
}
