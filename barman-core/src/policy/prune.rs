//! Plans of deletion: which backups go, in which order, which WAL goes with them, and why. Shown first, then done.
//!
//! `delete`, the retention of `cron` and the purge at the first backup all make a [`PrunePlan`]; nothing else may delete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Held;
use super::chain::Chains;
use super::needed_wal::{Needs, Parted, Why};
use super::reachability::Histories;
use super::redundancy::{self, Refusal};
use super::retention::{self, RetentionStatus, Verdict};
use crate::model::{BackupId, BackupInfo, Keep, WalFileName};

/// Why a backup is in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The user asked for it.
    Asked,
    /// It is an incremental that needs this one, which goes.
    DependsOn(BackupId),
    /// The retention policy does not want it.
    Retention(retention::Reason),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::DependsOn(id) => write!(f, "it depends on backup {id}"),
            Self::Retention(reason) => reason.fmt(f),
        }
    }
}

/// One backup that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// Which.
    pub id: BackupId,
    /// Why.
    pub cause: Cause,
}

/// Why a backup stays although the policy does not want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spared {
    /// A process works with it.
    InUse,
    /// This incremental needs it, and stays.
    NeededBy(BackupId),
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("it is in use"),
            Self::NeededBy(id) => write!(f, "backup {id} needs it"),
        }
    }
}

/// What happens to the archived WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalPlan {
    /// No backup goes, so no WAL does.
    NothingGoes,
    /// All of it stays: an older backup is left, which covers whatever is there.
    OlderBackup(BackupId),
    /// All of it stays: it is not known where the WAL of the backup begins at which the removal would stop.
    LimitUnknown(BackupId),
    /// Some may go.
    Parted(Parted),
}

impl WalPlan {
    /// The files that go.
    pub fn removable(&self) -> &[WalFileName] {
        match self {
            Self::Parted(parted) => &parted.removable,
            _ => &[],
        }
    }
}

/// A deletion, to be shown or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunePlan {
    /// The backups that go, in this order: each after the incrementals that need it.
    pub deletions: Vec<Deletion>,
    /// Backups that the policy does not want and that stay.
    pub spared: Vec<(BackupId, Spared)>,
    /// The WAL that may go when all the deletions are done, and the reasons for what stays.
    pub wal: WalPlan,
}

/// What lies in the archive.
#[derive(Debug, Clone, Copy)]
pub struct Archive<'a> {
    /// Every file, in any order.
    pub names: &'a [WalFileName],
    /// The timeline histories.
    pub histories: &'a Histories,
}

/// Why no plan can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// There is no such backup.
    #[error("there is no backup {0} in the catalog")]
    Unknown(BackupId),
    /// The backup, or an incremental that would go with it, must stay.
    #[error("backup {id} must stay")]
    Refused {
        /// Which one must stay.
        id: BackupId,
        /// Why.
        #[source]
        refusal: Refusal,
    },
}

