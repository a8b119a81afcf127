//! flock(2) locks on Barman's names, so that our processes and Barman's exclude each other. Locks never go through
//! [`super::Disk`]: they are about living processes, and nothing of them must survive a crash.
//!
//! A lock file holds the pid of its holder in the first line, as Barman writes and reads it; ours add who, since when
//! and why. A released lock leaves its file (Barman's cleanup and ours unlink files), so after taking the flock the
//! file must still be the one that has the name (I28).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::ctx::{Cancelled, Ctx};
use crate::model::{BackupId, ServerName};

use super::{IoContext, IoError};

/// What is locked. The file names are Barman's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LockName {
    /// A backup, a deletion or an import on the server: `.S-backup.lock`.
    Backup(ServerName),
    /// Work on one backup: `.S-<id>.lock`.
    BackupId(ServerName, BackupId),
    /// Fetching one backup to a passive node: `.S-<id>-sync-backup.lock`.
    BackupSync(ServerName, BackupId),
    /// Maintenance of the server: `.S-cron.lock`.
    Cron(ServerName),
    /// Moving WAL into the archive: `.S-archive-wal.lock`.
    WalArchive(ServerName),
    /// Streaming WAL, for the whole life of the receiver: `.S-receive-wal.lock`.
    WalReceive(ServerName),
    /// Fetching WAL to a passive node: `.S-sync-wal.lock`.
    WalSync(ServerName),
    /// Reading or writing the index of the archive: `.S-xlogdb.lock`.
    XlogDb(ServerName),
    /// Changing facts of backups, for the time of one change: `.S-native-catalog.lock`. Not one of Barman's.
    Catalog(ServerName),
    /// Changing configuration files: `.config-update.lock`.
    ConfigUpdate,
}

impl LockName {
    /// The name of the file in the lock directory.
    pub fn file_name(&self) -> String {
        match self {
            Self::Backup(server) => format!(".{server}-backup.lock"),
            Self::BackupId(server, id) => format!(".{server}-{id}.lock"),
            Self::BackupSync(server, id) => format!(".{server}-{id}-sync-backup.lock"),
            Self::Cron(server) => format!(".{server}-cron.lock"),
            Self::WalArchive(server) => format!(".{server}-archive-wal.lock"),
            Self::WalReceive(server) => format!(".{server}-receive-wal.lock"),
            Self::WalSync(server) => format!(".{server}-sync-wal.lock"),
            Self::XlogDb(server) => format!(".{server}-xlogdb.lock"),
            Self::Catalog(server) => format!(".{server}-native-catalog.lock"),
            Self::ConfigUpdate => ".config-update.lock".to_owned(),
        }
    }

    /// Which lock of this server has the file name, if any. Exact: `.a-b-cron.lock` is none of the server `a`.
    pub fn of_server(file_name: &str, server: &ServerName) -> Option<Self> {
        let rest = file_name.strip_prefix('.')?.strip_prefix(server.as_str())?.strip_prefix('-')?;
        let kind = rest.strip_suffix(".lock")?;
        let server = server.clone();
        Some(match kind {
            "backup" => Self::Backup(server),
            "cron" => Self::Cron(server),
            "archive-wal" => Self::WalArchive(server),
            "receive-wal" => Self::WalReceive(server),
            "sync-wal" => Self::WalSync(server),
            "xlogdb" => Self::XlogDb(server),
            "native-catalog" => Self::Catalog(server),
            other => match other.strip_suffix("-sync-backup") {
                Some(id) => Self::BackupSync(server, id.parse().ok()?),
                None => Self::BackupId(server, other.parse().ok()?),
            },
        })
    }
}

/// Who holds a lock, as far as the lock file tells. Barman's files tell the pid only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: Option<u32>,
    /// Its command line.
    pub command: Option<String>,
    /// When it took the lock.
    pub since: Option<OffsetDateTime>,
    /// What for, in words.
    pub why: Option<String>,
}

impl Holder {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse().ok());
        let mut holder = Self { pid, ..Self::default() };
        for (key, value) in lines.filter_map(|line| line.split_once('=')) {
            match key {
                "command" => holder.command = Some(value.to_owned()),
                "since" => holder.since = OffsetDateTime::parse(value, &Rfc3339).ok(),
                "why" => holder.why = Some(value.to_owned()),
                _ => {}
            }
        }
        holder
    }

    fn text(&self) -> String {
        use fmt::Write;
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        let mut text = format!("{}\n", self.pid.unwrap_or_default());
        // Writing to a String cannot fail.
        if let Some(command) = &self.command {
            let _ = writeln!(text, "command={}", one_line(command));
        }
        if let Some(since) = self.since.and_then(|since| since.format(&Rfc3339).ok()) {
            let _ = writeln!(text, "since={since}");
        }
        if let Some(why) = &self.why {
            let _ = writeln!(text, "why={}", one_line(why));
        }
        text
    }
}

