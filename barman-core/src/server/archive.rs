//! `archive-wal`: from incoming to the archive; and what follows from WAL that has come in.

use std::collections::HashSet;
use std::time::Duration;

use super::{Server, ServerError};
use crate::catalog::Catalog;
use crate::config::Operation;
use crate::ctx::Ctx;
use crate::io::{LockError, LockName};
use crate::model::{BackupId, BackupInfo, SegmentName, Status, WalFileName};
use crate::policy::check_backup::{Completeness, completeness};
use crate::wal::{Incoming, Rebuilt, Receiving, Source, Taken, TakenHow, WalArchive};

/// How often a waiting backup looks for its WAL.
const POLL: Duration = Duration::from_millis(100);

/// What a run of `archive-wal` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveOutcome {
    /// Another run holds the lock, and nothing was done: who, since when and why.
    pub busy: Option<String>,
    /// What each archiver that is on did: streaming, then files.
    pub runs: Vec<ArchiverRun>,
}

/// What one archiver did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverRun {
    /// Where it looked.
    pub source: Source,
    /// WAL files, in archive order.
    pub files: Vec<Taken>,
    /// Things there that are no WAL, moved to errors.
    pub unknown: Vec<(String, camino::Utf8PathBuf)>,
}

impl ArchiveOutcome {
    /// The files of all archivers.
    pub fn files(&self) -> impl Iterator<Item = &Taken> {
        self.runs.iter().flat_map(|run| &run.files)
    }

    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.runs.iter().all(|run| run.files.is_empty() && run.unknown.is_empty())
    }
}

impl Server {
    /// Moves what a receiver finished and what lies in incoming into the archive. Backups that wait for it are looked at by `check-backup`, which
    /// `cron` runs.
    pub fn archive_wal(&self, ctx: &Ctx<'_>) -> Result<ArchiveOutcome, ServerError> {
        let receiving = if self.receiver_runs()? { Receiving::Elsewhere } else { Receiving::Nobody };
        self.archive_beside(receiving, ctx)
    }

    /// The same for somebody who knows what a receiver does.
    pub(super) fn archive_beside(
        &self,
        receiving: Receiving,
        ctx: &Ctx<'_>,
    ) -> Result<ArchiveOutcome, ServerError> {
        self.usable(Operation::Archive, ctx)?;
        let name = LockName::WalArchive(self.name().clone());
        let _lock = match self.locks.try_lock(&name, "moving WAL into the archive", ctx) {
            Ok(lock) => lock,
            Err(error @ LockError::Busy { .. }) => {
                return Ok(ArchiveOutcome { busy: Some(error.to_string()), ..ArchiveOutcome::default() });
            }
            Err(other) => return Err(other.into()),
        };
        let options = &self.config.options;
        let archivers = [
            (options.streaming_archiver, Source::Streaming, options.streaming_archiver_batch_size),
            (options.archiver, Source::Incoming, options.archiver_batch_size),
        ];
        let mut outcome = ArchiveOutcome::default();
        for (_, source, limit) in archivers.into_iter().filter(|(on, ..)| *on) {
            let limit = usize::try_from(limit).ok().filter(|n| *n > 0);
            let mut batch = self.wal.batch(source, receiving, limit, ctx)?;
            let unfinished = batch.files.iter().any(|file| matches!(file.name, WalFileName::Partial(_)));
            // A receiver that starts now would go on with what lies there.
            let _none = if unfinished && receiving == Receiving::Nobody {
                match self.keep_receivers_off(ctx)? {
                    Some(guard) => Some(guard),
                    None => {
                        batch.files.retain(|file| !matches!(file.name, WalFileName::Partial(_)));
                        None
                    }
                }
            } else {
                None
            };
            let files = self.take_in(&batch.files, ctx)?;
            outcome.runs.push(ArchiverRun { source, files, unknown: batch.unknown });
        }
        Ok(outcome)
    }

