//! What `barman restore --native-dry-run` shows beside the plan itself.

use barman_core::format::text::{human_duration, pretty_size};
use barman_core::recovery::RecoveryPlan;
use barman_core::server::Forecast;
use serde_json::json;

/// What the restore will take, as lines of the plan.
pub(super) fn foretell(forecast: &Forecast) -> Vec<String> {
    let size = |bytes| pretty_size(bytes);
    let mut lines = vec![format!(
        "  {} of the base backup and {} of WAL to write",
        size(forecast.bytes),
        size(forecast.wal_bytes)
    )];
    if let [newest, older @ .., full] = forecast.chain.as_slice() {
        let between: Vec<String> = older.iter().chain([newest]).map(ToString::to_string).collect();
        lines.push(format!("  put together from the full backup {full} and {}", between.join(", ")));
    }
    if let Some(seconds) = forecast.seconds {
        let words = human_duration(time::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)));
        lines.push(format!(
            "  about {words} at the speed at which the backup was taken, and the replay of the WAL"
        ));
    }
    lines
}

/// The plan as `native_plan`.
pub(super) fn plan_json(plan: &RecoveryPlan, forecast: Option<&Forecast>) -> serde_json::Value {
    let wal = plan.wal.as_ref().map(|wal| {
        json!({
            "directory": wal.directory.as_str(),
            "files": wal.files.len(),
            "first": wal.files.first().map(ToString::to_string),
            "last": wal.files.last().map(ToString::to_string),
            "stored_bytes": wal.stored_bytes,
            "bytes": forecast.map(|forecast| forecast.wal_bytes),
        })
    });
    json!({
        "backup_id": plan.backup.to_string(),
        "backups": forecast.map(|f| f.chain.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "timeline": plan.timeline.to_string(),
        "destination": plan.destination.as_str(),
        "bytes": forecast.map(|forecast| forecast.bytes),
        "wal": wal,
        "reachable": plan.reachable.map(|lsn| lsn.to_string()),
        "estimated_seconds": forecast.and_then(|forecast| forecast.seconds),
        "warnings": plan.warnings,
        "text": plan.to_string(),
    })
}
