//! Carrying out a [`RecoveryPlan`]: the order of I23, every byte verified on its way (I24).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::delta::Delta;
use super::judged::{Judged, expected_segment};
use super::settle::{self, ConfigReport};
use super::verify::Verifying;
use super::{RecoveryError, RecoveryPlan, TreePlan, WalPlan};
use crate::backup::Throttle;
use crate::catalog::{BackupReader, FileProof, Root};
use crate::ctx::{Cancel, Ctx, Event, Unit};
use crate::format::text::with_reasons;
use crate::model::{Entry, FileTime, WalFileName};
use crate::transport::{FileOp, Lane, StoreContent, StoreItem, Transport, TransportError};
use crate::wal::{PartialWal, WalArchive, WalRange};

/// How a plan is carried out.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Parallel workers, at least 1.
    pub jobs: usize,
    /// So many workers start at a time, and the next ones so much later.
    pub start_batch: (usize, Duration),
    /// Most bytes a second, all workers together.
    pub bandwidth: Option<u64>,
    /// How often a connection that was lost is made again, to go on with what is not there yet.
    pub retry_times: u32,
    /// How long to wait before that.
    pub retry_sleep: Duration,
    /// The destination may hold an older cluster: what of it is equal by content stays, the rest goes.
    pub delta: bool,
    /// WAL of that older cluster that may not be archived is removed, too, and not kept aside.
    pub discard_wal: bool,
}

impl Default for RunOptions {
    /// One worker, into an empty place, at once or never.
    fn default() -> Self {
        Self {
            jobs: 1,
            start_batch: (usize::MAX, Duration::ZERO),
            bandwidth: None,
            retry_times: 0,
            retry_sleep: Duration::ZERO,
            delta: false,
            discard_wal: false,
        }
    }
}

/// What a recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// What was found in and done to configuration files.
    pub config: ConfigReport,
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Files of the backup for which no digest is known, so that they could not be verified (backups of Barman's own).
    pub unverified: u64,
    /// Files of the destination that were equal and stayed, see [`RunOptions::delta`].
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Files and links of the destination that the backup does not have, and that were removed.
    pub removed: u64,
}

/// Carries out a plan.
///
/// Data first, then configuration and signal files, everything durable, `global/pg_control` last and by rename: a
/// destination whose restore was cut short cannot be started. With [`RunOptions::delta`] the control file of the older cluster
/// goes first, and the same plan carried out again completes what was cut short.
pub fn run(
    plan: &RecoveryPlan,
    reader: &dyn BackupReader,
    archive: &dyn WalArchive,
    transport: &dyn Transport,
    options: &RunOptions,
    ctx: &Ctx<'_>,
) -> Result<RecoveryReport, RecoveryError> {
    let mut options = options.clone();
    let mut left = options.retry_times;
    loop {
        let begun = AtomicBool::new(false);
        match attempt(plan, reader, archive, transport, &options, &begun, ctx) {
            Err(RecoveryError::Transport(error)) if left > 0 && error.is_transient() => {
                left -= 1;
                ctx.warn(format!(
                    "{}: the restore goes on in {} seconds ({left} further attempts)",
                    with_reasons(&error),
                    options.retry_sleep.as_secs()
                ));
                ctx.clock.pause(options.retry_sleep, ctx.cancel)?;
                // What is there by now is this restore's own. A place that was not judged yet is judged as at first.
                options.delta |= begun.into_inner();
            }
            other => return other,
        }
    }
}

