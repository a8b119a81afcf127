//! [`CopyExecutor`]: a file-level copy inside a concurrent backup, of this host or over any transport.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::attend::attended;
use super::dropped::prove_dropped;
use super::page_check::PageLayout;
use super::port::transfer;
use super::reuse::Reuse;
use super::stats::CopyStats;
use super::throttle::Throttle;
use super::tree::{Tree, Wanted, WorkList, examine};
use super::worker::{Harvest, Shared, work};
use super::{
    BackupError, BackupExecutor, BackupJob, BackupJournal, BackupReport, BackupServer, Begin, CorruptPage,
    CorruptPagePolicy, End, ServerFacts,
};
use crate::catalog::{BackupSpace, CatalogError, DirSpec, FileProof, FileSpec, Root};
use crate::ctx::{Cancel, Ctx, Event, Unit};
use crate::format::control::ControlFile;
use crate::format::text::human_duration;
use crate::model::{BackupMethod, Check, FileTime};
use crate::transport::{Lane, RemoteCommand, Transport, TransportError};

/// How often `pg_control` is read before its checksum is given up on. The server rewrites it in place, so that a reader
/// may see half of it (I10).
const CONTROL_TRIES: u32 = 20;

/// Opens the session that a backup lives in.
pub type Connect<'a> = dyn Fn(&Ctx<'_>) -> Result<Box<dyn BackupServer>, BackupError> + Send + Sync + 'a;

/// Copies the files of a running server between the start and the stop of a concurrent (non-exclusive) backup.
pub struct CopyExecutor<'a> {
    transport: &'a dyn Transport,
    connect: &'a Connect<'a>,
}

impl<'a> CopyExecutor<'a> {
    /// An executor that reads files through `transport` and speaks with the server through `connect`.
    pub fn new(transport: &'a dyn Transport, connect: &'a Connect<'a>) -> Self {
        Self { transport, connect }
    }
}

impl BackupExecutor for CopyExecutor<'_> {
    fn method(&self) -> BackupMethod {
        BackupMethod::RsyncConcurrent
    }

    fn preflight(&self, _ctx: &Ctx<'_>) -> Vec<Check> {
        if self.transport.is_local() {
            return Vec::new();
        }
        let noise = self.transport.lane().and_then(|mut lane| {
            let mut output = Output::default();
            let status = lane.exec(&RemoteCommand::Program(vec!["true".to_owned()]), &mut output)?;
            Ok((status.success(), output.0))
        });
        match noise {
            Err(error) => vec![Check::failed("ssh", error.to_string())],
            Ok((false, _)) => {
                vec![Check::failed("ssh", "the command 'true' failed on the PostgreSQL server")]
            }
            Ok((true, noise)) if noise.is_empty() => vec![Check::ok("ssh", "PostgreSQL server")],
            Ok((true, _)) => vec![
                Check::ok("ssh", "PostgreSQL server"),
                Check::failed(
                    "ssh output clean",
                    "the configured ssh_command must not add anything to the remote command output",
                ),
            ],
        }
    }

    fn execute(
        &self,
        job: &BackupJob,
        space: &dyn BackupSpace,
        journal: &dyn BackupJournal,
        ctx: &Ctx<'_>,
    ) -> Result<BackupReport, BackupError> {
        let mut server = (self.connect)(ctx)?;
        let facts = server.facts()?;
        refuse_in_place(&facts)?;
        let label = format!("Barman backup {} {}", job.server, job.id);
        let started = server.start(&label, job.immediate_checkpoint)?;
        // A tablespace that was made while the checkpoint went on is not made again by replay.
        let begin = match server.facts() {
            Ok(facts) => Begin { started, server: facts },
            Err(error) => {
                let _ = server.abandon();
                return Err(error);
            }
        };
        let copied = refuse_in_place(&begin.server).and_then(|()| journal.started(&begin)).and_then(|()| {
            let stop = Cancel::new();
            let run = Run { job, space, begin: &begin, transport: self.transport, stop: &stop, ctx };
            attended(server.as_mut(), job.keepalive, &stop, ctx, || run.copy_everything())
        });
        match copied {
            Ok((harvest, stats)) => {
                journal.copied(&stats)?;
                ctx.info("Asking PostgreSQL server to finalize the backup.");
                let end = server.stop()?;
                if end.timeline != begin.started.timeline {
                    return Err(BackupError::Identity(format!(
                        "The server was promoted during the backup: it began on timeline {} and ended on timeline {}; \
                         take the backup again",
                        begin.started.timeline, end.timeline
                    )));
                }
                let report = conclude(job, space, harvest, &end, ctx)?;
                journal.stopped(&end)?;
                if let Err(error) = server.settle(&job.id) {
                    ctx.warn(format!(
                        "{error}: the last WAL segment of the backup is archived when the server fills it or when \
                         'barman switch-wal' closes it"
                    ));
                }
                Ok(report)
            }
            Err(error) => {
                // The first error is the one that counts; leaving backup mode is owed all the same. A session that is
                // lost or was cancelled cannot be asked any more: its end is the end of the backup.
                if !matches!(error, BackupError::SessionLost | BackupError::Cancelled(_))
                    && let Err(second) = server.abandon()
                {
                    ctx.debug(format!("leaving backup mode after a failure: {second}"));
                }
                Err(error)
            }
        }
    }
}

