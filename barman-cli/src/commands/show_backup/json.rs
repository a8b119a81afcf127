//! How `show-backup` looks as JSON.

use barman_core::format::text::{human_duration, percentage, pretty_size, pretty_throughput, rate_per_hour};
use barman_core::format::{pyliteral, timestamp};
use barman_core::model::{BackupId, BackupInfo, BackupType, PyValue};
use barman_core::server::{ShownBackup, copy_figures, saved};
use serde_json::{Map, Value, json};
use time::Duration;

use super::{LATEST, NOT_ENFORCED, OLDEST};

/// Barman's text, with the blanks of its source.
const INACCURATE: &str = "WAL information is inaccurate                     due to multiple timelines interacting with                     this backup";

pub(super) fn document(shown: &ShownBackup<'_>) -> Value {
    let backup = shown.listed.backup;
    let mut all = json!({
        "backup_id": backup.id.as_str(),
        "status": backup.status.as_str(),
        "server_information": {
            "data_checksums": backup.data_checksums,
            "summarize_wal": backup.summarize_wal,
        },
    });
    put(&mut all, "backup_name", &backup.backup_name);
    put(&mut all, "system_id", &backup.systemid.map(|id| id.to_string()));
    if !backup.status.is_available() {
        put(&mut all, "error", &backup.error);
        return all;
    }
    all["backup_type"] = json!(backup.backup_type().as_str());
    if let Some(size) = backup.cluster_size {
        all["cluster_size"] = json!(pretty_size(size));
        all["cluster_size_bytes"] = json!(size);
    }
    all["postgresql_version"] = json!(backup.version.map(|version| version.num()));
    all["pgdata_directory"] = json!(backup.pgdata);
    let space = |space: &barman_core::model::Tablespace| json!({"name": space.name, "location": space.location, "oid": space.oid.0});
    all["tablespaces"] = backup.tablespaces.iter().map(space).collect();
    all["base_backup_information"] = base_backup(shown);
    all["wal_information"] = wal(shown);
    all["catalog_information"] = catalog(shown);
    if let Some(snapshots) = &backup.snapshots_info {
        all["snapshots_info"] = plain(snapshots);
    }
    put(&mut all, "error", &backup.error);
    all
}

fn put(object: &mut Value, key: &str, value: &Option<String>) {
    if let Some(value) = value {
        object[key] = json!(value);
    }
}

fn base_backup(shown: &ShownBackup<'_>) -> Value {
    let backup = shown.listed.backup;
    let required = &shown.listed.wal.required;
    let text = |value: Option<String>| json!(value);
    let seconds = |time: Option<time::OffsetDateTime>| json!(time.map(|t| t.unix_timestamp().to_string()));
    let mut base = json!({
        "backup_method": backup.mode.as_ref().map(|mode| mode.as_str()),
        "encryption": backup.encryption,
        "compression": backup.compression,
        "wal_size": pretty_size(required.bytes),
        "wal_size_bytes": required.bytes,
        "wal_num": required.files,
        "timeline": backup.timeline.map(|timeline| timeline.get()),
        "begin_wal": text(backup.begin_wal.map(|name| name.to_string())),
        "end_wal": text(backup.end_wal.map(|name| name.to_string())),
        "begin_offset": backup.begin_offset,
        "end_offset": backup.end_offset,
        "begin_lsn": text(backup.begin_xlog.map(|lsn| lsn.to_string())),
        "end_lsn": text(backup.end_xlog.map(|lsn| lsn.to_string())),
        "begin_time": text(backup.begin_time.map(timestamp::python_str)),
        "end_time": text(backup.end_time.map(timestamp::python_str)),
        "begin_time_timestamp": seconds(backup.begin_time),
        "end_time_timestamp": seconds(backup.end_time),
    });
    if let Some(size) = backup.deduplicated_size {
        let with_wal = size.saturating_add(required.bytes);
        base["backup_size"] = json!(pretty_size(size));
        base["backup_size_bytes"] = json!(size);
        base["backup_size_with_wals"] = json!(pretty_size(with_wal));
        base["backup_size_with_wals_bytes"] = json!(with_wal);
    }
    if let Some((bytes, share)) = saved(backup) {
        base["resources_saved"] = json!(pretty_size(bytes));
        base["resources_saved_bytes"] = json!(bytes);
        base["resources_saved_percentage"] = json!(percentage(share));
    }
    if let Some(share) = required.saved(backup.xlog_segment_size) {
        base["wal_compression_ratio"] = json!(percentage(share));
    }
    if let Some(figures) = copy_figures(backup) {
        let words = |seconds: f64| human_duration(Duration::seconds_f64(seconds));
        base["copy_time"] = json!(words(figures.copy));
        base["copy_time_seconds"] = json!(figures.copy);
        // As on the console: Barman leaves out what took less than a second.
        if let Some(analysis) = figures.analysis.filter(|seconds| *seconds >= 1.0) {
            base["analysis_time"] = json!(words(analysis));
            base["analysis_time_seconds"] = json!(analysis);
        }
        base["throughput"] = json!(pretty_throughput(figures.throughput));
        base["throughput_bytes"] = json!(figures.throughput as u64);
        base["number_of_workers"] = json!(figures.workers);
    }
    base
}