/// One attempt; `begun` tells whether anything was written.
fn attempt(
    plan: &RecoveryPlan,
    reader: &dyn BackupReader,
    archive: &dyn WalArchive,
    transport: &dyn Transport,
    options: &RunOptions,
    begun: &AtomicBool,
    ctx: &Ctx<'_>,
) -> Result<RecoveryReport, RecoveryError> {
    let throttle = Throttle::new(options.bandwidth);
    let delta = OnceLock::new();
    let run = Run { plan, reader, archive, transport, options, throttle, delta, begun, ctx };
    let mut lane = transport.lane()?;
    let proofs = reader.proofs()?.map(ProofTable::new);
    let modes = run.prepare(&proofs, lane.as_mut())?;
    let mut report = RecoveryReport::default();
    if let Some(delta) = run.delta.get() {
        (report.kept, report.kept_bytes, report.removed) = (delta.kept, delta.kept_bytes, delta.removed);
    }
    ctx.info("Copying the base backup.");
    // In Barman's words, which scripts may look for.
    let combining = |word: &str, place: &str| {
        let id = reader.info().id;
        ctx.info(format!("{word} combining backup via pg_combinebackup for backup {id}{place}"));
    };
    if reader.info().is_incremental() {
        combining("Start", &format!(" on {}", plan.destination));
    }
    run.write_trees(&proofs, &mut report)?;
    if reader.info().is_incremental() {
        combining("End", "");
    }
    let mode = run.settle_modes(&modes, lane.as_mut())?;
    run.link_tablespaces(lane.as_mut())?;
    if let Some(wal) = &plan.wal {
        run.write_wal(wal, lane.as_mut(), &mut report)?;
    }
    if plan.settings.is_some() {
        ctx.info("Generating recovery configuration");
    }
    ctx.info("Identify dangerous settings in destination directory.");
    report.config = settle::configure(plan, reader, lane.as_mut())?;
    run.end_delta(lane.as_mut())?;
    run.make_durable(lane.as_mut())?;
    // With group access (`initdb -g`) the server's files can be read by the group.
    run.control(lane.as_mut(), if mode & 0o040 == 0 { 0o600 } else { 0o640 })?;
    Ok(report)
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a RecoveryPlan,
    pub(super) reader: &'a dyn BackupReader,
    pub(super) archive: &'a dyn WalArchive,
    pub(super) transport: &'a dyn Transport,
    pub(super) options: &'a RunOptions,
    pub(super) throttle: Throttle,
    /// What was found in a destination that holds an older cluster.
    pub(super) delta: OnceLock<Delta>,
    pub(super) begun: &'a AtomicBool,
    pub(super) ctx: &'a Ctx<'a>,
}

