//! A real OpenSSH server on loopback, unprivileged, with keys of its own.
//!
//! ```no_run
//! # fn main() -> barman_testkit::Result<()> {
//! use barman_testkit::ssh::Sshd;
//!
//! let Some(_) = Sshd::require() else { return Ok(()) };
//! let sshd = Sshd::start()?;
//! println!("ssh_command = {}", sshd.ssh_command());
//! # Ok(()) }
//! ```

use std::fmt::Write as _;
use std::fs::{self};
use std::io::Read;
use std::net::TcpStream;
use std::process::Output;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};

use crate::daemon::{Daemon, log_tail};
use crate::error::{Error, IoContext, Result};
use crate::os::{Account, Port, TestDir, output, run, which};

const PATIENCE: Duration = Duration::from_secs(20);

/// How an [`Sshd`] shall be.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    env: Vec<(String, String)>,
    forced: Option<String>,
    options: Vec<String>,
}

impl Builder {
    /// An environment variable of every session; `PATH` here is how a test controls which programs the remote side has.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Builder {
        self.env.push((key.into(), value.into()));
        self
    }

    /// A command that is run instead of whatever the client asks for (`ForceCommand`); what was asked for is in `SSH_ORIGINAL_COMMAND`.
    /// It stands for restricted shells and for banners printed by start-up files.
    #[must_use]
    pub fn forced_command(mut self, command: impl Into<String>) -> Builder {
        self.forced = Some(command.into());
        self
    }

    /// A further line of `sshd_config`. For most keywords the first line wins, and these lines come first.
    #[must_use]
    pub fn option(mut self, line: impl Into<String>) -> Builder {
        self.options.push(line.into());
        self
    }

    /// Makes the keys, starts sshd and waits for its greeting.
    ///
    /// # Errors
    /// When sshd is not installed, or does not come up; the error shows its log.
    pub fn start(self) -> Result<Sshd> {
        let program = sshd_program()?;
        let account = Account::for_servers()?;
        let dir = TestDir::new("btk-ssh-")?;
        let port = Port::reserve()?;
        let key = dir.path().join("id_ed25519");
        keygen(&account, &key)?;
        let public = Utf8PathBuf::from(format!("{key}.pub"));
        let authorized = dir.path().join("authorized_keys");
        fs::copy(&public, &authorized).context("copy", &public)?;
        let mut sshd = Sshd { program, account, daemon: None, key, port, dir };
        fs::write(sshd.config(), self.config_text(&sshd)).context("write", sshd.config())?;
        keygen(&sshd.account, &sshd.host_key())?;
        sshd.trust_host_key()?;
        sshd.launch()?;
        Ok(sshd)
    }

    fn config_text(&self, sshd: &Sshd) -> String {
        let mut text = String::new();
        for line in &self.options {
            let _ = writeln!(text, "{line}");
        }
        let own = [
            ("ListenAddress", format!("127.0.0.1:{}", sshd.port())),
            ("HostKey", sshd.host_key().to_string()),
            ("AuthorizedKeysFile", sshd.authorized_keys().to_string()),
            ("PidFile", "none".into()),
            // The parents of the temporary directory are writable by everybody.
            ("StrictModes", "no".into()),
            ("UsePAM", "no".into()),
            ("UseDNS", "no".into()),
            ("PasswordAuthentication", "no".into()),
            ("KbdInteractiveAuthentication", "no".into()),
            ("PrintMotd", "no".into()),
            ("MaxStartups", "100".into()),
            ("MaxSessions", "100".into()),
            ("LogLevel", "VERBOSE".into()),
            ("Subsystem", "sftp internal-sftp".into()),
        ];
        for (key, value) in own {
            let _ = writeln!(text, "{key} {value}");
        }
        if !self.env.is_empty() {
            let pairs: Vec<String> = self.env.iter().map(|(k, v)| format!("\"{k}={v}\"")).collect();
            let _ = writeln!(text, "SetEnv {}", pairs.join(" "));
        }
        if let Some(command) = &self.forced {
            let _ = writeln!(text, "ForceCommand {command}");
        }
        text
    }
}

/// A running OpenSSH server that accepts one key, for the account of [`Account::for_servers`], on 127.0.0.1.
///
/// It runs as that account too, never as root. Sessions begin in the account's home directory with its login shell.
/// Dropping it ends the server and all its sessions.
#[derive(Debug)]
pub struct Sshd {
    program: Utf8PathBuf,
    account: Account,
    daemon: Option<Daemon>,
    key: Utf8PathBuf,
    port: Port,
    dir: TestDir,
}

