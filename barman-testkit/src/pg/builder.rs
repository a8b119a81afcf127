//! How a cluster is asked for: a new one ([`Builder`]), or a server on a restored data directory ([`Restored`]).

use std::fmt::Write as _;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::cluster::{Cluster, write_file};
use super::source;
use super::template::{self, Shape};
use crate::error::{Error, Result};
use crate::os::{Account, TestDir};

/// How `archive_command` delivers a segment into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// Copied to a neighbouring directory (`<dir>.tmp`) and renamed into place: a reader never sees a part of a segment.
    Atomic,
    /// `cp %p <dir>/%f`, as in many installations: a reader can see a segment that is still being written.
    Plain,
}

/// A new cluster to be made by initdb. Made by [`Cluster::builder`].
///
/// Defaults: segments of 16 MiB, data checksums, locale C and UTF-8, superuser `postgres` without a password, `fsync=off`,
/// 16 MB of shared buffers, WAL level replica, no archiving, everything else as PostgreSQL ships it.
#[derive(Debug, Clone)]
pub struct Builder {
    major: u32,
    shape: Shape,
    conf: Vec<(String, String)>,
    hba: Vec<String>,
    files: Vec<(String, Vec<u8>, u32)>,
    tablespaces: Vec<String>,
    archive: Option<(Utf8PathBuf, Archive)>,
    env: Vec<(String, String)>,
}

impl Builder {
    pub(super) fn new(major: u32) -> Builder {
        let shape = Shape { segment_mb: 16, checksums: true, arguments: Vec::new(), fresh: false };
        Builder {
            major,
            shape,
            conf: Vec::new(),
            hba: Vec::new(),
            files: Vec::new(),
            tablespaces: Vec::new(),
            archive: None,
            env: Vec::new(),
        }
    }

    /// The size of WAL segments in MiB: a power of two from 1 to 1024. Other sizes than 16 need PostgreSQL 11.
    #[must_use]
    pub fn wal_segment_size_mb(mut self, mib: u32) -> Builder {
        self.shape.segment_mb = mib;
        self
    }

    /// Whether pages carry checksums (default: yes).
    #[must_use]
    pub fn data_checksums(mut self, on: bool) -> Builder {
        self.shape.checksums = on;
        self
    }

    /// Runs initdb instead of copying its cached result (1 to 3 seconds).
    ///
    /// Copies share their *system identifier*. Use this where two clusters must differ in it.
    #[must_use]
    pub fn fresh_initdb(mut self) -> Builder {
        self.shape.fresh = true;
        self
    }

    /// A further argument of initdb; implies a run of initdb.
    #[must_use]
    pub fn initdb_arg(mut self, argument: impl Into<String>) -> Builder {
        self.shape.arguments.push(argument.into());
        self
    }

    /// A setting, appended to `postgresql.conf`, so that it is part of a backup.
    #[must_use]
    pub fn conf(mut self, key: impl Into<String>, value: impl Into<String>) -> Builder {
        self.conf.push((key.into(), value.into()));
        self
    }

    /// A line of `pg_hba.conf`, before the default lines that trust everybody on the Unix socket and on 127.0.0.1.
    ///
    /// The superuser `postgres` on the Unix socket is always trusted: the harness itself connects that way.
    #[must_use]
    pub fn hba(mut self, line: impl Into<String>) -> Builder {
        self.hba.push(line.into());
        self
    }

