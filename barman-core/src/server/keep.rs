//! `keep`: what retention and `delete` must leave alone.

use super::{Server, ServerError};
use crate::catalog::{Catalog, Purpose};
use crate::model::{BackupId, Keep, Status};

impl Server {
    /// Keeps a backup. Nobody can be removing it meanwhile.
    ///
    /// # Errors
    /// [`ServerError::NotKept`] for a backup that is not DONE or is incremental.
    pub fn keep(&self, id: &BackupId, keep: Keep) -> Result<(), ServerError> {
        self.enabled()?;
        let _lease = self.catalog.lease(id, Purpose::Annotation)?;
        let info = self.catalog.get(id)?;
        if info.is_incremental() {
            return Err(ServerError::NotKept {
                reason: format!(
                    "Unable to execute the keep command on backup {id}: is an incremental backup.\n\
                     Only full backups are eligible for the use of the keep command."
                ),
            });
        }
        if info.status != Status::Done {
            return Err(ServerError::NotKept {
                reason: format!(
                    "Cannot add keep to backup {id} because it has status {}. Only backups with status DONE can be kept.",
                    info.status
                ),
            });
        }
        Ok(self.catalog.keep(id, Some(keep))?)
    }

    /// Releases a backup. One that was not kept is no error.
    pub fn release(&self, id: &BackupId) -> Result<(), ServerError> {
        self.enabled()?;
        Ok(self.catalog.keep(id, None)?)
    }
}
