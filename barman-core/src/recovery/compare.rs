//! Whether files of the destination are what the backup has, by content. Size and time are no proof.
//!
//! On this host both sides are read, or one and its checksum. Of another host nothing is fetched: it is asked for SHA-256
//! sums, and where it cannot make them, every file is written. So it is with packed backups on other hosts: of their files only a
//! CRC-32C is known before they are unpacked, and no host makes that one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read};
use std::sync::Mutex;

use camino::{Utf8Path, Utf8PathBuf};

use super::run::{ProofTable, Run, lock, proof_of};
use super::{RecoveryError, TreePlan};
use crate::catalog::Root;
use crate::ctx::{Cancel, Cancelled};
use crate::io::digest::{DigestSet, Digests, Wanted};
use crate::model::Entry;
use crate::transport::{Exchange, ExitStatus, FetchItem, FetchSink, Fetched, FileFacts, RemoteCommand};

/// Bytes read at once.
const READ: usize = 256 << 10;
/// Files that a host is asked for at a time.
const ASK: usize = 2000;
/// Prints a line for each of the files that are named on its standard input, each ended by NUL.
const SUMS: &str = "LC_ALL=C; export LC_ALL; cd -- \"$1\" || exit 9; \
     command -v sha256sum >/dev/null 2>&1 || exit 8; exec xargs -0 sha256sum --";