impl Run<'_> {
    fn write_trees(
        &self,
        proofs: &Option<ProofTable>,
        report: &mut RecoveryReport,
    ) -> Result<(), RecoveryError> {
        let mut packed = Vec::new();
        for tree in &self.plan.trees {
            match self.reader.stream(tree.root)? {
                Some(members) => packed.push((tree, members)),
                None => self.write_files(tree, proofs, report)?,
            }
        }
        self.write_packed(packed, proofs, report)
    }

    fn write_files(
        &self,
        tree: &TreePlan,
        proofs: &Option<ProofTable>,
        report: &mut RecoveryReport,
    ) -> Result<(), RecoveryError> {
        let entries: Vec<Entry> =
            self.reader.files(tree.root)?.into_iter().filter(|e| self.belongs(tree.root, e)).collect();
        let (directories, files): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(Entry::is_dir);
        self.write_directories(tree, directories)?;
        let files: Vec<Entry> =
            files.into_iter().filter(|f| f.is_file() && !self.keeps(tree.root, &f.path)).collect();
        let bytes = files.iter().map(|f| f.size).sum();
        let stage = match tree.root {
            Root::Data => "Restoring data".to_owned(),
            Root::Tablespace(oid) => format!("Restoring tablespace {oid}"),
        };
        self.stage(&stage, bytes);
        let mut files = files;
        files.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        let unverified = files.iter().filter(|f| self.unverified(proofs, tree.root, &f.path)).count();
        report.unverified += unverified as u64;
        let count = files.len();
        let queue = Mutex::new(VecDeque::from(files));
        let (written, size) = self.workers(count, &tree.destination, &|stop| {
            let entry = lock(&queue).pop_front()?;
            Some(self.data_item(tree.root, entry, proofs, stop))
        })?;
        self.ctx.progress.event(&Event::StageFinished);
        report.files += written;
        report.bytes += size;
        Ok(())
    }

    pub(super) fn unverified(&self, proofs: &Option<ProofTable>, root: Root, path: &Utf8Path) -> bool {
        proof_of(proofs, root, path).is_none() && !self.reader.verifies(root, path)
    }

    /// What of a tree is written as it is. `pg_control` comes last, configuration files are rewritten, WAL, links and
    /// what a running server left behind have no place in the result.
    pub(super) fn belongs(&self, root: Root, entry: &Entry) -> bool {
        if root != Root::Data {
            return true;
        }
        let path = entry.path.as_path();
        let mut parts = path.components().map(|c| c.as_str());
        let (top, below) = (parts.next().unwrap_or_default(), parts.next().is_some());
        let emptied = below && matches!(top, "pg_log" | "log" | "pg_xlog" | "pg_wal" | "pg_tblspc");
        let left = matches!(
            path.as_str(),
            "postmaster.pid"
                | "recovery.conf"
                | "tablespace_map"
                | "recovery.signal"
                | "standby.signal"
                | "global/pg_control"
                | "backup_manifest"
        );
        !(emptied || left || entry.is_file() && settle::is_rewritten(self.plan, path))
    }

    fn write_directories(&self, tree: &TreePlan, directories: Vec<Entry>) -> Result<(), RecoveryError> {
        let mut lane = self.transport.lane()?;
        let wal = self.wal_directory(tree.root).map(|path| directory(path, 0o700));
        let mut items = directories
            .into_iter()
            .filter(|d| !d.path.as_str().is_empty())
            .map(|d| directory(d.path.as_str(), d.mode))
            .chain(wal)
            .map(Ok);
        lane.store(&tree.destination, &mut items)?;
        Ok(())
    }

    fn data_item(
        &self,
        root: Root,
        mut entry: Entry,
        proofs: &Option<ProofTable>,
        stop: &Cancel,
    ) -> Result<StoreItem, TransportError> {
        let bytes = self.reader.open(root, &entry.path).map_err(|e| TransportError::Source {
            target: self.transport.target().to_owned(),
            source: io::Error::other(e.to_string()),
        })?;
        self.go_on(stop)?;
        // Whole files at a time: the rate holds over the restore, not over each moment of it.
        self.throttle.take(
            usize::try_from(entry.size).unwrap_or(usize::MAX),
            self.ctx.clock,
            [stop, self.ctx.cancel],
        )?;
        self.ctx.progress.event(&Event::Advanced { by: entry.size });
        if let Some(proof) = proof_of(proofs, root, &entry.path) {
            entry.mtime = proof.mtime;
        }
        self.item(root, entry, bytes, proofs)
    }

    /// A file to write, verified where that can be.
    pub(super) fn item(
        &self,
        root: Root,
        entry: Entry,
        bytes: Box<dyn Read + Send>,
        proofs: &Option<ProofTable>,
    ) -> Result<StoreItem, TransportError> {
        let proof = proof_of(proofs, root, &entry.path);
        let name = self.reader.location(root).join(&entry.path);
        let bytes: Box<dyn Read + Send> = match proof {
            Some(proof) if proof.size != entry.size => {
                let text = format!(
                    "{name} has {} bytes in the backup, {} were stored: the backup is damaged",
                    entry.size, proof.size
                );
                return Err(TransportError::Source {
                    target: self.transport.target().to_owned(),
                    source: io::Error::new(io::ErrorKind::InvalidData, text),
                });
            }
            Some(proof) => Box::new(Verifying::new(bytes, name, proof.size, proof.crc32c)),
            None => bytes,
        };
        let content = StoreContent::File { size: entry.size, bytes };
        Ok(StoreItem { path: entry.path, mode: entry.mode, mtime: entry.mtime, content })
    }

    fn link_tablespaces(&self, lane: &mut dyn Lane) -> Result<(), RecoveryError> {
        let links = self.plan.destination.join("pg_tblspc");
        let mut ops = vec![FileOp::MakeDirs { path: links.clone(), mode: 0o700 }];
        for tablespace in &self.plan.tablespaces {
            self.ctx.info(format!("\t{}, {}, {}", tablespace.oid, tablespace.name, tablespace.location));
            ops.push(FileOp::Symlink {
                link: links.join(tablespace.oid.to_string()),
                target: tablespace.location.clone(),
            });
        }
        Ok(lane.apply(&ops)?)
    }

    fn write_wal(
        &self,
        wal: &WalPlan,
        lane: &mut dyn Lane,
        report: &mut RecoveryReport,
    ) -> Result<(), RecoveryError> {
        self.ctx.info("Copying required WAL segments.");
        lane.apply(&[FileOp::MakeDirs { path: wal.directory.clone(), mode: 0o700 }])?;
        let segment = self.reader.info().xlog_segment_size.bytes();
        let segments = wal.segments();
        self.stage("Restoring WAL", segments.saturating_mul(segment));
        let queue = Mutex::new(self.wal_times(wal)?);
        let partial = Mutex::new(wal.partial.as_ref());
        let items = wal.files.len() + usize::from(wal.partial.is_some());
        let (files, bytes) = self.workers(items, &wal.directory, &|stop| {
            let next = lock(&queue).pop_front();
            match next {
                Some((name, mtime)) => Some(self.wal_item(name, mtime, segment, stop)),
                None => lock(&partial).take().map(|partial| self.partial_item(partial)),
            }
        })?;
        self.ctx.progress.event(&Event::StageFinished);
        report.files += files;
        report.bytes += bytes;
        if wal.own_directory {
            self.ctx.info("Generating archive status files");
            let marks = wal.files.iter().map(|name| Ok(empty_file(&format!("{name}.done"))));
            let status = wal.directory.join("archive_status");
            lane.apply(&[FileOp::MakeDirs { path: status.clone(), mode: 0o700 }])?;
            lane.store(&status, &mut { marks })?;
        }
        Ok(())
    }

    /// The planned files with their times, from one reading of the index for all of them.
    fn wal_times(&self, wal: &WalPlan) -> Result<VecDeque<(WalFileName, FileTime)>, RecoveryError> {
        let wanted: HashSet<&WalFileName> = wal.files.iter().collect();
        let mut times = HashMap::with_capacity(wanted.len());
        self.archive.scan(&WalRange::default(), &mut |entry| {
            if wanted.contains(&entry.name) {
                times.insert(entry.name, entry.mtime);
            }
            ControlFlow::Continue(())
        })?;
        Ok(wal.files.iter().map(|name| (*name, times.get(name).copied().unwrap_or_default())).collect())
    }

    fn wal_item(
        &self,
        name: WalFileName,
        mtime: FileTime,
        segment: u64,
        stop: &Cancel,
    ) -> Result<StoreItem, TransportError> {
        self.go_on(stop)?;
        self.throttle.take(
            usize::try_from(segment).unwrap_or(usize::MAX),
            self.ctx.clock,
            [stop, self.ctx.cancel],
        )?;
        let source =
            |e: io::Error| TransportError::Source { target: self.transport.target().to_owned(), source: e };
        let failed = |e: crate::wal::WalError| source(io::Error::other(e.to_string()));
        let mut bytes = self.archive.open(&name).map_err(failed)?;
        let content = if let Some(own) = name.as_segment() {
            self.ctx.progress.event(&Event::Advanced { by: segment });
            let expected = expected_segment(self.reader.info(), own);
            StoreContent::File { size: segment, bytes: Box::new(Judged::new(bytes, expected)) }
        } else {
            // History files and backup labels are a few hundred bytes.
            let mut small = Vec::new();
            bytes.read_to_end(&mut small).map_err(source)?;
            StoreContent::File { size: small.len() as u64, bytes: Box::new(io::Cursor::new(small)) }
        };
        Ok(StoreItem { path: name.to_string().into(), mode: 0o600, mtime, content })
    }

    /// The unfinished segment, under the name that the server asks for. It gets no `.done` mark: a server that goes on in it
    /// has to archive it when it is whole.
    fn partial_item(&self, partial: &PartialWal) -> Result<StoreItem, TransportError> {
        let size = self.reader.info().xlog_segment_size;
        let bytes = self.archive.open_unfinished(partial, size).map_err(|e| TransportError::Source {
            target: self.transport.target().to_owned(),
            source: io::Error::other(e.to_string()),
        })?;
        let content = StoreContent::File { size: size.bytes(), bytes };
        Ok(StoreItem { path: partial.name.to_string().into(), mode: 0o600, mtime: partial.mtime, content })
    }

    /// Lets workers store what `next` gives until it gives nothing more. The first error stops all and is returned.
    fn workers(
        &self,
        items: usize,
        root: &Utf8Path,
        next: &(dyn Fn(&Cancel) -> Option<Result<StoreItem, TransportError>> + Sync),
    ) -> Result<(u64, u64), RecoveryError> {
        let count = self.options.jobs.clamp(1, items.max(1));
        let stop = Cancel::new();
        let outcomes: Vec<Result<_, TransportError>> = std::thread::scope(|scope| {
            let stop = &stop;
            let workers: Vec<_> = (0..count)
                .map(|number| {
                    scope.spawn(move || {
                        let lane = self.wait_for_turn(number, stop).and_then(|()| self.transport.lane());
                        let outcome = lane.and_then(|mut lane| {
                            let mut items = std::iter::from_fn(|| next(stop));
                            lane.store(root, &mut items)
                        });
                        if outcome.is_err() {
                            stop.cancel();
                        }
                        outcome
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(self.died()))).collect()
        });
        let mut sum = (0, 0);
        let mut error = None;
        for outcome in outcomes {
            match outcome {
                Ok(report) => sum = (sum.0 + report.files, sum.1 + report.bytes),
                // Those that were only told to stop say nothing new.
                Err(TransportError::Cancelled(_)) if error.is_some() => {}
                Err(other) if matches!(error, None | Some(TransportError::Cancelled(_))) => {
                    error = Some(other)
                }
                Err(_) => {}
            }
        }
        error.map_or(Ok(sum), |e| Err(e.into()))
    }

    fn make_durable(&self, lane: &mut dyn Lane) -> Result<(), RecoveryError> {
        for tree in &self.plan.trees {
            lane.sync(&tree.destination)?;
        }
        if let Some(wal) = self.plan.wal.as_ref().filter(|w| !w.directory.starts_with(&self.plan.destination))
        {
            lane.sync(&wal.directory)?;
        }
        Ok(())
    }

    /// The file without which no server starts, under its final name only when all else is durable.
    fn control(&self, lane: &mut dyn Lane, mode: u32) -> Result<(), RecoveryError> {
        self.ctx.cancel.check()?;
        let path = Utf8Path::new("global/pg_control");
        let proofs = self.reader.proofs()?.map(ProofTable::new);
        let bytes = self.reader.open(Root::Data, path)?;
        let name = self.reader.location(Root::Data).join(path);
        let mut content = Vec::new();
        let read = match proof_of(&proofs, Root::Data, path) {
            Some(proof) => {
                Verifying::new(bytes, name.clone(), proof.size, proof.crc32c).read_to_end(&mut content)
            }
            None => { bytes }.read_to_end(&mut content),
        };
        read.map_err(|source| RecoveryError::Damaged { path: name, reason: source.to_string() })?;
        lane.apply(&[FileOp::WriteFile { path: self.plan.destination.join(path), content, mode }])?;
        Ok(())
    }

    /// Workers start in batches.
    pub(super) fn wait_for_turn(&self, number: usize, stop: &Cancel) -> Result<(), TransportError> {
        let (batch, period) = self.options.start_batch;
        let wait = period.saturating_mul(u32::try_from(number / batch.max(1)).unwrap_or(0));
        Ok(self.ctx.clock.pause(wait, stop)?)
    }

    pub(super) fn died(&self) -> TransportError {
        TransportError::Protocol {
            target: self.transport.target().to_owned(),
            doing: "writing files".to_owned(),
            reason: "a worker ended unexpectedly; this is a bug".to_owned(),
        }
    }

    pub(super) fn go_on(&self, stop: &Cancel) -> Result<(), TransportError> {
        stop.check()?;
        Ok(self.ctx.cancel.check()?)
    }

    fn stage(&self, stage: &str, total: u64) {
        self.ctx.progress.event(&Event::StageStarted { stage, total: Some(total), unit: Unit::Bytes });
    }
}

/// The rows of the full manifest, found by tree and path.
pub(super) struct ProofTable(pub(super) HashMap<Root, HashMap<Utf8PathBuf, FileProof>>);

impl ProofTable {
    fn new(rows: Vec<FileProof>) -> Self {
        let mut table: HashMap<Root, HashMap<Utf8PathBuf, FileProof>> = HashMap::new();
        for row in rows {
            table.entry(row.root).or_default().insert(row.path.clone(), row);
        }
        Self(table)
    }

    /// Those of a tree.
    pub(super) fn of(&self, root: Root) -> Option<&HashMap<Utf8PathBuf, FileProof>> {
        self.0.get(&root)
    }
}

pub(super) fn proof_of<'a>(
    proofs: &'a Option<ProofTable>,
    root: Root,
    path: &Utf8Path,
) -> Option<&'a FileProof> {
    proofs.as_ref()?.of(root)?.get(path)
}

pub(super) fn directory(path: &str, mode: u32) -> StoreItem {
    StoreItem { path: path.into(), mode, mtime: FileTime::default(), content: StoreContent::Directory }
}

fn empty_file(path: &str) -> StoreItem {
    let content = StoreContent::File { size: 0, bytes: Box::new(io::empty()) };
    StoreItem { path: path.into(), mode: 0o600, mtime: FileTime::default(), content }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
