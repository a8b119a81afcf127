//! `diagnose`: everything there is to know of a server, for whoever has to find out what is wrong from afar.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::{Server, ServerError};
use crate::config::{Source, Value};
use crate::ctx::Ctx;
use crate::format::backup_json;
use crate::model::WalFileName;

/// Options as `diagnose` shows them, each with the file that it comes from where that is asked for.
pub fn shown_options<'a>(
    options: impl Iterator<Item = (&'a str, Value, Option<&'a Source>)>,
    sources: bool,
) -> Map<String, Json> {
    let with_source = |value: Json, source: Option<&Source>| match sources {
        true => json!({ "source": source.map_or("default", |s| s.file.as_str()), "value": value }),
        false => value,
    };
    options.map(|(name, value, source)| (name.to_owned(), with_source(value.json(), source))).collect()
}

impl Server {
    /// The member of `servers` that `diagnose` prints: configuration, what PostgreSQL says, backups, the last WAL of each
    /// timeline. Passwords are hidden. What cannot be had is null or left out, with a warning.
    ///
    /// # Errors
    /// A catalog or an index that cannot be read at all.
    pub fn diagnose(&self, sources: bool, ctx: &Ctx<'_>) -> Result<Map<String, Json>, ServerError> {
        let config = self.config();
        let name = std::iter::once(("name", Value::Text(config.name.to_string()), None));
        let options = config.options().map(|view| (view.name, view.value, view.written));
        let local = |instant| ctx.clock.to_local(instant);
        let backups: Map<String, Json> = self
            .backups(ctx)?
            .iter()
            .map(|backup| {
                let mut facts = backup_json::to_json(backup, &local);
                // Here Barman has one form of a time only.
                for key in ["begin_time", "end_time"] {
                    if let Some(time) = facts.remove(&format!("{key}_iso")) {
                        facts.insert(key.to_owned(), time);
                    }
                }
                (backup.id.to_string(), facts.into())
            })
            .collect();
        let status: Map<String, Json> =
            self.live_facts().into_iter().map(|(key, value)| (key, value.json())).collect();
        let mut last = BTreeMap::new();
        self.wal().each_indexed(&mut |line| {
            if let WalFileName::Segment(segment) = line.name {
                // Barman looks at the stored file; the index has the times of the originals.
                let facts = json!({
                    "compression": line.compression,
                    "encryption": line.encryption,
                    "name": segment.to_string(),
                    "size": line.size,
                    "time": line.mtime,
                });
                last.insert(format!("{:08X}", segment.timeline.get()), facts);
            }
        })?;
        let members = [
            ("active_model", json!(config.active_model)),
            ("backups", backups.into()),
            ("config", shown_options(options.chain(name), sources).into()),
            ("msg_list", json!(config.messages)),
            ("status", status.into()),
            ("wals", json!({ "last_archived_wal_per_timeline": last })),
        ];
        Ok(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}
