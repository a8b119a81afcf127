//! `export-backup`: a full backup with its facts and the WAL that makes it consistent, in one tar archive that
//! `import-backup` of ours and of Barman's reads. What is copied is held against what was stored; an archive gets its name
//! when it is whole.

use std::io::{self, Read, Write};

use camino::{Utf8Path, Utf8PathBuf};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest, Sha256};
use time::UtcOffset;
use time::macros::format_description;

use super::{Server, ServerError, identity_path};
use crate::catalog::{BackupReader, Catalog, Purpose, Root, Witness};
use crate::codec::{Algorithm, Level};
use crate::ctx::{Ctx, Event, Unit};
use crate::format::backup_info;
use crate::format::tar::{END_OF_ARCHIVE, Kind, Member, encode_header, padding};
use crate::format::xlogdb::{XlogLine, python_mtime};
use crate::io::durable::publish_noreplace;
use crate::io::{DiskFile, IoContext, IoError, WriteBehind};
use crate::model::{BackupInfo, Entry, EntryKind, FileTime, Oid, SegmentName, WalFileName};
use crate::pipe::{PipeError, compress_whole};
use crate::wal::{WalArchive, WalError};

/// Bytes handed from the reader to the packers at once, and how many such pieces may wait.
const PIECE: usize = 1 << 20;
const QUEUE: usize = 8;

/// How an export is made.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Where the archive goes.
    pub directory: Utf8PathBuf,
    /// `gzip`, `bzip2` or `xz`; `None` for a plain archive.
    pub compression: Option<Algorithm>,
    /// How hard to compress.
    pub level: Option<i32>,
    /// `barman.json`: what made the export, for people.
    pub about: String,
}

