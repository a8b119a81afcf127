//! [`SshProgramTransport`]: another host through the configured ssh command, whatever it is.

use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use camino::Utf8PathBuf;

use crate::ctx::Cancel;

use super::command::{self, marked_line};
use super::process::{Process, Running, Step, Trouble};
use super::remote::{self, Head, RemoteLane, RemoteShell, keep_tail, not_begun, one_line, protocol};
use super::ssh_control::{ControlMaster, Riding, Seat};
use super::{Exchange, ExitStatus, Lane, RemoteCommand, Transport, TransportError};

/// What ssh exits with when the failure is its own (ssh(1), EXIT STATUS). A remote command that exits so looks the same.
const SSH_FAILED: ExitStatus = ExitStatus::Code(255);

/// Options added unless the command sets them itself (for ssh the first value of an option holds): nothing is asked
/// on the terminal, a new host's key is accepted and a changed one refused, and a dead connection is noticed.
const OPTIONS: [(&str, &str); 5] = [
    ("BatchMode", "yes"),
    ("StrictHostKeyChecking", "accept-new"),
    ("ConnectTimeout", "30"),
    ("ServerAliveInterval", "20"),
    ("ServerAliveCountMax", "6"),
];

/// Another host, reached by running a program for each command.
///
/// The program gets, after the words of the configured command, `-o` options and one word that is the command line for
/// the login shell of the host. Its exit status 255 means that the connection failed.
///
/// With [`SshProgramTransport::sharing_in`] the commands of all lanes share one connection of OpenSSH, one command at a time;
/// those that run at the same time make connections of their own.
#[derive(Clone)]
pub struct SshProgramTransport {
    words: Vec<String>,
    target: String,
    cancel: Cancel,
    /// Where the socket of a shared connection may lie.
    runtime: Option<Utf8PathBuf>,
    /// Known once a connection has succeeded.
    line: Arc<OnceLock<Line>>,
    /// Held by the lane that tries the first one.
    trying: Arc<Mutex<()>>,
}

/// What is known of the connection. Only the first lane tries one for its own sake.
enum Line {
    /// A login has succeeded; every command makes a connection.
    Proven,
    Shared(Arc<ControlMaster>),
}

impl std::fmt::Debug for SshProgramTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshProgramTransport").field("words", &self.words).finish_non_exhaustive()
    }
}

impl SshProgramTransport {
    /// From the configured `ssh_command`, split as a shell splits it. Setting `cancel` ends every running program.
    ///
    /// # Errors
    /// [`TransportError::Unsupported`] when the command has an open quote or is empty.
    pub fn new(ssh_command: &str, cancel: Cancel) -> Result<Self, TransportError> {
        let mut words = command::split(ssh_command).map_err(|error| TransportError::Unsupported {
            target: ssh_command.to_owned(),
            reason: format!("the ssh command cannot be read: {error}"),
        })?;
        words.extend(added_options(&words));
        let target = ssh_command.trim().to_owned();
        Ok(Self { words, target, cancel, runtime: None, line: Arc::default(), trying: Arc::default() })
    }

    /// Lets all commands share one connection, whose socket is made in a private directory below this one. Where the program is
    /// not OpenSSH's `ssh`, the command has options about sharing itself, or no socket can be made, nothing changes.
    #[must_use]
    pub fn sharing_in(mut self, runtime: Option<Utf8PathBuf>) -> Self {
        self.runtime = runtime.filter(|_| ControlMaster::fits(&self.words));
        self
    }

    /// The program that is run.
    pub fn program(&self) -> &str {
        self.words.first().map(String::as_str).unwrap_or_default()
    }

    /// The lowest-level form, for callers that run one command only: no connection is tried in advance.
    fn shell(&self) -> SshProgramShell {
        SshProgramShell { transport: self.clone() }
    }
}

fn added_options(words: &[String]) -> Vec<String> {
    let set = |name: &str| {
        let name = name.to_ascii_lowercase();
        let is_set = |word: &str| {
            let word = word.trim_start().to_ascii_lowercase();
            word.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['=', ' ', '\t']))
        };
        words.iter().enumerate().any(|(at, word)| match word.strip_prefix("-o") {
            Some("") => words.get(at + 1).is_some_and(|next| is_set(next)),
            Some(rest) => is_set(rest),
            None => false,
        })
    };
    let missing = OPTIONS.iter().filter(|(name, _)| !set(name));
    missing.flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect()
}

