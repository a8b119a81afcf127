//! A temporary home with a configuration, and the `barman` command run in it without anything of the machine around it.
//!
//! ```no_run
//! # fn main() -> barman_testkit::Result<()> {
//! use barman_testkit::pg::Cluster;
//! use barman_testkit::world::World;
//!
//! let cluster = Cluster::builder(15).start()?;
//! let mut world = World::new()?;
//! world.server("main").conninfo(cluster.conninfo()).option("archiver", "on");
//! let check = world.barman(&["check", "main"])?;
//! assert_eq!(check.code(), Some(1), "{check}");
//! # Ok(()) }
//! ```

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, ExitStatus};

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::oracle;
use crate::os::{self, Account, TestDir, output};

/// The programs that the workspace builds.
const PROGRAMS: [&str; 3] = ["barman", "barman-wal-archive", "barman-wal-restore"];

/// A temporary directory with `barman_home`, a configuration file and a home directory of its own.
///
/// Everything in it belongs to the account of [`Account::for_servers`], and the command runs as that account. Layout:
/// `barman/` (barman_home), `barman.conf`, `barman.log`, `home/` (HOME), `bin/` (first in PATH), and what the test adds.
#[derive(Debug)]
pub struct World {
    account: Account,
    global: Options,
    servers: Vec<(String, Options)>,
    program: Option<Utf8PathBuf>,
    env: Vec<(String, String)>,
    dir: TestDir,
}

/// The options of a section, in order.
#[derive(Debug, Clone, Default)]
struct Options(Vec<(String, String)>);

impl Options {
    fn set(&mut self, key: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }
}

impl World {
    /// A new world. Its `[barman]` section has `barman_home`, `barman_user`, `log_file` and `log_level = DEBUG`.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn new() -> Result<World> {
        World::below(TestDir::new("btk-world-")?)
    }

    /// As [`World::new`], but in memory where [`TestDir::in_memory`] finds room: for tests that take whole backups, whose
    /// fsyncs would wait for everything else that the machine writes.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn in_memory() -> Result<World> {
        World::below(TestDir::in_memory("btk-world-")?)
    }

    fn below(dir: TestDir) -> Result<World> {
        let account = Account::for_servers()?;
        let mut global = Options::default();
        global.set("barman_home", dir.subdir("barman")?.into());
        global.set("barman_user", account.name.clone());
        global.set("log_file", dir.path().join("barman.log").into());
        global.set("log_level", "DEBUG".into());
        dir.subdir("home")?;
        dir.subdir("bin")?;
        Ok(World { account, global, servers: Vec::new(), program: None, env: Vec::new(), dir })
    }

    /// Sets an option of the `[barman]` section.
    pub fn global(&mut self, key: &str, value: impl Into<String>) -> &mut World {
        self.global.set(key, value.into());
        self
    }

    /// The section of a server (or of a model); it is created when there is none of that name.
    pub fn server(&mut self, name: &str) -> ServerSection<'_> {
        let at = self.servers.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            let description = ("description".to_owned(), format!("server {name} of a test"));
            self.servers.push((name.to_owned(), Options(vec![description])));
            self.servers.len() - 1
        });
        ServerSection { options: &mut self.servers[at].1 }
    }

    /// Which `barman` to run. Without this call: `BARMAN_TESTKIT_BARMAN`, else the one that cargo built next to the running test.
    pub fn program(&mut self, path: impl Into<Utf8PathBuf>) -> &mut World {
        self.program = Some(path.into());
        self
    }

    /// Adds a variable to the environment of every command.
    pub fn env(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut World {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Runs `barman -c <configuration> ARGUMENTS` to its end.
    ///
    /// # Errors
    /// When the configuration cannot be written or the program not be started. Its failure is in the [`Run`].
    pub fn barman(&self, arguments: &[&str]) -> Result<Run> {
        Run::of(&mut self.barman_command(arguments)?)
    }

    /// The command that [`World::barman`] runs, for tests that start it in the background, kill it, or feed its stdin.
    ///
    /// # Errors
    /// When the configuration cannot be written or the program is not there.
    pub fn barman_command(&self, arguments: &[&str]) -> Result<Command> {
        let config = self.write_config()?;
        let mut command = self.command(self.install_program()?);
        command.args(["-c", config.as_str()]).args(arguments);
        Ok(command)
    }

    /// Runs the original Barman (the oracle) with the same configuration in the same environment.
    ///
    /// # Errors
    /// When the oracle is not installed, or cannot be started.
    pub fn oracle(&self, arguments: &[&str]) -> Result<Run> {
        Run::of(&mut self.oracle_command(arguments)?)
    }

    /// The command that [`World::oracle`] runs.
    ///
    /// # Errors
    /// When the configuration cannot be written or the oracle is not installed.
    pub fn oracle_command(&self, arguments: &[&str]) -> Result<Command> {
        let barman = oracle::Barman::installed()?;
        let config = self.write_config()?;
        let mut command = self.command(barman.program());
        // Barman starts itself from cron by its name.
        command.env("PATH", format!("{}:{}", barman.bindir(), os::PATH));
        command.args(["-c", config.as_str()]).args(arguments);
        Ok(command)
    }

    /// Any program, as the world's account and in its environment: HOME, `PATH` with `bin/` first, `LC_ALL=C`, `TZ=UTC`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.account.command(program);
        command.env("HOME", self.user_home()).env("PATH", self.search_path()).current_dir(self.path());
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Writes the configuration file and returns its path. Every run does that by itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self) -> Result<Utf8PathBuf> {
        let path = self.config_path();
        fs::write(&path, self.config_text()).context("write", &path)?;
        self.account.own(&path)?;
        Ok(path)
    }

    fn config_text(&self) -> String {
        let mut text = String::new();
        let sections = [("barman", &self.global)].into_iter();
        for (name, options) in
            sections.chain(self.servers.iter().map(|(name, options)| (name.as_str(), options)))
        {
            text.push_str(&format!("[{name}]\n"));
            for (key, value) in &options.0 {
                text.push_str(&format!("{key} = {value}\n"));
            }
            text.push('\n');
        }
        text
    }

    /// Makes the program reachable for the account, in `bin/`, which is in PATH, together with its siblings.
    fn install_program(&self) -> Result<Utf8PathBuf> {
        let program = match &self.program {
            Some(path) => path.clone(),
            None => find_barman()?,
        };
        let bin = self.path().join("bin");
        let own = program.file_name().unwrap_or("barman");
        let others = PROGRAMS.into_iter().filter(|name| *name != own);
        for name in [own].into_iter().chain(others) {
            let source = program.with_file_name(name);
            let target = bin.join(name);
            if !target.exists() && source.exists() {
                self.make_reachable(&source, &target)?;
            }
        }
        Ok(bin.join(own))
    }

    fn make_reachable(&self, source: &Utf8Path, target: &Utf8Path) -> Result<()> {
        let reachable = self.account.command("test").args(["-x", source.as_str()]).status();
        if reachable.is_ok_and(|status| status.success()) {
            return symlink(source, target).context("create", target);
        }
        // Below a home directory that others may not enter.
        fs::hard_link(source, target)
            .or_else(|_| fs::copy(source, target).map(|_| ()))
            .context("create", target)
    }

    /// The directory of everything.
    pub fn path(&self) -> &Utf8Path {
        self.dir.path()
    }

    /// The directory as a [`TestDir`], to make further ones in it.
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// `barman_home`.
    pub fn home(&self) -> Utf8PathBuf {
        self.path().join("barman")
    }

    /// The home directory (`HOME`) of the commands, for `.pgpass` and `.ssh`.
    pub fn user_home(&self) -> Utf8PathBuf {
        self.path().join("home")
    }

    /// The directory that a server's `archive_command` delivers to by default.
    pub fn incoming(&self, server: &str) -> Utf8PathBuf {
        self.home().join(server).join("incoming")
    }

    /// The configuration file.
    pub fn config_path(&self) -> Utf8PathBuf {
        self.path().join("barman.conf")
    }

    /// What was logged, empty before the first line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("barman.log")).unwrap_or_default()
    }

    /// PATH of the commands; give it to a cluster whose `restore_command` calls `barman`.
    pub fn search_path(&self) -> String {
        format!("{}/bin:{}", self.path(), os::PATH)
    }

    /// The account that commands run as.
    pub fn account(&self) -> &Account {
        &self.account
    }
}

