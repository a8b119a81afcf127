//! `barman backup`: one backup of one server, from the first check to the last WAL.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::scripts::Around;
use super::{Server, ServerError};
use crate::backup::{
    BackupError, BackupExecutor, BackupJob, BackupJournal, Begin, CopyExecutor, CorruptPagePolicy, End,
    IncrementalPlan, ReusePlan, StreamingExecutor,
};
use crate::catalog::{BackupSpace, Catalog, CatalogError, Draft, Lease, Purpose, SpaceReport};
use crate::config::{Operation, ReuseBackup};
use crate::ctx::{Cancel, Ctx};
use crate::format::text::{human_duration, percentage, pretty_size};
use crate::format::timestamp::python_str;
use crate::hooks::Phase;
use crate::io::{LockError, LockName};
use crate::model::{BackupId, BackupInfo, BackupMethod, PyValue, SegmentName, SegmentSize, Status};

/// What a backup is asked for beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// The user's own name for it.
    pub name: Option<String>,
    /// Wait until the last WAL that the backup needs is archived.
    pub wait: bool,
    /// Not longer than this.
    pub wait_timeout: Option<Duration>,
    /// Take only the blocks that changed since this backup: an id, a name or a word such as `latest` (PostgreSQL 17 and later).
    pub incremental: Option<String>,
}

impl Server {
    /// Takes a backup, archives the WAL that has come in meanwhile, and gives the facts of the backup.
    ///
    /// Whatever stops it, the backup is FAILED with the reason in its facts, never DONE; a process killed in the middle
    /// leaves it EMPTY or STARTED, which the next backup turns into FAILED (I8).
    pub fn backup(&self, options: &BackupOptions, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        self.usable(Operation::Backup, ctx)?;
        self.judge_packing()?;
        let parent = options.incremental.as_deref().map(|token| self.parent_for(token, ctx)).transpose()?;
        self.ready_for_backup(ctx)?;
        self.make_directories()?;
        let info = {
            let _lock = self.backup_lock(ctx)?;
            self.fail_abandoned(ctx)?;
            self.take_backup(options, parent.as_ref(), ctx)?
        };
        let waited = if options.wait {
            self.wait_for_wal(&info, options.wait_timeout, ctx)
                .and_then(|()| self.check_completeness(&info.id, ctx).map(drop))
        } else {
            Ok(())
        };
        waited.and(self.after_backup(&info.id, ctx))?;
        self.archive_quietly(ctx)?;
        if self.has_wal_delete_scripts()
            && let Err(error) = self.purge_before_first(&info.id, ctx)
        {
            ctx.warn(format!("WAL from before the first backup was not removed: {error}"));
        }
        let info = self.check_completeness(&info.id, ctx)?;
        if parent.is_some() {
            self.warn_of_checksums(&info, ctx)?;
        }
        if info.status == Status::WaitingForWals {
            ctx.warn(
                "IMPORTANT: this backup is classified as WAITING_FOR_WALS, meaning that Barman has not received yet all \
                 the required WAL files for the backup consistency.\n\
                 This is a common behaviour in concurrent backup scenarios, and Barman automatically set the backup as \
                 DONE once all the required WAL files have been archived.\n\
                 Hint: execute the backup command with '--wait'",
            );
        }
        Ok(info)
    }

    fn backup_lock(&self, ctx: &Ctx<'_>) -> Result<crate::io::LockGuard, ServerError> {
        let name = LockName::Backup(self.name().clone());
        self.locks.try_lock(&name, "taking a backup", ctx).map_err(|error| match error {
            LockError::Busy { .. } => ServerError::BackupRunning { source: error },
            other => other.into(),
        })
    }

    /// Turns backups that a killed process left behind into FAILED ones. The backup lock must be held.
    pub(super) fn fail_abandoned(&self, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        for info in self.backups(ctx)? {
            if matches!(info.status, Status::Empty | Status::Started) {
                ctx.warn(format!(
                    "Backup {} was interrupted (its process is gone): it is marked as FAILED",
                    info.id
                ));
                self.catalog.update(&info.id, &mut |info| {
                    info.status = Status::Failed;
                    info.error.get_or_insert_with(|| {
                        "failure: the process that took the backup was killed".to_owned()
                    });
                })?;
            }
        }
        Ok(())
    }