impl Sshd {
    /// A server that is changed before it is started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A server with the defaults.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start() -> Result<Sshd> {
        Sshd::builder().start()
    }

    /// `Some` when OpenSSH is installed; else `None`, with a visible `SKIPPED:` line.
    ///
    /// # Panics
    /// Instead of skipping, under `BARMAN_TESTKIT_REQUIRE_ALL=1`.
    pub fn require() -> Option<()> {
        let found = sshd_program().is_ok();
        if !found {
            crate::skip("OpenSSH's sshd is not on this machine");
        }
        found.then_some(())
    }

    fn launch(&mut self) -> Result<()> {
        let mut command = self.account.command(&self.program);
        command.args(["-D", "-e", "-f", self.config().as_str()]);
        let mut daemon = Daemon::spawn(&self.account, command, &self.log_path(), self.dir.path())?;
        let begun = Instant::now();
        while !self.greets() {
            if let Some(status) = daemon.ended() {
                return Err(Error::Ended { status, log: self.log_tail(20) });
            }
            if begun.elapsed() > PATIENCE {
                let what = "the greeting of sshd".to_owned();
                return Err(Error::Timeout { what, after: PATIENCE, log: self.log_tail(20) });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port())) else { return false };
        let mut greeting = [0; 4];
        let limited = stream.set_read_timeout(Some(PATIENCE));
        limited.and_then(|()| stream.read_exact(&mut greeting)).is_ok() && &greeting == b"SSH-"
    }

    /// Ends the server and every session in it, abruptly: clients see a closed connection. [`Sshd::restart`] brings it back.
    ///
    /// # Errors
    /// When a process does not end.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill9()?;
        }
        Ok(())
    }

    /// Ends all sessions and starts the server again on the same port.
    ///
    /// # Errors
    /// As [`Sshd::stop`] and [`Builder::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Gives the server a new host key, which the client's known hosts do not have: the next login must be refused by the client.
    ///
    /// # Errors
    /// As [`Sshd::restart`].
    pub fn rotate_host_key(&mut self) -> Result<()> {
        self.stop()?;
        for path in [self.host_key(), Utf8PathBuf::from(format!("{}.pub", self.host_key()))] {
            fs::remove_file(&path).context("remove", &path)?;
        }
        keygen(&self.account, &self.host_key())?;
        self.launch()
    }

    /// Writes the current host key into the known hosts, in place of the former one.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn trust_host_key(&self) -> Result<()> {
        let public = Utf8PathBuf::from(format!("{}.pub", self.host_key()));
        let line = fs::read_to_string(&public).context("read", &public)?;
        let mut words = line.split_whitespace();
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = self.known_hosts();
        fs::write(&path, format!("[127.0.0.1]:{} {kind} {key}\n", self.port())).context("write", &path)?;
        self.account.own(&path)
    }

    /// The command of a client that logs in, as for Barman's `ssh_command`.
    ///
    /// It reads no configuration of the user or the machine, asks nothing, and knows the host key.
    pub fn ssh_command(&self) -> String {
        format!(
            "ssh -F none -p {} -i {} -o UserKnownHostsFile={} -o IdentitiesOnly=yes -o BatchMode=yes {}",
            self.port(),
            self.key,
            self.known_hosts(),
            self.destination()
        )
    }

    /// `user@127.0.0.1`.
    pub fn destination(&self) -> String {
        format!("{}@127.0.0.1", self.account.name)
    }

    /// Runs a command in a session of the `ssh` program, as the account of the servers.
    ///
    /// # Errors
    /// When the client cannot be started; a failing command or login is in the returned status.
    pub fn exec(&self, remote: &str) -> Result<Output> {
        let line = self.ssh_command();
        let mut words = line.split(' ');
        let mut command = self.account.command(words.next().unwrap_or("ssh"));
        output(command.args(words).arg(remote))
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The account that is logged into.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The client's private key (ed25519, no passphrase); its public half has `.pub` appended.
    pub fn key(&self) -> &Utf8Path {
        &self.key
    }

    /// The client's known hosts file.
    pub fn known_hosts(&self) -> Utf8PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// The file of the keys that may log in.
    pub fn authorized_keys(&self) -> Utf8PathBuf {
        self.dir.path().join("authorized_keys")
    }

    /// A private key that the server does not accept, made at each call.
    ///
    /// # Errors
    /// When ssh-keygen fails.
    pub fn foreign_key(&self) -> Result<Utf8PathBuf> {
        let path = self.dir.path().join("foreign");
        if !path.exists() {
            keygen(&self.account, &path)?;
        }
        Ok(path)
    }

    /// What the server logged (level VERBOSE).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let path = self.log_path();
        fs::read_to_string(&path).context("read", &path)
    }

    /// How many logins have succeeded.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn logins(&self) -> Result<usize> {
        Ok(self.log()?.lines().filter(|line| line.contains("Accepted publickey")).count())
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log_path(), lines)
    }

    fn log_path(&self) -> Utf8PathBuf {
        self.dir.path().join("sshd.log")
    }

    fn config(&self) -> Utf8PathBuf {
        self.dir.path().join("sshd_config")
    }

    fn host_key(&self) -> Utf8PathBuf {
        self.dir.path().join("host_ed25519")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // A process that survives SIGKILL is beyond this program.
        let _ = self.stop();
    }
}

fn sshd_program() -> Result<Utf8PathBuf> {
    // sshd insists on an absolute path, since it starts itself anew for each connection.
    which("sshd").filter(|_| which("ssh-keygen").is_some() && which("ssh").is_some()).ok_or_else(|| {
        Error::Missing {
            what: "OpenSSH's sshd, ssh or ssh-keygen".into(),
            hint: "run `cargo xtask setup`, or install openssh-server".into(),
        }
    })
}

fn keygen(account: &Account, path: &Utf8Path) -> Result<()> {
    run(account.command("ssh-keygen").args([
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        "barman-testkit",
        "-f",
        path.as_str(),
    ]))
    .map(|_| ())
}
