//! [`verify_files`]: is every file of a backup what was stored? The same verdicts as PostgreSQL's `pg_verifybackup`, in its
//! words, for packed backups and for those without a manifest of PostgreSQL's, too.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use camino::{Utf8Path, Utf8PathBuf};

use super::known::{BACKUP_MANIFEST, Known, Row};
use super::{BackupReader, CatalogError, Packed, Root};
use crate::ctx::{Cancel, Cancelled, Ctx, Event, Unit};
use crate::format::text::with_reasons;
use crate::model::{Entry, EntryKind};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A manifest names it, and it is not there.
    Missing,
    /// It is there, and no manifest names it.
    Extra,
    /// It has another length.
    Size {
        /// In the repository.
        found: u64,
        /// In the manifest.
        expected: u64,
    },
    /// It has other bytes.
    Checksum,
    /// It is neither a file nor a directory.
    Kind,
    /// It cannot be read to its end.
    Unreadable(String),
    /// It is a manifest, and not what it was.
    Manifest(String),
    /// The manifest names it more than once.
    Twice,
    /// Its name is not UTF-8: this program cannot read it.
    NotUtf8,
}

/// A file that is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// As PostgreSQL's manifests name it: relative to the data directory, tablespaces as `pg_tblspc/<oid>/…`.
    pub name: String,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.fault {
            Fault::Missing => write!(f, "\"{name}\" is present in the manifest but not on disk"),
            Fault::Extra => write!(f, "\"{name}\" is present on disk but not in the manifest"),
            Fault::Size { found, expected } => {
                write!(f, "\"{name}\" has size {found} on disk but size {expected} in the manifest")
            }
            Fault::Checksum => write!(f, "checksum mismatch for file \"{name}\""),
            Fault::Kind => write!(f, "\"{name}\" is not a regular file or directory"),
            Fault::Unreadable(why) => write!(f, "could not read file \"{name}\": {why}"),
            Fault::Manifest(why) => write!(f, "the manifest \"{name}\" is damaged: {why}"),
            Fault::Twice => write!(f, "duplicate path name in backup manifest: \"{name}\""),
            Fault::NotUtf8 => write!(f, "\"{name}\" cannot be verified: its name is not UTF-8"),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileVerification {
    /// Files whose bytes were compared with a checksum.
    pub verified: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Files of which only the length is known.
    pub without_checksum: u64,
    /// Files of which nothing is known.
    pub unknown: u64,
    /// All that is wrong, by name.
    pub problems: Vec<FileProblem>,
}

/// Compares every byte of a backup with what is known of it, with so many workers.
///
/// # Errors
/// When the backup cannot be looked at, and cancellation. What is wrong with single files is in the result.
pub fn verify_files(
    reader: &dyn BackupReader,
    workers: usize,
    ctx: &Ctx<'_>,
) -> Result<FileVerification, CatalogError> {
    let packed = reader.packed()?;
    let mut found = FileVerification::default();
    // Of a packed backup the sidecar knows the archives, not what is in them.
    let stored = if packed.is_some() { Ok(None) } else { reader.proofs() };
    let known = Known::read(reader, stored, &mut found.problems)?;
    let roots = || {
        let tablespaces = reader.info().tablespaces.iter().map(|t| Root::Tablespace(t.oid));
        [Root::Data].into_iter().chain(tablespaces)
    };
    let rows = packed.as_ref().and_then(|packed| packed.proofs.as_deref()).unwrap_or_default();
    let is_whole =
        |root: &Root| rows.iter().any(|row| row.path.as_str() == archive_name(reader, *root).as_str());
    let whole = roots().filter(is_whole).collect();
    let pass = Pass { reader, known: &known, whole, ctx, stop: Cancel::new(), found: Mutex::new(found) };
    let work = match &packed {
        None => pass.list(roots())?,
        Some(packed) => pass.archives(roots(), packed)?,
    };
    pass.run(work, workers)?;
    let mut found = pass.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let broken: HashSet<Root> = if packed.is_some() {
        // What cannot be read to its end is one problem, not one for each file in it.
        let broken = |root: &Root| {
            let name = archive_name(reader, *root);
            found.problems.iter().any(|p| p.name == name)
        };
        roots().filter(broken).collect()
    } else {
        HashSet::new()
    };
    for (root, rows) in known.trees().filter(|(root, _)| !broken.contains(root)) {
        let missing = rows.iter().filter(|(_, row)| !row.seen.load(Ordering::Relaxed));
        let problems =
            missing.map(|(path, _)| FileProblem { name: name_of(root, path), fault: Fault::Missing });
        found.problems.extend(problems);
    }
    found.problems.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// As PostgreSQL's manifests name a file.
fn name_of(root: Root, path: &Utf8Path) -> String {
    match root {
        Root::Data => path.to_string(),
        Root::Tablespace(oid) => format!("pg_tblspc/{oid}/{path}"),
    }
}

fn archive_name(reader: &dyn BackupReader, root: Root) -> String {
    reader.location(root).file_name().unwrap_or_default().to_owned()
}

/// What may be in a data directory without being in its manifest, as `pg_verifybackup` has it.
fn may_be_extra(root: Root, path: &Utf8Path) -> bool {
    let own = [BACKUP_MANIFEST, "postgresql.auto.conf", "recovery.signal", "standby.signal"];
    root == Root::Data && (path.starts_with("pg_wal") || own.contains(&path.as_str()))
}

/// What a worker does next.
enum Work {
    File(Root, Utf8PathBuf),
    Archive(Root),
}

struct Pass<'a> {
    reader: &'a dyn BackupReader,
    known: &'a Known,
    /// Archives whose stored bytes are compared as a whole.
    whole: HashSet<Root>,
    ctx: &'a Ctx<'a>,
    /// Ends all workers after the first error.
    stop: Cancel,
    found: Mutex<FileVerification>,
}

impl Pass<'_> {
    fn found(&self) -> std::sync::MutexGuard<'_, FileVerification> {
        self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn problem(&self, name: String, fault: Fault) {
        self.found().problems.push(FileProblem { name, fault });
    }

    fn go_on(&self) -> Result<(), Cancelled> {
        self.stop.check()?;
        self.ctx.cancel.check()
    }

    /// Looks at the names of a plain backup. What is there and known is read later, large files first.
    fn list(&self, roots: impl Iterator<Item = Root>) -> Result<VecDeque<Work>, CatalogError> {
        let mut work = Vec::new();
        for root in roots {
            self.go_on()?;
            let entries = match self.reader.files(root) {
                Ok(entries) => entries,
                // Its files are missing, one by one.
                Err(CatalogError::Io(e)) if e.is_not_found() => {
                    self.problem(self.reader.location(root).to_string(), Fault::Missing);
                    continue;
                }
                Err(other) => return Err(other),
            };
            for entry in entries {
                if let Some(size) = self.look(root, &entry) {
                    work.push((size, Work::File(root, entry.path)));
                }
            }
        }
        work.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        self.stage(Some(work.iter().map(|(size, _)| size).sum()));
        Ok(work.into_iter().map(|(_, work)| work).collect())
    }

    /// Looks at one name; gives the length of what has to be read.
    fn look(&self, root: Root, entry: &Entry) -> Option<u64> {
        let path = entry.path.as_path();
        if entry.is_dir() {
            return None;
        }
        // The place of a tablespace, which is a tree of its own.
        let link = root == Root::Data && path.parent().is_some_and(|dir| dir == "pg_tblspc");
        if link && matches!(entry.kind, EntryKind::Symlink(_)) {
            return None;
        }
        if !entry.is_file() {
            if !may_be_extra(root, path) {
                self.problem(name_of(root, path), Fault::Kind);
            }
            if let Some(row) = self.known.row(root, path) {
                row.seen.store(true, Ordering::Relaxed);
            }
            return None;
        }
        let row = self.judge(root, path, entry.size)?;
        if !row.has_sum() {
            self.found().without_checksum += 1;
            return None;
        }
        Some(entry.size)
    }

    /// Finds the row of a file and compares lengths; `None` when there is nothing more to compare.
    fn judge(&self, root: Root, path: &Utf8Path, found: u64) -> Option<&Row> {
        let Some(row) = self.known.row(root, path) else {
            match (self.known.covers(root), self.whole.contains(&root)) {
                (true, _) if may_be_extra(root, path) => {}
                (true, _) => self.problem(name_of(root, path), Fault::Extra),
                (false, true) => self.found().verified += 1,
                (false, false) => self.found().unknown += 1,
            }
            return None;
        };
        row.seen.store(true, Ordering::Relaxed);
        if let Some(expected) = row.other_size(found) {
            self.problem(name_of(root, path), Fault::Size { found, expected });
            return None;
        }
        Some(row)
    }

    /// Looks at the files of a packed backup as they lie.
    fn archives(
        &self,
        roots: impl Iterator<Item = Root>,
        packed: &Packed,
    ) -> Result<VecDeque<Work>, CatalogError> {
        let mut work = VecDeque::new();
        let mut names = HashSet::from([BACKUP_MANIFEST.to_owned()]);
        let sizes: HashMap<&str, u64> = packed.entries.iter().map(|e| (e.path.as_str(), e.size)).collect();
        let stored: HashMap<&str, u64> =
            packed.proofs.iter().flatten().map(|row| (row.path.as_str(), row.size)).collect();
        for root in roots {
            let name = archive_name(self.reader, root);
            match (sizes.get(name.as_str()), stored.get(name.as_str())) {
                (None, _) => self.problem(name.clone(), Fault::Missing),
                (Some(found), Some(expected)) if found != expected => {
                    let (found, expected) = (*found, *expected);
                    self.problem(name.clone(), Fault::Size { found, expected });
                }
                (Some(_), _) => work.push_back(Work::Archive(root)),
            }
            names.insert(name);
        }
        for entry in packed.entries.iter().filter(|e| !e.is_dir()) {
            if !names.contains(entry.path.as_str()) && !stored.contains_key(entry.path.as_str()) {
                self.problem(entry.path.to_string(), Fault::Extra);
            }
        }
        for name in stored.keys().filter(|name| !sizes.contains_key(*name) && !names.contains(**name)) {
            self.problem((*name).to_owned(), Fault::Missing);
        }
        // How much is in them is seen only when they are read.
        self.stage(None);
        Ok(work)
    }

    fn stage(&self, total: Option<u64>) {
        let stage = "Verifying files";
        self.ctx.progress.event(&Event::StageStarted { stage, total, unit: Unit::Bytes });
    }

    fn run(&self, work: VecDeque<Work>, workers: usize) -> Result<(), CatalogError> {
        let workers = workers.clamp(1, work.len().max(1));
        let queue = Mutex::new(work);
        let first = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let mut buffer = vec![0; CHUNK];
                    loop {
                        let next = lock(&queue).pop_front();
                        let done = match next {
                            None => return,
                            Some(Work::File(root, path)) => self.file(root, &path, &mut buffer),
                            Some(Work::Archive(root)) => self.archive(root, &mut buffer),
                        };
                        if let Err(error) = done {
                            // The others are only told to stop.
                            lock(&first).get_or_insert(error);
                            self.stop.cancel();
                            return;
                        }
                    }
                });
            }
        });
        self.ctx.progress.event(&Event::StageFinished);
        lock(&first).take().map_or(Ok(()), Err)
    }

    fn file(&self, root: Root, path: &Utf8Path, buffer: &mut [u8]) -> Result<(), CatalogError> {
        let Some(row) = self.known.row(root, path) else { return Ok(()) };
        let opened = self.reader.open(root, path);
        let summed = match opened {
            Ok(mut bytes) => self.sum(row, &mut bytes, buffer)?,
            Err(error) => Err(with_reasons(&error)),
        };
        self.conclude(root, path, row, summed);
        Ok(())
    }

    /// Reads a file to its end and makes its sums, or says why it cannot be read. Only cancellation is an error.
    fn sum(
        &self,
        row: &Row,
        bytes: &mut dyn Read,
        buffer: &mut [u8],
    ) -> Result<Result<(u64, super::known::Summing), String>, CatalogError> {
        let mut summing = row.summing();
        let mut length = 0;
        loop {
            self.go_on()?;
            let count = match bytes.read(buffer) {
                Ok(0) => return Ok(Ok((length, summing))),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error.to_string())),
            };
            summing.update(buffer.get(..count).unwrap_or_default());
            length += count as u64;
            self.ctx.progress.event(&Event::Advanced { by: count as u64 });
        }
    }

    fn conclude(
        &self,
        root: Root,
        path: &Utf8Path,
        row: &Row,
        summed: Result<(u64, super::known::Summing), String>,
    ) {
        let name = || name_of(root, path);
        match summed {
            Err(why) => self.problem(name(), Fault::Unreadable(why)),
            Ok((length, summing)) => {
                self.found().bytes += length;
                match row.other_size(length) {
                    Some(expected) => self.problem(name(), Fault::Size { found: length, expected }),
                    None if !row.agrees(summing) => self.problem(name(), Fault::Checksum),
                    None => self.found().verified += 1,
                }
            }
        }
    }

    /// Reads an archive to its end. What was stored of it as a whole, its reader compares.
    fn archive(&self, root: Root, buffer: &mut [u8]) -> Result<(), CatalogError> {
        let broken = |why: String| self.problem(archive_name(self.reader, root), Fault::Unreadable(why));
        let mut members = match self.reader.stream(root) {
            Ok(Some(members)) => members,
            Ok(None) => return Ok(()),
            Err(error) => {
                broken(with_reasons(&error));
                return Ok(());
            }
        };
        loop {
            self.go_on()?;
            let (entry, mut bytes) = match members.next() {
                Ok(None) => return Ok(()),
                Ok(Some(member)) => member,
                Err(error) => {
                    broken(error.to_string());
                    return Ok(());
                }
            };
            if !entry.is_file() {
                continue;
            }
            let Some(row) = self.judge(root, &entry.path, entry.size) else { continue };
            if !row.has_sum() {
                let mut found = self.found();
                if self.whole.contains(&root) {
                    found.verified += 1
                } else {
                    found.without_checksum += 1
                }
                continue;
            }
            match self.sum(row, &mut bytes, buffer)? {
                // It is the archive that cannot be read.
                Err(why) => {
                    broken(why);
                    return Ok(());
                }
                summed => self.conclude(root, &entry.path, row, summed),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
