//! What the harness needs from the operating system: the account that servers run as, temporary directories it can
//! read, reserved ports, child processes.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::geteuid;
use uzers::os::unix::UserExt;

use crate::error::{Error, IoContext, Result};

/// The search path of every program that the harness starts.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An operating system account that programs are run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The home directory; it need not exist.
    pub home: Utf8PathBuf,
    /// The login shell.
    pub shell: Utf8PathBuf,
}

impl Account {
    /// The account of this process.
    ///
    /// # Errors
    /// When the user id has no entry in the user database (initdb and sshd both insist on one).
    pub fn current() -> Result<Account> {
        let uid = geteuid().as_raw();
        uzers::get_user_by_uid(uid).map(|u| Account::from_user(&u)).ok_or_else(|| Error::Missing {
            what: format!("the user database entry of uid {uid}"),
            hint: "add one to /etc/passwd".into(),
        })
    }

    /// The account that every server of this crate runs as: the current one, or, when that is root, an unprivileged one.
    ///
    /// In order: `BARMAN_TESTKIT_USER`, `postgres` (when it has a login shell, which sshd needs), `barman-testkit`, which is created.
    ///
    /// # Errors
    /// When the account does not exist and could not be created.
    pub fn for_servers() -> Result<Account> {
        static FOUND: OnceLock<Account> = OnceLock::new();
        if let Some(account) = FOUND.get() {
            return Ok(account.clone());
        }
        let account = Account::find_for_servers()?;
        Ok(FOUND.get_or_init(|| account).clone())
    }

    fn find_for_servers() -> Result<Account> {
        if !geteuid().is_root() {
            return Account::current();
        }
        if let Ok(name) = std::env::var("BARMAN_TESTKIT_USER") {
            return Account::named(&name).ok_or_else(|| Error::Missing {
                what: format!("the account {name} of BARMAN_TESTKIT_USER"),
                hint: "create it, or unset the variable".into(),
            });
        }
        if let Some(account) = Account::named("postgres").filter(Account::can_log_in) {
            return Ok(account);
        }
        const OWN: &str = "barman-testkit";
        if Account::named(OWN).is_none() {
            let made =
                run(Command::new("useradd").args(["--system", "--user-group", "--shell", "/bin/sh", OWN]));
            // Another test process may have been faster.
            if Account::named(OWN).is_none() {
                made?;
            }
        }
        Account::named(OWN).ok_or_else(|| Error::Missing {
            what: format!("the account {OWN}"),
            hint: "useradd made it, but the user database does not show it".into(),
        })
    }

    /// The account of that name, if there is one.
    pub fn named(name: &str) -> Option<Account> {
        uzers::get_user_by_name(name).map(|u| Account::from_user(&u))
    }

    fn from_user(user: &uzers::User) -> Account {
        let path = |p: &std::path::Path| Utf8PathBuf::from(p.to_string_lossy().into_owned());
        Account {
            name: user.name().to_string_lossy().into_owned(),
            uid: user.uid(),
            gid: user.primary_group_id(),
            home: path(user.home_dir()),
            shell: path(user.shell()),
        }
    }

    fn can_log_in(&self) -> bool {
        !self.shell.as_str().is_empty() && !matches!(self.shell.file_name(), Some("nologin" | "false"))
    }

    /// Whether this is the account of the current process.
    pub fn is_current(&self) -> bool {
        self.uid == geteuid().as_raw()
    }

    /// A command that runs as this account in an environment of its own: `PATH` ([`PATH`]), `HOME`, `USER`, `LC_ALL=C` and
    /// `TZ=UTC`, nothing else; the working directory is `/`, stdin is empty.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir("/")
            .stdin(Stdio::null());
        self.assume(&mut command);
        command
    }

    /// Makes an existing command run as this account. Supplementary groups are dropped when the process is root.
    pub fn assume(&self, command: &mut Command) {
        if !self.is_current() {
            command.gid(self.gid).uid(self.uid);
        }
    }

    /// Gives one file or directory to this account; symbolic links are not followed. Does nothing unless the process is root.
    ///
    /// # Errors
    /// When the path does not exist or the owner cannot be changed.
    pub fn own(&self, path: impl AsRef<Utf8Path>) -> Result<()> {
        let path = path.as_ref();
        if self.is_current() || !geteuid().is_root() {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).context("change the owner of", path)
    }

    /// Gives a whole tree to this account, without following symbolic links. Does nothing unless the process is root.
    ///
    /// # Errors
    /// On the first path that cannot be read or changed.
    pub fn own_tree(&self, root: impl AsRef<Utf8Path>) -> Result<()> {
        let root = root.as_ref();
        if self.is_current() || !geteuid().is_root() {
            return Ok(());
        }
        let metadata = fs::symlink_metadata(root).context("examine", root)?;
        if (metadata.uid(), metadata.gid()) != (self.uid, self.gid) {
            self.own(root)?;
        }
        if metadata.is_dir() {
            for entry in root.read_dir_utf8().context("list", root)? {
                self.own_tree(entry.context("list", root)?.path())?;
            }
        }
        Ok(())
    }
}

/// A temporary directory that belongs to the server account and that everybody may enter (mode 0755), so that a test running
/// as root and a server running as another user both work in it.
///
/// It is removed on drop, unless `BARMAN_TESTKIT_KEEP` is set.
#[derive(Debug)]
pub struct TestDir {
    path: Utf8PathBuf,
    holder: Option<tempfile::TempDir>,
}

