//! Where `barman-wal-restore` keeps WAL that it fetched ahead, and the process that fetches it (I26).
//!
//! A spool belongs to one server in recovery: to a host, a server name and a data directory. One process at a time, which
//! holds the lock of the spool, keeps it filled with the segments that follow the one asked for last, over one connection,
//! and ends when nobody has asked for a minute. A file has its name in the spool only when it was found sound and is
//! durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use barman_core::format::control::ControlFile;
use barman_core::format::wal_page::{Completeness, Expectations, FirstPage, Validator};
use barman_core::io::{Disk, IoErrorKind, RealDisk, fill};
use barman_core::model::{SegmentName, SegmentSize, SystemId};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, flock};

use crate::client::{Remote, private_directory};

/// How often it looks whether somebody asked.
const LOOK: Duration = Duration::from_millis(20);
/// How often a call looks whether a file that is being fetched has come.
const GLANCE: Duration = Duration::from_millis(2);
/// How long a call waits for a file that is being fetched before it fetches it by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// The fetching process gives up after so many failures in a row; a call starts it anew.
const FAILURES: u32 = 5;
/// Bytes read at once.
const READ: usize = 256 << 10;

/// What the data directory says of its WAL.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cluster {
    system_id: Option<SystemId>,
    segment_size: Option<SegmentSize>,
}

impl Cluster {
    /// Reads `global/pg_control` under a directory; what cannot be read says nothing.
    pub(crate) fn of(pgdata: &Utf8Path) -> Self {
        let control =
            fs::read(pgdata.join("global/pg_control")).ok().and_then(|b| ControlFile::parse(&b).ok());
        match control {
            Some(control) => {
                Self { system_id: Some(control.system_id), segment_size: Some(control.segment_size) }
            }
            None => Self::default(),
        }
    }

    /// Whether a plain file is the segment of that name. Other files are taken as they are. `partial` lets an unfinished
    /// segment pass.
    pub(crate) fn verify(self, path: &Utf8Path, name: &str, partial: bool) -> io::Result<Result<(), String>> {
        let Ok(segment) = name.parse::<SegmentName>() else { return Ok(Ok(())) };
        let mut file = File::open(path)?;
        let mut chunk = vec![0; READ];
        let mut validators: Vec<Validator> = Vec::new();
        loop {
            let n = fill(&mut file, &mut chunk)?;
            let bytes = chunk.get(..n).unwrap_or_default();
            if validators.is_empty() {
                let named = FirstPage::parse(bytes).map(|page| u64::from(page.segment_size));
                let named = named.and_then(|size| SegmentSize::from_bytes(size).ok());
                let size = self.segment_size.or(named).unwrap_or(SegmentSize::DEFAULT);
                let expected = |completeness| Expectations {
                    system_id: self.system_id,
                    accept_unknown_magic: true,
                    check_records: true,
                    completeness,
                    ..Expectations::new(segment, size)
                };
                validators.push(Validator::new(expected(Completeness::Full)));
                if partial {
                    validators.push(Validator::new(expected(Completeness::Partial)));
                }
            }
            if n == 0 {
                break;
            }
            for validator in &mut validators {
                validator.push(bytes);
            }
        }
        let mut verdict = Ok(());
        for validator in validators {
            match validator.finish() {
                Ok(_) => return Ok(Ok(())),
                Err(problem) if verdict.is_ok() => verdict = Err(problem.to_string()),
                Err(_) => {}
            }
        }
        Ok(verdict)
    }
}

/// The directory of one server in recovery.
pub(crate) struct Spool {
    dir: Utf8PathBuf,
}

impl Spool {
    /// Opens the spool of a data directory, which is made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or is not ours alone: then nothing may be taken from it.
    pub(crate) fn open(base: &Utf8Path, remote: &Remote, pgdata: &Utf8Path) -> io::Result<Self> {
        let parts = [&remote.user, &remote.host, &remote.server, pgdata.as_str()];
        let dir = private_directory(base, &parts, remote.port)?;
        Ok(Self { dir })
    }

