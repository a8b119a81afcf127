//! What goes: `delete`, the retention of `cron`, and the WAL before the first backup. Planned first, then done.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Server, ServerError};
use crate::catalog::{Catalog, CatalogError, Survey, Unreadable};
use crate::ctx::Ctx;
use crate::format::history::TimelineHistory;
use crate::io::LockName;
use crate::model::{BackupId, BackupInfo, Keep, Timeline, WalFileName};
use crate::policy::prune::{self, Archive};
use crate::policy::reachability::{Fork, Histories};
use crate::policy::{Held, retention};
use crate::wal::{WalArchive, WalEntry, WalRange};

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups removed, in order.
    pub backups: Vec<BackupId>,
    /// WAL files removed.
    pub wal: Vec<WalFileName>,
}

/// Everything that decides about deletions, read once.
pub(crate) struct Estate {
    pub(crate) backups: Vec<BackupInfo>,
    keeps: BTreeMap<BackupId, Keep>,
    deleting: Vec<BackupId>,
    in_use: Vec<BackupId>,
    pub(crate) names: Vec<WalFileName>,
    pub(crate) histories: Histories,
}

impl Estate {
    /// The backups with what else decides about them.
    pub(crate) fn held(&self) -> Vec<Held<'_>> {
        self.backups
            .iter()
            .map(|backup| Held {
                backup,
                keep: self.keeps.get(&backup.id).copied(),
                in_use: self.in_use.contains(&backup.id),
                deleting: self.deleting.contains(&backup.id),
            })
            .collect()
    }

    pub(crate) fn archive(&self) -> Archive<'_> {
        Archive { names: &self.names, histories: &self.histories }
    }
}

impl Server {
    /// Reads catalog and archive. A backup counts as in use while somebody holds its lock.
    pub(crate) fn estate(&self) -> Result<Estate, ServerError> {
        let backups = self.catalog.list()?;
        let mut keeps = BTreeMap::new();
        let mut in_use = Vec::new();
        for backup in &backups {
            if let Some(keep) = self.catalog.kept(&backup.id)? {
                keeps.insert(backup.id, keep);
            }
            // Restores hold it together.
            if self.locks.user(&LockName::BackupId(self.name().clone(), backup.id))?.is_some() {
                in_use.push(backup.id);
            }
        }
        let deleting = self.catalog.removals_pending()?;
        let entries = self.all_wal()?;
        let histories = forks(&self.timeline_histories(&entries)?);
        let names = entries.into_iter().map(|e| e.name).collect();
        Ok(Estate { backups, keeps, deleting, in_use, names, histories })
    }

    /// Every file of the archive, in archive order.
    pub(crate) fn all_wal(&self) -> Result<Vec<WalEntry>, ServerError> {
        let mut entries = Vec::new();
        self.wal.scan(&WalRange::default(), &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// The timeline histories among these files. One that cannot be read is an error: without it nobody knows what is
    /// needed.
    pub(crate) fn timeline_histories(
        &self,
        entries: &[WalEntry],
    ) -> Result<Vec<TimelineHistory>, ServerError> {
        let mut histories = Vec::new();
        for entry in entries {
            let WalFileName::History(timeline) = entry.name else { continue };
            histories.push(self.timeline_history(timeline)?);
        }
        Ok(histories)
    }

    /// The history of a timeline from its file in the archive.
    pub(crate) fn timeline_history(&self, timeline: Timeline) -> Result<TimelineHistory, ServerError> {
        let name = WalFileName::History(timeline);
        let mut text = String::new();
        let path = self.wal.paths().file(&name);
        let corrupt = |reason: String| crate::wal::WalError::Corrupt { path: path.clone(), reason };
        std::io::Read::read_to_string(&mut self.wal.open(&name)?, &mut text)
            .map_err(|e| corrupt(e.to_string()))?;
        Ok(TimelineHistory::parse(timeline, &text).map_err(|e| corrupt(e.to_string()))?)
    }

    /// While this backup has no older one, WAL from before it can serve nobody.
    pub(crate) fn purge_before_first(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let Survey { backups, unreadable } = self.catalog.survey()?;
        if !unreadable.is_empty() {
            // Nobody knows whether one of them is older and needs that WAL.
            return Ok(());
        }
        if backups.iter().any(|b| b.id < *id && b.status.is_available()) {
            return Ok(());
        }
        ctx.info(format!("This is the first backup for server {}", self.name()));
        if self.config.options.worm_mode {
            return Ok(());
        }
        let estate = self.estate()?;
        let plan = prune::purge_before_first(*id, &estate.held(), estate.archive())?;
        if plan.wal.removable().is_empty() {
            return Ok(());
        }
        ctx.info("WAL segments preceding the current backup have been found:");
        for name in self.remove_wal(plan.wal.removable(), ctx)? {
            ctx.info(format!("\t{name} from server {} has been removed", self.name()));
        }
        Ok(())
    }

    /// The verdicts of the configured retention policy, none without one.
    pub fn retention(&self, ctx: &Ctx<'_>) -> Result<BTreeMap<BackupId, retention::Verdict>, ServerError> {
        let Some(policy) = self.config.retention_policy() else { return Ok(BTreeMap::new()) };
        let backups = self.backups(ctx)?;
        let mut held: Vec<Held<'_>> = backups.iter().map(Held::plain).collect();
        let deleting = self.catalog.removals_pending()?;
        for item in &mut held {
            item.keep = self.catalog.kept(&item.backup.id)?;
            item.deleting = deleting.contains(&item.backup.id);
        }
        Ok(retention::evaluate(policy, &held, self.config.options.minimum_redundancy.0, ctx.clock.now()))
    }

    /// The backups, by id. Those whose facts cannot be read are told of and passed over.
    pub fn backups(&self, ctx: &Ctx<'_>) -> Result<Vec<BackupInfo>, ServerError> {
        let Survey { backups, unreadable } = self.catalog.survey()?;
        for Unreadable { id, error } in unreadable {
            ctx.warn(format!(
                "Backup {id} of server {} is left out: {error}. Nothing is deleted for this server until the file is \
                 repaired or taken away",
                self.name()
            ));
        }
        Ok(backups)
    }

    /// The backup that an argument means: an id, a name, `latest` and so on.
    pub fn resolve(&self, token: &str, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        // By its id a backup is found even where the facts of another one cannot be read.
        if let Ok(id) = token.parse::<BackupId>() {
            match self.catalog.get(&id) {
                Err(CatalogError::NotFound { .. }) => {}
                other => return Ok(other?),
            }
        }
        let backups = self.backups(ctx)?;
        Ok(crate::policy::resolve::resolve(token, self.name(), &backups)?.clone())
    }
}

fn forks(histories: &[TimelineHistory]) -> Histories {
    let mut known = Histories::new();
    for history in histories {
        known.insert(
            history.timeline,
            history.entries.iter().map(|e| Fork { parent: e.parent, at: e.switch }),
        );
    }
    known
}
