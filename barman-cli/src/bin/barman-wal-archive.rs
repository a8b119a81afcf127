//! `barman-wal-archive`: an `archive_command` that sends WAL to `barman put-wal` over ssh.

#[path = "../client.rs"]
mod client;
#[path = "../look_ahead.rs"]
mod look_ahead;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use barman_core::codec::{CodecError, Level, Method, compressor};
use barman_core::model::FileTime;
use barman_core::wal::{Parcel, ParcelSums};
use camino::{Utf8Path, Utf8PathBuf};
use clap::Parser;

use client::{Remote, SSH_FAILED, fail, status_of};
use look_ahead::Markers;

/// No exit status: what was sent along may have been the reason of a failure.
const TRY_ALONE: u8 = 254;
/// Further files are sent along as long as no more time than this has passed.
const SPARE: Duration = Duration::from_secs(2);
/// Bytes packed at a time; each piece is a frame of its own, as the archive has them.
const FRAME: u64 = 16 << 20;

/// Send a WAL file to Barman: archive_command = 'barman-wal-archive BARMAN_HOST SERVER_NAME %p'.
#[derive(Debug, Parser)]
#[command(
    name = "barman-wal-archive",
    version = client::VERSION,
    disable_version_flag = true,
    after_help = "Exit status: 0 when Barman has the file safely on its disk; 2 when it could not be sent, 3 when ssh \
                  could not connect, else that of 'barman put-wal'. PostgreSQL keeps the file and tries again unless it is 0."
)]
struct Arguments {
    #[command(flatten)]
    remote: Remote,
    /// Print the version and end.
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Only see whether Barman would take WAL of this server.
    #[arg(short, long)]
    test: bool,
    /// Send an MD5 in place of a SHA-256, for an old Barman.
    #[arg(long)]
    md5: bool,
    /// Compress with gzip on the way.
    #[arg(short = 'z', long, overrides_with_all = PACKINGS)]
    gzip: bool,
    /// Compress with bzip2 on the way.
    #[arg(short = 'j', long, overrides_with_all = PACKINGS)]
    bzip2: bool,
    /// Compress with xz on the way.
    #[arg(long, overrides_with_all = PACKINGS)]
    xz: bool,
    /// Compress with snappy on the way.
    #[arg(long, overrides_with_all = PACKINGS)]
    snappy: bool,
    /// Compress with zstd on the way.
    #[arg(long, overrides_with_all = PACKINGS)]
    zstd: bool,
    /// Compress with lz4 on the way.
    #[arg(long, overrides_with_all = PACKINGS)]
    lz4: bool,
    /// How hard to compress: low, medium, high or the algorithm's own number.
    #[arg(long, value_name = "LEVEL", value_parser = level, allow_negative_numbers = true)]
    compression_level: Option<Level>,
    /// Send this file only. Else up to 8 further files that PostgreSQL has marked as ready are sent along, over the same
    /// connection, if that takes no more than 2 seconds, and their own calls end at once.
    #[arg(long)]
    native_no_look_ahead: bool,
    /// Where it is noted which files were sent along.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walarchive")]
    native_state_dir: Utf8PathBuf,
    /// The WAL file; what PostgreSQL puts in place of %p.
    #[arg(value_name = "WAL_PATH")]
    wal_path: Utf8PathBuf,
}

/// The last one of these counts.
const PACKINGS: [&str; 6] = ["gzip", "bzip2", "xz", "snappy", "zstd", "lz4"];

fn level(text: &str) -> Result<Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "low" => Ok(Level::Low),
        "medium" => Ok(Level::Medium),
        "high" => Ok(Level::High),
        number => number.parse().map(Level::Number).map_err(|_| "low, medium, high or a number".to_owned()),
    }
}

