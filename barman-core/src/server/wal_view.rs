//! What the archive holds, as a whole: whether it is fit for a new server, where it has holes, and what can be restored.

use std::collections::{BTreeMap, HashSet};

use time::OffsetDateTime;

use super::restore::ArchivedLogs;
use super::{Server, ServerError};
use crate::catalog::Catalog as _;
use crate::config::Operation;
use crate::ctx::Ctx;
use crate::model::{
    BackupId, BackupInfo, Lsn, RecoveryTarget, SegmentName, SegmentSize, Status, TargetTimeline, Timeline,
    WalFileName,
};
use crate::policy::wal_ranges::{RangeBuilder, SegmentRange};
use crate::recovery::{PlanError, RecoveryError};
use crate::wal::{RefusedWal, WalArchive as _, WalRange};

/// The WAL of a server: what there is, what is missing, and what that means for its backups.
#[derive(Debug, Clone)]
pub struct WalView {
    /// How long segments are.
    pub segment_size: SegmentSize,
    /// Each timeline of which there is WAL, ascending.
    pub timelines: Vec<TimelineView>,
    /// Each backup that could be restored, oldest first.
    pub backups: Vec<BackupReach>,
}

/// One timeline.
#[derive(Debug, Clone)]
pub struct TimelineView {
    /// The timeline.
    pub timeline: Timeline,
    /// The timeline that it left, and where; `None` for the first, and where its history is not here.
    pub parent: Option<(Timeline, Lsn)>,
    /// What is here without a hole, with the times at which the server wrote the first and the last of it.
    pub ranges: Vec<(SegmentRange, Option<OffsetDateTime>, Option<OffsetDateTime>)>,
    /// What is missing in between.
    pub holes: Vec<SegmentRange>,
}

/// How far a backup can be rolled forward.
#[derive(Debug, Clone)]
pub struct BackupReach {
    /// The backup.
    pub id: BackupId,
    /// Its status.
    pub status: Status,
    /// Its timeline.
    pub timeline: Timeline,
    /// When it ended: the earliest time that can be restored.
    pub from: Option<OffsetDateTime>,
    /// Where it is consistent: the earliest position.
    pub from_lsn: Option<Lsn>,
    /// How far the archive goes from there, on the timeline `until_timeline`; `None` when the backup cannot be restored at all.
    pub until_lsn: Option<Lsn>,
    /// The newest timeline that can be followed.
    pub until_timeline: Timeline,
    /// When the server wrote the last of it.
    pub until: Option<OffsetDateTime>,
    /// The first segment that is missing although there is later WAL, or that the backup cannot do without.
    pub missing: Option<SegmentName>,
}

impl BackupReach {
    /// What to tell the user when WAL is missing.
    pub fn warning(&self) -> Option<String> {
        let missing = self.missing?;
        Some(format!(
            "WAL file {missing} is missing: backup {} cannot be rolled forward beyond it. If the file exists elsewhere, put it \
             into the incoming directory; else take a new backup",
            self.id
        ))
    }
}

impl WalView {
    /// Backups that are DONE and cannot be rolled forward to the end of the archive.
    pub fn cut_off(&self) -> impl Iterator<Item = &BackupReach> {
        self.backups.iter().filter(|backup| backup.missing.is_some())
    }
}

impl Server {
    /// Whether the archive is fit for a new server: empty, or, where a timeline is given, without anything of it or of a
    /// later one. A server that archives into WAL of another one breaks both.
    ///
    /// # Errors
    /// [`ServerError::ArchiveInUse`] when it is not.
    pub fn check_wal_archive(&self, timeline: Option<u32>) -> Result<(), ServerError> {
        self.enabled()?;
        // Lines without files count as with Barman, and files without lines are in the way just as well.
        let mut names: HashSet<WalFileName> = HashSet::new();
        self.wal.each_indexed(&mut |line| {
            names.insert(line.name);
        })?;
        self.wal.scan(&WalRange::default(), &mut |entry| {
            names.insert(entry.name);
            std::ops::ControlFlow::Continue(())
        })?;
        let server = self.name().clone();
        let Some(timeline) = timeline else {
            return match names.len() {
                0 => Ok(()),
                _ => Err(ServerError::ArchiveInUse { server, what: "Expected empty archive".to_owned() }),
            };
        };
        let found = names.iter().filter(|name| name.timeline().get() >= timeline).count();
        if found == 0 {
            return Ok(());
        }
        let files = if found == 1 { "file" } else { "files" };
        let what = format!("Found {found} {files} in WAL archive equal to or newer than timeline {timeline}");
        Err(ServerError::ArchiveInUse { server, what })
    }

    /// The ranges and holes of the archive, and how far each backup can be rolled forward. Nothing is changed.
    pub fn wal_view(&self, ctx: &Ctx<'_>) -> Result<WalView, ServerError> {
        self.usable(Operation::Look, ctx)?;
        let logs = self.archived_logs(ctx)?;
        let backups: Vec<BackupInfo> = self.catalog.survey()?.backups;
        let known = super::identity::known_cluster(&self.catalog, self.host.disk.as_ref())?.segment_size;
        let size = known.unwrap_or(SegmentSize::DEFAULT);
        let mut reaches = Vec::new();
        for backup in backups.iter().filter(|b| b.status.is_available()) {
            reaches.push(self.reach_of(backup, &logs)?);
        }
        reaches.sort_by_key(|reach| reach.id);
        Ok(WalView { segment_size: size, timelines: self.timelines_of(&logs, size), backups: reaches })
    }