impl Transport for SshProgramTransport {
    fn target(&self) -> &str {
        &self.target
    }

    fn is_local(&self) -> bool {
        false
    }

    fn lane(&self) -> Result<Box<dyn Lane>, TransportError> {
        self.cancel.check()?;
        let shell = self.shell();
        let trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.line.get().is_none() {
            let line = match shell.open_shared()? {
                Some(master) => Line::Shared(Arc::new(master)),
                None => shell.prove()?,
            };
            // Nobody else sets it while this one is trying.
            let _ = self.line.set(line);
        }
        drop(trying);
        Ok(Box::new(RemoteLane::new(shell)))
    }
}

/// An exchange of a command that neither takes nor gives anything.
pub(super) struct Quiet;

impl Exchange for Quiet {
    fn stdin(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
    fn stdout(&mut self, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn stderr(&mut self, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct SshProgramShell {
    transport: SshProgramTransport,
}

impl SshProgramShell {
    fn command(&self, command: &RemoteCommand, seat: Option<&Seat>) -> Command {
        let mut child = Command::new(self.transport.program());
        child.args(self.transport.words.get(1..).unwrap_or_default());
        if let Some(seat) = seat {
            child.args(seat.options());
        }
        child.arg(marked_line(command));
        child
    }

    /// A login that does nothing.
    fn prove(&self) -> Result<Line, TransportError> {
        let status = remote::run(&mut self.clone(), &RemoteCommand::program(["true"]), &mut Quiet)?;
        if status.success() {
            return Ok(Line::Proven);
        }
        let reason = format!("`true` ended with {status:?}");
        Err(protocol(&self.transport.target, "trying the connection", reason))
    }

    /// Opens the connection to be shared. `None` when there shall be none, or when ssh could not share it.
    fn open_shared(&self) -> Result<Option<ControlMaster>, TransportError> {
        let transport = &self.transport;
        let Some((dir, socket)) = transport.runtime.as_deref().and_then(ControlMaster::place) else {
            return Ok(None);
        };
        let (mut head, mut words) = (Head::default(), Vec::new());
        let failed = |trouble, head: &Head| self.trouble(trouble, head, OPENING);
        let mut command = ControlMaster::command(&transport.words, &socket);
        let mut process =
            Process::spawn(&mut command, true, &transport.cancel).map_err(|t| failed(t, &head))?;
        let mut buffer = vec![0; 4096];
        loop {
            match process.step(&mut buffer, false).map_err(|trouble| failed(trouble, &head))? {
                Step::Stdin => {}
                Step::Stderr(n) => keep_tail(&mut words, buffer.get(..n).unwrap_or_default()),
                Step::Stdout(n) => {
                    let stripped = head.strip(buffer.get(..n).unwrap_or_default());
                    if stripped.is_err() {
                        return Err(head.noise(&transport.target));
                    }
                    if head.begun() {
                        return Ok(Some(ControlMaster::new(process, dir, socket)));
                    }
                }
                Step::Ended(_) if ControlMaster::is_about_sharing(&words) => return Ok(None),
                Step::Ended(status) => {
                    self.judge(status, &head, &words, OPENING)?;
                    return Ok(None);
                }
            }
        }
    }

    /// A seat on the shared connection, if there is one and it is free.
    fn seat(&self) -> Option<Seat> {
        match self.transport.line.get()? {
            Line::Shared(master) => master.seat(),
            Line::Proven => None,
        }
    }
}

/// What is going on when the shared connection cannot be opened.
const OPENING: &str = "trying the connection";

/// Tells failures of ssh apart by its words, which are not translated.
fn connection_error(target: &str, begun: bool, words: &[u8], doing: &str) -> TransportError {
    let target = target.to_owned();
    let reason = one_line(words);
    let says = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
    if says(&[
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "Host key verification failed",
        "host key is known for",
    ]) {
        let text = String::from_utf8_lossy(words);
        let telling =
            ["Offending", "fingerprint", "SHA256:", "has changed", "verification failed", "key is known"];
        let lines = text.lines().map(str::trim).filter(|line| telling.iter().any(|t| line.contains(t)));
        return TransportError::HostKey { target, reason: lines.collect::<Vec<_>>().join("; ") };
    }
    if begun {
        let reason = if reason.is_empty() { "ssh gave no reason".into() } else { reason };
        return TransportError::Lost { target, doing: doing.into(), reason };
    }
    if says(&["Permission denied", "Too many authentication failures", "No supported authentication methods"])
    {
        return TransportError::Denied { target, reason };
    }
    let reason = if reason.is_empty() { "ssh gave no reason".into() } else { reason };
    TransportError::Unreachable { target, reason }
}

impl RemoteShell for SshProgramShell {
    fn target(&self) -> &str {
        &self.transport.target
    }

    fn start(&mut self, command: &RemoteCommand, giving: bool) -> Result<Box<dyn Running>, TransportError> {
        let seat = self.seat();
        let mut command = self.command(command, seat.as_ref());
        let started = Process::spawn(&mut command, giving, &self.transport.cancel);
        let process = started.map_err(|trouble| self.trouble(trouble, &Head::default(), ""))?;
        Ok(match seat {
            Some(seat) => Box::new(Riding { process, _seat: seat }),
            None => Box::new(process),
        })
    }

    fn trouble(&self, trouble: Trouble, _head: &Head, _doing: &str) -> TransportError {
        let target = self.transport.target.clone();
        match trouble {
            Trouble::System(e) if e.kind() == io::ErrorKind::NotFound => {
                let reason = format!("the program {:?} is not installed", self.transport.program());
                TransportError::Unsupported { target, reason }
            }
            Trouble::System(e) => {
                TransportError::Unreachable { target, reason: format!("{}: {e}", self.transport.program()) }
            }
            Trouble::Giver(source) => TransportError::Source { target, source },
            Trouble::Taker(source) => TransportError::Sink { target, source },
            Trouble::Cancelled(cancelled) => cancelled.into(),
        }
    }

    fn judge(
        &self,
        status: ExitStatus,
        head: &Head,
        words: &[u8],
        doing: &str,
    ) -> Result<ExitStatus, TransportError> {
        let target = &self.transport.target;
        let ssh_failed = status == SSH_FAILED || matches!(status, ExitStatus::Signal(_));
        match (head.begun(), ssh_failed) {
            (true, false) => Ok(status),
            (begun, true) => Err(connection_error(target, begun, words, doing)),
            (false, false) => Err(not_begun(target, status, head, words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_command_win() {
        for (line, added) in [
            ("ssh a@b", 5),
            ("ssh -o BatchMode=no a@b", 4),
            ("ssh -oStrictHostKeyChecking=no -o 'connecttimeout 3' a@b", 3),
            ("ssh -o BatchModeX=no a@b", 5),
        ] {
            let transport = SshProgramTransport::new(line, Cancel::new()).unwrap();
            let words = command::split(line).unwrap().len();
            assert_eq!((transport.words.len() - words) / 2, added, "{line}");
        }
        assert!(SshProgramTransport::new("ssh 'a", Cancel::new()).is_err());
    }

    #[test]
    fn failures_of_ssh_are_told_apart() {
        let kind = |begun, words: &str| match connection_error("h", begun, words.as_bytes(), "x") {
            TransportError::HostKey { .. } => "key",
            TransportError::Denied { .. } => "denied",
            TransportError::Lost { .. } => "lost",
            TransportError::Unreachable { .. } => "unreachable",
            _ => "other",
        };
        for (begun, words, expected) in [
            (false, "ssh: connect to host h port 22: Connection refused", "unreachable"),
            (false, "ssh: Could not resolve hostname h: Name or service not known", "unreachable"),
            (false, "u@h: Permission denied (publickey).", "denied"),
            (false, "Host key verification failed.", "key"),
            (true, "Connection to h closed by remote host.", "lost"),
            (true, "", "lost"),
            (false, "", "unreachable"),
        ] {
            assert_eq!(kind(begun, words), expected, "{words}");
        }
    }
}
