//! `delete`, and the retention of `cron`: plans of the policy, carried out and told in Barman's words.

use super::scripts::{Around, Told};
use super::{Pruned, Server, ServerError};
use crate::catalog::{Catalog, CatalogError};
use crate::config::Operation;
use crate::ctx::Ctx;
use crate::format::text::human_duration;
use crate::format::timestamp::ctime;
use crate::hooks::Phase;
use crate::io::{LockError, LockName};
use crate::model::{BackupId, BackupInfo, WalFileName};
use crate::policy::prune::{self, Cause, Deletion, PruneError, PrunePlan, Spared, WalPlan};
use crate::policy::redundancy::{self, Refusal};
use crate::policy::retention::Reason;

/// For whom a plan is carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    User,
    Retention,
}

impl Server {
    /// Deletes a backup with the incrementals that need it, and the WAL that nobody needs any more.
    ///
    /// # Errors
    /// [`ServerError::NotDeleted`] when it is kept or one of too few, [`ServerError::BackupInUse`] and
    /// [`ServerError::DeletionBlocked`] when somebody works with it or on the server.
    pub fn delete(&self, id: BackupId, ctx: &Ctx<'_>) -> Result<Pruned, ServerError> {
        self.usable(Operation::Delete, ctx)?;
        let name = LockName::Backup(self.name().clone());
        let _lock =
            self.locks.try_lock(&name, "the deletion of a backup", ctx).map_err(|error| match error {
                source @ LockError::Busy { .. } => {
                    ServerError::DeletionBlocked { server: self.name().clone(), source }
                }
                other => other.into(),
            })?;
        let plan = self.plan_delete(id, ctx)?;
        if plan.deletions.len() > 1 {
            ctx.warn(format!(
                "Backup {id} has incremental backups which depend on it. Deleting all backups in the tree"
            ));
        }
        self.carry_out(&plan, For::User, ctx)
    }

    /// The plan of a deletion that a user asked for. Nothing is touched.
    ///
    /// # Errors
    /// See [`Self::delete`].
    pub fn plan_delete(&self, id: BackupId, ctx: &Ctx<'_>) -> Result<PrunePlan, ServerError> {
        let estate = self.estate()?;
        let minimum = self.config.options.minimum_redundancy.0;
        let refused = match prune::delete(id, &estate.held(), minimum, estate.archive()) {
            Err(PruneError::Refused { id, refusal }) => (id, refusal),
            other => return Ok(other?),
        };
        match refused {
            (id, Refusal::InUse) => Err(self.in_use(id)),
            (member, refusal) => {
                if let Some(backup) = estate.backups.iter().find(|b| b.id == member) {
                    ctx.warn(refusal.message(backup, self.name()));
                }
                Err(ServerError::NotDeleted { server: self.name().clone(), id })
            }
        }
    }

    /// The plan of what the retention policy does not want any more, `None` without a policy.
    pub fn plan_retention(&self, ctx: &Ctx<'_>) -> Result<Option<PrunePlan>, ServerError> {
        if self.config.retention_policy().is_none() {
            return Ok(None);
        }
        let estate = self.estate()?;
        let verdicts = self.retention(ctx)?;
        Ok(Some(prune::enforce(&verdicts, &estate.held(), estate.archive())))
    }

    /// Deletes what the retention policy does not want any more, each chain from its leaves.
    pub fn enforce_retention(&self, ctx: &Ctx<'_>) -> Result<Pruned, ServerError> {
        self.finish_removals(ctx)?;
        let Some(plan) = self.plan_retention(ctx)? else { return Ok(Pruned::default()) };
        if plan.deletions.is_empty() && plan.spared.is_empty() {
            return Ok(Pruned::default());
        }
        self.usable(Operation::Delete, ctx)?;
        for (id, why) in &plan.spared {
            // Who works with it says nothing wrong; one that a wanted incremental needs is a contradiction.
            let text = format!("Backup {id} of server {} is obsolete and stays: {why}", self.name());
            if *why == Spared::InUse { ctx.info(text) } else { ctx.warn(text) }
        }
        self.carry_out(&plan, For::Retention, ctx)
    }

    /// Removals that were cut short after the facts of the backup had gone: nobody else would find them again.
    fn finish_removals(&self, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let known: Vec<BackupId> = self.catalog.list()?.iter().map(|b| b.id).collect();
        for id in self.catalog.removals_pending()?.into_iter().filter(|id| !known.contains(id)) {
            ctx.info(format!("Finishing the deletion of backup {id} for server {}", self.name()));
            self.catalog.remove(&id, &|| Ok(()), ctx)?;
        }
        Ok(())
    }