fn wal(shown: &ShownBackup<'_>) -> Value {
    let wal = &shown.listed.wal;
    let rate = wal.rate();
    let saved = wal.until_next.saved(shown.listed.backup.xlog_segment_size);
    let timelines: Vec<String> = shown.timelines.iter().map(ToString::to_string).collect();
    let mut all = json!({
        "no_of_files": wal.until_next.files,
        "disk_usage": pretty_size(wal.until_next.bytes),
        "disk_usage_bytes": wal.until_next.bytes,
        "wal_rate": rate.map_or(json!(0), |rate| json!(rate_per_hour(rate))),
        "wal_rate_per_second": rate.map_or(json!(0), |rate| json!(rate)),
        "compression_ratio": saved.map_or(json!(0), |share| json!(percentage(share))),
        "last_available": wal.last().map(|name| name.to_string()),
        "timelines": timelines,
    });
    if !shown.timelines.is_empty() {
        all["_WARNING"] = json!(INACCURATE);
    }
    all
}

fn catalog(shown: &ShownBackup<'_>) -> Value {
    let backup = shown.listed.backup;
    let id = |id: Option<BackupId>, none: &str| json!(id.map_or(none.to_owned(), |id| id.to_string()));
    let mut all = json!({
        "retention_policy": shown.listed.retention.map_or(NOT_ENFORCED, |status| status.as_str()),
        "previous_backup": id(shown.previous, OLDEST),
        "next_backup": id(shown.next, LATEST),
    });
    if let Some(root) = shown.root {
        all["root_backup_id"] = json!(root.as_str());
        all["parent_backup_id"] = json!(backup.parent_backup_id.map(|id| id.to_string()));
        all["chain_size"] = json!(shown.chain_size);
    }
    if has_children_key(backup) {
        let ids: Vec<&str> = backup.children_backup_ids.iter().map(BackupId::as_str).collect();
        all["children_backup_ids"] = if ids.is_empty() { Value::Null } else { json!(ids) };
    }
    all
}

fn has_children_key(backup: &BackupInfo) -> bool {
    matches!(backup.backup_type(), BackupType::Full | BackupType::Incremental)
}

/// A literal as JSON.
fn plain(value: &PyValue) -> Value {
    match value {
        PyValue::None => Value::Null,
        PyValue::Bool(value) => json!(value),
        PyValue::Int(value) => json!(value),
        PyValue::Float(value) => json!(value),
        PyValue::Str(value) => json!(value),
        PyValue::List(items) | PyValue::Tuple(items) => items.iter().map(plain).collect(),
        PyValue::Dict(items) => {
            let key = |key: &PyValue| match key {
                PyValue::Str(text) => text.clone(),
                other => pyliteral::repr(other),
            };
            Value::Object(items.iter().map(|(k, v)| (key(k), plain(v))).collect::<Map<_, _>>())
        }
    }
}
