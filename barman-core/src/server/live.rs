//! What a running server says of itself, under the names that `show-servers` gives it.

use super::{Server, ServerError};
use crate::config::{BackupMethod, Value};
use crate::format::timestamp;
use crate::pg::{ArchiverStats, PgError, Session};

/// The oldest server that this program works with.
const OLDEST: u32 = 90_600;

/// Names and values.
pub(super) type Facts = Vec<(String, Value)>;

/// Settings that are shown as texts with their units.
const SETTINGS: [&str; 7] = [
    "data_checksums",
    "hot_standby",
    "max_replication_slots",
    "max_wal_senders",
    "wal_compression",
    "wal_level",
    "data_directory",
];

/// What is null while the server cannot be asked.
const UNKNOWN: [&str; 10] = [
    "current_xlog",
    "data_directory",
    "is_in_recovery",
    "is_superuser",
    "postgres_systemid",
    "replication_slot",
    "replication_slot_support",
    "server_txt_version",
    "synchronous_standby_names",
    "version_supported",
];

/// The same of the replication protocol.
const STREAMING_UNKNOWN: [&str; 5] =
    ["streaming", "streaming_supported", "streaming_systemid", "timeline", "xlogpos"];

impl Server {
    /// What `show-servers` shows beyond the configuration, sorted by nothing in particular. A server that cannot be
    /// reached has nulls, an inactive or passive one nothing. What a role may not see is left out.
    pub fn live_facts(&self) -> Vec<(String, Value)> {
        let config = self.config();
        if !config.is_active() || config.is_passive() {
            return Vec::new();
        }
        let archiver = config.options.archiver;
        let mut facts = match self.session().and_then(|mut session| Ok(self.facts(&mut session, archiver)?)) {
            Ok(facts) => facts,
            Err(_) => {
                let archive = archiver.then_some(["archive_command", "archive_mode"]);
                let names = UNKNOWN.into_iter().chain(archive.into_iter().flatten());
                names.map(|name| (name.to_owned(), Value::None)).collect()
            }
        };
        if config.options.streaming_archiver || config.options.backup_method == BackupMethod::Postgres {
            facts.extend(self.streaming_facts());
        }
        facts
    }

    fn facts(&self, session: &mut Session, archiver: bool) -> Result<Facts, PgError> {
        let mut facts = Facts::new();
        let mut put = |name: &str, value: Value| facts.push((name.to_owned(), value));
        let privileges = session.privileges()?;
        let position = session.current_wal()?;
        let standby = session.is_in_recovery()?;
        put("server_txt_version", Value::Text(session.version_text()?));
        put("version_supported", Value::Bool(session.version().num() >= OLDEST));
        put("is_superuser", Value::Bool(privileges.superuser));
        put("has_backup_privileges", Value::Bool(privileges.backup));
        put("has_monitoring_privileges", Value::Bool(privileges.monitoring));
        put("is_in_recovery", Value::Bool(standby));
        put("current_lsn", text(position.map(|at| at.lsn)));
        put("current_xlog", text(position.and_then(|at| at.file).map(|(name, _)| name)));
        put("current_size", text(session.cluster_size().ok()));
        put("xlog_segment_size", Value::Int(i64::try_from(session.segment_size()?.bytes()).unwrap_or(0)));
        put("postgres_systemid", text(Some(session.system_id()?)));
        put("replication_slot_support", Value::Bool(true));
        let slot = self.config().options.slot_name.as_ref();
        put("replication_slot", slot.map_or(Ok(Value::None), |slot| slot_value(session, &slot.0))?);
        for name in ["archive_timeout", "checkpoint_timeout"] {
            let seconds = session.setting(name)?.and_then(|setting| setting.value.parse().ok());
            put(name, seconds.map_or(Value::None, Value::Int));
        }
        let keep = if session.version().has_wal_keep_size() { "wal_keep_size" } else { "wal_keep_segments" };
        for name in SETTINGS.into_iter().chain([keep]) {
            put(name, session.show(name).ok().flatten().map_or(Value::None, Value::Text));
        }
        let standbys = session.show("synchronous_standby_names")?.unwrap_or_default();
        put(
            "synchronous_standby_names",
            Value::List(standbys.split(',').map(|name| name.trim().to_owned()).collect()),
        );
        let files = session.config_files()?;
        put("config_file", text(files.config));
        put("hba_file", text(files.hba));
        put("ident_file", text(files.ident));
        if !files.included.is_empty() {
            put("included_files", Value::List(files.included.into_iter().map(String::from).collect()));
        }
        if self.config().options.streaming_archiver {
            // What stands for PostgreSQL's client is a part of this program, and as new as any server.
            let own = self.config().options.streaming_archiver_name.as_deref().unwrap_or_default();
            put("pg_receivexlog_compatible", Value::Bool(true));
            put("pg_receivexlog_installed", Value::Bool(true));
            put("pg_receivexlog_path", Value::None);
            put("pg_receivexlog_supports_slots", Value::Bool(true));
            put("pg_receivexlog_synchronous", Value::Bool(super::receive::is_named(&standbys, own)));
            put("pg_receivexlog_version", Value::Text(session.version_text()?));
        }
        if archiver {
            put("archive_command", text(session.show("archive_command")?));
            archiver_facts(&session.archiver_stats()?, &mut put);
        }
        Ok(facts)
    }

