//! `barman restore`: the facts for the planner, the plan, and its run.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use camino::Utf8PathBuf;

use super::scripts::Around;
use super::{Server, ServerError};
use crate::catalog::{Catalog, Purpose};
use crate::config::Operation;
use crate::ctx::Ctx;
use crate::format::history::TimelineHistory;
use crate::format::text::pretty_size;
use crate::format::wal_page::{Expectations, Validator};
use crate::hooks::Phase;
use crate::model::{
    BackupId, BackupInfo, Lsn, RecoveryTarget, SegmentName, SegmentSize, StopPoint, WalFileName,
};
use crate::recovery::{
    self, Facts, RecoveryPlan, RecoveryPlanner, RecoveryReport, RecoveryRequest, RunOptions, StandardPlanner,
    WalDelivery,
};
use crate::wal::{WalArchive, WalEntry};

/// What a restore is asked for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The data directory to make.
    pub destination: Utf8PathBuf,
    /// Where replay stops.
    pub target: RecoveryTarget,
    /// Tablespaces to put elsewhere, by name.
    pub tablespaces: BTreeMap<String, Utf8PathBuf>,
    /// How the server will get its WAL.
    pub wal: WalDelivery,
    /// Make a standby.
    pub standby: bool,
    /// Use the last, unfinished segment too.
    pub partial_wal: bool,
    /// File that recovery settings are appended to.
    pub settings_file: Option<String>,
    /// How to reach the host of the destination; this host when `None`.
    pub remote: Option<String>,
    /// Compress what crosses the network to that host.
    pub compressed: bool,
    /// Parallel workers, at least 1.
    pub jobs: usize,
    /// So many workers start at a time, and the next ones so much later.
    pub start_batch: (usize, Duration),
    /// Most bytes a second.
    pub bandwidth: Option<u64>,
    /// How often a lost connection to the host of the destination is made again.
    pub retry_times: u32,
    /// How long to wait before that.
    pub retry_sleep: Duration,
    /// What scripts are told of the options that were given: a JSON object as Barman makes it, or nothing.
    pub told: String,
    /// The destination may hold an older cluster: only what differs from it is written.
    pub delta: bool,
    /// WAL of that older cluster that may not be archived is removed instead of being kept aside.
    pub discard_wal: bool,
}

impl RestoreOptions {
    /// Everything that the archive has, to this place, with nothing but defaults.
    pub fn to(destination: impl Into<Utf8PathBuf>) -> Self {
        let RunOptions { jobs, start_batch, bandwidth, retry_times, retry_sleep, delta, discard_wal } =
            RunOptions::default();
        Self {
            destination: destination.into(),
            target: RecoveryTarget::latest(),
            tablespaces: BTreeMap::new(),
            wal: WalDelivery::Copy { directory: None },
            standby: false,
            partial_wal: false,
            settings_file: None,
            remote: None,
            compressed: false,
            jobs,
            start_batch,
            bandwidth,
            told: String::new(),
            retry_times,
            retry_sleep,
            delta,
            discard_wal,
        }
    }
}

/// What a restore did.
#[derive(Debug, Clone)]
pub struct RestoreOutcome {
    /// What was done.
    pub plan: RecoveryPlan,
    /// How it went.
    pub report: RecoveryReport,
}

/// What an archive holds.
pub(super) struct ArchivedLogs {
    /// Every file, in archive order.
    pub(super) wals: Vec<WalEntry>,
    /// Every timeline history that can be read.
    pub(super) histories: Vec<TimelineHistory>,
}

impl Server {
    /// Plans a restore without touching anything. WAL that waits in incoming is archived first, so that the plan knows it.
    pub fn plan_restore(
        &self,
        backup: &BackupInfo,
        options: &RestoreOptions,
        ctx: &Ctx<'_>,
    ) -> Result<RecoveryPlan, ServerError> {
        self.usable(Operation::Restore, ctx)?;
        self.lineage(backup)?;
        let logs = self.archived_logs(ctx)?;
        // One that cannot be read is of no use.
        let unfinished = |name| self.wal.unfinished(name, backup.xlog_segment_size).ok().flatten();
        self.plan_from(&logs, backup, options, &unfinished)
    }

    /// What the archive holds, for plans.
    pub(super) fn archived_logs(&self, ctx: &Ctx<'_>) -> Result<ArchivedLogs, ServerError> {
        let mut wals = self.all_wal()?;
        let mut histories = Vec::new();
        // A timeline whose history is damaged cannot be followed. The others can.
        wals.retain(|entry| match entry.name {
            WalFileName::History(timeline) => match self.timeline_history(timeline) {
                Ok(history) => {
                    histories.push(history);
                    true
                }
                Err(error) => {
                    ctx.warn(format!("Timeline {timeline} is left out, its history cannot be read: {error}"));
                    false
                }
            },
            _ => true,
        });
        Ok(ArchivedLogs { wals, histories })
    }

