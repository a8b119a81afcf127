//! A scripted SSH server, in the test process: commands are answered by the script or run through `/bin/sh`, with faults.
//!
//! It stands for the hosts that a real sshd on loopback never is: a login shell that prints a banner on stdout, a
//! connection cut in the middle of a stream, a command that stalls, a host key that changed, a server that knows passwords only.
//!
//! ```
//! use barman_testkit::fake_ssh::{Answer, FakeSsh};
//!
//! let fake = FakeSsh::builder()
//!     .on("true", Answer::output(""))
//!     .on("tar *", Answer::shell().cut_after(100_000))
//!     .start()
//!     .unwrap();
//! println!("ssh_command = {}", fake.ssh_command());
//! ```

mod session;

use std::fmt;
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use tokio::sync::oneshot;

use crate::error::{Error, IoContext, Result};
use crate::os::{Account, TestDir};

/// What the server does with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    source: Source,
    noise: Vec<u8>,
    status: Option<u32>,
    cut_after: Option<u64>,
    stall_after: Option<u64>,
    pause: Duration,
    without_status: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Text { stdout: Vec<u8>, stderr: Vec<u8> },
    Shell,
    Refused,
}

impl Answer {
    fn new(source: Source) -> Answer {
        Answer {
            source,
            noise: Vec::new(),
            status: None,
            cut_after: None,
            stall_after: None,
            pause: Duration::ZERO,
            without_status: false,
        }
    }

    /// This text on stdout, status 0. What the client sends on stdin is read and dropped.
    pub fn output(stdout: impl Into<Vec<u8>>) -> Answer {
        Answer::new(Source::Text { stdout: stdout.into(), stderr: Vec::new() })
    }

    /// This text on stderr and this status.
    pub fn failure(status: u32, stderr: impl Into<Vec<u8>>) -> Answer {
        Answer::new(Source::Text { stdout: Vec::new(), stderr: stderr.into() }).status(status)
    }

    /// Runs the command with `/bin/sh -c`, as the account of the servers.
    pub fn shell() -> Answer {
        Answer::new(Source::Shell)
    }

    /// Refuses the request itself: no command is run, and no status is given.
    pub fn refused() -> Answer {
        Answer::new(Source::Refused)
    }

    /// Text on stdout before everything else, as a chatty start-up file of a shell prints it.
    #[must_use]
    pub fn noise(mut self, text: impl Into<Vec<u8>>) -> Answer {
        self.noise = text.into();
        self
    }

    /// The exit status, whatever the command's own was.
    #[must_use]
    pub fn status(mut self, status: u32) -> Answer {
        self.status = Some(status);
        self
    }

    /// Ends the channel properly but never tells an exit status, as a server whose command was killed.
    #[must_use]
    pub fn without_status(mut self) -> Answer {
        self.without_status = true;
        self
    }

    /// Cuts the whole connection after this many bytes on stdout.
    #[must_use]
    pub fn cut_after(mut self, bytes: u64) -> Answer {
        self.cut_after = Some(bytes);
        self
    }

    /// Sends nothing more after this many bytes on stdout, and does not end.
    #[must_use]
    pub fn stall_after(mut self, bytes: u64) -> Answer {
        self.stall_after = Some(bytes);
        self
    }

    /// Waits before anything is sent.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Answer {
        self.pause = pause;
        self
    }
}

type Rule = Box<dyn Fn(&str) -> Option<Answer> + Send + Sync>;

