//! [`LocalIntake`]: many files at once, acknowledged together. The order is that of I2: contents are durable, then
//! names, then index lines; only then sources go.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use time::OffsetDateTime;

use super::take::{Desks, Outcome, Worker, unchanged};
use super::{
    Incoming, IntakeReport, Shared, Taken, TakenHow, WalEntry, WalError, WalIntake, commits, directory, index,
};
use crate::ctx::Ctx;
use crate::io::{Stat, durable};
use crate::model::WalFileName;

type Done = (usize, Result<Outcome, WalError>);

/// One intake.
pub(super) struct LocalIntake<'a> {
    shared: &'a Arc<Shared>,
    ctx: Ctx<'a>,
    work: Work,
    files: Vec<Incoming>,
    outcomes: Vec<Option<Outcome>>,
    /// What stopped the intake, until it was told.
    error: Option<WalError>,
    stopped: bool,
}

/// Who works on the files.
enum Work {
    Here(Box<Worker>),
    Threads {
        jobs: Option<Sender<Job>>,
        done: Receiver<Done>,
        threads: Vec<JoinHandle<()>>,
        stop: Arc<AtomicBool>,
    },
}

struct Job {
    at: usize,
    file: Incoming,
    now: OffsetDateTime,
}

impl<'a> LocalIntake<'a> {
    pub(super) fn begin(shared: &'a Arc<Shared>, ctx: Ctx<'a>) -> Self {
        let desks = Desks::new(shared.options.workers);
        let worker = || Worker::new(desks.clone(), ctx.cancel.clone());
        let work = if shared.options.workers <= 1 {
            Work::Here(Box::new(worker()))
        } else {
            // Twice as many as pack at a time: about half of the time goes into waiting for fsync.
            let workers = shared.options.workers.saturating_mul(2);
            let (jobs, waiting) = bounded::<Job>(workers);
            let (tell, done) = unbounded();
            let stop = Arc::new(AtomicBool::new(false));
            let threads = (0..workers)
                .map(|_| {
                    let (mut worker, waiting, tell) = (worker(), waiting.clone(), tell.clone());
                    let (shared, stop) = (Arc::clone(shared), Arc::clone(&stop));
                    std::thread::spawn(move || {
                        for job in waiting {
                            // After a full disk the rest waits where it is.
                            if stop.load(Ordering::Relaxed) {
                                continue;
                            }
                            let result = worker.take(&shared, &job.file, job.now);
                            if result.is_err() {
                                stop.store(true, Ordering::Relaxed);
                            }
                            if tell.send((job.at, result)).is_err() {
                                return;
                            }
                        }
                    })
                })
                .collect();
            Work::Threads { jobs: Some(jobs), done, threads, stop }
        };
        Self { shared, ctx, work, files: Vec::new(), outcomes: Vec::new(), error: None, stopped: false }
    }

    fn note(&mut self, (at, result): Done) {
        match result {
            Ok(outcome) => {
                if let Some(slot) = self.outcomes.get_mut(at) {
                    *slot = Some(outcome);
                }
            }
            Err(error) => {
                self.stopped = true;
                self.error.get_or_insert(error);
            }
        }
    }

    fn collect(&mut self) {
        while let Work::Threads { done, .. } = &self.work
            && let Ok(result) = done.try_recv()
        {
            self.note(result);
        }
    }

    /// Waits for all workers.
    fn join(&mut self) {
        if let Work::Threads { jobs, threads, .. } = &mut self.work {
            *jobs = None;
            for thread in threads.drain(..) {
                if thread.join().is_err() {
                    self.stopped = true;
                }
            }
        }
        self.collect();
    }

    /// Makes names durable and tells the index.
    fn acknowledge(&self) -> Result<(), WalError> {
        let (mut published, mut known, mut replaced) = (Vec::new(), Vec::new(), HashSet::new());
        let mut dirs = BTreeSet::new();
        let mut times = String::new();
        for (file, outcome) in self.files.iter().zip(&self.outcomes) {
            match outcome {
                Some(Outcome::Published { entry, replaced: again, times: line, .. }) => {
                    times.push_str(line);
                    published.push(entry);
                    if *again {
                        replaced.insert(entry.name);
                    }
                }
                Some(Outcome::Known { .. }) => known.push(file.name),
                _ => continue,
            }
            dirs.insert(self.shared.paths.dir_of(&file.name));
        }
        if dirs.is_empty() {
            return Ok(());
        }
        let disk = &*self.shared.disk;
        for name in &known {
            // Who published it may not have lived until its fsync.
            self.shared.sync_content(&self.shared.paths.file(name))?;
        }
        for dir in &dirs {
            disk.sync_dir(dir)?;
        }
        self.tell_index(&published, &known, &replaced)?;
        commits::add(self.shared, &times);
        Ok(())
    }