const SINCE: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory]:[offset_minute]"
);

/// "process 4711 (barman backup main), since 2026-11-23 14:00:00 +00:00, for a base backup"
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("an unknown process")?,
        }
        if let Some(command) = &self.command {
            write!(f, " ({command})")?;
        }
        if let Some(since) = self.since.and_then(|since| since.format(SINCE).ok()) {
            write!(f, ", since {since}")?;
        }
        match &self.why {
            Some(why) => write!(f, ", for {why}"),
            None => Ok(()),
        }
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else has it.
    #[error("the lock {path} is held by {holder}; wait for it to end, or end it")]
    Busy {
        /// The lock file.
        path: Utf8PathBuf,
        /// Who has it.
        holder: Box<Holder>,
    },
    /// The caller gave up waiting.
    #[error("the wait for a lock was cancelled")]
    Cancelled(#[from] Cancelled),
    /// The lock file cannot be used.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// A lock that is held until this value is dropped. The file stays.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct LockGuard {
    path: Utf8PathBuf,
    file: File,
}

impl LockGuard {
    /// The lock file.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Releases the lock and removes its file: for what is locked having gone for good.
    pub fn remove(self) -> Result<(), IoError> {
        // While the lock is still held: whoever waits on this inode finds that it lost the name, and tries again.
        rustix::fs::unlink(self.path.as_std_path()).context("remove", &self.path)?;
        drop(self.file);
        Ok(())
    }
}

/// The locks in one directory (`barman_lock_directory`).
#[derive(Debug, Clone)]
pub struct Locks {
    dir: Utf8PathBuf,
    command: String,
}