/// The plan for a deletion that a user asked for: the backup with all incrementals that depend on it.
///
/// # Errors
/// A keep annotation, the minimum redundancy, or a process that works with one of the tree.
pub fn delete(
    id: BackupId,
    catalog: &[Held<'_>],
    minimum_redundancy: u32,
    archive: Archive<'_>,
) -> Result<PrunePlan, PruneError> {
    let by_id = index(catalog);
    let target = by_id.get(&id).ok_or(PruneError::Unknown(id))?;
    // One of which a deletion was begun cannot be counted on any more.
    let all = catalog.iter().filter(|h| !h.deleting || h.backup.id == id).map(|h| h.backup);
    redundancy::may_delete(target.backup, target.keep, all, minimum_redundancy)
        .map_err(|refusal| PruneError::Refused { id, refusal })?;
    let chains = Chains::new(catalog.iter().map(|h| h.backup));
    let mut deletions = Vec::new();
    for member in chains.tree_leaves_first(id) {
        let held = by_id.get(&member);
        if held.is_some_and(|h| h.in_use) {
            return Err(PruneError::Refused { id: member, refusal: Refusal::InUse });
        }
        if held.is_some_and(|h| h.keep.is_some()) {
            return Err(PruneError::Refused { id: member, refusal: Refusal::Kept });
        }
        deletions.push(Deletion { id: member, cause: cause_in_tree(member, id, held, Cause::Asked) });
    }
    let wal = wal_after(catalog, &deletions, OlderStandalone::Blocks, archive);
    Ok(PrunePlan { deletions, spared: Vec::new(), wal })
}

/// The plan for what a retention policy does not want any more, from [`retention::evaluate`].
///
/// A chain goes only as a whole from its leaves; a backup in use stays, with all that it depends on.
pub fn enforce(
    verdicts: &BTreeMap<BackupId, Verdict>,
    catalog: &[Held<'_>],
    archive: Archive<'_>,
) -> PrunePlan {
    let by_id = index(catalog);
    let chains = Chains::new(catalog.iter().map(|h| h.backup));
    let mut deletions: Vec<Deletion> = Vec::new();
    let mut spared = Vec::new();
    let mut gone = BTreeSet::new();
    for (id, verdict) in verdicts.iter().filter(|(_, v)| v.status == RetentionStatus::Obsolete) {
        let tree = chains.tree_leaves_first(*id);
        let stays = |member: &BackupId| {
            let held = by_id.get(member)?;
            let unwanted = verdicts.get(member).is_none_or(|v| v.status == RetentionStatus::Obsolete);
            if held.in_use && member == id {
                Some(Spared::InUse)
            } else if held.in_use || !unwanted {
                Some(Spared::NeededBy(*member))
            } else {
                None
            }
        };
        if let Some(why) = tree.iter().find_map(stays) {
            spared.push((*id, why));
            continue;
        }
        for member in tree {
            if gone.insert(member) {
                let own = Cause::Retention(verdict.reason);
                let cause = cause_in_tree(member, *id, by_id.get(&member), own);
                deletions.push(Deletion { id: member, cause });
            }
        }
    }
    let wal = wal_after(catalog, &deletions, OlderStandalone::DoesNotBlock, archive);
    PrunePlan { deletions, spared, wal }
}

/// The plan for the purge at the first backup: WAL older than the begin of this backup, while there is no older one.
pub fn purge_before_first(
    id: BackupId,
    catalog: &[Held<'_>],
    archive: Archive<'_>,
) -> Result<PrunePlan, PruneError> {
    let by_id = index(catalog);
    let first = by_id.get(&id).ok_or(PruneError::Unknown(id))?;
    let older = catalog.iter().map(|h| h.backup).filter(|b| b.id < id && b.status.is_available());
    let wal = match older.map(|b| b.id).min() {
        Some(older) => WalPlan::OlderBackup(older),
        None => part(catalog, &BTreeSet::new(), first.backup, archive),
    };
    Ok(PrunePlan { deletions: Vec::new(), spared: Vec::new(), wal })
}

/// Of WAL that a plan lets go, what may still go now that its backups are gone: a restore may have begun meanwhile, a keep
/// may have changed. `catalog` is what is left.
pub fn still_removable(
    planned: &[WalFileName],
    catalog: &[Held<'_>],
    histories: &Histories,
) -> Vec<WalFileName> {
    let parted = Needs::of(catalog, histories).part(planned.iter().copied());
    let needed: BTreeSet<WalFileName> = parted
        .kept
        .into_iter()
        // The other reasons are those of a plan, which this one had.
        .filter(|(_, why)| {
            matches!(why, Why::Needed(_) | Why::Consistency(_) | Why::BeginUnknown(_) | Why::NotPlaced)
        })
        .map(|(name, _)| name)
        .collect();
    planned.iter().copied().filter(|name| !needed.contains(name)).collect()
}

fn index<'c, 'a>(catalog: &'c [Held<'a>]) -> BTreeMap<BackupId, &'c Held<'a>> {
    catalog.iter().map(|held| (held.backup.id, held)).collect()
}

fn cause_in_tree(member: BackupId, root: BackupId, held: Option<&&Held<'_>>, own: Cause) -> Cause {
    match held.and_then(|h| h.backup.parent_backup_id) {
        Some(parent) if member != root => Cause::DependsOn(parent),
        _ => own,
    }
}

/// Whether an older backup kept standalone keeps a deletion from removing WAL. Barman: in an interactive one it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OlderStandalone {
    Blocks,
    DoesNotBlock,
}

/// As Barman: WAL goes only with a backup that has no older one left beside it, and only what is older than the next
/// backup; when there is no next one, what is older than the deleted one itself (the root of a tree). What the backups
/// that stay need is exempt in any case.
fn wal_after(
    catalog: &[Held<'_>],
    deletions: &[Deletion],
    standalone: OlderStandalone,
    archive: Archive<'_>,
) -> WalPlan {
    let gone: BTreeSet<BackupId> = deletions.iter().map(|d| d.id).collect();
    let Some(oldest_gone) = gone.first() else { return WalPlan::NothingGoes };
    let mut left: Vec<&Held<'_>> =
        catalog.iter().filter(|h| h.backup.status.is_available() && !gone.contains(&h.backup.id)).collect();
    left.sort_by_key(|h| h.backup.id);
    let blocks = |h: &&&Held<'_>| standalone == OlderStandalone::Blocks || h.keep != Some(Keep::Standalone);
    // The first that covers what is newer: deletions after it remove no WAL.
    let cover = left.iter().find(blocks).map(|h| h.backup.id);
    if let Some(cover) = cover.filter(|cover| cover < oldest_gone) {
        return WalPlan::OlderBackup(cover);
    }
    let Some(last) = gone.iter().rfind(|id| cover.is_none_or(|cover| *id < &cover)) else {
        return WalPlan::NothingGoes;
    };
    let next = left.iter().find(|h| h.backup.id > *last).map(|h| h.backup);
    let limit = next.or_else(|| catalog.iter().map(|h| h.backup).find(|b| b.id == *oldest_gone));
    limit.map_or(WalPlan::NothingGoes, |limit| part(catalog, &gone, limit, archive))
}

fn part(
    catalog: &[Held<'_>],
    gone: &BTreeSet<BackupId>,
    limit: &BackupInfo,
    archive: Archive<'_>,
) -> WalPlan {
    if limit.begin_wal.is_none() {
        return WalPlan::LimitUnknown(limit.id);
    }
    let left = catalog.iter().filter(|h| !gone.contains(&h.backup.id));
    let needs = Needs::of(left, archive.histories).and_all_from(limit);
    WalPlan::Parted(needs.part(archive.names.iter().copied()))
}

#[cfg(test)]
mod tests;
