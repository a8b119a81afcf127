//! `barman check`: what must hold so that backups can be taken and WAL comes in, in Barman's order and words.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Server, ServerError};
use crate::backup::{BackupExecutor, CopyExecutor};
use crate::catalog::Catalog;
use crate::config::BackupMethod;
use crate::ctx::Ctx;
use crate::format::text::pretty_size;
use crate::model::{BackupInfo, Check, Outcome, Status, WalFileName};
use crate::pg::Session;
use crate::policy::{freshness, redundancy};
use crate::wal::WalEntry;

/// The oldest server that this program works with.
const OLDEST: u32 = 90_600;

/// All the lines of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// In Barman's order.
    pub checks: Vec<Check>,
    /// Why PostgreSQL could not be reached; Barman's line of it has no hint.
    pub unreachable: Option<String>,
}

impl CheckReport {
    /// Those that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| c.outcome == Outcome::Failed)
    }
}

impl Server {
    /// Runs every check. Missing directories are made, waiting WAL is archived, and when none ever came the server is
    /// asked to close a segment, as Barman does.
    pub fn check(&self, ctx: &Ctx<'_>) -> Result<CheckReport, ServerError> {
        let mut report = CheckReport::default();
        let options = &self.config.options;
        let directories = self.directories();
        let connects = self.config.is_active() && !self.config.is_passive();
        let mut session = if connects { Some(self.session()) } else { None };
        if !self.config.is_passive() && self.config.is_active() && directories.outcome == Outcome::Ok {
            let live = session.as_mut().and_then(|s| s.as_mut().ok());
            report.checks.extend(self.archive_is_fed(live, ctx)?);
            report.checks.extend(self.queues()?);
        }
        match &mut session {
            Some(Ok(live)) => report.checks.extend(self.postgres(live)),
            Some(Err(error)) => {
                ctx.debug(format!("PostgreSQL cannot be reached: {error}"));
                report.unreachable = Some(error.to_string());
                report.checks.push(Check::failed("PostgreSQL", ""));
            }
            None => {}
        }
        let usable = directories.outcome == Outcome::Ok;
        report.checks.push(directories);
        if usable {
            self.catalog_checks(&mut report, ctx)?;
        }
        if connects {
            report.checks.extend(self.executor_checks(ctx));
        }
        if !self.config.messages.is_empty() {
            report.checks.push(Check::failed("configuration", self.config.messages.join("\n\t\t")));
        }
        let mut live = session.and_then(Result::ok);
        report.checks.push(self.coherence(live.as_mut())?);
        if let Some(live) = live.as_mut()
            && options.archiver
        {
            report.checks.extend(self.archiving(live));
        }
        if usable {
            report.checks.push(self.refused_files()?);
        }
        Ok(report)
    }

