//! A PostgreSQL server of the test's own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;

use super::builder::{Builder, Restored};
use super::session::Session;
use super::source::{self, Install};
use crate::daemon::{Daemon, log_tail};
use crate::error::{Error, IoContext, Result};
use crate::os::{Account, Port, TestDir, run};

/// How long a server may take for anything ordinary.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is stopped, as `pg_ctl stop -m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for the sessions to end (SIGTERM).
    Smart,
    /// Ends the sessions, writes a shutdown checkpoint (SIGINT).
    Fast,
    /// Without a checkpoint: the next start does crash recovery (SIGQUIT).
    Immediate,
}

/// A PostgreSQL server of the test's own: unprivileged, on a port and a socket directory of its own, gone when it is dropped.
///
/// The postmaster is a child of the test process. A test process that is killed takes its servers with it (their
/// directories stay behind then).
#[derive(Debug)]
pub struct Cluster {
    install: Install,
    account: Account,
    postmaster: Option<Daemon>,
    pgdata: Utf8PathBuf,
    sockets: Utf8PathBuf,
    log: Utf8PathBuf,
    port: Port,
    options: Vec<(String, String)>,
    env: Vec<(String, String)>,
    /// A directory outside of the temporary one that `archive_command` makes.
    pub(super) litter: Option<Utf8PathBuf>,
    // Last: it is removed after the server has ended.
    dir: TestDir,
}

impl Cluster {
    /// A new cluster of that major with the defaults of [`Builder`], to be changed and started.
    pub fn builder(major: u32) -> Builder {
        Builder::new(major)
    }

    /// A server on a restored data directory, to be changed and started.
    pub fn restored(major: u32, pgdata: impl AsRef<Utf8Path>) -> Restored {
        Restored::new(major, pgdata.as_ref())
    }

    /// Starts a server on a restored data directory and waits until recovery has ended or is paused.
    ///
    /// # Errors
    /// As [`Restored::start`].
    pub fn open_restored(major: u32, pgdata: impl AsRef<Utf8Path>) -> Result<Cluster> {
        Cluster::restored(major, pgdata).start()
    }

    pub(super) fn assemble(
        install: Install,
        account: Account,
        dir: TestDir,
        pgdata: Utf8PathBuf,
        options: Vec<(String, String)>,
        env: Vec<(String, String)>,
    ) -> Result<Cluster> {
        let sockets = dir.subdir("s")?;
        // sun_path holds 108 bytes with the final NUL.
        if sockets.as_str().len() > 107 - "/.s.PGSQL.65535".len() {
            return Err(Error::Unsupported(format!(
                "the path {sockets} is too long for a socket: set BARMAN_TESTKIT_TMP"
            )));
        }
        let log = dir.path().join("server.log");
        let port = Port::reserve()?;
        Ok(Cluster {
            install,
            account,
            postmaster: None,
            pgdata,
            sockets,
            log,
            port,
            options,
            env,
            litter: None,
            dir,
        })
    }

    /// The first start of a new cluster: somebody outside of this crate may sit on the chosen port.
    pub(super) fn first_start(&mut self) -> Result<()> {
        for _ in 0..5 {
            match self.start() {
                Err(Error::Ended { log, .. }) if log.contains("Address already in use") => {
                    self.port = Port::reserve()?;
                }
                other => return other,
            }
        }
        self.start()
    }

    /// Starts the postmaster without waiting for anything.
    pub(super) fn launch(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let mut command = self.account.command(self.install.program("postgres"));
        command.args(["-D", self.pgdata.as_str(), "-p", &self.port.number().to_string()]);
        let own = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", self.sockets.as_str()),
            ("fsync", "off"),
        ];
        for (key, value) in own {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        for (key, value) in &self.options {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        self.postmaster = Some(Daemon::spawn(&self.account, command, &self.log, self.dir.path())?);
        Ok(())
    }

    /// Starts the server and waits until it answers. Does nothing when it runs.
    ///
    /// # Errors
    /// When it ends at once or does not answer within a minute; the error shows its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Stops the server and waits until it has ended. Does nothing when it does not run.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub fn stop(&mut self, mode: StopMode) -> Result<()> {
        let Some(postmaster) = self.postmaster.as_mut() else { return Ok(()) };
        postmaster.signal(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        postmaster.wait(PATIENCE)?;
        self.postmaster = None;
        Ok(())
    }

    /// Stops the server fast and starts it again, on the same port.
    ///
    /// # Errors
    /// As [`Cluster::stop`] and [`Cluster::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Kills the postmaster and all its children with SIGKILL and waits until they are gone. The next [`Cluster::start`] does
    /// crash recovery. What the kernel holds of its files survives: this is a crash of the server, not of the machine.
    ///
    /// # Errors
    /// When they do not go away.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(postmaster) = self.postmaster.as_mut() else { return Ok(()) };
        postmaster.kill9()?;
        self.postmaster = None;
        Ok(())
    }

