//! The facts of a backup as JSON: what `barman backup -f json`, `sync-info` and `diagnose` show of one.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{pyliteral, timestamp};
use crate::model::{BackupInfo, BackupMethod, PyValue};

/// All facts under the keys of `backup.info`, with `backup_id`, times as ctime text and again in ISO 8601, and structured
/// values as JSON. `local` shows an instant in the zone that times are printed in.
pub fn to_json(info: &BackupInfo, local: &dyn Fn(OffsetDateTime) -> OffsetDateTime) -> Map<String, Value> {
    let text = |value: Option<String>| value.map_or(Value::Null, Value::String);
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    put("backup_id", json!(info.id.as_str()));
    put("backup_label", text(info.backup_label.as_deref().map(pyliteral::repr_str)));
    if let Some(name) = &info.backup_name {
        put("backup_name", json!(name));
    }
    put("begin_offset", json!(info.begin_offset));
    put("begin_wal", text(info.begin_wal.map(|w| w.to_string())));
    put("begin_xlog", text(info.begin_xlog.map(|l| l.to_string())));
    let children: Vec<&str> = info.children_backup_ids.iter().map(|id| id.as_str()).collect();
    put("children_backup_ids", text((!children.is_empty()).then(|| children.join(","))));
    put("cluster_size", json!(info.cluster_size));
    put("compression", json!(info.compression));
    put("config_file", json!(info.config_file));
    put("copy_stats", info.copy_stats.as_ref().map_or(Value::Null, literal));
    put("data_checksums", json!(info.data_checksums));
    put("deduplicated_size", json!(info.deduplicated_size));
    put("encryption", json!(info.encryption));
    put("end_offset", json!(info.end_offset));
    put("end_wal", text(info.end_wal.map(|w| w.to_string())));
    put("end_xlog", text(info.end_xlog.map(|l| l.to_string())));
    put("error", json!(info.error));
    put("hba_file", json!(info.hba_file));
    put("ident_file", json!(info.ident_file));
    put(
        "included_files",
        if info.included_files.is_empty() { Value::Null } else { json!(info.included_files) },
    );
    put("mode", text(info.mode.as_ref().map(|m| BackupMethod::as_str(m).to_owned())));
    put("parent_backup_id", text(info.parent_backup_id.map(|id| id.to_string())));
    put("pgdata", json!(info.pgdata));
    put("server_name", text(info.server_name.as_ref().map(ToString::to_string)));
    put("size", json!(info.size));
    if let Some(snapshots) = &info.snapshots_info {
        put("snapshots_info", literal(snapshots));
    }
    put("status", json!(info.status.as_str()));
    put("summarize_wal", json!(info.summarize_wal));
    put("systemid", text(info.systemid.map(|id| id.to_string())));
    let tablespaces: Vec<Value> =
        info.tablespaces.iter().map(|t| json!([t.name, t.oid.0, t.location])).collect();
    put("tablespaces", if tablespaces.is_empty() { Value::Null } else { Value::Array(tablespaces) });
    put("timeline", json!(info.timeline.map(|t| t.get())));
    put("version", json!(info.version.map(|v| v.num())));
    put("xlog_segment_size", json!(info.xlog_segment_size.bytes()));
    for (key, time) in [("begin_time", info.begin_time), ("end_time", info.end_time)] {
        put(key, text(time.map(|t| timestamp::ctime(local(t)))));
        put(&format!("{key}_iso"), text(time.map(|t| timestamp::python_iso(local(t)))));
    }
    for (key, value) in &info.extra {
        put(key, json!(value));
    }
    map
}

/// A Python literal as JSON; keys that are no texts are shown as Python prints them.
fn literal(value: &PyValue) -> Value {
    match value {
        PyValue::None => Value::Null,
        PyValue::Bool(on) => json!(on),
        PyValue::Int(number) => json!(number),
        PyValue::Float(number) => json!(number),
        PyValue::Str(text) => json!(text),
        PyValue::List(items) | PyValue::Tuple(items) => items.iter().map(literal).collect(),
        PyValue::Dict(items) => items
            .iter()
            .map(|(key, value)| {
                let key = match key {
                    PyValue::Str(text) => text.clone(),
                    other => pyliteral::repr(other),
                };
                (key, literal(value))
            })
            .collect::<Map<_, _>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn keys_and_forms_are_barmans() {
        let mut info = BackupInfo::empty("20261123T150158".parse().unwrap());
        info.backup_label = Some("START\n".to_owned());
        info.begin_time = Some(datetime!(2026-11-23 15:01:58.5 UTC));
        info.begin_offset = Some(40);
        info.copy_stats = Some(PyValue::Dict(vec![(PyValue::Str("copy_time".into()), PyValue::Float(1.5))]));
        let json = Value::Object(to_json(&info, &|t| t));
        assert_eq!(json["backup_id"], "20261123T150158");
        assert_eq!(json["backup_label"], "'START\\n'");
        assert_eq!(json["begin_time"], "Mon Nov 23 15:01:58 2026");
        assert_eq!(json["begin_time_iso"], "2026-11-23T15:01:58.500000+00:00");
        assert_eq!(json["copy_stats"]["copy_time"], 1.5);
        assert_eq!(json["xlog_segment_size"], 16_777_216);
        assert!(json["tablespaces"].is_null() && json["end_time"].is_null());
        assert!(json.get("backup_name").is_none());
    }
}