/// One execution.
struct Run<'a> {
    job: &'a BackupJob,
    space: &'a dyn BackupSpace,
    begin: &'a Begin,
    transport: &'a dyn Transport,
    /// Set by whoever fails first: the work is in vain then. Pauses look at this flag only, and a cancellation sets it.
    stop: &'a Cancel,
    ctx: &'a Ctx<'a>,
}

impl Run<'_> {
    fn copy_everything(&self) -> Result<(Harvest, crate::model::PyValue), BackupError> {
        let workers = self.job.jobs.max(1);
        let suffix = if workers > 1 { format!(" ({workers} jobs)") } else { String::new() };
        self.ctx.info(format!("Starting backup copy via rsync/SSH for {}{suffix}", self.job.id));
        let clock = self.ctx.clock;
        let began = clock.monotonic();
        let mut stats = CopyStats::default();
        let mut harvest = Harvest::default();
        let mut lane = self.transport.lane().map_err(transfer)?;
        let control = self.read_control(lane.as_mut())?;
        self.same_cluster(&control)?;
        let layout = PageLayout { block_size: control.block_size, blocks_per_file: control.blocks_per_file };
        let reuse = self.reuse()?;
        let mut control_mode = 0o600;

        for tree in self.trees() {
            let at = clock.monotonic();
            let version = self.begin.server.version;
            let work = examine(lane.as_mut(), &tree, version, reuse.as_ref(), self.stop).map_err(transfer)?;
            let analysed = clock.monotonic();
            if work.top_mode == Some(0o750) {
                control_mode = 0o640;
            }
            harvest.absorb(self.copy_tree(&tree, work, layout)?);
            stats.add(&tree.label, analysed - at, clock.monotonic() - analysed);
        }
        for (tree, wanted) in self.outside_files() {
            let at = clock.monotonic();
            let label = tree.label.clone();
            let mut work = WorkList::default();
            work.fetch.push_back(wanted);
            harvest.absorb(self.copy_tree(&tree, work, layout)?);
            stats.add(&label, Duration::ZERO, clock.monotonic() - at);
        }
        // I10: after everything else.
        let at = clock.monotonic();
        harvest.proofs.push(self.copy_control_by_a_fresh_lane(control_mode)?);
        stats.add("pg_control", Duration::ZERO, clock.monotonic() - at);

        let total = clock.monotonic() - began;
        self.ctx.info(format!("Copy done (time: {})", human_duration(total.try_into().unwrap_or_default())));
        Ok((harvest, stats.render(total, workers)))
    }

    /// Tablespaces first, then the data directory, as Barman does.
    fn trees(&self) -> Vec<Tree> {
        let server = &self.begin.server;
        let mut trees: Vec<Tree> = server
            .tablespaces
            .iter()
            .map(|space| Tree {
                root: Root::Tablespace(space.oid),
                source: space.location.clone(),
                label: space.name.clone(),
                foreign: Vec::new(),
            })
            .collect();
        let foreign = server
            .tablespaces
            .iter()
            .filter_map(|space| space.location.strip_prefix(&server.pgdata).ok().map(Utf8Path::to_owned))
            .filter(|path| !path.as_str().is_empty())
            .collect();
        trees.push(Tree {
            root: Root::Data,
            source: server.pgdata.clone(),
            label: "pgdata".to_owned(),
            foreign,
        });
        trees
    }

    /// Configuration files that lie outside the data directory are stored in it by their bare names.
    fn outside_files(&self) -> Vec<(Tree, Wanted)> {
        let server = &self.begin.server;
        let files = [
            ("config_file", &server.config_file, false),
            ("hba_file", &server.hba_file, false),
            ("ident_file", &server.ident_file, true),
        ];
        files
            .into_iter()
            .filter_map(|(label, path, optional)| {
                let path = path.as_ref().filter(|p| !p.starts_with(&server.pgdata))?;
                let tree = Tree {
                    root: Root::Data,
                    source: path.parent()?.to_owned(),
                    label: label.to_owned(),
                    foreign: Vec::new(),
                };
                Some((tree, Wanted::by_name(Utf8PathBuf::from(path.file_name()?), optional)))
            })
            .collect()
    }

    fn reuse(&self) -> Result<Option<Reuse>, BackupError> {
        let Some(plan) = &self.job.reuse else { return Ok(None) };
        let theirs = plan.reader.info().systemid;
        if theirs.is_some_and(|theirs| theirs != self.begin.server.system_id) {
            self.ctx.debug(format!("Backup {} is of another cluster: every file is copied", plan.parent));
            return Ok(None);
        }
        let Some(proofs) = self.space.proofs_of(&plan.parent)? else {
            self.ctx.debug(format!("Backup {} has no full manifest: every file is copied", plan.parent));
            return Ok(None);
        };
        Ok(Some(Reuse::new(plan.parent_begin, proofs)))
    }

    fn copy_tree(
        &self,
        tree: &Tree,
        mut work_list: WorkList,
        layout: PageLayout,
    ) -> Result<Harvest, BackupError> {
        let mut harvest = Harvest::default();
        if let Some(mode) = work_list.top_mode {
            self.space.dir(DirSpec { root: tree.root, path: Utf8PathBuf::new(), mode })?;
        }
        for directory in work_list.directories {
            self.space.dir(directory)?;
        }
        if let Some(plan) = &self.job.reuse {
            for (spec, proof) in work_list.reuse {
                self.stop.check()?;
                match self.space.reuse(spec.clone(), &proof, &plan.parent, plan.link) {
                    Ok(_) => {
                        harvest.proofs.push(proof);
                        harvest.reused_files += 1;
                    }
                    // A damaged parent must not stand in the way of a sound backup.
                    Err(error) if is_damage(&error) => {
                        self.ctx.warn(format!("{error}: the file is copied from the server instead"));
                        work_list.fetch_bytes += spec.size;
                        work_list.fetch.push_back(Wanted::of(&spec));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let stage = format!("Copying {}", tree.label);
        self.ctx.progress.event(&Event::StageStarted {
            stage: &stage,
            total: Some(work_list.fetch_bytes),
            unit: Unit::Bytes,
        });
        let limit = self.job.tablespace_bandwidth.get(&tree.label).copied().or(self.job.bandwidth);
        let throttle = Throttle::new(limit);
        let count = self.job.jobs.clamp(1, work_list.fetch.len().max(1));
        let shared = Shared {
            tree,
            queue: Mutex::new(work_list.fetch),
            transport: self.transport,
            space: self.space,
            parent: self.job.reuse.as_ref().map(|r| r.reader.as_ref()),
            job: self.job,
            layout,
            start_lsn: self.begin.server.data_checksums.then_some(self.begin.started.lsn),
            throttle: &throttle,
            stop: self.stop,
            ctx: self.ctx,
        };
        let results = self.supervise(&shared, count);
        self.ctx.progress.event(&Event::StageFinished);
        for result in results? {
            harvest.absorb(result);
        }
        let gone =
            prove_dropped(std::mem::take(&mut harvest.orphans), tree, self.transport, self.stop, self.ctx)?;
        harvest.skipped.extend(gone);
        Ok(harvest)
    }

    /// Runs the workers. The first error stops all of them and is the one given.
    fn supervise(&self, shared: &Shared<'_>, count: usize) -> Result<Vec<Harvest>, BackupError> {
        let (sender, results) = mpsc::channel();
        std::thread::scope(|scope| {
            let (batch, period) = self.job.start_batch;
            for number in 0..count {
                let sender = sender.clone();
                let wait = period * u32::try_from(number / batch.max(1)).unwrap_or(0);
                scope.spawn(move || {
                    if let Err(cancelled) = shared.ctx.clock.pause(wait, shared.stop) {
                        let _ = sender.send(Err(cancelled.into()));
                        return;
                    }
                    // The receiver outlives the scope; a failed send could only mean that nobody listens.
                    let _ = sender.send(work(shared));
                });
            }
            drop(sender);
            let mut harvests = Vec::new();
            let mut first_error = None;
            for result in results {
                match result {
                    Ok(harvest) => harvests.push(harvest),
                    Err(error) => {
                        shared.stop.cancel();
                        first_error.get_or_insert(error);
                    }
                }
            }
            first_error.map_or(Ok(harvests), Err)
        })
    }

    fn control_path(&self) -> Utf8PathBuf {
        self.begin.server.pgdata.join("global/pg_control")
    }

    fn read_control(&self, lane: &mut dyn Lane) -> Result<ControlFile, BackupError> {
        self.control_bytes(lane).map(|(_, control)| control)
    }

    /// Reads `pg_control` until its checksum is right.
    fn control_bytes(&self, lane: &mut dyn Lane) -> Result<(Vec<u8>, ControlFile), BackupError> {
        let path = self.control_path();
        let mut last = String::new();
        for _ in 0..CONTROL_TRIES {
            self.stop.check()?;
            let mut bytes = Vec::with_capacity(8192);
            lane.read(&path, 0, Some(64 * 1024)).map_err(transfer)?.read_to_end(&mut bytes).map_err(|e| {
                transfer(TransportError::Lost {
                    target: self.transport.target().to_owned(),
                    doing: format!("reading {path}"),
                    reason: e.to_string(),
                })
            })?;
            match ControlFile::parse(&bytes) {
                Ok(control) => return Ok((bytes, control)),
                Err(error) => last = error.to_string(),
            }
            self.ctx.clock.pause(Duration::from_millis(50), self.stop)?;
        }
        Err(BackupError::Source {
            path,
            what: format!("was read {CONTROL_TRIES} times and is not sound: {last}"),
        })
    }

    /// The lane of the beginning may have been idle for hours: a firewall that forgot it must not cost the backup.
    fn copy_control_by_a_fresh_lane(&self, mode: u32) -> Result<FileProof, BackupError> {
        let mut failures = 0;
        loop {
            let copied =
                self.transport.lane().map_err(transfer).and_then(|mut l| self.copy_control(l.as_mut(), mode));
            match copied {
                Err(BackupError::Transfer { source })
                    if source.is_transient() && failures < self.job.retry_times =>
                {
                    failures += 1;
                    self.ctx.warn(format!("{source}. pg_control is read again (attempt {failures})"));
                    self.ctx.clock.pause(self.job.retry_sleep, self.stop)?;
                }
                other => return other,
            }
        }
    }

    fn copy_control(&self, lane: &mut dyn Lane, mode: u32) -> Result<FileProof, BackupError> {
        let (bytes, control) = self.control_bytes(lane)?;
        self.same_cluster(&control)?;
        let path = Utf8PathBuf::from("global/pg_control");
        let size = bytes.len() as u64;
        // Its time says nothing: it is never taken from another backup.
        let spec = FileSpec { root: Root::Data, path, mode, mtime: file_time(self.ctx), size };
        store(self.space, spec, &bytes)
    }

    fn same_cluster(&self, control: &ControlFile) -> Result<(), BackupError> {
        let server = &self.begin.server;
        if control.system_id == server.system_id {
            return Ok(());
        }
        Err(BackupError::Identity(format!(
            "The files in {} on {} belong to the cluster {}, but conninfo leads to the cluster {}: \
             make ssh_command and conninfo name the same server",
            server.pgdata,
            self.transport.target(),
            control.system_id,
            server.system_id
        )))
    }
}

/// Whether the catalog says that a stored file is not what it was.
fn is_damage(error: &CatalogError) -> bool {
    match error {
        CatalogError::Damaged { .. } => true,
        CatalogError::Io(error) => error.is_not_found(),
        _ => false,
    }
}

/// Neither a copy nor the archives of a base backup could be put back elsewhere.
pub(super) fn refuse_in_place(facts: &ServerFacts) -> Result<(), BackupError> {
    match facts.tablespaces.iter().find(|space| !space.location.is_absolute()) {
        Some(space) => Err(BackupError::Identity(format!(
            "Tablespace '{}' lies in place, in {} of the data directory (allow_in_place_tablespaces): \
             such a server cannot be backed up; move the tablespace to a directory of its own",
            space.name, space.location
        ))),
        None => Ok(()),
    }
}

/// Notes and tells of pages that are wrong in the source, or fails for them.
pub(super) fn record_corrupt(
    job: &BackupJob,
    space: &dyn BackupSpace,
    corrupt: &[CorruptPage],
    ctx: &Ctx<'_>,
) -> Result<(), BackupError> {
    if let Some(first) = corrupt.first() {
        if job.corrupt_pages == CorruptPagePolicy::Fail {
            return Err(BackupError::CorruptPages {
                count: corrupt.len(),
                path: first.path.clone(),
                block: first.block,
            });
        }
        let mut sidecar = space.sidecar("corrupt_pages.tsv")?;
        for page in corrupt {
            let line = format!(
                "{}\t{}\t{}\t{:04X}\t{:04X}\n",
                space.location(page.root).join(&page.path),
                page.path,
                page.block,
                page.expected,
                page.found
            );
            sidecar.write_all(line.as_bytes()).map_err(|e| io_error(space, &page.path, e))?;
        }
        sidecar.finish()?;
        for page in corrupt.iter().take(20) {
            ctx.warn(format!(
                "Corrupt page: block {} of {} has checksum {:04X}, its content gives {:04X}",
                page.block, page.path, page.found, page.expected
            ));
        }
        ctx.warn(format!(
            "{} corrupt pages were found in the source; the backup holds them as they are. \
             Repair the server, then take a new backup",
            corrupt.len()
        ));
    }
    Ok(())
}

/// What remains once PostgreSQL left backup mode: the label, the map, the verdict on pages.
fn conclude(
    job: &BackupJob,
    space: &dyn BackupSpace,
    mut harvest: Harvest,
    end: &End,
    ctx: &Ctx<'_>,
) -> Result<BackupReport, BackupError> {
    let newer = std::mem::take(&mut harvest.newer);
    harvest.corrupt.extend(newer.into_iter().filter(|(_, lsn)| *lsn > end.lsn).map(|(page, _)| page));
    record_corrupt(job, space, &harvest.corrupt, ctx)?;
    let mtime = FileTime { seconds: end.time.unix_timestamp(), nanos: 0 };
    let label = FileSpec {
        root: Root::Data,
        path: "backup_label".into(),
        mode: 0o600,
        mtime,
        size: end.label.len() as u64,
    };
    harvest.proofs.push(store(space, label, end.label.as_bytes())?);
    if !end.tablespace_map.is_empty() {
        let mut sidecar = space.sidecar("tablespace_map")?;
        sidecar
            .write_all(end.tablespace_map.as_bytes())
            .map_err(|e| io_error(space, Utf8Path::new("tablespace_map"), e))?;
        sidecar.finish()?;
    }
    Ok(BackupReport {
        proofs: last_of_each(harvest.proofs),
        copied_bytes: harvest.copied_bytes,
        reused_files: harvest.reused_files,
        skipped: harvest.skipped,
        corrupt_pages: harvest.corrupt,
    })
}

/// A configuration file from outside may replace one of the same name; the later proof is the true one.
fn last_of_each(mut proofs: Vec<FileProof>) -> Vec<FileProof> {
    proofs.sort_by(|a, b| (a.root, &a.path).cmp(&(b.root, &b.path)));
    proofs.reverse();
    proofs.dedup_by(|a, b| a.root == b.root && a.path == b.path);
    proofs.reverse();
    proofs
}

fn store(space: &dyn BackupSpace, spec: FileSpec, bytes: &[u8]) -> Result<FileProof, BackupError> {
    let path = spec.path.clone();
    let mut sink = space.file(spec)?;
    sink.write_all(bytes).map_err(|e| io_error(space, &path, e))?;
    Ok(sink.finish()?)
}

fn io_error(space: &dyn BackupSpace, path: &Utf8Path, source: std::io::Error) -> BackupError {
    let path = space.location(Root::Data).join(path);
    crate::catalog::CatalogError::from(crate::io::IoError::new("write", path, source)).into()
}

fn file_time(ctx: &Ctx<'_>) -> FileTime {
    FileTime { seconds: ctx.clock.now().unix_timestamp(), nanos: 0 }
}

/// Collects what a probing command prints.
#[derive(Default)]
struct Output(Vec<u8>);

impl crate::transport::Exchange for Output {
    fn stdin(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(0)
    }
    fn stdout(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }
    fn stderr(&mut self, _data: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}