    fn take_backup(
        &self,
        options: &BackupOptions,
        parent: Option<&BackupInfo>,
        ctx: &Ctx<'_>,
    ) -> Result<BackupInfo, ServerError> {
        let began = ctx.clock.monotonic();
        let created_at = ctx.clock.now();
        let previous = self.reusable()?;
        let connect = |ctx: &Ctx<'_>| self.backup_session(ctx);
        let stream = |stop: &Cancel| self.backup_stream(stop);
        let transport;
        let executor: Box<dyn BackupExecutor> = match self.config.options.backup_method {
            crate::config::BackupMethod::Postgres => Box::new(StreamingExecutor::new(&connect, &stream)),
            _ => {
                transport = self.transport()?;
                Box::new(CopyExecutor::new(transport.as_ref(), &connect))
            }
        };
        let executor = executor.as_ref();
        let (incremental, _parent) = parent.map(|parent| self.incremental_plan(parent)).transpose()?.unzip();
        // Any id will do here: the catalog gives the real one.
        let mut draft = BackupInfo::empty(BackupId::from_time(created_at));
        draft.server_name = Some(self.name().clone());
        draft.backup_name = options.name.clone();
        draft.mode = Some(executor.method());
        draft.parent_backup_id = parent.map(|parent| parent.id);
        draft.compression = self.recorded_compression();
        draft.encryption = self.config.options.encryption.map(|_| "gpg".to_owned());
        let (info, space) = self.catalog.create(Draft { created_at, info: draft })?;
        // While it is being taken nobody removes it, nor the WAL that it may need.
        let _lease = self.catalog.lease(&info.id, Purpose::Backup)?;
        self.join_parent(&info)?;
        ctx.info(format!(
            "Starting backup using {} method for server {} in {}",
            executor.method(),
            self.name(),
            self.catalog.paths().base(&info.id)
        ));
        let told = || self.told_of_backup(&info);
        let begun = self.run_scripts(Around::Backup, Phase::Pre, &told, ctx);
        let from = From { previous, incremental };
        let outcome = begun.and_then(|()| self.copy_and_seal(executor, &info, from, space.as_ref(), ctx));
        match outcome {
            Ok(info) => {
                let elapsed = ctx.clock.monotonic().saturating_sub(began);
                let start = info.begin_time.unwrap_or(created_at);
                ctx.info(format!(
                    "Backup completed (start time: {}, elapsed time: {})",
                    naive(ctx, start),
                    human_duration(elapsed.try_into().unwrap_or_default())
                ));
                Ok(info)
            }
            Err(error) => {
                // Whatever an interruption broke on its way, it is the reason.
                let error = ctx.cancel.check().map_or_else(ServerError::from, |()| error);
                let failed = self.catalog.update(&info.id, &mut |info| {
                    info.status = Status::Failed;
                    info.error = Some(error.as_failure());
                });
                if let Err(second) = failed {
                    ctx.warn(format!(
                        "Backup {} could not be marked as FAILED, the next backup will do it: {second}",
                        info.id
                    ));
                }
                self.after_failed_backup(&info.id, ctx);
                Err(error)
            }
        }
    }

