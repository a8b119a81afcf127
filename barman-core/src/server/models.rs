//! `config-switch`: the active model of a server.

use super::{Server, ServerError};
use crate::config::{ACTIVE_MODEL_FILE, Switch};
use crate::io::durable;

impl Server {
    /// Carries out what [`crate::config::ServerConfig::switch_to`] or `switch_off` found to be done, durably.
    pub fn switch_model(&self, switch: &Switch) -> Result<(), ServerError> {
        let directory = &self.config.options.backup_directory;
        let path = directory.join(ACTIVE_MODEL_FILE);
        let disk = self.host.disk.as_ref();
        match switch {
            Switch::AlreadyActive { .. } => {}
            Switch::Apply { model, .. } => {
                disk.mkdir_all(directory, 0o777)?;
                durable::replace_durable(disk, &path, model.as_bytes(), None)?;
            }
            // Without the directory there is no file either.
            Switch::Reset { .. } if !disk.exists(directory)? => {}
            Switch::Reset { .. } => durable::remove_durable(disk, &path)?,
        }
        Ok(())
    }
}