    /// Whether the postmaster runs (it may be starting or recovering).
    pub fn is_running(&mut self) -> bool {
        self.postmaster.as_mut().is_some_and(|postmaster| postmaster.ended().is_none())
    }

    /// Waits until the server ends by itself, for example after `recovery_target_action = shutdown`.
    ///
    /// # Errors
    /// When it still runs after that time.
    pub fn wait_ended(&mut self, at_most: Duration) -> Result<()> {
        if let Some(postmaster) = self.postmaster.as_mut() {
            postmaster.wait(at_most)?;
            self.postmaster = None;
        }
        Ok(())
    }

    /// Waits until the server answers a query, at most a minute.
    ///
    /// # Errors
    /// When it ends or takes longer; the error shows its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_at_most(PATIENCE)
    }

    pub(super) fn wait_ready_at_most(&mut self, at_most: Duration) -> Result<()> {
        self.watch("the first answer of the server", at_most, |cluster| {
            match cluster.connect().and_then(|mut session| session.query("SELECT 1")) {
                Ok(_) => true,
                // cannot_connect_now: starting up, shutting down, in recovery without hot standby.
                Err(Error::Sql { code, .. }) => code != "57P03",
                Err(_) => false,
            }
        })
    }

    /// Waits until recovery has ended or is paused.
    pub(super) fn wait_recovered(&mut self, at_most: Duration) -> Result<()> {
        self.watch("the end or the pause of recovery", at_most, |cluster| {
            match cluster.psql("SELECT pg_is_in_recovery()") {
                Ok(answer) if answer == "f" => true,
                Ok(_) => cluster.psql("SELECT pg_is_wal_replay_paused()").is_ok_and(|answer| answer == "t"),
                Err(_) => false,
            }
        })
    }

    /// Polls until `done`, while the server lives.
    fn watch(&mut self, what: &str, at_most: Duration, done: impl Fn(&Cluster) -> bool) -> Result<()> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(4);
        loop {
            if let Some(status) = self.postmaster.as_mut().and_then(Daemon::ended) {
                if let Some(mut ended) = self.postmaster.take() {
                    ended.wait(PATIENCE)?;
                }
                return Err(Error::Ended { status, log: self.log_tail(30) });
            }
            if done(self) {
                return Ok(());
            }
            if begun.elapsed() > at_most {
                return Err(Error::Timeout { what: what.to_owned(), after: at_most, log: self.log_tail(30) });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(64));
        }
    }

    /// Makes a standby a primary (`pg_ctl promote`) and waits until it accepts writes.
    ///
    /// # Errors
    /// When the server is no standby, or the promotion fails.
    pub fn promote(&mut self) -> Result<()> {
        run(self.account.command(self.install.program("pg_ctl")).args([
            "promote",
            "-w",
            "-D",
            self.pgdata.as_str(),
        ]))?;
        self.watch("the end of recovery after the promotion", PATIENCE, |cluster| {
            cluster.psql("SELECT pg_is_in_recovery()").is_ok_and(|answer| answer == "f")
        })
    }

    /// A connection string for the Unix socket as superuser `postgres`, database `postgres`.
    pub fn conninfo(&self) -> String {
        self.conninfo_for("postgres", "postgres")
    }

    /// A connection string for the Unix socket.
    pub fn conninfo_for(&self, user: &str, database: &str) -> String {
        format!("host={} port={} user={user} dbname={database}", self.sockets, self.port.number())
    }

    /// A connection string for TCP on 127.0.0.1 as superuser `postgres`, database `postgres`.
    pub fn conninfo_tcp(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port.number())
    }

    /// The TCP port on 127.0.0.1, which is also in the name of the Unix socket.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Utf8Path {
        &self.sockets
    }

    /// The data directory.
    pub fn pgdata(&self) -> &Utf8Path {
        &self.pgdata
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.install.major
    }

    /// The binaries that the server runs from.
    pub fn install(&self) -> &Install {
        &self.install
    }

    /// The account that owns the server's files.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The process id of the postmaster, when it was started.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Daemon::pid)
    }

    /// A temporary directory next to the data directory, removed with the cluster; it belongs to the server's account.
    pub fn scratch(&self) -> &TestDir {
        &self.dir
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }

    /// The server's log file.
    pub fn log_path(&self) -> &Utf8Path {
        &self.log
    }

    /// The path of a tool of this major, such as `pg_checksums`, when one is installed.
    pub fn tool(&self, name: &str) -> Option<Utf8PathBuf> {
        source::tool(self.install.major, name)
    }

    /// The directory of a tablespace of [`Builder::tablespace`].
    pub fn tablespace_dir(&self, name: &str) -> Utf8PathBuf {
        self.dir.path().join("tblspc").join(name)
    }

    pub(super) fn make_tablespace_dir(&self, name: &str) -> Result<Utf8PathBuf> {
        let path = self.dir.subdir(&format!("tblspc/{name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).context("set the mode of", &path)?;
        Ok(path)
    }

    /// A connection as superuser to the database `postgres`.
    ///
    /// # Errors
    /// When the server does not accept it.
    pub fn connect(&self) -> Result<Session> {
        self.connect_to("postgres", "postgres")
    }

    /// A connection over the Unix socket.
    ///
    /// # Errors
    /// When the server does not accept it.
    pub fn connect_to(&self, user: &str, database: &str) -> Result<Session> {
        Session::connect(self.sockets.as_str(), self.port.number(), user, database, None)
    }

    /// Runs statements in the database `postgres` and returns their rows as `psql -At` prints them.
    ///
    /// Several statements are one transaction, so `VACUUM` and `CREATE TABLESPACE` must come alone.
    ///
    /// # Errors
    /// The server's error, or a failed connection.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.connect()?.psql(sql)
    }

    /// As [`Cluster::psql`], in another database.
    ///
    /// # Errors
    /// As [`Cluster::psql`].
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        self.connect_to("postgres", database)?.psql(sql)
    }

    /// Repeats a query until it answers `expected`, at most a minute.
    ///
    /// # Errors
    /// When it does not in time; the error shows the last answer.
    pub fn poll(&self, sql: &str, expected: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answer = self.psql(sql);
            if answer.as_deref().is_ok_and(|text| text == expected) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let last = answer.unwrap_or_else(|error| error.to_string());
                return Err(Error::Timeout {
                    what: format!("{expected:?} from {sql}"),
                    after: PATIENCE,
                    log: last,
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The system identifier. Clusters from the same template share it, see [`Builder::fresh_initdb`].
    ///
    /// # Errors
    /// As [`Cluster::psql`].
    pub fn system_id(&self) -> Result<String> {
        self.psql("SELECT system_identifier FROM pg_control_system()")
    }

    /// Closes the current WAL segment, after writing something to it, and returns its name.
    ///
    /// # Errors
    /// As [`Cluster::psql`]; also on a standby.
    pub fn switch_wal(&self) -> Result<String> {
        let mut session = self.connect()?;
        // An empty segment would not be closed.
        session.psql("SELECT pg_create_restore_point('barman-testkit')")?;
        session.psql("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// Closes the current WAL segment and waits until the server has archived it. Returns its name.
    ///
    /// # Errors
    /// As [`Cluster::switch_wal`]; when it is not archived within a minute.
    pub fn archive_now(&self) -> Result<String> {
        let name = self.switch_wal()?;
        let ready = self.pgdata.join("pg_wal/archive_status").join(format!("{name}.ready"));
        let begun = Instant::now();
        while ready.exists() {
            if begun.elapsed() > PATIENCE {
                let what = format!("the archiving of {name}");
                return Err(Error::Timeout { what, after: PATIENCE, log: self.log_tail(30) });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(postmaster) = self.postmaster.as_mut() {
            postmaster.signal(Signal::QUIT);
            if postmaster.wait(Duration::from_secs(10)).is_err() {
                let _ = postmaster.kill9();
            }
        }
        if let Some(litter) = &self.litter {
            // It exists only after something was archived.
            let _ = fs::remove_dir_all(litter);
        }
    }
}

/// Writes a file of the server's account.
pub(super) fn write_file(account: &Account, path: &Utf8Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    };
    write().context("write", path)?;
    account.own(path)
}
