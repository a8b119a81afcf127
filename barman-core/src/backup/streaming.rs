//! [`StreamingExecutor`]: a base backup over the replication protocol (`backup_method = postgres`), without
//! `pg_basebackup`.

use std::collections::BTreeSet;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::attend::attended;
use super::copy::{Connect, record_corrupt, refuse_in_place};
use super::intake::{Intake, Keep, MANIFEST};
use super::page_check::PageLayout;
use super::{
    BackupError, BackupExecutor, BackupJob, BackupJournal, BackupReport, Begin, CorruptPagePolicy, End,
    IncrementalPlan, ServerFacts, ServerPacking, Started,
};
use crate::catalog::{BackupSpace, CatalogError, Root};
use crate::codec::Algorithm;
use crate::ctx::{Cancel, Ctx, Event, Unit};
use crate::format::text::{human_duration, with_reasons};
use crate::io::IoError;
use crate::model::{BackupMethod, Check, Oid, PyValue};
use crate::pg::{BaseBackupEnd, BaseBackupRequest, BaseBackupStart, PgError, Session, StreamError};

/// Opens a replication connection that the flag ends.
pub type ConnectStream<'a> = dyn Fn(&Cancel) -> Result<Session, BackupError> + Send + Sync + 'a;

/// Receives the archives that `BASE_BACKUP` sends and stores them as files.
pub struct StreamingExecutor<'a> {
    connect: &'a Connect<'a>,
    stream: &'a ConnectStream<'a>,
}

impl<'a> StreamingExecutor<'a> {
    /// An executor that asks the server through `connect` and receives the backup through `stream`.
    pub fn new(connect: &'a Connect<'a>, stream: &'a ConnectStream<'a>) -> Self {
        Self { connect, stream }
    }
}

impl BackupExecutor for StreamingExecutor<'_> {
    fn method(&self) -> BackupMethod {
        BackupMethod::Postgres
    }

    fn preflight(&self, _ctx: &Ctx<'_>) -> Vec<Check> {
        Vec::new()
    }

    fn execute(
        &self,
        job: &BackupJob,
        space: &dyn BackupSpace,
        journal: &dyn BackupJournal,
        ctx: &Ctx<'_>,
    ) -> Result<BackupReport, BackupError> {
        let mut left = job.retry_times;
        loop {
            match self.attempt(job, space, journal, ctx) {
                // What may be over when it is tried again. Everything is received anew.
                Err(error) if left > 0 && is_passing(&error) => {
                    left -= 1;
                    let reason = with_reasons(&error);
                    ctx.warn(format!(
                        "{reason}: the backup is tried again in {} seconds ({left} further attempts)",
                        job.retry_sleep.as_secs()
                    ));
                    ctx.clock.pause(job.retry_sleep, ctx.cancel)?;
                }
                other => return other,
            }
        }
    }
}

fn is_passing(error: &BackupError) -> bool {
    match error {
        BackupError::SessionLost => true,
        BackupError::Server { source, .. } => source.is_lost() || source.is_transient(),
        _ => false,
    }
}

fn failed(source: PgError) -> BackupError {
    match source {
        PgError::Cancelled => BackupError::Cancelled(crate::ctx::Cancelled),
        source => BackupError::Server { action: "copying files", source },
    }
}