    fn copy_and_seal(
        &self,
        executor: &dyn BackupExecutor,
        info: &BackupInfo,
        from: From,
        space: &dyn BackupSpace,
        ctx: &Ctx<'_>,
    ) -> Result<BackupInfo, ServerError> {
        let options = &self.config.options;
        // Opened before the first write: a failed writeback that somebody else's sync was told of meanwhile is not told
        // again to a syncfs that comes later (I29).
        let watch = self.host.disk.watch_writes(&self.catalog.paths().base(&info.id))?;
        let link = options.reuse_backup == Some(ReuseBackup::Link);
        let wanted = link || options.reuse_backup == Some(ReuseBackup::Copy);
        let (reuse, _lease) = match from.previous.filter(|_| wanted) {
            Some(parent) => self.reuse_of(&parent, link, ctx)?.unzip(),
            None => (None, None),
        };
        let job = BackupJob {
            server: self.name().clone(),
            id: info.id,
            immediate_checkpoint: options.immediate_checkpoint,
            jobs: usize::try_from(options.parallel_jobs).unwrap_or(1).max(1),
            start_batch: (
                usize::try_from(options.parallel_jobs_start_batch_size).unwrap_or(1).max(1),
                Duration::from_secs(u64::try_from(options.parallel_jobs_start_batch_period).unwrap_or(0)),
            ),
            retry_times: u32::try_from(options.basebackup_retry_times).unwrap_or(0),
            retry_sleep: Duration::from_secs(u64::try_from(options.basebackup_retry_sleep).unwrap_or(0)),
            bandwidth: self.bandwidth(),
            tablespace_bandwidth: self.tablespace_bandwidth(),
            reuse,
            keepalive: Duration::from_secs(u64::try_from(options.keepalive_interval).unwrap_or(0)),
            corrupt_pages: CorruptPagePolicy::Warn,
            packing: self.packing()?,
            server_packing: self.server_packing(),
            encryption: self.encryption(),
            incremental: from.incremental,
        };
        let journal =
            Journal { server: self, id: info.id, ctx: *ctx, segment_size: Cell::new(SegmentSize::DEFAULT) };
        let mut report = executor.execute(&job, space, &journal, ctx)?;
        // A standby closes no segment: its primary does, so that the last WAL of the backup is archived soon.
        if options.primary_conninfo.is_some()
            && let Err(error) = self.switch_wal(false, ctx)
        {
            ctx.warn(format!(
                "{error}: the last WAL segment of the backup is archived when the primary fills it or closes it"
            ));
        }
        if !report.skipped.is_empty() {
            ctx.debug(format!(
                "{} files changed or vanished legally while they were copied",
                report.skipped.len()
            ));
        }
        // A base backup comes with PostgreSQL's own.
        if options.autogenerate_manifest && executor.method() != BackupMethod::Postgres {
            self.write_manifest(space, &mut report.proofs, ctx)?;
        }
        let sizes = space.seal(&report.proofs, ctx)?;
        if let Some(watch) = watch {
            watch.sync()?;
        }
        let info = self.catalog.update(&info.id, &mut |info| {
            info.size = Some(sizes.size);
            info.deduplicated_size = Some(sizes.deduplicated_size);
            info.status = Status::WaitingForWals;
        })?;
        ctx.info(size_message(&info, &sizes, options.reuse_backup));
        if let (Some(lsn), Some(wal), Some(offset)) = (info.end_xlog, info.end_wal, info.end_offset) {
            ctx.info(format!("Backup end at LSN: {lsn} ({wal}, {offset:08X})"));
        }
        Ok(info)
    }