    /// No receiver can start while the guard lives; `None` when one runs.
    fn keep_receivers_off(&self, ctx: &Ctx<'_>) -> Result<Option<crate::io::LockGuard>, ServerError> {
        let name = LockName::WalReceive(self.name().clone());
        match self.locks.try_lock(&name, "archiving unfinished segments", ctx) {
            Ok(guard) => Ok(Some(guard)),
            Err(LockError::Busy { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// Takes files into the archive, with the scripts around it. The archiver's lock must be held.
    pub(super) fn take_in(&self, all: &[Incoming], ctx: &Ctx<'_>) -> Result<Vec<Taken>, ServerError> {
        let mut files = Vec::new();
        for some in all.chunks(self.files_between_scripts()) {
            // Scripts run while nothing is held but the archiver's own lock.
            let mut intake = self.wal.intake(*ctx)?;
            let mut stopped = None;
            for file in some {
                let begun = self.before_archiving(file, ctx);
                if let Err(error) = begun.and_then(|()| Ok(intake.put(file.clone())?)) {
                    stopped = Some(error);
                    break;
                }
            }
            // What was begun before a script or a full disk stopped the run is finished: its sources make room.
            let report = intake.commit()?;
            self.after_archiving(&report.files, ctx)?;
            files.extend(report.files);
            if let Some(error) = stopped.or(report.stopped.map(ServerError::from)) {
                return Err(error);
            }
        }
        Ok(files)
    }

    /// `rebuild-xlogdb`: makes the index anew from the files of the archive.
    pub fn rebuild_index(&self, ctx: &Ctx<'_>) -> Result<Rebuilt, ServerError> {
        self.enabled()?;
        Ok(self.wal.rebuild_index(ctx)?)
    }

    /// Archives without a word to the user, as commands do on their way.
    pub(crate) fn archive_quietly(&self, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let outcome = self.archive_wal(ctx)?;
        outcome.files().filter_map(trouble).for_each(|text| ctx.warn(text));
        Ok(())
    }

    /// Compares a waiting backup with the archive: it may become DONE, or FAILED when WAL is missing for good.
    pub fn check_completeness(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<BackupInfo, ServerError> {
        let info = self.catalog.get(id)?;
        if !matches!(info.status, Status::WaitingForWals | Status::Done) {
            return Ok(info);
        }
        let verdict = self.completeness_of(&info)?;
        // I11: it is of no use before all that it builds on.
        if verdict == Completeness::Complete && !self.parents_done(&info) {
            return Ok(info);
        }
        // What was complete once stays DONE here: only its own check-backup may say otherwise.
        let moves = match verdict {
            Completeness::Complete => info.status == Status::WaitingForWals,
            Completeness::Missing(_) => info.status == Status::WaitingForWals,
            Completeness::Waiting | Completeness::Unknown => false,
        };
        if !moves {
            return Ok(info);
        }
        if let Some(error) = verdict.error() {
            ctx.warn(format!("Backup {id} is marked as FAILED: {error}"));
        }
        Ok(self.catalog.update(id, &mut |info| {
            if let Some(status) = verdict.status() {
                info.status = status;
            }
            info.error = verdict.error();
        })?)
    }

    /// What `check-backup` finds and records; the caller keeps the backup from being removed. One that was DONE and has
    /// lost WAL becomes FAILED, as with Barman: it cannot be restored, and must not count as if it could.
    pub(crate) fn judge_backup(&self, id: &BackupId) -> Result<BackupInfo, ServerError> {
        let info = self.catalog.get(id)?;
        match info.status {
            Status::Failed => return Err(ServerError::AlreadyFailed),
            Status::WaitingForWals | Status::Done => {}
            // Its end is not known yet.
            _ => return Ok(info),
        }
        let verdict = self.completeness_of(&info)?;
        let moves = match verdict {
            Completeness::Complete => info.status == Status::WaitingForWals,
            Completeness::Missing(_) => true,
            Completeness::Waiting | Completeness::Unknown => false,
        };
        if !moves {
            return Ok(info);
        }
        let info = self.catalog.update(id, &mut |info| {
            if let Some(status) = verdict.status() {
                info.status = status;
            }
            info.error = verdict.error();
        })?;
        match verdict.error() {
            Some(reason) => Err(ServerError::MarkedFailed { reason }),
            None => Ok(info),
        }
    }

    pub(crate) fn completeness_of(&self, info: &BackupInfo) -> Result<Completeness, ServerError> {
        let Some(begin) = info.begin_wal else { return Ok(Completeness::Unknown) };
        let newest = self.wal.latest(begin.timeline)?;
        let missing = self.wal.missing(info.required_wals())?;
        let verdict = completeness(info, newest, |name| !missing.contains(&name));
        if let Completeness::Missing(name) = verdict
            && self.is_on_its_way(name)?
        {
            return Ok(Completeness::Waiting);
        }
        Ok(verdict)
    }

    /// Whether a segment that is not in the archive waits to be archived: it may have failed, or come out of order.
    fn is_on_its_way(&self, name: SegmentName) -> Result<bool, ServerError> {
        let options = &self.config.options;
        let file = name.to_string();
        for directory in [&options.incoming_wals_directory, &options.streaming_wals_directory] {
            if self.host.disk.exists(&directory.join(&file))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the last segment that the backup needs is in the archive, archiving meanwhile.
    pub(crate) fn wait_for_wal(
        &self,
        info: &BackupInfo,
        limit: Option<Duration>,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let Some(end) = info.end_wal else { return Ok(()) };
        let bound = limit.map_or(String::new(), |l| format!(" (max: {} seconds)", l.as_secs()));
        ctx.info(format!("Waiting for the WAL file {end} from server '{}'{bound}", self.name()));
        let began = ctx.clock.monotonic();
        let mut told = HashSet::new();
        loop {
            let outcome = self.archive_wal(ctx)?;
            self.report_archived(&outcome, ctx);
            // What cannot be archived is tried again at each look, and told once.
            outcome
                .files()
                .filter_map(trouble)
                .filter(|text| told.insert(text.clone()))
                .for_each(|text| ctx.warn(text));
            if self.wal.missing([end])?.is_empty() {
                return Ok(());
            }
            // The server believes it archived and will not send it again: to wait on would be to wait for ever.
            for taken in outcome.files().filter(|t| t.name == WalFileName::Segment(end)) {
                if let TakenHow::Refused { aside, reason } = &taken.how {
                    let (aside, reason) = (aside.clone(), reason.clone());
                    return Err(ServerError::WalRefused { name: end.to_string(), aside, reason });
                }
            }
            if limit.is_some_and(|limit| ctx.clock.monotonic().saturating_sub(began) >= limit) {
                let seconds = limit.unwrap_or_default().as_secs();
                return Err(ServerError::WalNotReceived { name: end.to_string(), seconds });
            }
            ctx.clock.pause(POLL, ctx.cancel)?;
        }
    }

    /// Tells of files that were archived, in Barman's words; silent when there were none.
    pub(super) fn report_archived(&self, outcome: &ArchiveOutcome, ctx: &Ctx<'_>) {
        let archived = |t: &&Taken| matches!(t.how, TakenHow::Archived(_) | TakenHow::Replaced(_));
        for run in &outcome.runs {
            let names: Vec<String> =
                run.files.iter().filter(archived).map(|t| format!("\t{}", t.name)).collect();
            if !names.is_empty() {
                ctx.info(format!("Processing xlog segments from {} for {}", run.source, self.name()));
                names.into_iter().for_each(|name| ctx.info(name));
            }
        }
    }
}

/// What is wrong with a file that did not become part of the archive.
pub(super) fn trouble(taken: &Taken) -> Option<String> {
    let name = taken.name;
    match &taken.how {
        TakenHow::Refused { reason, aside } => {
            Some(format!("WAL file {name} was refused and lies in {aside}: {reason}"))
        }
        TakenHow::Conflict { .. } => Some(format!(
            "WAL file {name} is in the archive with another content: the newcomer was moved aside"
        )),
        TakenHow::Failed { reason } => {
            Some(format!("WAL file {name} could not be archived and stays where it is: {reason}"))
        }
        _ => None,
    }
}
