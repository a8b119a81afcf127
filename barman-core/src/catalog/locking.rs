//! The locks of a catalog: one on the facts for the time of a change, one on each backup against its removal.

use std::sync::Arc;
use std::time::Duration;

use super::{CatalogError, Purpose};
use crate::ctx::{Cancel, Clock, Ctx, Silent};
use crate::io::{self, LockError, LockGuard, LockName};
use crate::model::{BackupId, ServerName};

/// A change of facts takes milliseconds; whoever holds the lock longer than this is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// The locks of one catalog.
#[derive(Clone)]
pub(super) struct Locks {
    locks: io::Locks,
    server: ServerName,
    clock: Arc<dyn Clock>,
}

impl Locks {
    pub(super) fn new(locks: io::Locks, server: ServerName, clock: Arc<dyn Clock>) -> Self {
        Self { locks, server, clock }
    }

    fn ctx<'a>(&'a self, cancel: &'a Cancel) -> Ctx<'a> {
        Ctx { clock: &*self.clock, progress: &Silent, cancel }
    }

    /// For reading, changing and writing facts.
    pub(super) fn catalog(&self) -> Result<LockGuard, CatalogError> {
        let name = LockName::Catalog(self.server.clone());
        Ok(self.locks.lock_within(&name, "a change of the catalog", PATIENCE, &self.ctx(&Cancel::new()))?)
    }

    /// For removing a backup.
    pub(super) fn exclusive(&self, id: &BackupId) -> Result<LockGuard, CatalogError> {
        let name = LockName::BackupId(self.server.clone(), *id);
        let taken = self.locks.try_lock(&name, "the removal of the backup", &self.ctx(&Cancel::new()));
        taken.map_err(|e| busy(id, e))
    }

    /// Against the removal of a backup; any number of holders.
    pub(super) fn share(&self, id: &BackupId, purpose: Purpose) -> Result<LockGuard, CatalogError> {
        let name = LockName::BackupId(self.server.clone(), *id);
        let why = match purpose {
            Purpose::Restore => "a restore",
            Purpose::Parent => "a backup that takes files from it",
            Purpose::Verification => "its verification",
            Purpose::Export => "its export",
            Purpose::Annotation => "a change of its keep",
            Purpose::Backup => "taking the backup",
        };
        self.locks.share(&name, why, &self.ctx(&Cancel::new())).map_err(|e| busy(id, e))
    }
}

fn busy(id: &BackupId, error: LockError) -> CatalogError {
    match error {
        LockError::Busy { holder, .. } => CatalogError::Busy { id: *id, holder: holder.to_string() },
        other => other.into(),
    }
}