impl StreamingExecutor<'_> {
    fn attempt(
        &self,
        job: &BackupJob,
        space: &dyn BackupSpace,
        journal: &dyn BackupJournal,
        ctx: &Ctx<'_>,
    ) -> Result<BackupReport, BackupError> {
        let mut server = (self.connect)(ctx)?;
        let server = server.as_mut();
        let facts = server.facts()?;
        refuse_in_place(&facts)?;
        if job.server_packing.is_some() && facts.version.num() < 150_000 {
            return Err(BackupError::Identity(format!(
                "backup_compression_location = server needs PostgreSQL 15 or later, and this is {}: set it to client",
                facts.version
            )));
        }
        let stop = Cancel::new();
        let label = format!("Barman backup {} {}", job.server, job.id);
        let request = BaseBackupRequest {
            label: &label,
            fast: job.immediate_checkpoint,
            max_rate: job.bandwidth,
            incremental: job.incremental.is_some(),
            compression: job.server_packing.as_ref().map(|packing| packing.request),
        };
        let time = server.now()?;
        let own = facts.system_id;
        // A spread checkpoint takes minutes.
        let (mut stream, start) = attended(server, job.keepalive, &stop, ctx, || {
            let mut stream = (self.stream)(&stop)?;
            let theirs = stream.identify_system().map_err(failed)?.system_id;
            if theirs != own {
                return Err(BackupError::Identity(format!(
                    "conninfo leads to the system {own} and streaming_conninfo to {theirs}: correct one of them"
                )));
            }
            if let Some(plan) = &job.incremental {
                upload(&mut stream, plan)?;
            }
            let start = stream.start_base_backup(&request).map_err(failed)?;
            Ok((stream, start))
        })?;
        // What was made or dropped while the checkpoint went on.
        let facts = server.facts()?;
        same_tablespaces(&facts, &start)?;
        let begin =
            Begin { started: Started { lsn: start.lsn, timeline: start.timeline, time }, server: facts };
        journal.started(&begin)?;
        ctx.info(format!("Starting backup copy via pg_basebackup for {}", job.id));
        if let Some(cipher) = &job.encryption {
            // On its way; Barman says it when it begins to encrypt what it has stored.
            ctx.info(format!("Encrypting backup using {} encryption", cipher.name()));
        }
        let began = ctx.clock.monotonic();
        let layout = begin.server.data_checksums.then_some(PageLayout {
            block_size: begin.server.block_size,
            blocks_per_file: begin.server.blocks_per_file,
        });
        let keep = match (&job.packing, &job.server_packing) {
            (_, Some(ServerPacking { ending: Some(ending), .. })) => Keep::Received(ending),
            (_, Some(ServerPacking { ending: None, .. })) | (None, None) => Keep::Files,
            (Some(packing), None) => Keep::Packed(packing),
        };
        let packed = request.compression.map(|compression| compression.algorithm);
        let mut intake = Intake::new(space, &begin, layout, keep, ctx).encrypted(job.encryption.clone());
        let received = attended(server, job.keepalive, &stop, ctx, || {
            receive(&mut stream, &start, packed, &mut intake, ctx)
        })?;
        stream.close();
        let took = ctx.clock.monotonic().saturating_sub(began);
        ctx.info(format!("Copy done (time: {})", human_duration(took.try_into().unwrap_or_default())));
        journal.copied(&stats(took))?;
        ctx.info("Finalising the backup.");
        if received.timeline != begin.started.timeline {
            return Err(BackupError::Identity(format!(
                "The server was promoted during the backup: it began on timeline {} and ended on timeline {}; take the \
                 backup again",
                begin.started.timeline, received.timeline
            )));
        }
        let intake = intake.finish(received.lsn)?;
        let end = End {
            lsn: received.lsn,
            timeline: received.timeline,
            time: server.now()?,
            label: intake.label,
            tablespace_map: String::new(),
        };
        told_corrupt(job, &received, ctx)?;
        record_corrupt(job, space, &intake.corrupt, ctx)?;
        journal.stopped(&end)?;
        if let Err(error) = server.settle(&job.id) {
            ctx.warn(format!(
                "{error}: the last WAL segment of the backup is archived when the server fills it or when 'barman \
                 switch-wal' closes it"
            ));
        }
        Ok(BackupReport {
            proofs: intake.proofs,
            copied_bytes: intake.bytes,
            reused_files: 0,
            skipped: Vec::new(),
            corrupt_pages: intake.corrupt,
        })
    }
}

/// Tells the server what the backup before holds.
fn upload(stream: &mut Session, plan: &IncrementalPlan) -> Result<(), BackupError> {
    let path = Utf8Path::new(MANIFEST);
    let mut manifest = plan.reader.open(Root::Data, path)?;
    stream.upload_manifest(manifest.as_mut()).map_err(|error| match error {
        StreamError::Pg(error) => failed(error),
        StreamError::Sink(error) => {
            CatalogError::from(IoError::new("read", plan.reader.location(Root::Data).join(path), error))
                .into()
        }
    })
}

/// What is sent must be what is recorded: a restore knows no other tablespaces.
fn same_tablespaces(facts: &ServerFacts, start: &BaseBackupStart) -> Result<(), BackupError> {
    let known: BTreeSet<Oid> = facts.tablespaces.iter().map(|space| space.oid).collect();
    let sent: BTreeSet<Oid> = start.archives.iter().filter_map(|archive| archive.tablespace).collect();
    if known == sent {
        return Ok(());
    }
    Err(BackupError::Identity(
        "A tablespace was made or dropped while the backup began: take the backup again".to_owned(),
    ))
}

/// What the server itself found wrong with its pages.
fn told_corrupt(job: &BackupJob, end: &BaseBackupEnd, ctx: &Ctx<'_>) -> Result<(), BackupError> {
    match &end.corrupt {
        Some(error) if job.corrupt_pages == CorruptPagePolicy::Fail => {
            Err(failed(PgError::Server(Box::new(error.clone()))))
        }
        Some(error) => {
            ctx.warn(format!("PostgreSQL: {}", error.message));
            Ok(())
        }
        None => Ok(()),
    }
}

fn receive(
    stream: &mut Session,
    start: &BaseBackupStart,
    packed: Option<Algorithm>,
    intake: &mut Intake<'_>,
    ctx: &Ctx<'_>,
) -> Result<BaseBackupEnd, BackupError> {
    let total = start.archives.iter().map(|archive| archive.size).sum();
    ctx.progress.event(&Event::StageStarted { stage: "Receiving the base backup", total, unit: Unit::Bytes });
    let received = stream.receive_base_backup(start, packed, intake);
    ctx.progress.event(&Event::StageFinished);
    for notice in stream.take_notices() {
        ctx.debug(format!("PostgreSQL: {}: {}", notice.severity, notice.message));
    }
    received.map_err(|error| match error {
        StreamError::Pg(error) => failed(error),
        StreamError::Sink(error) => error,
    })
}

/// `copy_stats` of this method, in Barman's order of keys.
fn stats(took: Duration) -> PyValue {
    let seconds = PyValue::Float((took.as_secs_f64() * 1e6).round() / 1e6);
    let key = |text: &str| PyValue::Str(text.to_owned());
    PyValue::Dict(vec![(key("copy_time"), seconds.clone()), (key("total_time"), seconds)])
}

/// The path of a member as it is used here: relative, without `./`.
pub(super) fn clean(path: &str) -> Utf8PathBuf {
    Utf8PathBuf::from(path.strip_prefix("./").unwrap_or(path))
}
