//! [`Privileges`]: what the connected role may do, asked without trying it.

use super::error::PgError;
use super::session::Session;

/// What the role of a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Privileges {
    /// It is a superuser, which includes all the rest.
    pub superuser: bool,
    /// It may see all settings and statistics (`pg_monitor`, or `pg_read_all_settings` and `pg_read_all_stats`).
    pub monitoring: bool,
    /// It may run a backup: `monitoring`, and execute the functions that start and stop a backup, switch WAL and make
    /// restore points.
    pub backup: bool,
    /// It may run `CHECKPOINT`.
    pub checkpoint: bool,
}

impl Session {
    /// Whether the role is a superuser.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn is_superuser(&mut self) -> Result<bool, PgError> {
        Ok(self.required_scalar("SELECT pg_catalog.current_setting('is_superuser')")? == "on")
    }

    /// Everything about the role that matters here.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn privileges(&mut self) -> Result<Privileges, PgError> {
        if self.is_superuser()? {
            return Ok(Privileges { superuser: true, monitoring: true, backup: true, checkpoint: true });
        }
        // Before 10 there are no roles that could be given a part of it.
        if !self.version().has_wal_names() {
            return Ok(Privileges::default());
        }
        let (start, stop) = if self.version().has_nonexclusive_only() {
            ("pg_backup_start(text,boolean)", "pg_backup_stop(boolean)")
        } else {
            ("pg_start_backup(text,boolean,boolean)", "pg_stop_backup(boolean,boolean)")
        };
        let checkpoint = if self.version().has_checkpoint_role() {
            "pg_catalog.pg_has_role(current_user, 'pg_checkpoint', 'USAGE')"
        } else {
            "false"
        };
        let may = |function: &str| {
            format!("pg_catalog.has_function_privilege(current_user, 'pg_catalog.{function}', 'EXECUTE')")
        };
        let has = |role: &str| format!("pg_catalog.pg_has_role(current_user, '{role}', 'USAGE')");
        let sql = format!(
            "SELECT {monitor} OR ({settings} AND {stats}) AS monitoring, \
             {start} AND {stop} AND {switch} AND {point} AS functions, {checkpoint} AS checkpoint",
            monitor = has("pg_monitor"),
            settings = has("pg_read_all_settings"),
            stats = has("pg_read_all_stats"),
            start = may(start),
            stop = may(stop),
            switch = may("pg_switch_wal()"),
            point = may("pg_create_restore_point(text)"),
        );
        let answer = self.query_one(&sql)?;
        let row = answer.single()?;
        let monitoring = row.boolean("monitoring")?;
        Ok(Privileges {
            superuser: false,
            monitoring,
            backup: monitoring && row.boolean("functions")?,
            checkpoint: row.boolean("checkpoint")?,
        })
    }
}
