//! Options of `barman restore` about where to stage, and those of snapshots, which cannot be restored yet. Nothing is staged here:
//! every backup is unpacked and combined on its way to the destination. Only what waits of packed incremental backups while they
//! are combined needs a place for a moment.

use barman_core::config::ServerConfig;
use barman_core::model::{BackupInfo, BackupType};

use crate::app::App;
use crate::error::Failure;

/// Known options beside those that a restore really uses.
#[derive(Debug, clap::Args)]
pub(crate) struct Staging {
    /// Where a part of packed incremental backups waits while they are combined; nothing else needs such a place.
    #[arg(long, value_name = "PATH")]
    staging_path: Option<String>,
    /// Accepted: what waits, waits on this host.
    #[arg(long, value_name = "WHERE", value_parser = ["local", "remote"])]
    staging_location: Option<String>,
    #[arg(long, hide = true)]
    recovery_staging_path: Option<String>,
    #[arg(long, hide = true)]
    local_staging_path: Option<String>,
    /// Accepted: the files of an incremental backup and of those it needs are always put together by copying.
    #[arg(long, value_name = "MODE", value_parser = ["copy", "link", "clone", "copy-file-range"])]
    combine_mode: Option<String>,
    #[arg(long, hide = true)]
    snapshot_recovery_instance: Option<String>,
    #[arg(long, hide = true)]
    snapshot_recovery_zone: Option<String>,
    #[arg(long, hide = true)]
    gcp_zone: Option<String>,
    #[arg(long, hide = true)]
    azure_resource_group: Option<String>,
    #[arg(long, hide = true)]
    aws_region: Option<String>,
}

impl Staging {
    /// The place that stands for `staging_path` of the configuration.
    pub(crate) fn place(&self) -> Option<&str> {
        let place = self.staging_path.as_deref().or(self.local_staging_path.as_deref());
        place.filter(|path| path.starts_with('/'))
    }

    /// What Barman refuses before it looks at the backup.
    pub(crate) fn judge(&self, remote: bool) -> Result<(), Failure> {
        let paths = [
            (&self.staging_path, "staging"),
            (&self.recovery_staging_path, "recovery staging"),
            (&self.local_staging_path, "local staging"),
        ];
        for (path, name) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.starts_with('/')) {
                return Err(Failure::Error(format!(
                    "Cannot parse {name} path: Invalid value : '{path}' (must be an absolute path)"
                )));
            }
        }
        if self.staging_location.as_deref() == Some("remote") && !remote {
            return Err(Failure::Error(
                "--staging-location as remote requires --remote-ssh-command to be set".to_owned(),
            ));
        }
        Ok(())
    }

    /// What depends on the backup.
    pub(crate) fn judge_for(
        &self,
        backup: &BackupInfo,
        config: &ServerConfig,
        app: &App,
    ) -> Result<(), Failure> {
        if backup.backup_type() == BackupType::Snapshot {
            let text = "Restoring snapshot backups is not available in this version";
            return Err(Failure::Error(text.to_owned()));
        }
        if self.snapshot_recovery_instance.is_some() {
            return Err(Failure::Error(format!(
                "Backup {} is not a snapshot backup but the following snapshot arguments have been used: \
                 --snapshot-recovery-instance",
                backup.id
            )));
        }
        let options = &config.options;
        let old = self.recovery_staging_path.is_some()
            || self.local_staging_path.is_some()
            || options.recovery_staging_path.is_some()
            || options.local_staging_path.is_some();
        // Barman says so where it would stage.
        if old && (backup.compression.is_some() || backup.parent_backup_id.is_some()) {
            app.output.warning(
                "recovery_staging_path and local_staging_path, and their equivalent CLI options --recovery-staging-path and \
                 --local-staging-path, are deprecated and will be removed in a future release. Please use staging_path and \
                 staging_location, and their equivalent CLI options --staging-path and --staging-location, instead.",
            );
        }
        Ok(())
    }
}
