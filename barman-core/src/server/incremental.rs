//! Block-level incremental backups (PostgreSQL 17 and later): whether one can be taken, and the chain that a restore needs.

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Server, ServerError};
use crate::backup::IncrementalPlan;
use crate::catalog::{BackupReader, Catalog, CatalogError, Lease, Purpose, Root};
use crate::ctx::Ctx;
use crate::model::{BackupInfo, BackupMethod, Status};
use crate::policy::chain::Chains;
use crate::recovery::Chain;

/// Where packed chains keep what cannot wait in memory, without `staging_path`; Barman's default.
const SCRATCH: &str = "/tmp";

fn refused(reason: impl std::fmt::Display) -> ServerError {
    ServerError::Usage(format!("failed to start backup: {reason}"))
}

impl Server {
    /// The backup that an incremental one is to be made on. Nothing is written before all is well.
    ///
    /// # Errors
    /// Barman's four reasons, in its order and words, and what would fail later: a parent that is not available, was taken
    /// another way, or has no manifest.
    pub(super) fn parent_for(&self, token: &str, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        let parent = self.resolve(token, ctx)?;
        let mut session = self.session()?;
        if !session.version().has_wal_summaries() {
            return Err(refused(
                "Postgres version 17 or greater is required for incremental backups using the Postgres backup method",
            ));
        }
        if self.config.options.backup_method != crate::config::BackupMethod::Postgres {
            return Err(refused(
                "Backup using the `--incremental` flag is available only for 'backup_method = postgres'. Check Barman's \
                 documentation for more help on this topic.",
            ));
        }
        if session.show("summarize_wal")?.as_deref() != Some("on") {
            return Err(refused(
                "'summarize_wal' option has to be enabled in the Postgres server to perform an incremental backup using \
                 the Postgres backup method",
            ));
        }
        let id = parent.id;
        if parent.summarize_wal.as_deref() != Some("on") {
            return Err(refused(format!(
                "Backup ID {id} is not eligible as a parent for an incremental backup because WAL summaries were not \
                 enabled when that backup was taken."
            )));
        }
        let unfit = |why: String| refused(format!("Backup ID {id} is not eligible as a parent: {why}"));
        if !parent.status.is_available() {
            return Err(unfit(format!("it is {}", parent.status)));
        }
        if parent.mode != Some(BackupMethod::Postgres) {
            return Err(unfit(
                "it was not taken with 'backup_method = postgres'; take a full backup first".into(),
            ));
        }
        self.lineage(&parent)?;
        match self.catalog.open(&id)?.open(Root::Data, Utf8Path::new("backup_manifest")) {
            Ok(_) => Ok(parent),
            Err(CatalogError::Io(error)) if error.is_not_found() => {
                Err(unfit("its backup_manifest is not there any more; take a full backup".into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What an incremental backup reads, and what keeps the backup before it from being removed meanwhile.
    pub(super) fn incremental_plan(
        &self,
        parent: &BackupInfo,
    ) -> Result<(IncrementalPlan, Lease), ServerError> {
        let lease = self.catalog.lease(&parent.id, Purpose::Parent)?;
        let reader = Arc::from(self.catalog.open(&parent.id)?);
        Ok((IncrementalPlan { parent: parent.id, reader }, lease))
    }

    /// Writes the child into the list of its parent, which is for show.
    pub(super) fn join_parent(&self, child: &BackupInfo) -> Result<(), ServerError> {
        let Some(parent) = child.parent_backup_id else { return Ok(()) };
        self.catalog.update(&parent, &mut |info| {
            if !info.children_backup_ids.contains(&child.id) {
                info.children_backup_ids.push(child.id);
            }
        })?;
        Ok(())
    }

    /// Barman's warning about a chain in which checksums were switched on.
    pub(super) fn warn_of_checksums(&self, child: &BackupInfo, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let on = |info: &BackupInfo| info.data_checksums.as_deref() == Some("on");
        let line = self.lineage(child)?;
        if on(child) && !line.iter().all(on) {
            ctx.warn(
                "This is an incremental backup taken with `data_checksums = on` whereas some previous backups in the \
                 chain were taken with `data_checksums = off`. This can lead to potential recovery issues. Consider taking \
                 a new full backup to avoid having inconsistent backup chains.",
            );
        }
        Ok(())
    }

    /// A backup and all that it builds on, the full one last.
    ///
    /// # Errors
    /// When one of them is not in the catalog.
    pub(super) fn lineage(&self, backup: &BackupInfo) -> Result<Vec<BackupInfo>, ServerError> {
        if !backup.is_incremental() {
            return Ok(vec![backup.clone()]);
        }
        let mut backups = self.catalog.survey()?.backups;
        if !backups.iter().any(|known| known.id == backup.id) {
            backups.push(backup.clone());
        }
        let chains = Chains::new(&backups);
        let line = chains.lineage(backup.id).map_err(|missing| {
            ServerError::Usage(format!(
                "Backup {} cannot be used: {missing}. Use another backup, or put that one back into the catalog",
                backup.id
            ))
        })?;
        Ok(line.into_iter().cloned().collect())
    }

    /// Whether all that an incremental backup builds on is DONE (I11).
    pub(super) fn parents_done(&self, backup: &BackupInfo) -> bool {
        self.lineage(backup).is_ok_and(|line| line.iter().skip(1).all(|info| info.status == Status::Done))
    }

    /// Reads a backup for a restore: an incremental one with its whole chain, none of which is removed while the leases live.
    pub(super) fn restorable(
        &self,
        backup: &BackupInfo,
        ctx: &Ctx<'_>,
    ) -> Result<(Arc<dyn BackupReader>, Vec<Lease>), ServerError> {
        let line = self.lineage(backup)?;
        let mut leases = Vec::new();
        let mut readers: Vec<Arc<dyn BackupReader>> = Vec::new();
        for info in &line {
            if info.id != backup.id {
                leases.push(self.catalog.lease(&info.id, Purpose::Restore)?);
            }
            readers.push(Arc::from(self.catalog.open(&info.id)?));
        }
        if !backup.is_incremental() {
            return readers
                .pop()
                .map(|reader| (reader, leases))
                .ok_or_else(|| CatalogError::NotFound { id: backup.id }.into());
        }
        let on = |info: &BackupInfo| info.data_checksums.as_deref() == Some("on");
        if on(backup) && !line.iter().all(on) {
            ctx.warn(
                "You restore from an incremental backup where checksums were enabled on that backup, but not all backups in \
                 the chain. It is advised to disable, and optionally re-enable, checksums on the destination directory to \
                 avoid failures.",
            );
        }
        let scratch = self.config.options.staging_path.as_ref().map(|path| path.0.clone());
        let scratch = scratch.unwrap_or_else(|| Utf8PathBuf::from(SCRATCH));
        Ok((Arc::new(Chain::new(readers, scratch, &self.host.cancel)?), leases))
    }
}
