//! Options of `barman restore` that Barman knows and this version treats in a way of its own.

use crate::app::App;
use crate::error::Failure;

/// Known options beside those that a restore really uses.
#[derive(Debug, clap::Args)]
pub(crate) struct Later {
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
    /// Where compressed and incremental backups are unpacked: those that can be restored so far need no such place.
    #[arg(long, hide = true)]
    staging_path: Option<String>,
    #[arg(long, hide = true, value_parser = ["local", "remote"])]
    staging_location: Option<String>,
    #[arg(long, hide = true)]
    recovery_staging_path: Option<String>,
    #[arg(long, hide = true)]
    local_staging_path: Option<String>,
    #[arg(long, hide = true, value_parser = ["copy", "link", "clone", "copy-file-range"])]
    combine_mode: Option<String>,
    #[arg(long, hide = true)]
    retry_times: Option<u32>,
    #[arg(long, hide = true)]
    retry_sleep: Option<u32>,
    #[arg(long, hide = true)]
    no_retry: bool,
    #[arg(long, hide = true)]
    jobs_start_batch_period: Option<u32>,
    #[arg(long, hide = true)]
    jobs_start_batch_size: Option<u32>,
}

impl Later {
    /// Refuses what would give another result than the user asked for; says what has no effect.
    pub(crate) fn judge(&self, app: &App) -> Result<(), Failure> {
        let snapshot = [
            &self.snapshot_recovery_instance,
            &self.snapshot_recovery_zone,
            &self.gcp_zone,
            &self.azure_resource_group,
            &self.aws_region,
        ];
        if snapshot.iter().any(|option| option.is_some()) {
            let text = "Restoring snapshot backups is not available in this version";
            return Err(Failure::Error(text.to_owned()));
        }
        if self.retry_times.is_some_and(|n| n > 0) || self.retry_sleep.is_some() {
            app.output.warning(
                "--retry-times and --retry-sleep have no effect in this version: \
                 a restore that breaks off is begun anew, in an empty destination",
            );
        }
        if self.jobs_start_batch_period.is_some() || self.jobs_start_batch_size.is_some() {
            app.output.warning(
                "--jobs-start-batch-* have no effect on a restore in this version: all workers start at once",
            );
        }
        Ok(())
    }
}