    /// Plans from what the archive holds.
    pub(super) fn plan_from(
        &self,
        logs: &ArchivedLogs,
        backup: &BackupInfo,
        options: &RestoreOptions,
        unfinished: &recovery::Unfinished<'_>,
    ) -> Result<RecoveryPlan, ServerError> {
        let request = RecoveryRequest {
            destination: options.destination.clone(),
            target: options.target.clone(),
            tablespaces: options.tablespaces.clone(),
            wal: options.wal.clone(),
            standby: options.standby,
            partial: options.partial_wal,
            settings_file: options.settings_file.clone(),
        };
        let last_record = |name| self.last_record(name, backup.xlog_segment_size);
        // Opened only when it is asked.
        let commits =
            std::cell::LazyCell::new(|| std::cell::RefCell::new(self.wal.commits(backup.xlog_segment_size)));
        // Where WAL cannot be read, the times of its files have to do.
        let stop_after = |names: &[SegmentName], target, inclusive| {
            let stop = self.stop_after(&commits, logs, names, target, inclusive);
            stop.unwrap_or(recovery::TimeStop::Unknown)
        };
        let facts = Facts {
            backup,
            histories: &logs.histories,
            wals: &logs.wals,
            last_record: &last_record,
            stop_after: &stop_after,
            unfinished,
        };
        Ok(StandardPlanner.plan(&request, &facts)?)
    }

    /// See [`recovery::LastRecord`].
    fn last_record(&self, name: SegmentName, size: SegmentSize) -> Option<Lsn> {
        let expectations = Expectations { accept_unknown_magic: true, ..Expectations::new(name, size) };
        let mut validator = Validator::new(expectations);
        let mut plain = self.wal.open(&WalFileName::Segment(name)).ok()?;
        let mut chunk = vec![0; 256 << 10];
        loop {
            match plain.read(&mut chunk).ok()? {
                0 => return validator.finish().ok()?.last_record,
                count => validator.push(chunk.get(..count).unwrap_or_default()),
            };
        }
    }

    /// Archives what waits in incoming, so that a restore finds it. Trouble with that is told and does not stop a restore.
    pub fn archive_before_restore(&self, ctx: &Ctx<'_>) {
        if let Err(error) = self.archive_wal(ctx) {
            ctx.warn(format!("WAL that waits in incoming could not be archived before the restore: {error}"));
        }
    }

    /// Restores a backup. It stays in the catalog until the restore ends, whatever retention says meanwhile.
    pub fn restore(
        &self,
        id: &BackupId,
        options: &RestoreOptions,
        ctx: &Ctx<'_>,
    ) -> Result<RestoreOutcome, ServerError> {
        let _lease = self.catalog.lease(id, Purpose::Restore)?;
        let backup = self.catalog.get(id)?;
        let plan = self.plan_restore(&backup, options, ctx)?;
        let transport = self.transport_by(options.remote.as_deref(), options.compressed)?;
        let told = || self.told_of_restore(&backup, options);
        if !self.scripts(Around::Recovery, Phase::Pre).is_empty() {
            // They may stop services or make room: not for a restore that is refused at once.
            recovery::look(&plan, options.delta, transport.as_ref())?;
            self.run_scripts(Around::Recovery, Phase::Pre, &told, ctx)?;
        }
        let kind = if options.remote.is_some() { "remote" } else { "local" };
        ctx.info(format!("Starting {kind} restore for server {} using backup {id}", self.name()));
        ctx.info(format!("Destination directory: {}", options.destination));
        if let Some(remote) = &options.remote {
            ctx.info(format!("Remote command: {remote}"));
        }
        if let Some(targets) = targets(&options.target) {
            ctx.info(format!("Doing PITR. Recovery target {targets}"));
        }
        for warning in &plan.warnings {
            ctx.warn(warning);
        }
        let (reader, _chain) = self.restorable(&backup, ctx)?;
        let run = RunOptions {
            jobs: options.jobs,
            start_batch: options.start_batch,
            bandwidth: options.bandwidth,
            retry_times: options.retry_times,
            retry_sleep: options.retry_sleep,
            delta: options.delta,
            discard_wal: options.discard_wal,
        };
        let report = recovery::run(&plan, reader.as_ref(), &self.wal, transport.as_ref(), &run, ctx)?;
        if options.delta {
            ctx.info(format!(
                "Delta restore: {} files ({}) of the destination were equal and stay, {} were removed, {} ({}) were written",
                report.kept,
                pretty_size(report.kept_bytes),
                report.removed,
                report.files,
                pretty_size(report.bytes)
            ));
        }
        if report.unverified > 0 {
            ctx.debug(format!(
                "{} files could not be verified: the backup has no checksums for them (it was not taken by this program)",
                report.unverified
            ));
        }
        self.run_scripts(Around::Recovery, Phase::Post, &told, ctx)?;
        Ok(RestoreOutcome { plan, report })
    }
}

/// Barman's list of targets: `time: '…'`, in its order.
fn targets(target: &RecoveryTarget) -> Option<String> {
    let mut parts = Vec::new();
    match &target.stop {
        StopPoint::Time(time) => {
            parts.push(format!("time: '{}'", crate::format::timestamp::python_str(*time)))
        }
        StopPoint::Xid(xid) => parts.push(format!("xid: '{xid}'")),
        StopPoint::Lsn(lsn) => parts.push(format!("lsn: '{lsn}'")),
        _ => {}
    }
    let timeline = target.timeline.to_string();
    if !timeline.is_empty() {
        parts.push(format!("timeline: '{timeline}'"));
    }
    match &target.stop {
        StopPoint::Name(name) => parts.push(format!("name: '{name}'")),
        StopPoint::Immediate => parts.push("immediate: True".to_owned()),
        _ => {}
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}
