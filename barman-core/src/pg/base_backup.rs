//! `BASE_BACKUP`: a base backup as tar archives over the replication connection.
//!
//! Source: the documentation's chapter "Streaming Replication Protocol" of each version; `basebackup.c`,
//! `basebackup_copy.c` (15 and later) and `pg_basebackup.c` for what it leaves out.

use bytes::{Buf, Bytes};
use postgres_protocol::escape::escape_literal;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::sync::mpsc;

use super::error::{PgError, ServerError};
use super::query::{Answering, ResultSet, Step, text};
use super::session::Session;
use super::stream::StreamError;
use super::unpack::unpack;
use super::wire::{Connection, Incoming};
use crate::codec::Algorithm;
use crate::model::{Lsn, Oid, PgVersion, Timeline};

/// Messages on their way to the sink; the server makes none much longer than 32 KiB (`SINK_BUFFER_LENGTH`).
const QUEUE: usize = 256;
/// The slowest and the fastest rate that a server can be asked for, in kB a second.
const RATES: std::ops::RangeInclusive<u64> = 32..=1_048_576;
/// SQLSTATE of damaged data: pages with a wrong checksum, told at the very end.
const DATA_CORRUPTED: &str = "XX001";

/// What is asked of the server.
#[derive(Debug, Clone)]
pub struct BaseBackupRequest<'a> {
    /// The label in `backup_label`.
    pub label: &'a str,
    /// Whether the checkpoint is made at once instead of spread.
    pub fast: bool,
    /// Most bytes a second; the server knows 32 kB to 1 GB and takes the nearest.
    pub max_rate: Option<u64>,
    /// Only the blocks that changed since the backup whose manifest was sent by [`Session::upload_manifest`] (17 and later).
    pub incremental: bool,
    /// What the server packs the archives with (15 and later).
    pub compression: Option<ServerCompression>,
}

/// How a server packs what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerCompression {
    /// gzip, lz4 or zstd.
    pub algorithm: Algorithm,
    /// The level; the server's own without.
    pub level: Option<i64>,
    /// Threads, for zstd; one without.
    pub workers: Option<i64>,
}

impl BaseBackupRequest<'_> {
    /// The command as this version of the server understands it.
    fn command(&self, version: PgVersion) -> String {
        let label = escape_literal(self.label);
        // A backslash would make it an escape string, which this grammar does not have.
        let label = label.trim_start().trim_start_matches('E').replace("\\\\", "\\");
        let rate = self.max_rate.map(|rate| (rate / 1024).clamp(*RATES.start(), *RATES.end()));
        if version.num() >= 150_000 {
            let mut options = vec![
                format!("LABEL {label}"),
                "PROGRESS".to_owned(),
                "WAIT 0".to_owned(),
                "MANIFEST 'yes'".to_owned(),
            ];
            options.extend(self.fast.then(|| "CHECKPOINT 'fast'".to_owned()));
            options.extend(rate.map(|rate| format!("MAX_RATE {rate}")));
            if let Some(compression) = &self.compression {
                options.push(format!("COMPRESSION '{}'", compression.algorithm));
                let level = compression.level.map(|level| format!("level={level}"));
                let workers = compression.workers.map(|workers| format!("workers={workers}"));
                let detail: Vec<String> = level.into_iter().chain(workers).collect();
                if !detail.is_empty() {
                    options.push(format!("COMPRESSION_DETAIL '{}'", detail.join(",")));
                }
            }
            options.extend(self.incremental.then(|| "INCREMENTAL".to_owned()));
            return format!("BASE_BACKUP ({})", options.join(", "));
        }
        let mut command = format!("BASE_BACKUP LABEL {label} PROGRESS");
        if self.fast {
            command.push_str(" FAST");
        }
        command.push_str(" NOWAIT");
        if let Some(rate) = rate {
            command.push_str(&format!(" MAX_RATE {rate}"));
        }
        if version.num() >= 130_000 {
            command.push_str(" MANIFEST 'yes'");
        }
        command
    }
}

/// What the server said when the backup began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupStart {
    /// Start position.
    pub lsn: Lsn,
    /// Timeline of the server.
    pub timeline: Timeline,
    /// The archives that will come, in their order.
    pub archives: Vec<BaseBackupArchive>,
}

/// One archive of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupArchive {
    /// The tablespace; `None` for the data directory.
    pub tablespace: Option<Oid>,
    /// Where the tablespace lies on the server.
    pub location: Option<String>,
    /// The server's estimate, in bytes.
    pub size: Option<u64>,
}

/// What the server said at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupEnd {
    /// Stop position: one past the last byte that recovery needs.
    pub lsn: Lsn,
    /// Timeline of the server.
    pub timeline: Timeline,
    /// The server found pages with a wrong checksum (11 and later). Everything was sent all the same.
    pub corrupt: Option<ServerError>,
}