/// Options of one server, for chained calls.
#[derive(Debug)]
pub struct ServerSection<'a> {
    options: &'a mut Options,
}

impl ServerSection<'_> {
    /// Sets `conninfo`.
    pub fn conninfo(self, conninfo: impl Into<String>) -> Self {
        self.option("conninfo", conninfo)
    }

    /// Sets `ssh_command`.
    pub fn ssh(self, ssh_command: impl Into<String>) -> Self {
        self.option("ssh_command", ssh_command)
    }

    /// Sets any option.
    pub fn option(self, key: &str, value: impl Into<String>) -> Self {
        self.options.set(key, value.into());
        self
    }
}

/// The `barman` that the tests run: `BARMAN_TESTKIT_BARMAN`, else the one in cargo's target directory of the running program.
///
/// # Errors
/// When there is none: `cargo build --workspace --bins` makes it.
pub fn find_barman() -> Result<Utf8PathBuf> {
    let named = std::env::var("BARMAN_TESTKIT_BARMAN").ok().map(Utf8PathBuf::from);
    let built = || {
        let test = Utf8PathBuf::from_path_buf(std::env::current_exe().ok()?).ok()?;
        // target/debug/deps/main-0123456789abcdef, target/debug/examples/quickstart
        test.ancestors().skip(1).take(2).map(|dir| dir.join("barman")).find(|path| path.is_file())
    };
    named.filter(|path| path.exists()).or_else(built).ok_or_else(|| Error::Missing {
        what: "the barman program".into(),
        hint: "run `cargo build --workspace --bins`, or set BARMAN_TESTKIT_BARMAN".into(),
    })
}

/// A command that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote on stdout; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote on stderr.
    pub stderr: String,
    line: String,
}

impl Run {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn of(command: &mut Command) -> Result<Run> {
        let done = output(command)?;
        Ok(Run {
            status: done.status,
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
            line: os::show(command),
        })
    }

    /// The exit status; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// This run, or an error that shows its output when its status is not 0.
    ///
    /// # Errors
    /// When the command failed.
    pub fn ok(self) -> Result<Run> {
        if self.status.success() {
            return Ok(self);
        }
        Err(Error::Program {
            program: self.line,
            status: self.status,
            output: format!("{}{}", self.stderr, self.stdout),
        })
    }

    /// What it wrote on stdout as JSON.
    ///
    /// # Errors
    /// When it is not one JSON document.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .map_err(|error| Error::Unsupported(format!("this is not JSON ({error}): {self}")))
    }
}

/// Status, stdout and stderr together, for snapshots and messages of assertions.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n--- stdout\n{}--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}