    fn tell_index(
        &self,
        published: &[&WalEntry],
        known: &[WalFileName],
        replaced: &HashSet<WalFileName>,
    ) -> Result<(), WalError> {
        let shared = self.shared;
        let full = |e| index::no_space(e, &shared.paths.index());
        let lock = index::lock(shared, "new lines in the index", &self.ctx)?;
        if !index::settle(shared, &lock).map_err(full)? {
            // It is lost, or this is the first file: made from what lies there, the new files among it.
            directory::rebuild_index(shared, &lock)?;
            if shared.options.compression.is_none() || published.is_empty() {
                return Ok(());
            }
            // The configured name of a codec cannot be seen from the file.
            let names: HashSet<WalFileName> = published.iter().map(|entry| entry.name).collect();
            return index::rewrite(shared, &lock, &names, &lines(published)).map_err(full);
        }
        let mut text = lines(published);
        if !known.is_empty() {
            let index = index::read(shared)?;
            for name in known.iter().filter(|name| !index.contains(name)) {
                index::line(&directory::describe(shared, name)?, &mut text);
            }
        }
        if replaced.is_empty() {
            durable::append_durable(&*shared.disk, &shared.paths.index(), text.as_bytes()).map_err(full)
        } else {
            index::rewrite(shared, &lock, replaced, &text).map_err(full)
        }
    }

    /// Removes the sources of what is safe, and the unfinished forms of segments that are there as a whole (I5).
    fn dismiss(&self) -> Result<(), WalError> {
        let mut dirs = BTreeSet::new();
        let mut retired = Vec::new();
        for (file, outcome) in self.files.iter().zip(&self.outcomes) {
            let (Some(Outcome::Published { source, .. }) | Some(Outcome::Known { source })) = outcome else {
                continue;
            };
            if file.remove_source && self.remove_source(file, source)? {
                dirs.insert(durable::parent_of(&file.path).to_owned());
            }
            if let WalFileName::Segment(name) = file.name {
                let partial = WalFileName::Partial(name);
                if self.shared.disk.exists(&self.shared.paths.file(&partial))? {
                    retired.push(partial);
                }
            }
        }
        for dir in &dirs {
            self.shared.disk.sync_dir(dir)?;
        }
        directory::forget(self.shared, &retired, &self.ctx)?;
        Ok(())
    }

    /// A source that changed after it was read is another file, for the next time.
    fn remove_source(&self, file: &Incoming, source: &Stat) -> Result<bool, WalError> {
        match self.shared.disk.stat(&file.path) {
            Err(e) if e.is_not_found() => return Ok(false),
            Err(e) => return Err(e.into()),
            Ok(now) if !unchanged(&now, source) => return Ok(false),
            Ok(_) => {}
        }
        match self.shared.disk.unlink(&file.path) {
            Err(e) if e.is_not_found() => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }
}

fn lines(entries: &[&WalEntry]) -> String {
    let mut text = String::new();
    for entry in entries {
        index::line(entry, &mut text);
    }
    text
}

impl WalIntake for LocalIntake<'_> {
    fn put(&mut self, file: Incoming) -> Result<(), WalError> {
        self.collect();
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.ctx.cancel.check()?;
        let (at, now) = (self.files.len(), self.ctx.clock.now());
        self.files.push(file.clone());
        self.outcomes.push(None);
        match &mut self.work {
            Work::Here(worker) => {
                if !self.stopped {
                    let result = worker.take(self.shared, &file, now);
                    self.note((at, result));
                }
            }
            Work::Threads { jobs: Some(jobs), .. } => {
                // Nobody listens only when all workers have ended, which `join` reports.
                let _ = jobs.send(Job { at, file, now });
            }
            Work::Threads { .. } => {}
        }
        self.error.take().map_or(Ok(()), Err)
    }

    fn commit(mut self: Box<Self>) -> Result<IntakeReport, WalError> {
        self.join();
        // Also after a full disk: what is published is acknowledged, and its sources make room.
        self.acknowledge()?;
        self.dismiss()?;
        let files = std::mem::take(&mut self.files);
        let outcomes = std::mem::take(&mut self.outcomes);
        let taken = |(file, outcome): (Incoming, Option<Outcome>)| {
            let how = match outcome {
                Some(Outcome::Published { entry, replaced: false, .. }) => TakenHow::Archived(entry),
                Some(Outcome::Published { entry, replaced: true, .. }) => TakenHow::Replaced(entry),
                Some(Outcome::Known { .. }) => TakenHow::Known,
                Some(Outcome::Conflict { aside }) => TakenHow::Conflict { aside },
                Some(Outcome::Refused { aside, reason }) => TakenHow::Refused { aside, reason },
                Some(Outcome::Growing) => TakenHow::Growing,
                Some(Outcome::Failed { reason }) => TakenHow::Failed { reason },
                None => {
                    TakenHow::Failed { reason: "it was not looked at, since the intake stopped".to_owned() }
                }
            };
            Taken { name: file.name, how }
        };
        let files = files.into_iter().zip(outcomes).map(taken).collect();
        Ok(IntakeReport { files, stopped: self.error.take() })
    }
}

impl Drop for LocalIntake<'_> {
    /// Without a commit nothing is acknowledged, but no worker outlives the intake.
    fn drop(&mut self) {
        if let Work::Threads { stop, .. } = &self.work {
            stop.store(true, Ordering::Relaxed);
        }
        self.join();
    }
}
