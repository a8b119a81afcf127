//! `barman-wal-archive`: an `archive_command` that sends WAL to `barman put-wal` over ssh.

#[path = "../client.rs"]
mod client;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::process::{ExitCode, Stdio};
use std::time::UNIX_EPOCH;

use barman_core::codec::{CodecError, Level, Method, compressor};
use barman_core::model::FileTime;
use barman_core::wal::{Parcel, ParcelSums};
use camino::Utf8PathBuf;
use clap::Parser;

use client::{Remote, SSH_FAILED, fail, status_of};

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
    // What can go wrong here goes wrong before anybody is disturbed.
    let content = match Content::read(arguments) {
        Ok(content) => content,
        Err(error) => return fail(&format!("Cannot read {path}: {error}"), 2),
    };
    let mut command = remote.command(&["put-wal", &remote.server]);
    let mut ssh = match command.stdin(Stdio::piped()).spawn() {
        Ok(ssh) => ssh,
        Err(error) => return fail(&format!("ssh cannot be executed: {error}"), 2),
    };
    let sent = ssh.stdin.take().map_or(Ok(()), |stdin| content.send(stdin, arguments.md5));
    let status = match ssh.wait() {
        Ok(status) => status_of(status),
        Err(error) => return fail(&format!("ssh got lost: {error}"), 2),
    };
    match (status, sent) {
        (0, Ok(())) => 0,
        // The other side said yes to something that was not all of it.
        (0, Err(error)) => fail(&format!("Cannot send {path}: {error}"), 2),
        (SSH_FAILED, _) => fail("Connection problem with ssh", 3),
        (status, _) => fail("Remote 'barman put-wal' command has failed!", u8::try_from(status).unwrap_or(2)),
    }
}

/// A file to send. Packed ones have their size beforehand, so they are packed into a temporary file that has no name.
struct Content {
    name: String,
    size: u64,
    mtime: FileTime,
    file: File,
}

impl Content {
    fn read(arguments: &Arguments) -> io::Result<Self> {
        let path = &arguments.wal_path;
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

    fn send(self, stdin: impl Write, md5: bool) -> io::Result<()> {
        let sums = if md5 { ParcelSums::Md5 } else { ParcelSums::Sha256 };
        let mut parcel = Parcel::new(BufWriter::with_capacity(256 << 10, stdin), sums);
        parcel.add(&self.name, self.size, self.mtime, BufReader::with_capacity(256 << 10, self.file))?;
        parcel.finish().map(drop)
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
