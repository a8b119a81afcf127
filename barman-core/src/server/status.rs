//! `status`: how a server is, in lines.

use super::{Overview, Server};
use crate::config::Retention;
use crate::ctx::Ctx;
use crate::format::text::{pretty_size, rate_per_hour};
use crate::format::timestamp;
use crate::model::Status;
use crate::pg::{ArchiverStats, PgError, Session};
use crate::policy::redundancy;

/// A line of `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusLine {
    /// Its name in JSON.
    pub key: &'static str,
    /// What stands before the colon.
    pub title: &'static str,
    /// What stands after it.
    pub text: String,
}

impl Server {
    /// How the server is: its configuration, what PostgreSQL says, and what there is in the catalog. A server that
    /// cannot be reached is a line, not an error.
    pub fn status(&self, overview: &Overview, ctx: &Ctx<'_>) -> Vec<StatusLine> {
        let config = self.config();
        let options = &config.options;
        let mut lines = Vec::new();
        let mut put = |key, title, text: String| lines.push(StatusLine { key, title, text });
        if let Some(description) = &options.description {
            put("description", "Description", description.clone());
        }
        put("active", "Active", switch(config.is_active()));
        put("disabled", "Disabled", switch(config.is_disabled()));
        let model = config.active_model.clone().unwrap_or_else(|| "None".to_owned());
        put("active_model", "Active configuration model", model);
        if config.is_active() && !config.is_passive() {
            // All or nothing: half of the lines would not say what is missing.
            let mut live = Vec::new();
            let asked = self.session().and_then(|mut s| Ok(live_lines(&mut s, options.archiver, &mut live)?));
            match asked {
                Ok(()) => live.into_iter().for_each(|(key, title, text)| put(key, title, text)),
                Err(error) => {
                    ctx.debug(format!("PostgreSQL cannot be asked: {error}"));
                    let text = "FAILED trying to get PostgreSQL version".to_owned();
                    put("pg_version", "PostgreSQL version", text);
                }
            }
        }
        put("passive_node", "Passive node", switch(config.is_passive()));
        let retention = match &options.retention_policy {
            Some(Retention::Policy(policy)) => {
                let wal = options.wal_retention_policy.as_deref().unwrap_or("MAIN").to_uppercase();
                format!("enforced (mode: auto, retention: {policy}, WAL retention: {wal})")
            }
            _ => "not enforced".to_owned(),
        };
        put("retention_policies", "Retention policies", retention);
        let done = overview.backups().iter().filter(|b| b.status == Status::Done).count();
        put("backups_number", "No. of available backups", done.to_string());
        let id = |backup: Option<&crate::model::BackupInfo>| {
            backup.map_or("None".to_owned(), |backup| backup.id.to_string())
        };
        put("first_backup", "First available backup", id(overview.available().next()));
        put("last_backup", "Last available backup", id(overview.available().next_back()));
        let (have, need) = (redundancy::counted(overview.backups()), options.minimum_redundancy.0);
        let word = if have as u64 >= u64::from(need) { "satisfied" } else { "FAILED" };
        put("minimum_redundancy", "Minimum redundancy requirements", format!("{word} ({have}/{need})"));
        if let Some(command) = options.primary_ssh_command.as_ref().filter(|_| config.is_active()) {
            put("primary_ssh_command", "SSH command to primary server", command.clone());
        }
        lines
    }
}

type Live = Vec<(&'static str, &'static str, String)>;

fn live_lines(session: &mut Session, archiver: bool, lines: &mut Live) -> Result<(), PgError> {
    let standby = session.is_in_recovery()?;
    lines.push(("pg_version", "PostgreSQL version", session.version_text()?));
    let state = if standby { "in archive recovery" } else { "in production" };
    lines.push(("is_in_recovery", "Cluster state", state.to_owned()));
    if let Ok(size) = session.cluster_size() {
        lines.push(("current_size", "Current data size", pretty_size(size)));
    }
    if let Ok(directory) = session.data_directory() {
        lines.push(("data_directory", "PostgreSQL Data directory", directory.into()));
    }
    if let Some((name, _)) = session.current_wal()?.and_then(|at| at.file) {
        lines.push(("current_xlog", "Current WAL segment", name.to_string()));
    }
    if archiver {
        let command = session.show("archive_command")?.unwrap_or_default();
        lines.push(("archive_command", "PostgreSQL 'archive_command' setting", command));
        archiver_lines(&session.archiver_stats()?, lines);
    }
    Ok(())
}

fn archiver_lines(stats: &ArchiverStats, lines: &mut Live) {
    let last = match (&stats.last_archived_wal, stats.last_archived_time) {
        (Some(wal), Some(time)) => format!("{wal}, at {}", timestamp::ctime(time)),
        _ => "No WAL segment shipped yet".to_owned(),
    };
    lines.push(("last_archived_wal", "Last archived WAL", last));
    let failures = match (&stats.last_failed_wal, stats.last_failed_time) {
        (Some(wal), Some(time)) => format!("{} ({wal} at {})", stats.failed_count, timestamp::ctime(time)),
        _ => stats.failed_count.to_string(),
    };
    lines.push(("failed_count", "Failures of WAL archiver", failures));
    if let Some(rate) = stats.archived_per_second.filter(|rate| *rate > 0.0) {
        lines.push(("server_archived_wals_per_hour", "Server WAL archiving rate", rate_per_hour(rate)));
    }
}

fn switch(on: bool) -> String {
    if on { "True" } else { "False" }.to_owned()
}