    /// What can be taken from another backup, and the lease that keeps it there; `None` when it goes away just now.
    fn reuse_of(
        &self,
        parent: &BackupInfo,
        link: bool,
        ctx: &Ctx<'_>,
    ) -> Result<Option<(ReusePlan, Lease)>, ServerError> {
        let Some(parent_begin) = parent.begin_time else { return Ok(None) };
        let opened = self
            .catalog
            .lease(&parent.id, Purpose::Parent)
            .and_then(|lease| Ok((lease, self.catalog.open(&parent.id)?)));
        match opened {
            Ok((lease, reader)) => {
                let plan = ReusePlan { parent: parent.id, parent_begin, reader: Arc::from(reader), link };
                Ok(Some((plan, lease)))
            }
            Err(error @ (CatalogError::Busy { .. } | CatalogError::NotFound { .. })) => {
                ctx.warn(format!("No files are taken from backup {}: {error}", parent.id));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest available backup whose files may be taken again: the last one, when it has a full manifest. One whose
    /// removal was begun has lost files.
    fn reusable(&self) -> Result<Option<BackupInfo>, ServerError> {
        let going = self.catalog.removals_pending()?;
        let backups = self.catalog.survey()?.backups;
        Ok(backups
            .into_iter()
            .filter(|b| b.status.is_available() && !b.is_incremental() && !going.contains(&b.id))
            .max_by_key(|b| b.id))
    }
}

/// What a backup may build on.
struct From {
    /// Whose unchanged files may be taken again.
    previous: Option<BackupInfo>,
    /// Whose blocks it leaves out.
    incremental: Option<IncrementalPlan>,
}

/// Barman prints start times without their zone.
fn naive(ctx: &Ctx<'_>, instant: OffsetDateTime) -> String {
    let text = python_str(ctx.clock.to_local(instant));
    // The zone is the last six characters, `+00:00`.
    text.get(..text.len().saturating_sub(6)).unwrap_or(&text).to_owned()
}

fn size_message(info: &BackupInfo, sizes: &SpaceReport, reuse: Option<ReuseBackup>) -> String {
    if reuse == Some(ReuseBackup::Link) {
        format!(
            "Backup size: {}. Actual size on disk: {} (-{} deduplication ratio).",
            pretty_size(sizes.size),
            pretty_size(sizes.deduplicated_size),
            percentage(info.deduplication_ratio())
        )
    } else {
        format!("Backup size: {}", pretty_size(sizes.size))
    }
}

/// Writes what becomes known into the catalog.
struct Journal<'a> {
    server: &'a Server,
    id: BackupId,
    ctx: Ctx<'a>,
    /// Told by the start, needed at the end.
    segment_size: Cell<SegmentSize>,
}

impl Journal<'_> {
    fn record(&self, change: &mut dyn FnMut(&mut BackupInfo)) -> Result<(), BackupError> {
        self.server.catalog.update(&self.id, change)?;
        Ok(())
    }

    /// Before the first backup nothing can use the WAL: what precedes it is dropped. That only frees space, so that
    /// trouble with it is told and does not cost the backup.
    ///
    /// With scripts around it that waits until the backup is over: the server's connection must not wait for them.
    fn drop_useless_wal(&self) {
        if self.server.has_wal_delete_scripts() {
            return;
        }
        if let Err(error) = self.server.purge_before_first(&self.id, &self.ctx) {
            self.ctx.warn(format!("WAL from before the first backup was not removed: {error}"));
        }
    }
}

impl BackupJournal for Journal<'_> {
    fn started(&self, begin: &Begin) -> Result<(), BackupError> {
        self.server
            .settle_identity(begin.server.system_id, begin.server.version)
            .map_err(|e| BackupError::Identity(e.to_string()))?;
        let size = begin.server.segment_size;
        self.segment_size.set(size);
        let started = begin.started;
        let begin_wal = SegmentName::containing(started.timeline, started.lsn, size);
        self.record(&mut |info| {
            let server = &begin.server;
            info.status = Status::Started;
            info.begin_xlog = Some(started.lsn);
            info.begin_wal = Some(begin_wal);
            info.begin_offset = Some(started.lsn.offset(size));
            info.begin_time = Some(started.time);
            info.timeline = Some(started.timeline);
            info.systemid = Some(server.system_id);
            info.version = Some(server.version);
            info.xlog_segment_size = size;
            info.pgdata = Some(server.pgdata.clone());
            info.tablespaces = server.tablespaces.clone();
            info.cluster_size = server.cluster_size;
            info.config_file = server.config_file.clone();
            info.hba_file = server.hba_file.clone();
            info.ident_file = server.ident_file.clone();
            info.included_files = server.included_files.clone();
            info.data_checksums = Some(on_off(server.data_checksums));
            info.summarize_wal = server.summarize_wal.map(on_off);
        })?;
        let offset = started.lsn.offset(size);
        self.ctx.info(format!("Backup start at LSN: {} ({begin_wal}, {offset:08X})", started.lsn));
        self.drop_useless_wal();
        Ok(())
    }

    fn copied(&self, stats: &PyValue) -> Result<(), BackupError> {
        self.record(&mut |info| info.copy_stats = Some(stats.clone()))?;
        self.drop_useless_wal();
        Ok(())
    }

    fn stopped(&self, end: &End) -> Result<(), BackupError> {
        let size = self.segment_size.get();
        self.record(&mut |info| {
            info.end_xlog = Some(end.lsn);
            // The last byte that is needed is the one before the stop position (I11).
            info.end_wal = Some(SegmentName::new(end.timeline, end.lsn.previous_segment(size), size));
            info.end_offset = Some(end.lsn.offset(size));
            info.end_time = Some(end.time);
            info.backup_label = Some(end.label.clone());
        })
    }
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}