    /// Whether a backup may start. What keeps it from that is in the error.
    pub(crate) fn ready_for_backup(&self, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let report = self.check(ctx)?;
        let hint = |c: &Check| match &report.unreachable {
            Some(reason) if c.name == "PostgreSQL" => reason.clone(),
            _ => c.hint.clone(),
        };
        let failed: Vec<String> = report
            .failures()
            .filter(|c| c.critical)
            .map(|c| match hint(c) {
                hint if hint.is_empty() => c.name.clone(),
                hint => format!("{} ({hint})", c.name),
            })
            .collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(ServerError::NotReady { server: self.name().clone(), failed })
        }
    }

    fn directories(&self) -> Check {
        match self.make_directories() {
            Ok(()) => Check::ok("directories", ""),
            Err(error) => Check::failed("directories", error.to_string()),
        }
    }

    /// Whether any WAL ever came; if not, one is asked for.
    fn archive_is_fed(
        &self,
        session: Option<&mut Session>,
        ctx: &Ctx<'_>,
    ) -> Result<Option<Check>, ServerError> {
        let fed = |server: &Self| -> Result<bool, ServerError> {
            Ok(!server.index_is_empty()?
                || server.backups()?.iter().any(|b| b.status == Status::WaitingForWals))
        };
        if !fed(self)? {
            self.archive_wal(ctx)?;
        }
        if !fed(self)?
            && let Some(session) = session
            && session.switch_wal().is_ok()
        {
            let timeout = u64::try_from(self.config.options.check_timeout).unwrap_or(30) / 3;
            let end = ctx.clock.monotonic() + Duration::from_secs(timeout);
            while !fed(self)? && ctx.clock.monotonic() < end {
                ctx.clock.pause(Duration::from_millis(200), ctx.cancel)?;
                self.archive_wal(ctx)?;
            }
        }
        let hint = "please make sure WAL shipping is setup";
        Ok((!fed(self)?).then(|| Check::failed("WAL archive", hint)))
    }

    fn index_is_empty(&self) -> Result<bool, ServerError> {
        match self.host.disk.stat(&self.wal.paths().index()) {
            Ok(stat) => Ok(stat.size == 0),
            Err(error) if error.is_not_found() => Ok(self.all_wal()?.is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    fn queues(&self) -> Result<Vec<Check>, ServerError> {
        let options = &self.config.options;
        let count = |dir: &camino::Utf8Path| match self.host.disk.names(dir) {
            Ok(names) => Ok(names.iter().filter(|n| !n.starts_with('.') && !n.ends_with(".tmp")).count()),
            Err(error) if error.is_not_found() => Ok(0),
            Err(error) => Err(error),
        };
        let incoming = count(&options.incoming_wals_directory)?;
        let mut checks = Vec::new();
        if !options.archiver && incoming > 0 {
            let hint = format!("'{}' must be empty when archiver=off", options.incoming_wals_directory);
            checks.push(Check::failed("empty incoming directory", hint).non_critical());
        }
        let streaming = count(&options.streaming_wals_directory)?;
        if !options.streaming_archiver && streaming > 0 {
            let hint =
                format!("'{}' must be empty when streaming_archiver=off", options.streaming_wals_directory);
            checks.push(Check::failed("empty streaming directory", hint).non_critical());
        }
        if let Some(most) = options.max_incoming_wals_queue.and_then(|m| usize::try_from(m).ok())
            && options.archiver
            && incoming > most
        {
            let hint = format!("there are too many WALs in queue: {incoming}, max {most}");
            checks.push(Check::failed("incoming WALs directory", hint).non_critical());
        }
        Ok(checks)
    }

    fn postgres(&self, session: &mut Session) -> Vec<Check> {
        let version = session.version();
        if version.num() < OLDEST {
            let hint = format!("PostgreSQL server is too old ({version} < 9.6.0)");
            return vec![Check::ok("PostgreSQL", ""), Check::failed("unsupported version", hint)];
        }
        let mut checks = vec![Check::ok("PostgreSQL", "")];
        match session.privileges() {
            Ok(privileges) if privileges.superuser || privileges.backup => {
                checks.push(Check::ok("superuser or standard user with backup privileges", ""));
            }
            Ok(_) => checks.push(Check::failed(
                "no access to backup functions",
                "privileges for PostgreSQL backup functions are required (see documentation)",
            )),
            Err(error) => checks.push(Check::failed("no access to backup functions", error.to_string())),
        }
        if self.streams() {
            checks.push(match self.streaming_session() {
                Ok(()) => Check::ok("PostgreSQL streaming", ""),
                Err(error) => Check::failed("PostgreSQL streaming", error.to_string()),
            });
        }
        let level = session.show("wal_level").ok().flatten().unwrap_or_default();
        let hint = "please set it to a higher level than 'minimal'";
        checks.push(if level == "minimal" {
            Check::failed("wal_level", hint)
        } else {
            Check::ok("wal_level", "")
        });
        checks
    }

    /// Whether anything of this server uses the replication protocol.
    fn streams(&self) -> bool {
        let options = &self.config.options;
        options.streaming_archiver || options.backup_method == BackupMethod::Postgres
    }

    fn streaming_session(&self) -> Result<(), ServerError> {
        let conninfo = self.config.options.streaming_conninfo.as_deref().unwrap_or_default();
        let info = self.parse_conninfo(conninfo)?;
        Session::connect_replication(&info, &self.host.environment, &self.host.cancel)?;
        Ok(())
    }

    fn catalog_checks(&self, report: &mut CheckReport, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let options = &self.config.options;
        let now = ctx.clock.now();
        let backups = self.catalog.list()?;
        let latest = freshness::latest_available(&backups);
        let valid = self.config.invalid_retention_policy().is_none();
        report.checks.push(Check::verdict(
            "retention policy settings",
            valid,
            if valid { "" } else { "see log" },
        ));
        let limit = |interval: &Option<crate::config::Interval>| interval.map(|i| i.0);
        report.checks.push(freshness::check_backup_age(limit(&options.last_backup_maximum_age), latest, now));
        let size = latest.and_then(|b| b.size).unwrap_or(0);
        report.checks.push(freshness::check_backup_size(options.last_backup_minimum_size.map(|s| s.0), size));
        let after = self.wal_after(latest)?;
        let newest = after.iter().map(|e| e.mtime).max();
        let newest = newest.and_then(|t| OffsetDateTime::from_unix_timestamp_nanos(t.as_nanos()).ok());
        report.checks.push(freshness::check_wal_age(limit(&options.last_wal_maximum_age), newest, now));
        let bytes: u64 = after.iter().map(|e| e.size).sum();
        report.checks.push(Check::ok("wal size", pretty_size(bytes)));
        report.checks.push(Check::ok("compression settings", ""));
        report.checks.push(redundancy::check_failed(&backups));
        report.checks.push(redundancy::check(&backups, options.minimum_redundancy.0));
        Ok(())
    }

    /// Archived segments since the begin of the latest backup.
    fn wal_after(&self, latest: Option<&BackupInfo>) -> Result<Vec<WalEntry>, ServerError> {
        let Some(begin) = latest.and_then(|b| b.begin_wal) else { return Ok(Vec::new()) };
        let from = WalFileName::Segment(begin);
        Ok(self.all_wal()?.into_iter().filter(|e| e.name.as_segment().is_some() && e.name >= from).collect())
    }

    fn executor_checks(&self, ctx: &Ctx<'_>) -> Vec<Check> {
        match self.transport() {
            Err(error) => vec![Check::failed("ssh", error.to_string())],
            Ok(transport) => {
                let connect = |ctx: &Ctx<'_>| self.backup_session(ctx);
                CopyExecutor::new(transport.as_ref(), &connect).preflight(ctx)
            }
        }
    }

    fn coherence(&self, session: Option<&mut Session>) -> Result<Check, ServerError> {
        let name = "systemid coherence";
        let live = match session {
            Some(session) => session.system_id().ok(),
            None => None,
        };
        let Some(live) = live else { return Ok(Check::ok(name, "no system Id available")) };
        Ok(match self.stored_system_id()? {
            None => Check::ok(name, "no system Id stored on disk"),
            Some(stored) if stored == live => Check::ok(name, ""),
            Some(_) => Check::failed(
                name,
                format!(
                    "the system Id of the connected PostgreSQL server changed, stored in \"{}\"",
                    super::identity_path(&self.config)
                ),
            ),
        })
    }

    fn archiving(&self, session: &mut Session) -> Vec<Check> {
        let mode = session.show("archive_mode").ok().flatten().unwrap_or_default();
        let command = session.show("archive_command").ok().flatten().unwrap_or_default();
        let on = matches!(mode.as_str(), "on" | "always");
        let set = !command.is_empty() && command != "(disabled)";
        let mut checks = vec![
            Check::verdict("archive_mode", on, if on { "" } else { "please set it to 'on' or 'always'" }),
            Check::verdict(
                "archive_command",
                set,
                if set { "" } else { "please set it accordingly to documentation" },
            ),
        ];
        if on && set {
            let running = session.archiver_stats().is_ok_and(|stats| stats.is_archiving());
            checks.push(Check::verdict("continuous archiving", running, ""));
        }
        checks
    }

    fn refused_files(&self) -> Result<Check, ServerError> {
        let names = match self.host.disk.names(&self.config.options.errors_directory) {
            Ok(names) => names,
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for name in &names {
            let kind = match name.rsplit('.').next() {
                Some("error") => "not relevant",
                Some("duplicate") => "duplicates",
                Some("unknown") => "unknown",
                _ => "unknown failure",
            };
            match counts.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, count)) => *count += 1,
                None => counts.push((kind, 1)),
            }
        }
        let hint: Vec<String> = counts.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        Ok(Check::verdict("archiver errors", names.is_empty(), hint.join(", ")).non_critical())
    }
}