impl TestDir {
    /// Makes a new directory whose name begins with `prefix`.
    ///
    /// Keep the prefix short: a Unix socket below it may have a path of at most 107 bytes.
    ///
    /// # Errors
    /// When the directory cannot be created or handed over.
    pub fn new(prefix: &str) -> Result<TestDir> {
        TestDir::below(&temp_parent(), prefix)
    }

    /// As [`TestDir::new`], but in memory (`/dev/shm`) where at least 4 GiB are free there and `BARMAN_TESTKIT_TMP` is not set.
    ///
    /// The data directories of new clusters live there: a copy of a template takes 0.1 s instead of up to 1 s on an ext4 that
    /// has just deleted another one (its inode allocator avoids inodes deleted within the last seconds).
    ///
    /// # Errors
    /// As [`TestDir::new`].
    pub fn in_memory(prefix: &str) -> Result<TestDir> {
        let shm = Utf8Path::new("/dev/shm");
        let roomy =
            rustix::fs::statvfs(shm.as_std_path()).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= 4 << 30);
        if roomy && std::env::var_os("BARMAN_TESTKIT_TMP").is_none() {
            return TestDir::below(shm, prefix);
        }
        TestDir::new(prefix)
    }

    fn below(parent: &Utf8Path, prefix: &str) -> Result<TestDir> {
        let account = Account::for_servers()?;
        let holder = tempfile::Builder::new()
            .prefix(prefix)
            .rand_bytes(8)
            .tempdir_in(parent)
            .context("create a directory in", parent)?;
        let path = Utf8PathBuf::from_path_buf(holder.path().to_path_buf()).map_err(|p| {
            Error::Unsupported(format!("the temporary directory {} is not UTF-8", p.display()))
        })?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("set the mode of", &path)?;
        account.own(&path)?;
        Ok(TestDir { path, holder: Some(holder) })
    }

    /// Where it is.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Makes a directory below this one (parents included) that belongs to the server account, mode 0755.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn subdir(&self, name: &str) -> Result<Utf8PathBuf> {
        let account = Account::for_servers()?;
        let mut path = self.path.clone();
        for part in Utf8Path::new(name).components() {
            path.push(part);
            if !path.is_dir() {
                fs::create_dir(&path).context("create", &path)?;
                account.own(&path)?;
            }
        }
        Ok(path)
    }
}

impl Drop for TestDir {
    #[allow(clippy::print_stderr, reason = "KEEP asks for the path")]
    fn drop(&mut self) {
        if std::env::var_os("BARMAN_TESTKIT_KEEP").is_some()
            && let Some(holder) = self.holder.take()
        {
            eprintln!("BARMAN_TESTKIT_KEEP: {}", holder.keep().display());
        }
    }
}

fn temp_parent() -> Utf8PathBuf {
    std::env::var("BARMAN_TESTKIT_TMP")
        .ok()
        .map(Utf8PathBuf::from)
        .or_else(|| Utf8PathBuf::from_path_buf(std::env::temp_dir()).ok())
        .unwrap_or_else(|| Utf8PathBuf::from("/tmp"))
}

/// A TCP port of 127.0.0.1 that no other user of this crate on the machine takes, for as long as the value lives.
///
/// The reservation is a lock file, so it also holds while the server behind the port is stopped. The range 20000–31999
/// lies below the system's ephemeral ports, so outgoing connections do not take it either.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Finds and reserves a port on which nothing listens.
    ///
    /// # Errors
    /// When the lock directory cannot be written, or no port is free.
    pub fn reserve() -> Result<Port> {
        const FIRST: u32 = 20_000;
        const COUNT: u32 = 12_000;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = temp_parent().join(format!("barman-testkit-ports-{}", geteuid().as_raw()));
        fs::create_dir_all(&dir).context("create", &dir)?;
        // Processes start at different places, so that they seldom try the same port.
        let start = std::process::id().wrapping_mul(7919);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = (FIRST + start.wrapping_add(step) % COUNT) as u16;
            let path = dir.join(number.to_string());
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .context("open", &path)?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port { number, _lock: lock });
            }
        }
        Err(Error::Unsupported("all ports from 20000 to 31999 are taken".into()))
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Runs a command to its end and returns what it wrote on stdout.
///
/// # Errors
/// When it cannot be started, or ends with another status than 0; the error then shows its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::Program {
        program: show(command),
        status: output.status,
        output: format!("{}{}", tail(&stderr, 40), tail(&stdout, 40)),
    })
}

/// Runs a command to its end, whatever its status.
///
/// # Errors
/// Only when it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().map_err(|source| Error::Spawn { program: show(command), source })
}

/// A command as one line.
pub(crate) fn show(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let mut end = all[all.len().saturating_sub(lines)..].join("\n");
    if !end.is_empty() {
        end.push('\n');
    }
    end
}

/// Where a program is in [`PATH`] (or in `/usr/sbin`, which PATH of an ordinary user may not have).
pub fn which(program: &str) -> Option<Utf8PathBuf> {
    let own = std::env::var("PATH").unwrap_or_default();
    own.split(':')
        .chain(PATH.split(':'))
        .filter(|dir| !dir.is_empty())
        .map(|dir| Utf8Path::new(dir).join(program))
        .find(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}
