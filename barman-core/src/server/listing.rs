//! What `list-backups`, `show-backup` and `status` tell of a catalog, from one reading of catalog and WAL index.

use std::collections::BTreeMap;

use super::wal_stats::{BackupWal, WalStats};
use super::{Server, ServerError};
use crate::catalog::Catalog;
use crate::ctx::Ctx;
use crate::model::{BackupId, BackupInfo, PyValue, Timeline};
use crate::policy::chain::Chains;
use crate::policy::retention::{self, RetentionStatus, Verdict};
use crate::policy::{Held, redundancy, resolve};
use crate::wal::WalError;

/// A catalog as it was when it was read, with what the policy says and what WAL there is.
#[derive(Debug, Clone)]
pub struct Overview {
    backups: Vec<BackupInfo>,
    verdicts: Option<BTreeMap<BackupId, Verdict>>,
    wal: WalStats,
}

/// A backup as a listing shows it.
#[derive(Debug, Clone)]
pub struct ListedBackup<'a> {
    /// Its facts.
    pub backup: &'a BackupInfo,
    /// What there is of its WAL.
    pub wal: BackupWal,
    /// What the enforced policy says; `None` without one.
    pub retention: Option<RetentionStatus>,
}

impl ListedBackup<'_> {
    /// Bytes of the files and of the WAL that makes them consistent.
    pub fn size(&self) -> u64 {
        self.backup.size.unwrap_or(0).saturating_add(self.wal.required.bytes)
    }
}

/// A backup as `show-backup` shows it.
#[derive(Debug, Clone)]
pub struct ShownBackup<'a> {
    /// What a listing shows of it.
    pub listed: ListedBackup<'a>,
    /// The next older backup with complete files.
    pub previous: Option<BackupId>,
    /// The next newer one.
    pub next: Option<BackupId>,
    /// Of an incremental: the oldest ancestor in the catalog. Its own id where the parent is lost, as in Barman.
    pub root: Option<BackupId>,
    /// Of an incremental: how many backups stand from the root to this one.
    pub chain_size: Option<usize>,
    /// Timelines that can be reached from it by WAL of the archive, beside its own.
    pub timelines: Vec<Timeline>,
}

/// What was measured while a backup was copied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopyFigures {
    /// Seconds of the copy.
    pub copy: f64,
    /// Seconds of the preparation before it, if it was measured.
    pub analysis: Option<f64>,
    /// Workers.
    pub workers: i64,
    /// Bytes a second, of the bytes that this backup does not share with another.
    pub throughput: f64,
}

impl Server {
    /// Reads catalog, annotations and WAL index, each once.
    pub fn overview(&self, ctx: &Ctx<'_>) -> Result<Overview, ServerError> {
        // Hundreds of small files and one large one: neither waits for the other.
        let (catalog, wal) = std::thread::scope(|scope| {
            let wal = scope.spawn(|| {
                let mut wal = WalStats::default();
                self.wal().each_indexed(&mut |line| wal.add(&line)).map(|_| wal.finish())
            });
            let catalog = self.backups(ctx).and_then(|backups| {
                let verdicts = self.verdicts(&backups, ctx)?;
                Ok((backups, verdicts))
            });
            (catalog, wal.join())
        });
        let (backups, verdicts) = catalog?;
        let wal = wal.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Overview { backups, verdicts, wal })
    }

    /// As [`Self::overview`], for one backup, named as in [`Overview::resolve`]: what its WAL and what comes after it need. The
    /// WAL of the other backups is not counted.
    pub fn overview_of(&self, token: &str, ctx: &Ctx<'_>) -> Result<Overview, ServerError> {
        let backups = self.backups(ctx)?;
        let from = resolve::resolve(token, self.name(), &backups)?.begin_wal;
        let verdicts = self.verdicts(&backups, ctx)?;
        let mut wal = WalStats::default();
        self.wal().each_indexed_from(from, &mut |line| wal.add(&line))?;
        Ok(Overview { backups, verdicts, wal: wal.finish() })
    }

    /// The ids of all backups, newest first.
    pub fn backup_ids(&self, ctx: &Ctx<'_>) -> Result<Vec<BackupId>, ServerError> {
        Ok(self.backups(ctx)?.iter().rev().map(|backup| backup.id).collect())
    }

    fn verdicts(
        &self,
        backups: &[BackupInfo],
        ctx: &Ctx<'_>,
    ) -> Result<Option<BTreeMap<BackupId, Verdict>>, ServerError> {
        let Some(policy) = self.config().retention_policy() else { return Ok(None) };
        let deleting = self.catalog().removals_pending()?;
        let mut held = Vec::with_capacity(backups.len());
        for backup in backups {
            let keep = self.catalog().kept(&backup.id)?;
            held.push(Held { keep, deleting: deleting.contains(&backup.id), ..Held::plain(backup) });
        }
        let minimum = self.config().options.minimum_redundancy.0;
        Ok(Some(retention::evaluate(policy, &held, minimum, ctx.clock.now())))
    }

    /// Everything there is to show of a backup of an overview.
    ///
    /// # Errors
    /// A timeline history in the archive that cannot be read.
    pub fn shown<'a>(
        &self,
        overview: &'a Overview,
        backup: &'a BackupInfo,
    ) -> Result<ShownBackup<'a>, ServerError> {
        let chains = Chains::new(&overview.backups);
        let incremental = backup.is_incremental();
        Ok(ShownBackup {
            listed: overview.listed(backup),
            previous: overview.previous(backup.id).map(|b| b.id),
            next: overview.next(backup.id).map(|b| b.id),
            root: chains.root(backup.id).filter(|_| incremental).map(|b| b.id),
            chain_size: incremental.then(|| chains.chain_size(backup.id)),
            timelines: self.reachable_timelines(overview, backup)?,
        })
    }

    /// The timelines that branch off this backup's after its end, and those that branch off them.
    fn reachable_timelines(
        &self,
        overview: &Overview,
        backup: &BackupInfo,
    ) -> Result<Vec<Timeline>, ServerError> {
        let (Some(own), Some(end)) = (backup.timeline, backup.end_xlog) else { return Ok(Vec::new()) };
        let mut reachable = Vec::new();
        for timeline in overview.wal.histories().iter().copied().filter(|t| *t > own) {
            let history = match self.timeline_history(timeline) {
                // The index is not always up to date.
                Err(ServerError::Wal(WalError::NotFound { .. })) => continue,
                other => other?,
            };
            // A history names all ancestors, each with the position where it was left.
            if history.entries.iter().any(|entry| entry.parent == own && entry.switch >= end) {
                reachable.push(timeline);
            }
        }
        Ok(reachable)
    }
}

