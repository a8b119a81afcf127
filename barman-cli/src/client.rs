//! What `barman-wal-archive` and `barman-wal-restore` have in common: a `barman` on another host, over ssh, one login a call.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::process::{Command, Stdio};

use barman_core::transport::quote;
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};

/// What `--version` prints after the name: the version of Barman that the command is compatible with comes first.
pub(crate) const VERSION: &str =
    concat!("3.19.1 Barman-compatible, by barman-rs ", env!("CARGO_PKG_VERSION"));
/// What ssh exits with when the failure is its own (ssh(1), EXIT STATUS).
pub(crate) const SSH_FAILED: i32 = 255;

/// Where the other `barman` is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Remote {
    /// The user that Barman runs as on its host.
    #[arg(short = 'U', long, default_value = "barman", value_name = "USER")]
    pub(crate) user: String,
    /// The port of the ssh server of that host.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Barman's configuration file on that host.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<String>,
    /// The host that Barman runs on.
    #[arg(value_name = "BARMAN_HOST")]
    pub(crate) host: String,
    /// The name of this server in Barman's configuration.
    #[arg(value_name = "SERVER_NAME")]
    pub(crate) server: String,
    /// Further options of ssh, for a connection that is shared.
    #[arg(skip)]
    pub(crate) sharing: Vec<String>,
}

impl Remote {
    /// The command that runs `barman WORDS` there. Its standard output and error are this process's unless changed.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut line = vec!["barman".to_owned()];
        line.extend(self.config.as_ref().map(|config| format!("--config={}", quote(config))));
        line.extend(words.iter().map(|word| quote(word).to_string()));
        self.shell(&line.join(" "))
    }

    /// The command that runs a line of its shell there.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut ssh = Command::new("ssh");
        if let Some(port) = self.port {
            ssh.args(["-p", &port.to_string()]);
        }
        // Nobody is there to answer a question. Everything else is as the user's ssh_config has it, host keys above all.
        ssh.args(["-q", "-T", "-o", "BatchMode=yes"]);
        ssh.args(&self.sharing).arg("--").arg(format!("{}@{}", self.user, self.host)).arg(line);
        ssh.stdin(Stdio::null());
        ssh
    }
}

/// A directory of ours alone under a shared one, apart for what `parts` and the port say. It is made when it is not there.
///
/// # Errors
/// When it cannot be made, or when somebody else could have put something into it: then nothing in it may be believed.
pub(crate) fn private_directory(
    base: &Utf8Path,
    parts: &[&str],
    port: Option<u16>,
) -> io::Result<Utf8PathBuf> {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.update(port.unwrap_or(22).to_be_bytes());
    let name: String = digest.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    // Barman's own clients keep their files in the shared directory itself.
    let dir = base.join(format!("native-{name}"));
    DirBuilder::new().recursive(true).mode(0o755).create(base)?;
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let own = rustix::process::geteuid().as_raw();
    let refused = |path: &Utf8Path| {
        let text = format!("{path} belongs to somebody else, or others may write there");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    // Whoever has the directory above could put another one in the place of ours; in a sticky one nobody can.
    // A link of somebody else's could be turned round later.
    let named = fs::symlink_metadata(base)?.uid();
    let above = fs::metadata(base)?;
    let shared = above.mode() & 0o022 != 0 && above.mode() & 0o1000 == 0;
    let trusted = |uid: u32| uid == 0 || uid == own;
    if shared || !trusted(above.uid()) || !trusted(named) {
        return refused(base);
    }
    let found = fs::symlink_metadata(&dir)?;
    if found.is_dir() && found.uid() == own && found.mode() & 0o022 == 0 { Ok(dir) } else { refused(&dir) }
}

/// Prints an error and gives the exit status.
pub(crate) fn fail(text: &str, status: u8) -> u8 {
    // A reader that went away does not change what happened.
    let _ = writeln!(io::stderr(), "ERROR: {text}");
    status
}

/// The status of a command that ended; 255 also for one that a signal ended, since nobody knows how far it came.
pub(crate) fn status_of(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or(SSH_FAILED)
}

/// Runs `barman WORDS --test` on the other side, prints what it says and gives its status.
pub(crate) fn test(remote: &Remote, words: &[&str]) -> u8 {
    match remote.command(words).status() {
        Err(error) => fail(&format!("The connection over ssh could not be started: {error}"), 2),
        Ok(status) => {
            let _ = writeln!(io::stdout());
            u8::try_from(status_of(status)).unwrap_or(2)
        }
    }
}