    /// Backups first, in the order of the plan; with the last of them the WAL that nobody needs any more.
    fn carry_out(&self, plan: &PrunePlan, on_behalf: For, ctx: &Ctx<'_>) -> Result<Pruned, ServerError> {
        let name = self.name();
        let mut done = Pruned::default();
        for (at, deletion) in plan.deletions.iter().enumerate() {
            ctx.cancel.check()?;
            let id = deletion.id;
            if on_behalf == For::Retention {
                ctx.info(format!("Enforcing retention policy: removing backup {id} for server {name}"));
            }
            // Facts that cannot be read, or are gone already, keep no script from being told.
            let info = self.catalog.get(&id).unwrap_or_else(|_| BackupInfo::empty(id));
            let told = self.told_around_deletion(&info)?;
            self.run_scripts(Around::Delete, Phase::Pre, &|| Ok(told.clone()), ctx)?;
            let (start, began) = (ctx.clock.now(), ctx.clock.monotonic());
            ctx.info(format!("Deleting backup {id} for server {name}"));
            let removed = self.catalog.remove(&id, &|| self.may_still_go(plan, deletion, ctx), ctx);
            removed.map_err(|error| match error {
                CatalogError::Busy { id, .. } => self.in_use(id),
                CatalogError::MustStay { id } => ServerError::NotDeleted { server: name.clone(), id },
                other => other.into(),
            })?;
            done.backups.push(id);
            if at + 1 == plan.deletions.len() && matches!(plan.wal, WalPlan::Parted(_)) {
                let wal = self.still_removable(plan)?;
                ctx.info("Delete associated WAL segments:");
                for file in &wal {
                    ctx.info(format!("\t{file}"));
                }
                done.wal = self.remove_wal(&wal, ctx)?;
            }
            let elapsed = ctx.clock.monotonic().saturating_sub(began);
            ctx.info(format!(
                "Deleted backup {id} (start time: {}, elapsed time: {})",
                ctime(start),
                human_duration(elapsed.try_into().unwrap_or_default())
            ));
            self.run_scripts(Around::Delete, Phase::Post, &|| Ok(told.clone()), ctx)?;
        }
        Ok(done)
    }

    /// What scripts are told before and after a deletion, when the backup is gone; nothing where there are none.
    fn told_around_deletion(&self, info: &BackupInfo) -> Result<Told, ServerError> {
        let any =
            [Phase::Pre, Phase::Post].iter().any(|phase| !self.scripts(Around::Delete, *phase).is_empty());
        if any { self.told_of_backup(info) } else { Ok(Told::new()) }
    }

    /// Asked right before a removal is begun: since the plan was made a keep may have come, and another process may have
    /// removed a backup that it counted on.
    fn may_still_go(&self, plan: &PrunePlan, deletion: &Deletion, ctx: &Ctx<'_>) -> Result<(), CatalogError> {
        if deletion.cause == Cause::Retention(Reason::DeletionBegun) {
            // Beyond keeping.
            return Ok(());
        }
        let pending = self.catalog.removals_pending()?;
        let backups = self.catalog.list()?;
        let counted = || backups.iter().filter(|b| !pending.contains(&b.id));
        let stays = |id: BackupId, why: String| {
            ctx.warn(why);
            Err(CatalogError::MustStay { id })
        };
        // An incremental goes only if the one at the root of its tree may go after it.
        let rest = plan.deletions.iter().skip_while(|d| d.id != deletion.id);
        for member in rest {
            let planned = |id: BackupId| plan.deletions.iter().any(|d| d.id == id);
            let born = counted().find(|b| b.parent_backup_id == Some(member.id) && !planned(b.id));
            if let Some(child) = born {
                let text = format!(
                    "Backup {} stays: the incremental backup {} was taken from it meanwhile",
                    member.id, child.id
                );
                return stays(member.id, text);
            }
            if let Some(backup) = counted().find(|b| b.id == member.id) {
                let keep = self.catalog.kept(&backup.id)?;
                let minimum = self.config.options.minimum_redundancy.0;
                if let Err(refusal) = redundancy::may_delete(backup, keep, counted(), minimum) {
                    return stays(backup.id, refusal.message(backup, self.name()));
                }
            }
            if !matches!(member.cause, Cause::DependsOn(_)) {
                break;
            }
        }
        Ok(())
    }

    /// Asked right before WAL goes, since removing the backups may have taken hours.
    fn still_removable(&self, plan: &PrunePlan) -> Result<Vec<WalFileName>, ServerError> {
        let estate = self.estate()?;
        Ok(prune::still_removable(plan.wal.removable(), &estate.held(), &estate.histories))
    }

    pub(crate) fn in_use(&self, id: BackupId) -> ServerError {
        let name = LockName::BackupId(self.name().clone(), id);
        let holder = match self.locks.user(&name) {
            Ok(Some(holder)) => holder.to_string(),
            _ => "it was released meanwhile; try again".to_owned(),
        };
        ServerError::BackupInUse { server: self.name().clone(), id, holder }
    }

    /// `check-backup`: compares a backup with the archive, and records what follows.
    ///
    /// # Errors
    /// [`ServerError::AlreadyFailed`], [`ServerError::MarkedFailed`].
    pub fn check_backup(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        self.enabled()?;
        let name = LockName::BackupId(self.name().clone(), *id);
        let lock = self.locks.try_lock(&name, "the check of the backup's WAL", ctx);
        let _lock = lock.map_err(|error| match error {
            LockError::Busy { .. } => self.in_use(*id),
            other => other.into(),
        })?;
        self.judge_backup(id)
    }
}