/// How a [`FakeSsh`] shall behave. Rules are asked in order; the first that answers wins. Without a fitting rule the command is
/// a deviation, and the test fails when the server is dropped.
#[derive(Default)]
pub struct Builder {
    rules: Vec<Rule>,
    password: Option<String>,
    refuse_keys: bool,
    changed_host_key: bool,
    banner: Option<String>,
    channels: Option<usize>,
    refused_connections: usize,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl Builder {
    /// Answers each command that matches. In the pattern `*` stands for any text.
    #[must_use]
    pub fn on(self, pattern: &str, answer: Answer) -> Builder {
        let pattern = pattern.to_owned();
        self.rule(move |command| crate::pattern::matches(&pattern, command).then(|| answer.clone()))
    }

    /// Answers commands by a function, which may keep state of its own.
    #[must_use]
    pub fn rule(mut self, rule: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> Builder {
        self.rules.push(Box::new(rule));
        self
    }

    /// Runs every other command with `/bin/sh -c`. Give it last.
    #[must_use]
    pub fn shell(self) -> Builder {
        self.rule(|_| Some(Answer::shell()))
    }

    /// Also accepts this password, of any user.
    #[must_use]
    pub fn password(mut self, password: &str) -> Builder {
        self.password = Some(password.to_owned());
        self
    }

    /// Accepts no key, not even the right one.
    #[must_use]
    pub fn refuse_keys(mut self) -> Builder {
        self.refuse_keys = true;
        self
    }

    /// Shows another host key than the one in the client's known hosts.
    #[must_use]
    pub fn changed_host_key(mut self) -> Builder {
        self.changed_host_key = true;
        self
    }

    /// A banner before authentication (on the client's stderr, harmless).
    #[must_use]
    pub fn banner(mut self, text: &str) -> Builder {
        self.banner = Some(text.to_owned());
        self
    }

    /// Refuses further channels of a connection after that many (`MaxSessions`).
    #[must_use]
    pub fn channels_per_connection(mut self, count: usize) -> Builder {
        self.channels = Some(count);
        self
    }

    /// Closes the first connections without a greeting (`MaxStartups`).
    #[must_use]
    pub fn refuse_connections(mut self, count: usize) -> Builder {
        self.refused_connections = count;
        self
    }

    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the keys or the port cannot be had.
    pub fn start(self) -> Result<FakeSsh> {
        let account = Account::for_servers()?;
        let dir = TestDir::new("btk-fssh-")?;
        let known = key(1);
        let shown = if self.changed_host_key { key(2) } else { known.clone() };
        let client = key(3);
        let failed = |source| Error::Connection { peer: "127.0.0.1:0".into(), verb: "listen", source };
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();

        let secret = client.to_openssh(LineEnding::LF).map_err(|e| Error::Unsupported(e.to_string()))?;
        let public = client.public_key().to_openssh().map_err(|e| Error::Unsupported(e.to_string()))?;
        let host = known.public_key().to_openssh().map_err(|e| Error::Unsupported(e.to_string()))?;
        let files = [
            ("id_ed25519", secret.to_string(), 0o600),
            ("id_ed25519.pub", format!("{public}\n"), 0o644),
            ("known_hosts", format!("[127.0.0.1]:{port} {host}\n"), 0o644),
        ];
        for (name, content, mode) in files {
            let path = dir.path().join(name);
            fs::write(&path, content).context("write", &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).context("set the mode of", &path)?;
            account.own(&path)?;
        }

        let shared = Arc::new(Shared {
            script: self,
            account: account.clone(),
            client_key: client.public_key().clone(),
            seen: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&shared);
        let thread = std::thread::spawn(move || session::serve(listener, shown, &state, stopped));
        Ok(FakeSsh { port, account, shared, stop: Some(stop), thread: Some(thread), dir })
    }
}

/// Keys need not be secret here, only different: each is made from a number.
fn key(number: u8) -> PrivateKey {
    Ed25519Keypair::from_seed(&[number; 32]).into()
}

/// State that the connections share.
struct Shared {
    script: Builder,
    account: Account,
    client_key: russh::keys::PublicKey,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    commands: Vec<String>,
    connections: usize,
    logins: usize,
    deviations: Vec<String>,
    sockets: Vec<TcpStream>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, command: &str) -> Answer {
        self.seen().commands.push(command.to_owned());
        self.script.rules.iter().find_map(|rule| rule(command)).unwrap_or_else(|| {
            self.seen().deviations.push(format!("{command:?} is not in the script"));
            Answer::failure(127, "not in the script")
        })
    }
}

/// A running scripted server.
///
/// # Panics
/// Dropping it panics when a command came that the script does not know (not while the thread is panicking already).
pub struct FakeSsh {
    port: u16,
    account: Account,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    dir: TestDir,
}

impl fmt::Debug for FakeSsh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeSsh").field("port", &self.port).finish_non_exhaustive()
    }
}

impl FakeSsh {
    /// A server to be scripted.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The command of a client with the right key and known hosts, as [`Sshd::ssh_command`](crate::ssh::Sshd::ssh_command).
    pub fn ssh_command(&self) -> String {
        format!(
            "ssh -F none -p {} -i {} -o UserKnownHostsFile={} -o IdentitiesOnly=yes -o BatchMode=yes {}@127.0.0.1",
            self.port,
            self.key(),
            self.known_hosts(),
            self.account.name
        )
    }

    /// The client's private key.
    pub fn key(&self) -> Utf8PathBuf {
        self.dir.path().join("id_ed25519")
    }

    /// The client's known hosts.
    pub fn known_hosts(&self) -> Utf8PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// The directory of the keys.
    pub fn path(&self) -> &Utf8Path {
        self.dir.path()
    }

    /// The commands that arrived, in order.
    pub fn commands(&self) -> Vec<String> {
        self.shared.seen().commands.clone()
    }

    /// How many connections were made, refused ones included.
    pub fn connections(&self) -> usize {
        self.shared.seen().connections
    }

    /// How many logins succeeded.
    pub fn logins(&self) -> usize {
        self.shared.seen().logins
    }

    /// The deviations up to now, which are then forgiven.
    pub fn take_deviations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen().deviations)
    }

    /// Cuts all connections abruptly. New ones are accepted.
    pub fn cut_all(&self) {
        for socket in self.shared.seen().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FakeSsh {
    #[allow(clippy::panic, reason = "an unmet script fails the test")]
    fn drop(&mut self) {
        self.cut_all();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let deviations = self.take_deviations();
        if !deviations.is_empty() && !std::thread::panicking() {
            panic!("the scripted SSH server saw deviations:\n{}", deviations.join("\n"));
        }
    }
}