    /// A file in the data directory, written before the first start, such as `server.key` with mode `0o600`.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Builder {
        self.files.push((name.into(), content.into(), mode));
        self
    }

    /// A tablespace of that name, created after the first start. See [`Cluster::tablespace_dir`].
    #[must_use]
    pub fn tablespace(mut self, name: impl Into<String>) -> Builder {
        self.tablespaces.push(name.into());
        self
    }

    /// Several tablespaces, see [`Builder::tablespace`].
    #[must_use]
    pub fn tablespaces<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Builder {
        self.tablespaces.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Archives into a directory, which is created for the server's account when it is missing.
    #[must_use]
    pub fn archive_to(mut self, dir: impl AsRef<Utf8Path>, how: Archive) -> Builder {
        self.archive = Some((dir.as_ref().to_owned(), how));
        self
    }

    /// An environment variable of the server, which `archive_command` and `restore_command` inherit.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Builder {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Makes the cluster, starts it, waits until it answers and creates the tablespaces.
    ///
    /// # Errors
    /// When the major is not installed, a setting is wrong (the error shows the server's log), or the server does not come up.
    pub fn start(self) -> Result<Cluster> {
        let install = source::installed(self.major)?;
        let account = Account::for_servers()?;
        let dir = TestDir::in_memory("btk-pg-")?;
        let pgdata = dir.path().join("data");
        template::make(&install, &account, &self.shape, &pgdata)?;
        write_file(&account, &pgdata.join("pg_hba.conf"), self.hba_text().as_bytes(), 0o600)?;
        append_conf(&account, &pgdata, &self.conf_text(&account)?)?;
        for (name, content, mode) in &self.files {
            write_file(&account, &pgdata.join(name), content, *mode)?;
        }
        let mut cluster = Cluster::assemble(install, account, dir, pgdata, Vec::new(), self.env.clone())?;
        cluster.litter = self.archive.as_ref().map(|(dir, _)| in_flight(dir));
        cluster.first_start()?;
        for name in &self.tablespaces {
            let location = cluster.make_tablespace_dir(name)?;
            cluster.psql(&format!("CREATE TABLESPACE \"{name}\" LOCATION '{location}'"))?;
        }
        Ok(cluster)
    }

    fn hba_text(&self) -> String {
        let mut text = String::from("local all postgres trust\nlocal replication postgres trust\n");
        for line in &self.hba {
            text.push_str(line);
            text.push('\n');
        }
        for database in ["all", "replication"] {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "local {database} all trust\nhost {database} all 127.0.0.1/32 trust");
        }
        text
    }

    fn conf_text(&self, account: &Account) -> Result<String> {
        let mut settings: Vec<(String, String)> =
            [("fsync", "off"), ("shared_buffers", "16MB"), ("log_line_prefix", "%m [%p] ")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        if let Some((dir, how)) = &self.archive {
            settings.push(("archive_mode".into(), "on".into()));
            settings.push(("archive_command".into(), archive_command(account, dir, *how)?));
        }
        settings.extend(self.conf.iter().cloned());
        let mut text = String::from("\n# barman-testkit\n");
        for (key, value) in settings {
            let _ = writeln!(text, "{key} = '{}'", value.replace('\'', "''"));
        }
        Ok(text)
    }
}

fn archive_command(account: &Account, dir: &Utf8Path, how: Archive) -> Result<String> {
    let mut needed = vec![dir.to_owned()];
    if how == Archive::Atomic {
        needed.push(in_flight(dir));
    }
    for path in needed {
        // Fails here, where it is seen, rather than in the server's log.
        if !path.is_dir() {
            crate::os::run(account.command("mkdir").args(["-p", path.as_str()]))?;
        }
    }
    Ok(match how {
        Archive::Plain => format!("cp %p \"{dir}/%f\""),
        Archive::Atomic => {
            let tmp = in_flight(dir);
            // Made each time, since a former primary takes it away with itself.
            format!("mkdir -p \"{tmp}\" && cp %p \"{tmp}/%f\" && mv \"{tmp}/%f\" \"{dir}/%f\"")
        }
    })
}

/// Where segments on their way into an archive directory are: on the same file system, not seen by who reads the directory.
fn in_flight(dir: &Utf8Path) -> Utf8PathBuf {
    format!("{dir}.tmp").into()
}