    /// Takes a file out of the spool to its destination; waits for one that is being fetched. Gives whether it was there.
    pub(crate) fn take(&self, name: &str, cluster: Cluster, dest: &Utf8Path) -> io::Result<bool> {
        let path = self.dir.join(name);
        let began = Instant::now();
        while !path.exists() {
            if began.elapsed() >= PATIENCE || !self.is_coming(name) {
                // It may have come between the two looks.
                if !path.exists() {
                    return Ok(false);
                }
            } else {
                pause(GLANCE);
            }
        }
        // It was judged when it came. What is looked at again is whether it belongs to this cluster: the data directory may
        // have been restored anew from another one.
        let mut start = Vec::new();
        File::open(&path)?.take(40).read_to_end(&mut start)?;
        let foreign = FirstPage::parse(&start)
            .is_none_or(|page| cluster.system_id.is_some_and(|own| own != page.system_id));
        if foreign {
            fs::remove_file(&path)?;
            return Ok(false);
        }
        match RealDisk.replace(&path, dest) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == IoErrorKind::CannotLink => {
                let directory =
                    dest.parent().filter(|d| !d.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
                let mut copy =
                    tempfile::Builder::new().prefix(".barman-wal-restore-").tempfile_in(directory)?;
                io::copy(&mut File::open(&path)?, copy.as_file_mut())?;
                copy.persist(dest).map_err(|e| e.error)?;
                fs::remove_file(&path)?;
                Ok(true)
            }
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(io::Error::other(e)),
        }
    }