impl Overview {
    /// All backups, oldest first.
    pub fn backups(&self) -> &[BackupInfo] {
        &self.backups
    }

    /// The archive's sizes.
    pub fn wal(&self) -> &WalStats {
        &self.wal
    }

    /// The backup that an argument means.
    pub fn resolve(&self, token: &str, server: &Server) -> Result<&BackupInfo, ServerError> {
        Ok(resolve::resolve(token, server.name(), &self.backups)?)
    }

    /// What a listing shows, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = ListedBackup<'_>> {
        self.backups.iter().rev().map(|backup| self.listed(backup))
    }

    /// Backups with complete files, oldest first.
    pub fn available(&self) -> impl DoubleEndedIterator<Item = &BackupInfo> {
        self.backups.iter().filter(|backup| backup.status.is_available())
    }

    /// How many backups count towards the minimum redundancy.
    pub fn redundancy(&self) -> usize {
        redundancy::counted(&self.backups)
    }

    fn listed<'a>(&'a self, backup: &'a BackupInfo) -> ListedBackup<'a> {
        let wal = self.wal.of_backup(backup, self.next(backup.id));
        let none = RetentionStatus::None;
        let retention = self.verdicts.as_ref().map(|v| v.get(&backup.id).map_or(none, |v| v.status));
        ListedBackup { backup, wal, retention }
    }

    /// The next newer backup with complete files.
    pub fn next(&self, id: BackupId) -> Option<&BackupInfo> {
        let after = self.backups.partition_point(|backup| backup.id <= id);
        self.backups.get(after..)?.iter().find(|backup| backup.status.is_available())
    }

    /// The next older backup with complete files.
    pub fn previous(&self, id: BackupId) -> Option<&BackupInfo> {
        let before = self.backups.partition_point(|backup| backup.id < id);
        self.backups.get(..before)?.iter().rfind(|backup| backup.status.is_available())
    }
}

/// What the copy of a backup took, from its `copy_stats`.
pub fn copy_figures(backup: &BackupInfo) -> Option<CopyFigures> {
    let Some(PyValue::Dict(stats)) = &backup.copy_stats else { return None };
    let number = |key: &str| {
        stats.iter().find_map(|(k, value)| match (k, value) {
            (PyValue::Str(k), PyValue::Float(number)) if k == key => Some(*number),
            (PyValue::Str(k), PyValue::Int(number)) if k == key => Some(*number as f64),
            _ => None,
        })
    };
    let copy = number("copy_time").filter(|seconds| *seconds > 0.0)?;
    let throughput = backup.deduplicated_size.unwrap_or(0) as f64 / copy;
    let workers = number("number_of_workers").map_or(1, |n| n as i64);
    Some(CopyFigures { copy, analysis: number("analysis_time"), workers, throughput })
}

/// Bytes that were not stored again, with their share of the cluster: for file copies and incrementals.
pub fn saved(backup: &BackupInfo) -> Option<(u64, f64)> {
    use crate::model::BackupType::{Incremental, Rsync};
    if !matches!(backup.backup_type(), Rsync | Incremental) {
        return None;
    }
    let share = backup.deduplication_ratio();
    let total = backup.cluster_size.or(backup.size).unwrap_or(0);
    Some(((total as f64 * share) as u64, share))
}