fn append_conf(account: &Account, pgdata: &Utf8Path, text: &str) -> Result<()> {
    use crate::error::IoContext;
    let path = pgdata.join("postgresql.conf");
    let mut whole = std::fs::read_to_string(&path).context("read", &path)?;
    whole.push_str(text);
    write_file(account, &path, whole.as_bytes(), 0o600)
}

/// What [`Restored::start`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Recovery has ended (the server was promoted, or needed none) or is paused at its target.
    Recovered,
    /// The server answers queries; a standby goes on replaying.
    Connections,
    /// Nothing: the caller observes the server, for example one that is expected to stop at its target or to fail.
    Nothing,
}

/// A server on a data directory that was restored or copied, in place. Made by [`Cluster::restored`].
///
/// Nothing in the directory is changed before the start, save its owner when the tests run as root. Port, socket directory,
/// listen address and `fsync=off` are given on the command line, so they win over the restored configuration.
/// The directory is left in place when the [`Cluster`] is dropped.
#[derive(Debug, Clone)]
pub struct Restored {
    major: u32,
    pgdata: Utf8PathBuf,
    options: Vec<(String, String)>,
    env: Vec<(String, String)>,
    wait: Wait,
    at_most: Duration,
}

impl Restored {
    pub(super) fn new(major: u32, pgdata: &Utf8Path) -> Restored {
        Restored {
            major,
            pgdata: pgdata.to_owned(),
            options: Vec::new(),
            env: Vec::new(),
            wait: Wait::Recovered,
            at_most: Duration::from_secs(120),
        }
    }

    /// A setting for the command line (`-c key=value`), which wins over every configuration file.
    #[must_use]
    pub fn conf(mut self, key: impl Into<String>, value: impl Into<String>) -> Restored {
        self.options.push((key.into(), value.into()));
        self
    }

    /// An environment variable of the server, which `restore_command` inherits.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Restored {
        self.env.push((key.into(), value.into()));
        self
    }

    /// What to wait for (default: [`Wait::Recovered`]).
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Restored {
        self.wait = wait;
        self
    }

    /// The bound of that wait (default: two minutes).
    #[must_use]
    pub fn at_most(mut self, bound: Duration) -> Restored {
        self.at_most = bound;
        self
    }

    /// Starts the server and waits.
    ///
    /// # Errors
    /// When the server ends (a target that was not reached, a damaged file; the error shows its log), or the wait takes too long.
    pub fn start(self) -> Result<Cluster> {
        let install = source::installed(self.major)?;
        let account = Account::for_servers()?;
        hand_over(&account, &self.pgdata)?;
        let dir = TestDir::new("btk-re-")?;
        let mut cluster = Cluster::assemble(install, account, dir, self.pgdata, self.options, self.env)?;
        cluster.launch()?;
        match self.wait {
            Wait::Nothing => {}
            Wait::Connections => cluster.wait_ready_at_most(self.at_most)?,
            Wait::Recovered => cluster.wait_recovered(self.at_most)?,
        }
        Ok(cluster)
    }
}

/// Gives a restored data directory and the tablespaces it links to over to the server's account.
fn hand_over(account: &Account, pgdata: &Utf8Path) -> Result<()> {
    account.own_tree(pgdata)?;
    let links = pgdata.join("pg_tblspc");
    if let Ok(entries) = links.read_dir_utf8() {
        for link in entries.flatten() {
            if let Ok(target) = link.path().read_link_utf8() {
                account.own_tree(links.join(target))?;
            }
        }
    }
    // The most frequent mistake of a test that runs as root: a tempfile directory, which only root may enter.
    if account.is_current() {
        return Ok(());
    }
    let reachable =
        account.command("test").args(["-x", pgdata.as_str()]).status().is_ok_and(|status| status.success());
    if reachable {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "the account {} cannot enter {pgdata}: restore below a directory of barman_testkit::os::TestDir, \
         whose parents everybody may enter",
        account.name
    )))
}