impl Run<'_> {
    /// Those of these files whose content in the destination is that of the backup. They have the same length there.
    pub(super) fn equal_files(
        &self,
        tree: &TreePlan,
        candidates: &[&Entry],
        proofs: &Option<ProofTable>,
    ) -> Result<HashSet<Utf8PathBuf>, RecoveryError> {
        let packed = self.reader.stream(tree.root)?.is_some();
        let local = self.transport.is_local();
        // Of a packed file only its checksum is at hand, and other hosts do not know that one. To look for a file in an archive is
        // to read all of it.
        let known = |entry: &&&Entry| proof_of(proofs, tree.root, &entry.path).is_some();
        let candidates: Vec<&Entry> = match (packed, local) {
            (true, false) => Vec::new(),
            (true, true) => candidates.iter().filter(known).copied().collect(),
            (false, _) => candidates.to_vec(),
        };
        if candidates.is_empty() {
            return Ok(HashSet::new());
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = if local { self.options.jobs.max(cores) } else { self.options.jobs };
        let workers = workers.clamp(1, candidates.len());
        let queue = Mutex::new(candidates.iter().copied().collect::<VecDeque<_>>());
        let equal = Mutex::new(HashSet::new());
        let stop = Cancel::new();
        let compare = Compare { run: self, tree, proofs, queue: &queue, equal: &equal, stop: &stop };
        let outcomes: Vec<Result<(), RecoveryError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| {
                    scope.spawn(|| {
                        let done = if local { compare.read_here() } else { compare.ask_there() };
                        if done.is_err() {
                            stop.cancel();
                        }
                        done
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(self.died().into()))).collect()
        });
        super::packed::first_error(outcomes)?;
        Ok(equal.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What workers share.
struct Compare<'a> {
    run: &'a Run<'a>,
    tree: &'a TreePlan,
    proofs: &'a Option<ProofTable>,
    queue: &'a Mutex<VecDeque<&'a Entry>>,
    equal: &'a Mutex<HashSet<Utf8PathBuf>>,
    stop: &'a Cancel,
}

impl Compare<'_> {
    fn go_on(&self) -> Result<(), Cancelled> {
        self.stop.check()?;
        self.run.ctx.cancel.check()
    }

    fn root(&self) -> Root {
        self.tree.root
    }

    /// Reads files of this host until there are no more.
    fn read_here(&self) -> Result<(), RecoveryError> {
        let mut sink = Reading { compare: self, digests: Digests::new(Wanted::default()), error: None };
        let mut wanted = std::iter::from_fn(|| {
            self.go_on().ok()?;
            let entry = lock(self.queue).pop_front()?;
            Some(FetchItem { path: entry.path.clone(), size: entry.size })
        });
        let fetched = self.run.transport.lane()?.fetch(&self.tree.destination, &mut wanted, &mut sink);
        if let Some(error) = sink.error {
            return Err(error);
        }
        fetched?;
        Ok(self.go_on()?)
    }

    /// The CRC-32C that a file should have.
    fn expected(&self, path: &Utf8Path) -> Result<u32, RecoveryError> {
        match proof_of(self.proofs, self.root(), path) {
            Some(proof) => Ok(proof.crc32c),
            None => Ok(self.digests_of(path, Wanted::default())?.crc32c),
        }
    }

    /// Digests of a file in the repository, which must be what was stored.
    fn digests_of(&self, path: &Utf8Path, wanted: Wanted) -> Result<DigestSet, RecoveryError> {
        let damaged = |reason: String| RecoveryError::Damaged {
            path: self.run.reader.location(self.root()).join(path),
            reason,
        };
        let mut file = self.run.reader.open(self.root(), path)?;
        let mut digests = Digests::new(wanted);
        let mut piece = vec![0; READ];
        loop {
            self.go_on()?;
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => digests.update(piece.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(damaged(e.to_string())),
            }
        }
        let digests = digests.finish();
        match proof_of(self.proofs, self.root(), path) {
            Some(proof) if (proof.size, proof.crc32c) != (digests.len, digests.crc32c) => {
                Err(damaged("the backup is damaged; restore from another backup".to_owned()))
            }
            _ => Ok(digests),
        }
    }

    /// Asks the other host for sums until there are no more files.
    fn ask_there(&self) -> Result<(), RecoveryError> {
        let mut lane = self.run.transport.lane()?;
        loop {
            self.go_on()?;
            let batch: Vec<&Entry> = {
                let mut queue = lock(self.queue);
                let count = queue.len().min(ASK);
                queue.drain(..count).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let mut names = Vec::new();
            for entry in &batch {
                // With `./` in front no name looks like an option.
                names.extend_from_slice(b"./");
                names.extend_from_slice(entry.path.as_str().as_bytes());
                names.push(0);
            }
            let batch: HashMap<&Utf8Path, &Entry> = batch.iter().map(|e| (e.path.as_path(), *e)).collect();
            let mut asking =
                Asking { compare: self, batch: &batch, names: &names, line: Vec::new(), error: None };
            let words = ["sh", "-c", SUMS, "sh", self.tree.destination.as_str()];
            let command = RemoteCommand::Program(words.iter().map(|w| (*w).to_owned()).collect());
            let ran = lane.exec(&command, &mut asking);
            if let Some(error) = asking.error {
                return Err(error);
            }
            // What it could not read is not equal, whatever it exits with.
            if ran? == ExitStatus::Code(8) {
                self.run
                    .ctx
                    .info(format!("{} has no sha256sum: every file is written", self.run.transport.target()));
                lock(self.queue).clear();
            }
        }
    }
}

/// Sums files as they are read.
struct Reading<'a, 'b> {
    compare: &'a Compare<'b>,
    digests: Digests,
    error: Option<RecoveryError>,
}

impl FetchSink for Reading<'_, '_> {
    fn begin(&mut self, _path: &Utf8Path, _facts: FileFacts) -> io::Result<()> {
        self.digests = Digests::new(Wanted::default());
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digests.update(bytes);
        self.compare.go_on().map_err(io::Error::other)
    }

    fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
        if how != Fetched::Whole {
            return Ok(());
        }
        let digests = std::mem::replace(&mut self.digests, Digests::new(Wanted::default())).finish();
        match self.compare.expected(path) {
            Ok(expected) if expected == digests.crc32c => {
                lock(self.compare.equal).insert(path.to_owned());
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                self.error = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}

/// Gives the names, takes the sums.
struct Asking<'a, 'b> {
    compare: &'a Compare<'b>,
    batch: &'a HashMap<&'a Utf8Path, &'a Entry>,
    names: &'a [u8],
    line: Vec<u8>,
    error: Option<RecoveryError>,
}

impl Asking<'_, '_> {
    fn judge(&self, line: &[u8]) -> Result<(), RecoveryError> {
        // A line with a name that needs escapes begins with a backslash: those files are written.
        let Some((sum, name)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once("  ./"))
        else {
            return Ok(());
        };
        let Some(entry) = self.batch.get(Utf8Path::new(name)) else { return Ok(()) };
        let known = proof_of(self.compare.proofs, self.compare.root(), &entry.path).and_then(|p| p.sha256);
        let expected = match known {
            Some(sha256) => Some(sha256),
            None => self.compare.digests_of(&entry.path, Wanted { sha256: true, md5: false })?.sha256,
        };
        if expected.is_some_and(|expected| hex::encode(expected) == sum) {
            lock(self.compare.equal).insert(entry.path.clone());
        }
        Ok(())
    }
}

impl Exchange for Asking<'_, '_> {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.names.read(buffer)
    }

    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if let Some(line) = self.line.strip_suffix(b"\n") {
                if let Err(error) = self.judge(line) {
                    let text = error.to_string();
                    self.error = Some(error);
                    return Err(io::Error::other(text));
                }
                self.line.clear();
            }
        }
        Ok(())
    }

    fn stderr(&mut self, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