    fn timelines_of(&self, logs: &ArchivedLogs, size: SegmentSize) -> Vec<TimelineView> {
        let mut builders: BTreeMap<Timeline, RangeBuilder> = BTreeMap::new();
        let mut times: BTreeMap<SegmentName, OffsetDateTime> = BTreeMap::new();
        for entry in &logs.wals {
            let Some(name) = entry.name.as_segment() else { continue };
            let Some(number) = name.number(size) else { continue };
            builders.entry(name.timeline).or_default().add(name.timeline, number);
            let written = OffsetDateTime::from_unix_timestamp_nanos(entry.mtime.as_nanos());
            times.extend(written.ok().map(|written| (name, written)));
        }
        builders
            .into_iter()
            .map(|(timeline, builder)| {
                let time = |name: SegmentName| times.get(&name).copied();
                let range = |range: &SegmentRange| {
                    (*range, time(range.first_name(size)), time(range.last_name(size)))
                };
                let history = logs.histories.iter().find(|history| history.timeline == timeline);
                let left = history.and_then(|h| h.entries.last().map(|entry| (entry.parent, entry.switch)));
                TimelineView {
                    timeline,
                    parent: left,
                    ranges: builder.ranges().iter().map(range).collect(),
                    holes: builder.holes(),
                }
            })
            .collect()
    }

    /// How far a backup can be rolled forward: what a restore to the end of the archive would plan.
    fn reach_of(&self, backup: &BackupInfo, logs: &ArchivedLogs) -> Result<BackupReach, ServerError> {
        let timeline = backup.begin_wal.map_or(Timeline::FIRST, |begin| begin.timeline);
        let mut reach = BackupReach {
            id: backup.id,
            status: backup.status,
            timeline,
            from: backup.end_time,
            from_lsn: backup.end_xlog,
            until_lsn: None,
            until_timeline: timeline,
            until: None,
            missing: None,
        };
        let options = super::RestoreOptions {
            target: RecoveryTarget { timeline: TargetTimeline::Latest, ..RecoveryTarget::latest() },
            tablespaces: backup
                .tablespaces
                .iter()
                .map(|t| (t.name.clone(), format!("/tablespaces/{}", t.oid).into()))
                .collect(),
            ..super::RestoreOptions::to("/restored")
        };
        let mut planned = self.plan_from(logs, backup, &options, &|_| None);
        if let Err(ServerError::Recovery(RecoveryError::Plan(PlanError::Timeline { .. }))) = &planned {
            // The newest timeline does not come from this backup: its own is followed.
            let mut own = options.clone();
            own.target.timeline = TargetTimeline::Current;
            planned = self.plan_from(logs, backup, &own, &|_| None);
        }
        match planned {
            Ok(plan) => {
                reach.until_timeline = plan.timeline;
                reach.until_lsn = plan.reachable;
            }
            Err(ServerError::Recovery(RecoveryError::Plan(error))) => match error {
                PlanError::Hole { missing, timeline, nearest, .. } => {
                    reach.missing = Some(missing);
                    reach.until_timeline = timeline;
                    reach.until_lsn = nearest.or(backup.end_xlog);
                }
                PlanError::NotConsistent { missing, .. } => reach.missing = Some(missing),
                // A backup that is still to be completed, or lacks facts.
                _ => {}
            },
            Err(other) => return Err(other),
        }
        let size = backup.xlog_segment_size;
        let last = reach.until_lsn.map(|lsn| lsn.previous_segment(size));
        let entry = logs.wals.iter().rev().find(|entry| {
            let name = entry.name.as_segment();
            name.is_some_and(|name| last.is_some() && name.number(size) == last)
        });
        reach.until = entry.and_then(|e| OffsetDateTime::from_unix_timestamp_nanos(e.mtime.as_nanos()).ok());
        Ok(reach)
    }

    /// Files that were not taken into the archive, with the reasons.
    pub fn refused_wal(&self) -> Result<Vec<RefusedWal>, ServerError> {
        Ok(self.wal.refused_files()?)
    }

    /// Puts a refused file where files come in, to be looked at again by the next archiving.
    pub fn retry_refused(&self, refused: &RefusedWal) -> Result<camino::Utf8PathBuf, ServerError> {
        let options = &self.config.options;
        // Where nobody looks into incoming, the receiver's directory is where files come in.
        let into = if options.archiver {
            &options.incoming_wals_directory
        } else {
            &options.streaming_wals_directory
        };
        Ok(self.wal.retry_refused(refused, into)?)
    }

    /// Removes a refused file for good.
    pub fn discard_refused(&self, refused: &RefusedWal) -> Result<(), ServerError> {
        Ok(self.wal.discard_refused(refused)?)
    }
}
