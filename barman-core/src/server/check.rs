//! `barman check`: what must hold so that backups can be taken and WAL comes in, in Barman's order and words.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Host, Server, ServerError};
use crate::catalog::Catalog;
use crate::ctx::{Cancel, Ctx};
use crate::format::text::pretty_size;
use crate::model::{Check, Outcome, Status};
use crate::pg::Session;
use crate::policy::{freshness, redundancy};

/// How often the time limit is looked at.
const WATCH: Duration = Duration::from_millis(20);

/// All the lines of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// In Barman's order.
    pub checks: Vec<Check>,
    /// Why PostgreSQL could not be reached; Barman's line of it has no hint.
    pub unreachable: Option<String>,
    /// What is wrong with the configuration, a sentence each; they follow the line `configuration`.
    pub configuration: Vec<String>,
}

impl CheckReport {
    /// Those that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|c| c.outcome == Outcome::Failed)
    }
}

impl Server {
    /// Runs every check, for `check_timeout` seconds at most. Missing directories are made, waiting WAL is archived, and
    /// when none ever came the server is asked to close a segment, as Barman does.
    ///
    /// # Errors
    /// A catalog or an archive that cannot be read, and cancellation. Everything else is a line of the report.
    pub fn check(&self, ctx: &Ctx<'_>) -> Result<CheckReport, ServerError> {
        let limit = u64::try_from(self.config.options.check_timeout).ok().filter(|seconds| *seconds > 0);
        let mut report = CheckReport::default();
        let late = AtomicBool::new(false);
        let (done, ended) = mpsc::channel::<()>();
        // What the checks wait for ends by this; the caller's own is not theirs to set.
        let stop = Cancel::new();
        let limited = Self {
            host: Host { cancel: stop.clone(), ..self.host.clone() },
            config: self.config.clone(),
            locks: self.locks.clone(),
            catalog: self.catalog.clone(),
            wal: self.wal.clone(),
        };
        let outcome = std::thread::scope(|scope| {
            let (late, stop) = (&late, &stop);
            scope.spawn(move || {
                let end = limit.map(|seconds| ctx.clock.monotonic() + Duration::from_secs(seconds));
                while ended.recv_timeout(WATCH) == Err(mpsc::RecvTimeoutError::Timeout) {
                    late.store(end.is_some_and(|end| ctx.clock.monotonic() >= end), Ordering::SeqCst);
                    if late.load(Ordering::SeqCst) || ctx.cancel.is_cancelled() {
                        stop.cancel();
                        return;
                    }
                }
            });
            let outcome = limited.run_checks(&mut report, &Ctx { cancel: stop, ..*ctx });
            drop(done);
            outcome
        });
        if late.load(Ordering::SeqCst) {
            report.checks.push(Check::failed("check timeout", "barman check command timed out"));
            return Ok(report);
        }
        outcome.map(|()| report)
    }

    fn run_checks(&self, report: &mut CheckReport, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let options = &self.config.options;
        let (active, passive) = (self.config.is_active(), self.config.is_passive());
        let connects = active && !passive;
        let directories = self.directories();
        let usable = directories.outcome == Outcome::Ok;
        let mut session = if connects { Some(self.session()) } else { None };
        if usable {
            let live = session.as_mut().and_then(|s| s.as_mut().ok());
            let asks = connects && !self.config.is_disabled();
            report.checks.extend(self.archive_is_fed(live, asks, ctx)?);
            report.checks.extend(self.queues()?);
        }
        ctx.cancel.check()?;
        if let Some(session) = &mut session {
            report.unreachable = session.as_ref().err().map(ToString::to_string);
            report.checks.extend(self.live_checks(session, ctx));
            ctx.cancel.check()?;
        }
        if !self.config.is_disabled() {
            report.checks.push(directories);
        }
        if usable {
            self.catalog_checks(report, ctx)?;
        }
        if active {
            let live = session.as_mut().and_then(|s| s.as_mut().ok());
            report.checks.extend(self.executor_checks(live, ctx));
            ctx.cancel.check()?;
        }
        if !self.config.messages.is_empty() {
            report.checks.push(Check::failed("configuration", ""));
            report.configuration.clone_from(&self.config.messages);
        }
        let mut live = session.and_then(Result::ok);
        report.checks.push(self.coherence(live.as_mut())?);
        if connects && options.streaming_archiver {
            report.checks.extend(self.receiving()?);
        }
        if let Some(live) = live.as_mut()
            && options.archiver
        {
            report.checks.extend(self.archiving(live));
        }
        ctx.cancel.check()?;
        if usable {
            report.checks.push(self.refused_files()?);
        }
        Ok(())
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

    /// Whether any WAL ever came; if not, and if the server may be asked, one is asked for.
    fn archive_is_fed(
        &self,
        session: Option<&mut Session>,
        asks: bool,
        ctx: &Ctx<'_>,
    ) -> Result<Option<Check>, ServerError> {
        let fed = |server: &Self| -> Result<bool, ServerError> {
            Ok(!server.index_is_empty()?
                || server.catalog.survey()?.backups.iter().any(|b| b.status == Status::WaitingForWals))
        };
        if asks && !fed(self)? {
            self.archive_wal(ctx)?;
        }
        if asks
            && !fed(self)?
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
        if let Some(most) = options.max_incoming_wals_queue.and_then(|m| usize::try_from(m).ok())
            && options.streaming_archiver
            // The one that is being received does not wait.
            && streaming.saturating_sub(1) > most
        {
            let hint =
                format!("there are too many WALs in queue: {}, max {most}", streaming.saturating_sub(1));
            checks.push(Check::failed("streaming WALs directory", hint).non_critical());
        }
        Ok(checks)
    }

    fn catalog_checks(&self, report: &mut CheckReport, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let options = &self.config.options;
        let now = ctx.clock.now();
        let overview = self.overview(ctx)?;
        let backups = overview.backups();
        let latest = freshness::latest_available(backups);
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
        report.checks.extend(self.encryption_check(ctx));
        let wal = latest.map(|latest| overview.wal().of_backup(latest, None)).unwrap_or_default();
        let newest = wal.until_next.last_time.or(wal.required.last_time);
        let newest = newest.and_then(|t| OffsetDateTime::from_unix_timestamp_nanos((t * 1e9) as i128).ok());
        report.checks.push(freshness::check_wal_age(limit(&options.last_wal_maximum_age), newest, now));
        report.checks.push(Check::ok("wal size", pretty_size(wal.until_next.bytes)));
        report.checks.push(Check::ok("compression settings", ""));
        if let [first, ..] = self.catalog.survey()?.unreadable.as_slice() {
            // Barman has no such line: it cannot look at its catalog any more. A new backup is what is needed now: this does
            // not stand in its way.
            report.checks.push(Check::failed("backup information", first.error.to_string()).non_critical());
        }
        report.checks.push(redundancy::check_failed(backups));
        report.checks.push(redundancy::check(backups, options.minimum_redundancy.0));
        Ok(())
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