/// Two looks at a busy lock lie this far apart.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Locks {
    /// `command` is what others are told about this process: its command line, without secrets.
    pub fn new(dir: impl Into<Utf8PathBuf>, command: impl Into<String>) -> Self {
        Self { dir: dir.into(), command: command.into() }
    }

    /// The file of a lock.
    pub fn path(&self, name: &LockName) -> Utf8PathBuf {
        self.dir.join(name.file_name())
    }

    /// Takes a lock, or says who has it. `why` is told to others ("a base backup").
    pub fn try_lock(&self, name: &LockName, why: &str, ctx: &Ctx<'_>) -> Result<LockGuard, LockError> {
        // Whoever only looks whether a lock is held (a status command, Barman's cron) holds it for an instant.
        self.lock_within(name, why, LOOK_AGAIN, ctx)
    }

    /// Takes a lock together with others who take it so: nobody gets it alone meanwhile. The file tells of the last who
    /// came. (A look at a lock that is only shared, [`Self::holder`], finds it free.)
    pub fn share(&self, name: &LockName, why: &str, ctx: &Ctx<'_>) -> Result<LockGuard, LockError> {
        self.lock_as(name, why, LOOK_AGAIN, FlockOperation::NonBlockingLockShared, ctx)
    }

    /// Takes a lock, waiting for it at most this long.
    pub fn lock_within(
        &self,
        name: &LockName,
        why: &str,
        timeout: Duration,
        ctx: &Ctx<'_>,
    ) -> Result<LockGuard, LockError> {
        self.lock_as(name, why, timeout, FlockOperation::NonBlockingLockExclusive, ctx)
    }

    fn lock_as(
        &self,
        name: &LockName,
        why: &str,
        timeout: Duration,
        how: FlockOperation,
        ctx: &Ctx<'_>,
    ) -> Result<LockGuard, LockError> {
        let path = self.path(name);
        let start = ctx.clock.monotonic();
        let mut wait = LOOK_AGAIN;
        loop {
            match take(&path, Some(how))? {
                Taken::Yes(file) => {
                    let holder = Holder {
                        pid: Some(std::process::id()),
                        command: Some(self.command.clone()),
                        since: Some(ctx.clock.now()),
                        why: Some(why.to_owned()),
                    };
                    sign(&file, &holder).context("write", &path)?;
                    return Ok(LockGuard { path, file });
                }
                Taken::Busy(file) => {
                    let waited = ctx.clock.monotonic().saturating_sub(start);
                    if waited >= timeout {
                        return Err(LockError::Busy { path, holder: Box::new(read_holder(&file)) });
                    }
                    ctx.clock.pause(wait.min(timeout.saturating_sub(waited)), ctx.cancel)?;
                    wait = (wait * 2).min(Duration::from_millis(500));
                }
                // Only a look answers so.
                Taken::Absent => {}
            }
        }
    }

    /// Who holds a lock now; None when it is free.
    pub fn holder(&self, name: &LockName) -> Result<Option<Holder>, IoError> {
        match take(&self.path(name), None)? {
            Taken::Busy(file) => Ok(Some(read_holder(&file))),
            Taken::Yes(_) | Taken::Absent => Ok(None),
        }
    }

    /// Who holds a lock now, alone or together with others ([`Self::share`]); None when nobody does.
    pub fn user(&self, name: &LockName) -> Result<Option<Holder>, IoError> {
        let path = self.path(name);
        loop {
            let file = match open(&path, false) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other.context("open the lock file", &path)?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(None),
                Err(Errno::WOULDBLOCK) => return Ok(Some(read_holder(&file))),
                Err(Errno::INTR) => {}
                other => other.context("lock", &path)?,
            }
        }
    }

    /// Whether somebody holds a lock now.
    pub fn is_held(&self, name: &LockName) -> Result<bool, IoError> {
        Ok(self.holder(name)?.is_some())
    }

    /// The locks of a server that are held now, by name of file.
    pub fn held(&self, server: &ServerName) -> Result<Vec<(LockName, Holder)>, IoError> {
        let mut held = Vec::new();
        for file in self.files()? {
            if let Some(name) = LockName::of_server(&file, server) {
                held.extend(self.holder(&name)?.map(|holder| (name, holder)));
            }
        }
        Ok(held)
    }

    /// Removes the files of all locks that nobody holds, and says how many. A file that cannot be opened stays.
    pub fn cleanup(&self) -> Result<usize, IoError> {
        let mut removed = 0;
        for file in self.files()? {
            let path = self.dir.join(file);
            // Exclusively: nobody else may look at the file as its holder while it loses its name.
            if let Ok(Some(file)) = take_exclusive(&path) {
                let gone = LockGuard { path, file }.remove();
                removed += usize::from(gone.is_ok());
            }
        }
        Ok(removed)
    }

    /// The names `.*.lock` in order.
    fn files(&self) -> Result<Vec<String>, IoError> {
        let mut files = Vec::new();
        for found in std::fs::read_dir(&self.dir).context("list", &self.dir)? {
            // A name that is not UTF-8 is no lock of ours.
            let Ok(name) = found.context("list", &self.dir)?.file_name().into_string() else { continue };
            if name.starts_with('.') && name.ends_with(".lock") {
                files.push(name);
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

enum Taken {
    Yes(File),
    Busy(File),
    Absent,
}

fn open(path: &Utf8Path, create: bool) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).write(true).create(create).mode(0o600).custom_flags(flags).open(path)
}

/// Tries the flock: creating the file in order to hold it (`hold` says how), shared and only if the file is there in
/// order to look. Two that look do not see each other.
fn take(path: &Utf8Path, hold: Option<FlockOperation>) -> Result<Taken, IoError> {
    let to_hold = hold.is_some();
    let how = hold.unwrap_or(FlockOperation::NonBlockingLockShared);
    loop {
        let file = match open(path, to_hold) {
            Err(e) if !to_hold && e.kind() == io::ErrorKind::NotFound => return Ok(Taken::Absent),
            other => other.context("open the lock file", path)?,
        };
        match flock(&file, how) {
            Err(Errno::WOULDBLOCK) => return Ok(Taken::Busy(file)),
            Err(Errno::INTR) => continue,
            other => other.context("lock", path)?,
        }
        if still_named(&file, path).context("stat", path)? {
            return Ok(Taken::Yes(file));
        }
        // The file was unlinked between open and flock: the lock on it excludes nobody.
    }
}

fn take_exclusive(path: &Utf8Path) -> Result<Option<File>, IoError> {
    let file = open(path, false).context("open the lock file", path)?;
    let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    Ok((free && still_named(&file, path).context("stat", path)?).then_some(file))
}

fn still_named(file: &File, path: &Utf8Path) -> io::Result<bool> {
    let mine = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(named.dev() == mine.dev() && named.ino() == mine.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn sign(file: &File, holder: &Holder) -> io::Result<()> {
    let text = holder.text();
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// What the file says. Its content is only told to people, so trouble with reading it is not trouble with the lock.
fn read_holder(file: &File) -> Holder {
    let mut text = Vec::new();
    let _ = file.take(4096).read_to_end(&mut text);
    Holder::parse(&String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use time::UtcOffset;

    use super::*;
    use crate::ctx::{Cancel, Clock, Silent};

    /// A clock that steps, and runs something at the n-th pause.
    #[derive(Default)]
    struct Steps(Mutex<(Duration, Vec<AtPause>)>);

    type AtPause = Box<dyn FnOnce() + Send>;

    impl Clock for Steps {
        fn now(&self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH + self.monotonic()
        }
        fn offset_at(&self, _: OffsetDateTime) -> UtcOffset {
            UtcOffset::UTC
        }
        fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
            let mut inner = self.0.lock().unwrap();
            inner.0 += length;
            if let Some(run) = inner.1.pop() {
                run();
            }
            cancel.check()
        }
        fn monotonic(&self) -> Duration {
            self.0.lock().unwrap().0
        }
    }

    struct World {
        dir: tempfile::TempDir,
        clock: Steps,
        cancel: Cancel,
    }

    impl World {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), clock: Steps::default(), cancel: Cancel::new() }
        }
        fn ctx(&self) -> Ctx<'_> {
            Ctx { clock: &self.clock, progress: &Silent, cancel: &self.cancel }
        }
        fn locks(&self, command: &str) -> Locks {
            Locks::new(Utf8Path::from_path(self.dir.path()).unwrap(), command)
        }
    }

    fn backup() -> LockName {
        LockName::Backup("main".parse().unwrap())
    }

    #[test]
    fn names_are_barmans_and_read_back_exactly() {
        let server: ServerName = "a".parse().unwrap();
        let id: BackupId = "20261123T140000".parse().unwrap();
        for (name, file) in [
            (LockName::Backup(server.clone()), ".a-backup.lock"),
            (LockName::BackupId(server.clone(), id), ".a-20261123T140000.lock"),
            (LockName::BackupSync(server.clone(), id), ".a-20261123T140000-sync-backup.lock"),
            (LockName::Cron(server.clone()), ".a-cron.lock"),
            (LockName::WalArchive(server.clone()), ".a-archive-wal.lock"),
            (LockName::WalReceive(server.clone()), ".a-receive-wal.lock"),
            (LockName::WalSync(server.clone()), ".a-sync-wal.lock"),
            (LockName::XlogDb(server.clone()), ".a-xlogdb.lock"),
            (LockName::Catalog(server.clone()), ".a-native-catalog.lock"),
        ] {
            assert_eq!(name.file_name(), file);
            assert_eq!(LockName::of_server(file, &server), Some(name));
        }
        for file in
            [".a-b-cron.lock", ".ab-cron.lock", "a-cron.lock", ".config-update.lock", ".a-cron.lock.x"]
        {
            assert_eq!(LockName::of_server(file, &server), None, "{file}");
        }
    }

    #[test]
    fn the_second_is_told_who_since_when_and_why() {
        let world = World::new();
        let (one, two) = (world.locks("barman backup main"), world.locks("barman delete main"));
        let guard = one.try_lock(&backup(), "a base\nbackup", &world.ctx()).unwrap();
        let text = std::fs::read_to_string(guard.path()).unwrap();
        assert_eq!(text.lines().next(), Some(std::process::id().to_string().as_str()));
        assert_eq!(guard.file.metadata().unwrap().mode() & 0o777, 0o600);
        let error = two.try_lock(&backup(), "a deletion", &world.ctx()).unwrap_err();
        let holder = format!(
            "process {} (barman backup main), since 1970-01-01 00:00:00 +00:00, for a base backup",
            std::process::id()
        );
        assert!(error.to_string().contains(&holder), "{error}");
        assert!(two.is_held(&backup()).unwrap());
        assert_eq!(two.held(&"main".parse().unwrap()).unwrap().len(), 1);
        drop(guard);
        assert!(!two.is_held(&backup()).unwrap());
        assert!(two.path(&backup()).exists(), "the file stays");
        drop(two.try_lock(&backup(), "a deletion", &world.ctx()).unwrap());
    }

    #[test]
    fn a_shared_lock_has_many_holders_and_keeps_the_one_out() {
        let world = World::new();
        let (one, two) = (world.locks("barman recover main"), world.locks("barman delete main"));
        let first = one.share(&backup(), "a restore", &world.ctx()).unwrap();
        let second = one.share(&backup(), "a restore", &world.ctx()).unwrap();
        drop(first);
        assert_eq!(two.user(&backup()).unwrap().unwrap().why.as_deref(), Some("a restore"));
        assert_eq!(two.holder(&backup()).unwrap(), None);
        let error = two.try_lock(&backup(), "a deletion", &world.ctx()).unwrap_err();
        assert!(error.to_string().contains("for a restore"), "{error}");
        drop(second);
        assert_eq!(two.user(&backup()).unwrap(), None);
        let alone = two.try_lock(&backup(), "a deletion", &world.ctx()).unwrap();
        assert!(one.share(&backup(), "a restore", &world.ctx()).is_err());
        drop(alone);
    }

    #[test]
    fn a_file_of_barman_tells_the_pid() {
        let world = World::new();
        let locks = world.locks("x");
        let guard = locks.try_lock(&backup(), "y", &world.ctx()).unwrap();
        guard.file.set_len(0).unwrap();
        guard.file.write_all_at(b"4711\n", 0).unwrap();
        assert_eq!(locks.holder(&backup()).unwrap().unwrap().to_string(), "process 4711");
        guard.file.write_all_at(b"\xff\xff", 0).unwrap();
        assert_eq!(locks.holder(&backup()).unwrap().unwrap().to_string(), "an unknown process");
    }

    #[test]
    fn waiting_ends_with_the_lock_the_time_or_the_cancel() {
        let world = World::new();
        let locks = world.locks("x");
        let guard = locks.try_lock(&backup(), "y", &world.ctx()).unwrap();
        let minute = Duration::from_secs(60);
        let error = locks.lock_within(&backup(), "z", minute, &world.ctx()).unwrap_err();
        assert!(matches!(error, LockError::Busy { .. }));
        assert_eq!(world.clock.monotonic(), minute);
        world.clock.0.lock().unwrap().1.push(Box::new(move || drop(guard)));
        let guard = locks.lock_within(&backup(), "z", minute, &world.ctx()).unwrap();
        world.cancel.cancel();
        let error = locks.lock_within(&backup(), "z", minute, &world.ctx()).unwrap_err();
        assert!(matches!(error, LockError::Cancelled(_)));
        drop(guard);
    }

    /// I28: a lock on an inode that has lost its name excludes nobody, so it must not count as taken.
    #[test]
    fn a_lock_whose_file_was_unlinked_is_taken_again() {
        let world = World::new();
        let locks = world.locks("x");
        let stale = locks.try_lock(&backup(), "y", &world.ctx()).unwrap();
        std::fs::remove_file(stale.path()).unwrap();
        assert!(!still_named(&stale.file, stale.path()).unwrap());
        let fresh = locks.try_lock(&backup(), "z", &world.ctx()).unwrap();
        assert!(!still_named(&stale.file, fresh.path()).unwrap());
        assert!(locks.try_lock(&backup(), "third", &world.ctx()).is_err());
    }

    #[test]
    fn many_threads_and_a_cleaner_never_hold_a_lock_together() {
        let world = World::new();
        let locks = world.locks("x");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        if let Ok(Taken::Yes(file)) =
                            take(&locks.path(&backup()), Some(FlockOperation::NonBlockingLockExclusive))
                        {
                            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(file);
                        }
                        locks.cleanup().unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn cleanup_removes_what_nobody_holds() {
        let world = World::new();
        let locks = world.locks("x");
        let held = locks.try_lock(&backup(), "y", &world.ctx()).unwrap();
        drop(locks.try_lock(&LockName::ConfigUpdate, "y", &world.ctx()).unwrap());
        drop(locks.try_lock(&LockName::Cron("main".parse().unwrap()), "y", &world.ctx()).unwrap());
        std::os::unix::fs::symlink("x", world.dir.path().join("other.lock")).unwrap();
        assert_eq!(locks.cleanup().unwrap(), 2);
        assert_eq!(locks.files().unwrap(), [".main-backup.lock"]);
        held.remove().unwrap();
        assert_eq!(locks.files().unwrap(), [""; 0]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let world = World::new();
        let locks = Locks::new(world.locks("").dir.join("absent"), "x");
        let error = locks.try_lock(&backup(), "y", &world.ctx()).unwrap_err();
        assert!(error.to_string().starts_with("could not open the lock file /"), "{error}");
    }
}