fn main() -> ExitCode {
    ExitCode::from(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> u8 {
    let remote = &arguments.remote;
    if arguments.test {
        return client::test(remote, &["put-wal", &remote.server, "--test"]);
    }
    let path = &arguments.wal_path;
    if path.is_dir() {
        return fail(&format!("WAL_PATH cannot be a directory: {path}"), 2);
    }
    let name = path.file_name().unwrap_or_default();
    let markers = (!arguments.native_no_look_ahead)
        .then(|| Markers::open(&arguments.native_state_dir, remote, path))
        .flatten();
    if markers.as_ref().is_some_and(|markers| markers.answers(name)) {
        return 0;
    }
    let ahead = markers.as_ref().map(|markers| markers.ready_after(name)).unwrap_or_default();
    if ahead.is_empty() {
        return deliver(arguments, None, &[]);
    }
    match deliver(arguments, markers.as_ref(), &ahead) {
        // One of those that were sent along may be what the other side does not want.
        TRY_ALONE => deliver(arguments, None, &[]),
        status => status,
    }
}

/// Sends the file, and along with it what is ready, as long as there is time.
fn deliver(arguments: &Arguments, markers: Option<&Markers>, ahead: &[String]) -> u8 {
    let (remote, path) = (&arguments.remote, &arguments.wal_path);
    // What can go wrong here goes wrong before anybody is disturbed.
    let content = match Content::read(arguments, path) {
        Ok(content) => content,
        Err(error) => return fail(&format!("Cannot read {path}: {error}"), 2),
    };
    let mut command = remote.command(&["put-wal", &remote.server]);
    let mut ssh = match command.stdin(Stdio::piped()).spawn() {
        Ok(ssh) => ssh,
        Err(error) => return fail(&format!("ssh cannot be executed: {error}"), 2),
    };
    let mut along = Vec::new();
    let sent = ssh.stdin.take().map_or(Ok(()), |stdin| {
        let sums = if arguments.md5 { ParcelSums::Md5 } else { ParcelSums::Sha256 };
        let mut parcel = Parcel::new(BufWriter::with_capacity(256 << 10, stdin), sums);
        // A timeline that others need to know of goes first.
        let (histories, others) =
            ahead.split_at(ahead.iter().take_while(|n| n.ends_with(".history")).count());
        let began = Instant::now();
        for name in histories {
            send_along(arguments, markers, name, &mut parcel, &mut along)?;
        }
        content.send(&mut parcel)?;
        for name in others.iter().take_while(|_| began.elapsed() < SPARE) {
            send_along(arguments, markers, name, &mut parcel, &mut along)?;
        }
        parcel.finish().map(drop)
    });
    let status = match ssh.wait() {
        Ok(status) => status_of(status),
        Err(error) => return fail(&format!("ssh got lost: {error}"), 2),
    };
    match (status, sent) {
        (0, Ok(())) => {
            for (name, identity) in &along {
                // Without its marker it is sent again, which is no error.
                let _ = markers.map(|markers| markers.sent(name, identity));
            }
            0
        }
        (status, _) if !ahead.is_empty() && status != SSH_FAILED => TRY_ALONE,
        // The other side said yes to something that was not all of it.
        (0, Err(error)) => fail(&format!("Cannot send {path}: {error}"), 2),
        (SSH_FAILED, _) => fail("Connection problem with ssh", 3),
        // The other side got less than it should, since this one could not read it.
        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&format!("Cannot send {path}: {error}"), 2)
        }
        (status, _) => fail("Remote 'barman put-wal' command has failed!", u8::try_from(status).unwrap_or(2)),
    }
}

/// Adds a file that was not asked for yet, unless it is gone meanwhile.
fn send_along(
    arguments: &Arguments,
    markers: Option<&Markers>,
    name: &str,
    parcel: &mut Parcel<impl Write>,
    along: &mut Vec<(String, String)>,
) -> io::Result<()> {
    let Some(markers) = markers else { return Ok(()) };
    // What cannot be read now is left to its own call.
    let Ok(identity) = markers.identity(name) else { return Ok(()) };
    let Ok(content) = Content::read(arguments, &markers.path(name)) else { return Ok(()) };
    content.send(parcel)?;
    along.push((name.to_owned(), identity));
    Ok(())
}

/// A file to send. Packed ones have their size beforehand, so they are packed into a temporary file that has no name.
struct Content {
    name: String,
    size: u64,
    mtime: FileTime,
    file: File,
}

impl Content {
    fn read(arguments: &Arguments, path: &Utf8Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let facts = file.metadata()?;
        let mtime = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mtime = FileTime {
            seconds: i64::try_from(mtime.as_secs()).unwrap_or_default(),
            nanos: mtime.subsec_nanos(),
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        let mut size = facts.len();
        if let Some(method) = arguments.method() {
            let level = arguments.compression_level.unwrap_or_default();
            (file, size) = packed(&file, method, level)?;
        }
        Ok(Self { name, size, mtime, file })
    }

    fn send(self, parcel: &mut Parcel<impl Write>) -> io::Result<()> {
        parcel.add(&self.name, self.size, self.mtime, BufReader::with_capacity(256 << 10, self.file))
    }
}

fn packed(mut plain: impl Read, method: Method, level: Level) -> io::Result<(File, u64)> {
    let codec = |error: CodecError| io::Error::other(error.to_string());
    let mut encoder = compressor(method, level, None).map_err(codec)?.encoder();
    let mut to = tempfile::tempfile()?;
    let (mut chunk, mut frame, mut size) = (Vec::new(), Vec::new(), 0);
    loop {
        chunk.clear();
        plain.by_ref().take(FRAME).read_to_end(&mut chunk)?;
        // An empty file is an empty frame.
        if chunk.is_empty() && size > 0 {
            to.rewind()?;
            return Ok((to, size));
        }
        encoder.encode(&chunk, &mut frame).map_err(codec)?;
        to.write_all(&frame)?;
        size += frame.len() as u64;
    }
}

impl Arguments {
    fn method(&self) -> Option<Method> {
        [
            (self.gzip, Method::Gzip),
            (self.bzip2, Method::Bzip2),
            (self.xz, Method::Xz),
            (self.snappy, Method::Snappy),
            (self.zstd, Method::Zstd),
            (self.lz4, Method::Lz4),
        ]
        .into_iter()
        .find_map(|(wanted, method)| wanted.then_some(method))
    }
}