    /// Says which segment was delivered last and how long segments are, and sees to it that somebody fetches ahead.
    pub(crate) fn delivered(&self, segment: SegmentName, size: u64) -> io::Result<()> {
        let mut want = tempfile::Builder::new().prefix(".want-").tempfile_in(&self.dir)?;
        writeln!(want, "{segment} {size}")?;
        want.persist(self.dir.join(".want")).map_err(|e| e.error)?;
        match self.is_served()? {
            true => Ok(()),
            false => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--native-prefetch").args(std::env::args_os().skip(1));
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
                command.spawn().map(drop)
            }
        }
    }

    /// The lock of whoever fetches ahead; `None` when somebody has it.
    fn lock(&self, how: FlockOperation) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.dir.join(".lock"))?;
        match flock(&file, how) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a process fetches ahead.
    fn is_served(&self) -> io::Result<bool> {
        Ok(self.lock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    /// Whether a file is being fetched by a process that lives.
    fn is_coming(&self, name: &str) -> bool {
        let listed = fs::read_to_string(self.dir.join(".coming")).unwrap_or_default();
        listed.lines().any(|line| line == name) && matches!(self.is_served(), Ok(true))
    }

    fn say_coming(&self, names: &[SegmentName]) -> io::Result<()> {
        let mut coming = tempfile::Builder::new().prefix(".coming-").tempfile_in(&self.dir)?;
        for name in names {
            writeln!(coming, "{name}")?;
        }
        coming.persist(self.dir.join(".coming")).map(drop).map_err(|e| e.error)
    }

    fn want(&self) -> Option<(SegmentName, SegmentSize)> {
        let text = fs::read_to_string(self.dir.join(".want")).ok()?;
        let (name, size) = text.trim().split_once(' ')?;
        Some((name.parse().ok()?, SegmentSize::from_bytes(size.parse().ok()?).ok()?))
    }

    /// Removes what is of no use: other timelines, what was passed, what a process that is gone left half done.
    fn tidy(&self, want: SegmentName) -> io::Result<()> {
        for entry in self.dir.read_dir_utf8()? {
            let entry = entry?;
            let name = entry.file_name();
            let keep = match name.parse::<SegmentName>() {
                Ok(segment) => segment.timeline == want.timeline && segment > want,
                Err(_) => !name.starts_with(".fetch-"),
            };
            if !keep {
                match fs::remove_file(entry.path()) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Fetches so many segments ahead until nobody has asked for as long as `idle`. `fetch` brings one file into a path, or says that there is none.
    ///
    /// # Errors
    /// Those of the spool. Trouble with the other side is met again, a few times.
    pub(crate) fn prefetch(
        &self,
        remote: &Remote,
        ahead: usize,
        idle: Duration,
        cluster: Cluster,
        fetch: &(dyn Fn(&Remote, &str, &mut File) -> Fetched + Sync),
    ) -> io::Result<()> {
        // Others look for moments whether somebody has it.
        let mut tries = 0;
        let _lock = loop {
            tries += 1;
            match self.lock(FlockOperation::NonBlockingLockExclusive)? {
                Some(lock) => break lock,
                None if tries < 10 => pause(LOOK),
                None => return Ok(()),
            }
        };
        std::env::set_current_dir(&self.dir)?;
        let (mut connection, mut sharing): (Option<Shared>, bool) = (None, true);
        let (mut seen, mut asked, mut failures) = (None, Instant::now(), 0);
        // Where the archive ended when it was asked last.
        let mut end: Option<SegmentName> = None;
        while asked.elapsed() < idle && failures < FAILURES {
            let Some((want, size)) = self.want() else { return Ok(()) };
            if seen != Some(want) {
                (seen, asked, end) = (Some(want), Instant::now(), None);
                self.tidy(want)?;
            }
            let mut names = Vec::new();
            let mut next = want.next(size);
            while let Some(name) =
                next.filter(|name| names.len() < ahead && end.is_none_or(|end| *name < end))
            {
                names.push(name);
                next = name.next(size);
            }
            names.retain(|name| !self.dir.join(name.to_string()).exists());
            if names.is_empty() {
                pause(LOOK);
                continue;
            }
            self.say_coming(&names)?;
            if sharing && connection.as_mut().is_none_or(|shared| !shared.lives()) {
                connection = Shared::open(remote, &self.dir).ok();
                // Where a connection cannot be shared, each file has one of its own.
                sharing = connection.is_some();
            }
            let remote = connection.as_ref().map_or_else(|| remote.clone(), |shared| shared.remote.clone());
            let outcomes = self.fetch_all(&remote, &names, cluster, fetch);
            self.say_coming(&[])?;
            failures = if outcomes.iter().any(|o| matches!(o, Outcome::Trouble)) { failures + 1 } else { 0 };
            // The first that is not there ends the archive for now; the server will ask for it by itself.
            end = names
                .iter()
                .zip(&outcomes)
                .find(|(_, outcome)| matches!(outcome, Outcome::Absent))
                .map(|(name, _)| *name);
            if failures > 0 {
                pause(Duration::from_secs(1));
            }
        }
        Ok(())
    }

    fn fetch_all(
        &self,
        remote: &Remote,
        names: &[SegmentName],
        cluster: Cluster,
        fetch: &(dyn Fn(&Remote, &str, &mut File) -> Fetched + Sync),
    ) -> Vec<Outcome> {
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (index, name) in names.iter().enumerate() {
                let outcomes = &outcomes;
                scope.spawn(move || {
                    let outcome = self.fetch_one(remote, &name.to_string(), cluster, fetch);
                    let outcome = outcome.unwrap_or(Outcome::Trouble);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push((index, outcome));
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_default();
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn fetch_one(
        &self,
        remote: &Remote,
        name: &str,
        cluster: Cluster,
        fetch: &(dyn Fn(&Remote, &str, &mut File) -> Fetched + Sync),
    ) -> io::Result<Outcome> {
        let mut file = tempfile::Builder::new().prefix(".fetch-").tempfile_in(&self.dir)?;
        match fetch(remote, name, file.as_file_mut()) {
            Fetched::Absent => return Ok(Outcome::Absent),
            Fetched::Trouble => return Ok(Outcome::Trouble),
            Fetched::Plain => {}
        }
        let path =
            Utf8PathBuf::from_path_buf(file.path().to_owned()).map_err(|_| io::ErrorKind::InvalidData)?;
        // What is not sound is not there: the server's own call will say what is wrong with it.
        if cluster.verify(&path, name, false)?.is_err() {
            return Ok(Outcome::Absent);
        }
        file.as_file().sync_data()?;
        file.persist(self.dir.join(name)).map_err(|e| e.error)?;
        Ok(Outcome::Come)
    }
}

/// What became of a file that was asked for.
pub(crate) enum Fetched {
    /// It is there, unpacked.
    Plain,
    /// The other side has no such file.
    Absent,
    /// It could not be had.
    Trouble,
}

enum Outcome {
    Come,
    Absent,
    Trouble,
}

/// One connection for all that is fetched. It ends with this process, in whatever way that ends: the command on the other
/// side reads from a pipe that closes.
struct Shared {
    child: Child,
    remote: Remote,
}

impl Shared {
    fn open(remote: &Remote, dir: &Utf8Path) -> io::Result<Self> {
        let socket = dir.join(".ssh");
        // ssh expands % in it.
        let named = socket.as_str().replace('%', "%%");
        match fs::remove_file(&socket) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        let mut master = remote.clone();
        master.sharing =
            vec!["-o".into(), "ControlMaster=yes".into(), "-o".into(), "ControlPersist=no".into()];
        master.sharing.extend(["-S".into(), named.clone()]);
        let mut command = master.shell("cat");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut riders = remote.clone();
        riders.sharing = vec!["-o".into(), "ControlMaster=no".into(), "-S".into(), named];
        let mut shared = Self { child, remote: riders };
        let began = Instant::now();
        while !socket.exists() {
            if began.elapsed() > Duration::from_secs(10) || !shared.lives() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            pause(GLANCE);
        }
        Ok(shared)
    }

    fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a command of its own: nobody else could cancel this pause")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}
