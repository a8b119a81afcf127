//! What a planned restore will take, for plans that are shown before they are carried out.

use super::{Server, ServerError, listing};
use crate::ctx::Ctx;
use crate::model::{BackupId, BackupInfo};
use crate::recovery::{RecoveryPlan, WalPlan};

/// What a restore will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The backups that are read: the one to restore, and what it builds on, the full one last.
    pub chain: Vec<BackupId>,
    /// Bytes of the base backup to write; at least so many where only reading a packed backup tells.
    pub bytes: u64,
    /// Bytes of WAL to write.
    pub wal_bytes: u64,
    /// Seconds for all of that at the speed at which the full backup was taken, where that is known. The server's replay comes on top.
    pub seconds: Option<u64>,
}

impl Server {
    /// Looks at the backup for what a plan will take. Nothing is written.
    ///
    /// # Errors
    /// A backup, or one that it builds on, that cannot be read.
    pub fn forecast(
        &self,
        plan: &RecoveryPlan,
        backup: &BackupInfo,
        ctx: &Ctx<'_>,
    ) -> Result<Forecast, ServerError> {
        let line = self.lineage(backup)?;
        let (reader, _chain) = self.restorable(backup, ctx)?;
        let mut bytes = 0u64;
        for tree in &plan.trees {
            bytes = bytes.saturating_add(reader.outline(tree.root)?.bytes);
        }
        let segments = plan.wal.as_ref().map_or(0, WalPlan::segments);
        let wal_bytes = segments.saturating_mul(backup.xlog_segment_size.bytes());
        let speed = line.last().and_then(|full| {
            let took = listing::copy_figures(full)?.copy;
            let read = full.cluster_size.or(full.size)? as f64;
            (took > 0.0 && read > 0.0).then_some(read / took)
        });
        let seconds = speed.map(|speed| (bytes.saturating_add(wal_bytes) as f64 / speed).ceil() as u64);
        Ok(Forecast { chain: line.iter().map(|info| info.id).collect(), bytes, wal_bytes, seconds })
    }
}
