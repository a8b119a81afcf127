//! `verify-backup`: every byte of a backup, and the WAL that makes it consistent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use camino::Utf8PathBuf;

use super::{Server, ServerError};
use crate::catalog::{Catalog, FileVerification, Purpose, Root, verify_files};
use crate::ctx::{Cancel, Ctx, Event, Unit};
use crate::format::text::with_reasons;
use crate::format::wal_page::Validator;
use crate::model::{BackupId, BackupInfo, SegmentName, Status, WalFileName};
use crate::recovery::expected_segment;
use crate::wal::{WalArchive, WalError};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A segment that a backup needs and that cannot serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalProblem {
    /// The segment.
    pub name: SegmentName,
    /// What is wrong with it; `None` when it is not in the archive.
    pub reason: Option<String>,
}

impl fmt::Display for WalProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            None => write!(f, "WAL file {} is not in the archive", self.name),
            Some(reason) => write!(f, "WAL file {} is not sound: {reason}", self.name),
        }
    }
}

/// What became of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The data directory of the backup.
    pub directory: Utf8PathBuf,
    /// Its files.
    pub files: FileVerification,
    /// Segments that were read and are sound.
    pub wal: u64,
    /// Those that are not, in archive order.
    pub wal_problems: Vec<WalProblem>,
    /// Those that have not come yet, for a backup that waits for them.
    pub awaited: Vec<SegmentName>,
}

impl Verification {
    /// Whether all that is known of the backup is as it was stored, and its WAL is whole. Something must be known.
    pub fn is_sound(&self) -> bool {
        self.files.problems.is_empty() && self.wal_problems.is_empty() && !self.knows_nothing()
    }

    /// No file could be compared with anything that is known of it as a whole.
    pub fn knows_nothing(&self) -> bool {
        self.files.verified == 0 && self.files.without_checksum == 0
    }
}

impl Server {
    /// Compares every byte of a backup with what is known of it, and judges each WAL segment from its begin to its end.
    /// Nothing is changed. The backup stays in the catalog meanwhile, whatever retention says.
    ///
    /// # Errors
    /// When the backup cannot be looked at. What is wrong with it is in the result.
    pub fn verify_backup(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<Verification, ServerError> {
        let _lease = self.catalog.lease(id, Purpose::Verification)?;
        let reader = self.catalog.open(id)?;
        let line = self.lineage(reader.info())?;
        if let [_, older @ ..] = line.as_slice()
            && !older.is_empty()
        {
            let ids: Vec<String> = older.iter().map(|info| info.id.to_string()).collect();
            ctx.warn(format!(
                "Backup {id} is incremental. What it builds on is not verified with it, and a restore needs it, too: verify {} as well",
                ids.join(", ")
            ));
        }
        let files = verify_files(reader.as_ref(), self.host.workers, ctx)?;
        let directory = match reader.packed()? {
            Some(_) => self.catalog.paths().tree(id, Root::Data),
            None => reader.location(Root::Data),
        };
        let mut found = Verification { directory, files, ..Verification::default() };
        self.verify_wal(reader.info(), &mut found, ctx)?;
        Ok(found)
    }

    fn verify_wal(
        &self,
        info: &BackupInfo,
        found: &mut Verification,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let names: VecDeque<SegmentName> = info.required_wals().collect();
        let (total, workers) = (names.len(), self.host.workers.clamp(1, names.len().max(1)));
        let stage = "Verifying WAL";
        ctx.progress.event(&Event::StageStarted { stage, total: Some(total as u64), unit: Unit::Segments });
        let (queue, problems, first) = (Mutex::new(names), Mutex::new(Vec::new()), Mutex::new(None));
        let stop = Cancel::new();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let mut chunk = vec![0; CHUNK];
                    let next = || if stop.is_cancelled() { None } else { lock(&queue).pop_front() };
                    while let Some(name) = next() {
                        match self.judge_segment(info, name, &mut chunk, ctx) {
                            Ok(None) => {}
                            Ok(Some(problem)) => lock(&problems).push(problem),
                            Err(error) => {
                                lock(&first).get_or_insert(error);
                                stop.cancel();
                            }
                        }
                        ctx.progress.event(&Event::Advanced { by: 1 });
                    }
                });
            }
        });
        ctx.progress.event(&Event::StageFinished);
        if let Some(error) = lock(&first).take() {
            return Err(error);
        }
        let mut problems = std::mem::take(&mut *lock(&problems));
        problems.sort_by_key(|problem: &WalProblem| problem.name);
        found.wal = (total - problems.len()) as u64;
        // Until all has come, the backup itself says that it is not complete.
        let waits = info.status == Status::WaitingForWals;
        let (awaited, problems): (Vec<_>, Vec<_>) =
            problems.into_iter().partition(|problem| waits && problem.reason.is_none());
        found.awaited = awaited.into_iter().map(|problem| problem.name).collect();
        found.wal_problems = problems;
        Ok(())
    }

    /// Reads a segment to its end. Only cancellation is an error.
    pub(super) fn judge_segment(
        &self,
        info: &BackupInfo,
        name: SegmentName,
        chunk: &mut [u8],
        ctx: &Ctx<'_>,
    ) -> Result<Option<WalProblem>, ServerError> {
        let problem = |reason: Option<String>| Ok(Some(WalProblem { name, reason }));
        let mut plain = match self.wal.open(&WalFileName::Segment(name)) {
            Ok(plain) => plain,
            Err(WalError::NotFound { .. }) => return problem(None),
            Err(other) => return problem(Some(with_reasons(&other))),
        };
        let mut validator = Validator::new(expected_segment(info, name));
        loop {
            ctx.cancel.check()?;
            match plain.read(chunk) {
                Ok(0) => break,
                Ok(count) => validator.push(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return problem(Some(error.to_string())),
            };
        }
        match validator.finish() {
            Ok(_) => Ok(None),
            Err(unsound) => problem(Some(unsound.to_string())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