    fn streaming_facts(&self) -> Facts {
        let named = |name: &str, value: Value| (name.to_owned(), value);
        let identity = self.streaming_connection().and_then(|mut session| Ok(session.identify_system()?));
        match identity {
            Ok(identity) => vec![
                named("connection_error", Value::None),
                named("streaming", Value::Bool(true)),
                named("streaming_supported", Value::Bool(true)),
                named("streaming_systemid", text(Some(identity.system_id))),
                named("timeline", Value::Int(i64::from(identity.timeline.get()))),
                named("xlogpos", text(Some(identity.position))),
            ],
            Err(error) => {
                let mut facts: Facts = STREAMING_UNKNOWN.map(|name| named(name, Value::None)).into();
                facts.push(named("connection_error", Value::Text(error.to_string())));
                facts
            }
        }
    }

    /// A replication connection by `streaming_conninfo`.
    pub(super) fn streaming_connection(&self) -> Result<Session, ServerError> {
        let conninfo = self.config().options.streaming_conninfo.as_deref().unwrap_or_default();
        let info = self.parse_conninfo(conninfo)?;
        Ok(Session::connect_replication(&info, &self.host().environment, &self.host().cancel)?)
    }
}

fn archiver_facts(stats: &ArchiverStats, put: &mut impl FnMut(&str, Value)) {
    let time = |time: Option<time::OffsetDateTime>| text(time.map(timestamp::python_str));
    let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    put("archive_mode", Value::Text(stats.archive_mode.clone()));
    put("archived_count", count(stats.archived_count));
    put("last_archived_wal", text(stats.last_archived_wal.as_ref()));
    put("last_archived_time", time(stats.last_archived_time));
    put("failed_count", count(stats.failed_count));
    put("last_failed_wal", text(stats.last_failed_wal.as_ref()));
    put("last_failed_time", time(stats.last_failed_time));
    put("stats_reset", time(stats.stats_reset));
    put("is_archiving", Value::Bool(stats.is_archiving()));
    put("current_archived_wals_per_second", text(stats.archived_per_second));
}

/// `Record(slot_name='barman', active=True, restart_lsn='0/E000000')`
fn slot_value(session: &mut Session, name: &str) -> Result<Value, PgError> {
    use crate::format::pyliteral::repr_str;
    let Some(slot) = session.physical_slot(name)? else { return Ok(Value::None) };
    let active = if slot.active { "True" } else { "False" };
    let restart = slot.restart_lsn.map_or("None".to_owned(), |lsn| repr_str(&lsn.to_string()));
    let name = repr_str(&slot.name);
    Ok(Value::Text(format!("Record(slot_name={name}, active={active}, restart_lsn={restart})")))
}

fn text(value: Option<impl std::fmt::Display>) -> Value {
    value.map_or(Value::None, |value| Value::Text(value.to_string()))
}