/// Takes a base backup as it comes in. It is called on a thread of its own, so that storing overlaps with receiving.
pub trait BaseBackupSink: Send {
    /// Why it could not store something.
    type Error: std::error::Error + Send;

    /// The archive of a tablespace begins, or that of the data directory (`None`). The archive before it is complete.
    fn archive(&mut self, tablespace: Option<Oid>) -> Result<(), Self::Error>;

    /// The manifest begins (13 and later). All archives are complete.
    fn manifest(&mut self) -> Result<(), Self::Error>;

    /// The next bytes of what began last, unpacked when the server packed them.
    fn data(&mut self, bytes: Bytes) -> Result<(), Self::Error>;

    /// The next bytes of the archive that began last as the server packed them. Their plain bytes come by themselves.
    fn packed(&mut self, _bytes: Bytes) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What goes to the thread of the sink.
pub(super) enum Part {
    Archive(Option<Oid>),
    Manifest,
    Data(Bytes),
    Packed(Bytes),
}

impl Session {
    /// Starts a base backup and waits for its checkpoint; on a replication connection. Call
    /// [`Session::receive_base_backup`] next, or drop the session.
    ///
    /// # Errors
    /// The server's error, or a lost connection.
    pub fn start_base_backup(&mut self, request: &BaseBackupRequest<'_>) -> Result<BaseBackupStart, PgError> {
        let command = request.command(self.version());
        self.run(async |connection| {
            connection.outbox.clear();
            frontend::query(&command, &mut connection.outbox)
                .map_err(|e| PgError::settings(e.to_string()))?;
            connection.flush().await?;
            let mut answering = Answering::default();
            let begin = answer(connection, &mut answering).await?;
            let archives = answer(connection, &mut answering).await?;
            let (lsn, timeline) = position(&begin)?;
            let archive = |row: super::query::Row<'_>| {
                Ok(BaseBackupArchive {
                    tablespace: row.optional("spcoid")?,
                    location: row.text("spclocation")?.map(str::to_owned),
                    size: row.optional::<u64>("size")?.map(|kilobytes| kilobytes.saturating_mul(1024)),
                })
            };
            let archives = archives.iter().map(archive).collect::<Result<_, PgError>>()?;
            Ok(BaseBackupStart { lsn, timeline, archives })
        })
    }

    /// Receives what [`Session::start_base_backup`] began. `packed` is the algorithm that the server was asked to pack with.
    ///
    /// # Errors
    /// A lost connection, the server's error, or the sink's; the session cannot be used any more then.
    pub fn receive_base_backup<S: BaseBackupSink>(
        &mut self,
        start: &BaseBackupStart,
        packed: Option<Algorithm>,
        sink: &mut S,
    ) -> Result<BaseBackupEnd, StreamError<S::Error>> {
        let (parts, waiting) = mpsc::channel(QUEUE);
        let typed = self.version().num() >= 150_000;
        let (received, unpacked, stored) = std::thread::scope(|scope| {
            let (unpacking, waiting) = match packed {
                Some(algorithm) => {
                    let (plain, unpacked) = mpsc::channel(QUEUE);
                    (Some(scope.spawn(move || unpack(algorithm, waiting, &plain))), unpacked)
                }
                None => (None, waiting),
            };
            let storing = scope.spawn(|| store(sink, waiting));
            let received = self.run(async |connection| receive(connection, start, typed, parts).await);
            (received, unpacking.map(|thread| thread.join()), storing.join())
        });
        let stored = stored.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let unpacked = unpacked.unwrap_or(Ok(Ok(())));
        let unpacked = unpacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if received.is_err() || stored.is_err() || unpacked.is_err() {
            self.parts().0.mark_broken();
        }
        stored.map_err(StreamError::Sink)?;
        match (received, unpacked) {
            // Whoever takes the bytes had gone.
            (Err(PgError::Cancelled) | Ok(_), Err(error)) => Err(error.into()),
            (received, _) => Ok(received?),
        }
    }
}

/// The thread of the sink.
fn store<S: BaseBackupSink>(sink: &mut S, mut waiting: mpsc::Receiver<Part>) -> Result<(), S::Error> {
    while let Some(part) = waiting.blocking_recv() {
        match part {
            Part::Archive(tablespace) => sink.archive(tablespace)?,
            Part::Manifest => sink.manifest()?,
            Part::Data(bytes) => sink.data(bytes)?,
            Part::Packed(bytes) => sink.packed(bytes)?,
        }
    }
    Ok(())
}

/// The next answer; nothing else may come.
async fn answer(
    connection: &mut Connection,
    answering: &mut Answering<String>,
) -> Result<ResultSet, PgError> {
    match connection.step(answering, None, text).await? {
        Step::Answer(answer) => Ok(answer),
        Step::CopyOut | Step::Ready => Err(connection.unexpected("a base backup")),
    }
}