impl Server {
    /// Whether a backup can be exported so. Nothing is touched.
    ///
    /// # Errors
    /// What stands in the way, in Barman's words.
    pub fn check_export(&self, backup: &BackupInfo, options: &ExportOptions) -> Result<(), ServerError> {
        self.enabled()?;
        if backup.is_incremental() {
            return Err(ServerError::Usage(format!(
                "Cannot export backup {} from server {}: it is an incremental backup.\n\
                 Only full backups are eligible for exporting.",
                backup.id,
                self.name()
            )));
        }
        let directory = &options.directory;
        if !matches!(self.host.disk.stat(directory), Ok(stat) if stat.is_dir()) {
            return Err(ServerError::Usage(format!("Output directory '{directory}' does not exist")));
        }
        match (options.compression, options.level) {
            (None, Some(_)) => {
                Err(ServerError::Usage("--compression-level requires --compression to be set".to_owned()))
            }
            (Some(algorithm), Some(level)) => {
                let first = if algorithm == Algorithm::Xz { 0 } else { 1 };
                let levels: Vec<String> = (first..=9).map(|n: i32| n.to_string()).collect();
                if (first..=9).contains(&level) {
                    return Ok(());
                }
                Err(ServerError::Usage(format!(
                    "Invalid compression level '{level}' for algorithm '{algorithm}'. Valid levels are: {}",
                    levels.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// Writes the archive and gives its path. The backup stays in the catalog meanwhile, whatever retention says.
    ///
    /// # Errors
    /// A file or a segment that is not what was stored, or is not there; trouble with writing. No archive is left then.
    pub fn export_backup(
        &self,
        backup: &BackupInfo,
        options: &ExportOptions,
        ctx: &Ctx<'_>,
    ) -> Result<Utf8PathBuf, ServerError> {
        self.check_export(backup, options)?;
        let id = &backup.id;
        let _lease = self.catalog.lease(id, Purpose::Export)?;
        let reader = self.catalog.open(id)?;
        self.whole_wal(reader.info(), ctx)?;
        let witness = Witness::of(reader.as_ref(), self.host.workers, ctx)?;
        let (algorithm, ending) = match options.compression {
            Some(Algorithm::Gzip) => (Algorithm::Gzip, "tar.gz"),
            Some(Algorithm::Bzip2) => (Algorithm::Bzip2, "tar.bz2"),
            Some(Algorithm::Xz) => (Algorithm::Xz, "tar.xz"),
            _ => (Algorithm::None, "tar"),
        };
        let packing = (algorithm, options.level.map_or(Level::Medium, Level::Number));
        let format = format_description!("[year][month][day]T[hour][minute][second]");
        let made = ctx.clock.now().to_offset(UtcOffset::UTC).format(&format).unwrap_or_default();
        let stem = options.directory.join(format!("backup-export-{}-{id}-{made}", self.name()));
        let tmp = Utf8PathBuf::from(format!("{stem}.{ending}.tmp"));
        let disk = self.host.disk.as_ref();
        let mut target =
            Target { file: disk.create_new(&tmp)?, digest: Sha256::new(), behind: WriteBehind::new() };
        let written = self.stream(reader.as_ref(), witness, options, packing, &mut target, ctx);
        if let Err(error) = written {
            // The first error is the one that counts; the name is temporary.
            let _ = disk.unlink(&tmp);
            return Err(error);
        }
        let sum = hex::encode(target.digest.finalize());
        let path = Utf8PathBuf::from(format!("{stem}-{}.{ending}", sum.get(..8).unwrap_or_default()));
        publish_noreplace(disk, target.file, &path)?;
        Ok(path)
    }

    /// An error unless each segment that makes the backup consistent is in the archive and sound.
    fn whole_wal(&self, info: &BackupInfo, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let mut chunk = vec![0; PIECE];
        for name in info.required_wals() {
            match self.judge_segment(info, name, &mut chunk, ctx)? {
                None => {}
                Some(problem) if problem.reason.is_none() => {
                    return Err(ServerError::NotTransferred {
                        reason: format!(
                            "WAL file required for backup consistency not found for backup '{}': {name}",
                            info.id
                        ),
                    });
                }
                Some(problem) => return Err(ServerError::NotTransferred { reason: problem.to_string() }),
            }
        }
        Ok(())
    }

    /// One thread reads and compares, others pack, and this one writes.
    fn stream(
        &self,
        reader: &dyn BackupReader,
        witness: Witness,
        options: &ExportOptions,
        packing: (Algorithm, Level),
        target: &mut Target,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let path = target.file.path().to_owned();
        let workers = self.host.workers;
        std::thread::scope(|scope| {
            let (send, receive) = bounded(QUEUE);
            let producer = scope.spawn(move || {
                let mut feed = Feed { send, piece: Vec::with_capacity(PIECE) };
                self.members(reader, witness, options, &mut feed, ctx)?;
                feed.end().context("write", &options.directory)?;
                Ok::<(), ServerError>(())
            });
            // Gone when this returns, so that a producer that waits for somebody to take its bytes ends.
            let fed = Fed { receive, ended: false };
            let packed = compress_whole(fed, target, packing, workers, ctx.cancel);
            let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match packed {
                Ok(()) => produced,
                // The producer has said why it gave no more.
                Err(PipeError::Read(error)) => {
                    produced.and(Err(IoError::new("read for", &path, error).into()))
                }
                Err(PipeError::Write(error)) => Err(IoError::new("write", &path, error).into()),
                Err(PipeError::Codec(error)) => Err(error.into()),
                Err(PipeError::Cancelled(cancelled)) => Err(cancelled.into()),
            }
        })
    }

    /// The members in Barman's order.
    fn members(
        &self,
        reader: &dyn BackupReader,
        mut witness: Witness,
        options: &ExportOptions,
        feed: &mut Feed,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let info = reader.info();
        let entries = self.catalog.everything(&info.id)?;
        let total = entries.iter().map(|entry| entry.size).sum();
        let stage = "Exporting";
        ctx.progress.event(&Event::StageStarted { stage, total: Some(total), unit: Unit::Bytes });
        let now = FileTime { seconds: ctx.clock.now().unix_timestamp(), nanos: 0 };
        small(feed, "identity.json", self.identity_of(info)?.as_bytes(), now)?;
        // The incrementals that were taken from it stay where they are.
        let facts = BackupInfo { children_backup_ids: Vec::new(), ..info.clone() };
        small(feed, "backup.info", backup_info::print(&facts).as_bytes(), now)?;
        small(feed, "barman.json", options.about.as_bytes(), now)?;
        let base = self.catalog.paths().base(&info.id);
        for entry in &entries {
            self.member(entry, &base, &mut witness, feed, ctx)?;
            ctx.progress.event(&Event::Advanced { by: entry.size });
        }
        if let Some((root, path)) = witness.missed() {
            return Err(crate::catalog::CatalogError::Damaged {
                path: reader.location(root).join(path),
                expected: "a file that was stored".to_owned(),
                found: "none".to_owned(),
            }
            .into());
        }
        let mut lines = String::new();
        for name in info.required_wals() {
            self.wal_member(name, feed, &mut lines, ctx)?;
        }
        small(feed, "xlog.db", lines.as_bytes(), now)?;
        ctx.progress.event(&Event::StageFinished);
        Ok(feed.write_all(&END_OF_ARCHIVE).context("write", &options.directory)?)
    }

    fn member(
        &self,
        entry: &Entry,
        base: &Utf8Path,
        witness: &mut Witness,
        feed: &mut Feed,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let path = entry.path.as_path();
        let full = base.join(path);
        let first = path.components().next().map_or("", |part| part.as_str());
        // Of old catalogs: the facts go beside the files, and a keep holds here.
        if matches!(first, "backup.info" | "annotations") || path == ".native/importing" {
            return Ok(());
        }
        let name = if first.is_empty() { "backup".to_owned() } else { format!("backup/{path}") };
        let kind = match &entry.kind {
            EntryKind::File => Kind::File,
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink(target) if path.parent().is_some_and(|dir| dir == "data/pg_tblspc") => {
                Kind::Symlink(target.as_str().as_bytes().to_vec())
            }
            EntryKind::Symlink(_) | EntryKind::Other => {
                let reason = format!("{full} is neither a file nor a directory, and could not be imported");
                return Err(ServerError::NotTransferred { reason });
            }
        };
        let size = entry.size;
        let member = Member { size, mode: entry.mode, mtime: entry.mtime, ..Member::new(name, kind) };
        header(feed, &member)?;
        if !entry.is_file() {
            return Ok(());
        }
        let root =
            if first == "data" { Some(Root::Data) } else { first.parse::<Oid>().ok().map(Root::Tablespace) };
        let below = path.strip_prefix(first).unwrap_or(path);
        let mut from = self.host.disk.open_read(&full)?;
        match root {
            Some(root) => witness.copy((root, below), (&full, size), &mut from, feed, ctx)?,
            None => exactly(&mut from, size, feed).context("copy", &full)?,
        }
        Ok(pad(feed, size).context("copy", &full)?)
    }

    /// A segment as it lies in the archive, and its line of the index.
    fn wal_member(
        &self,
        name: SegmentName,
        feed: &mut Feed,
        lines: &mut String,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        ctx.cancel.check()?;
        let name = WalFileName::Segment(name);
        let entry = self.wal.find(&name)?.ok_or(WalError::NotFound { name })?;
        let path = self.wal.paths().file(&name);
        let size = self.host.disk.stat(&path)?.size;
        let text = name.to_string();
        let directory = text.get(..16).unwrap_or_default();
        let member = Member {
            size,
            mtime: entry.mtime,
            ..Member::new(format!("wals/{directory}/{text}"), Kind::File)
        };
        header(feed, &member)?;
        exactly(&mut self.wal.open_stored(&name)?, size, feed).context("copy", &path)?;
        pad(feed, size).context("copy", &path)?;
        let line = XlogLine {
            name,
            size,
            mtime: python_mtime(entry.mtime),
            compression: entry.compression.map(Into::into),
            encryption: entry.encryption.map(Into::into),
        };
        line.write_to(lines);
        Ok(())
    }

    /// `identity.json`, or what the backup says where there is none.
    fn identity_of(&self, info: &BackupInfo) -> Result<String, ServerError> {
        match self.host.disk.read_text(&identity_path(&self.config)) {
            Err(error) if error.is_not_found() => {}
            other => return Ok(other?),
        }
        let system = info.systemid.map(|id| id.to_string()).unwrap_or_default();
        let version = info.version.map(|version| version.major_text()).unwrap_or_default();
        Ok(format!("{{\n    \"systemid\": \"{system}\",\n    \"version\": \"{version}\"\n}}"))
    }
}

fn header(feed: &mut Feed, member: &Member) -> Result<(), ServerError> {
    let path = Utf8PathBuf::from(String::from_utf8_lossy(&member.path).into_owned());
    let bytes = encode_header(member).map_err(io::Error::other).context("export", &path)?;
    Ok(feed.write_all(&bytes).context("export", &path)?)
}

fn small(feed: &mut Feed, name: &str, content: &[u8], mtime: FileTime) -> Result<(), ServerError> {
    let size = content.len() as u64;
    header(feed, &Member { size, mtime, mode: 0o644, ..Member::new(name, Kind::File) })?;
    let written = feed.write_all(content).and_then(|()| pad(feed, size));
    Ok(written.context("export", Utf8Path::new(name))?)
}

fn exactly(from: &mut dyn Read, size: u64, to: &mut Feed) -> io::Result<()> {
    let copied = io::copy(&mut from.take(size), to)?;
    if copied == size {
        return Ok(());
    }
    let text = format!("it ends after {copied} of {size} bytes");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
}

fn pad(feed: &mut Feed, size: u64) -> io::Result<()> {
    feed.write_all(END_OF_ARCHIVE.get(..padding(size)).unwrap_or_default())
}

/// The archive being written.
struct Target {
    file: Box<dyn DiskFile>,
    digest: Sha256,
    behind: WriteBehind,
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.behind.advanced(self.file.as_ref(), bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The end of the pipe between reading and packing into which is written.
struct Feed {
    send: Sender<Option<Vec<u8>>>,
    piece: Vec<u8>,
}

impl Feed {
    fn pass(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.send.send(Some(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Says that all has come: without it the other end takes it for cut off.
    fn end(&mut self) -> io::Result<()> {
        self.pass()?;
        self.send.send(None).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.pass()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other end.
struct Fed {
    receive: Receiver<Option<Vec<u8>>>,
    ended: bool,
}

impl Iterator for Fed {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.receive.recv() {
            Ok(Some(piece)) => Some(Ok(piece)),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(_) => {
                self.ended = true;
                Some(Err(io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }
}