fn position(answer: &ResultSet) -> Result<(Lsn, Timeline), PgError> {
    let row = answer.single()?;
    Ok((row.parse("recptr")?, row.parse("tli")?))
}

async fn receive(
    connection: &mut Connection,
    start: &BaseBackupStart,
    typed: bool,
    parts: mpsc::Sender<Part>,
) -> Result<BaseBackupEnd, PgError> {
    let mut answering = Answering::default();
    let mut archives = start.archives.iter();
    let mut end = None;
    loop {
        match connection.step(&mut answering, None, text).await {
            Ok(Step::CopyOut) => {
                if !typed {
                    // One copy for each archive, then one for the manifest.
                    let part = match archives.next() {
                        Some(archive) => Part::Archive(archive.tablespace),
                        None => Part::Manifest,
                    };
                    give(&parts, part).await?;
                }
                copy(connection, typed, &parts).await?;
            }
            Ok(Step::Answer(answer)) if answer.columns.iter().any(|column| column == "recptr") => {
                end = Some(position(&answer)?);
            }
            Ok(Step::Answer(_)) => {}
            Ok(Step::Ready) => {
                let Some((lsn, timeline)) = end else { return Err(connection.unexpected("a base backup")) };
                return Ok(BaseBackupEnd { lsn, timeline, corrupt: None });
            }
            Err(PgError::Server(error)) if error.sqlstate == DATA_CORRUPTED => {
                let Some((lsn, timeline)) = end else { return Err(PgError::Server(error)) };
                return Ok(BaseBackupEnd { lsn, timeline, corrupt: Some(*error) });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Passes on what one `COPY` brings.
async fn copy(connection: &mut Connection, typed: bool, parts: &mpsc::Sender<Part>) -> Result<(), PgError> {
    loop {
        match connection.receive().await? {
            Incoming::Message(Message::CopyData(body)) => {
                let data = body.into_bytes();
                let part = if typed { typed_part(data)? } else { Some(Part::Data(data)) };
                if let Some(part) = part {
                    give(parts, part).await?;
                }
            }
            Incoming::Message(Message::CopyDone) => return Ok(()),
            Incoming::Message(Message::ErrorResponse(body)) => {
                let error = ServerError::read(body.fields());
                return Err(PgError::Server(Box::new(error)));
            }
            _ => return Err(connection.unexpected("the data of a base backup")),
        }
    }
}

/// A message of 15 and later: its first byte says what it is.
fn typed_part(mut data: Bytes) -> Result<Option<Part>, PgError> {
    let kind = data.first().copied().unwrap_or_default();
    data.advance(1.min(data.len()));
    Ok(match kind {
        b'd' => Some(Part::Data(data)),
        b'm' => Some(Part::Manifest),
        b'p' => None,
        b'n' => {
            let name = data.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = std::str::from_utf8(name).unwrap_or_default();
            let stem = name.split('.').next().unwrap_or_default();
            let tablespace = match stem {
                "base" => None,
                oid => Some(oid.parse::<Oid>().map_err(|_| {
                    PgError::protocol(format!("an archive with the name \"{name}\" came in a base backup"))
                })?),
            };
            Some(Part::Archive(tablespace))
        }
        other => {
            let what = format!("a message of the unknown kind {other:?} came in a base backup");
            return Err(PgError::protocol(what));
        }
    })
}

async fn give(parts: &mpsc::Sender<Part>, part: Part) -> Result<(), PgError> {
    // Whoever stores has failed; the reason is in its thread.
    parts.send(part).await.map_err(|_| PgError::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_asked_in_its_own_words() {
        let request = BaseBackupRequest {
            label: "a 'b' c",
            fast: true,
            max_rate: Some(5 << 20),
            incremental: false,
            compression: None,
        };
        let at = |major: u32| request.command(PgVersion::new(major * 10_000));
        assert_eq!(at(10), "BASE_BACKUP LABEL 'a ''b'' c' PROGRESS FAST NOWAIT MAX_RATE 5120");
        assert_eq!(at(14), format!("{} MANIFEST 'yes'", at(10)));
        assert_eq!(
            at(15),
            "BASE_BACKUP (LABEL 'a ''b'' c', PROGRESS, WAIT 0, MANIFEST 'yes', CHECKPOINT 'fast', MAX_RATE 5120)"
        );
        let packed = ServerCompression { algorithm: Algorithm::Zstd, level: Some(-3), workers: Some(2) };
        let packed = BaseBackupRequest { compression: Some(packed), incremental: true, ..request };
        assert!(
            packed
                .command(PgVersion::new(170_000))
                .ends_with(", COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=-3,workers=2', INCREMENTAL)")
        );
        let slow = BaseBackupRequest {
            label: "x",
            fast: false,
            max_rate: Some(1),
            incremental: false,
            compression: None,
        };
        assert!(slow.command(PgVersion::new(100_000)).ends_with("NOWAIT MAX_RATE 32"));
    }
}
