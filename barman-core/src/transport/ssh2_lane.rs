//! [`Ssh2Transport`]: another host through libssh2, for what it can honour, where there is no `ssh` program.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};

use crate::ctx::Cancel;

use super::process::{Running, Step, Trouble};
use super::remote::{Head, RemoteLane, RemoteShell, not_begun};
use super::ssh2_login::{self, SshEnvironment};
use super::{ExitStatus, Lane, RemoteCommand, SshTarget, Transport, TransportError, command};

/// How often a waiting lane looks at the cancel flag and lets libssh2 send its keepalives.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Another host, reached by libssh2: one session a lane, one channel a command.
#[derive(Debug, Clone)]
pub struct Ssh2Transport {
    target: SshTarget,
    environment: Arc<SshEnvironment>,
    name: String,
    cancel: Cancel,
}

impl Ssh2Transport {
    /// For a target that was read from an `ssh_command`. Setting `cancel` stops every operation of every lane.
    pub fn new(target: SshTarget, environment: SshEnvironment, cancel: Cancel) -> Self {
        let user = target.user.as_deref().or(environment.user.as_deref()).unwrap_or_default();
        let name = format!("{user}@{}:{}", target.host, target.port);
        Self { target, environment: Arc::new(environment), name, cancel }
    }
}

impl Transport for Ssh2Transport {
    fn target(&self) -> &str {
        &self.name
    }

    fn is_local(&self) -> bool {
        false
    }

    fn lane(&self) -> Result<Box<dyn Lane>, TransportError> {
        self.cancel.check()?;
        let (session, stream) = ssh2_login::connect(&self.name, &self.target, &self.environment)?;
        session.set_keepalive(true, u32::try_from(self.target.alive_interval.as_secs()).unwrap_or(20));
        session.set_blocking(false);
        let shell = Ssh2Shell {
            session,
            stream: Arc::new(stream),
            name: self.name.clone(),
            cancel: self.cancel.clone(),
        };
        Ok(Box::new(RemoteLane::new(shell)))
    }
}

struct Ssh2Shell {
    session: Session,
    /// The socket under the session, to wait on.
    stream: Arc<TcpStream>,
    name: String,
    cancel: Cancel,
}

impl RemoteShell for Ssh2Shell {
    fn target(&self) -> &str {
        &self.name
    }

    fn start(&mut self, command: &RemoteCommand, giving: bool) -> Result<Box<dyn Running>, TransportError> {
        let doing = "starting a command";
        let wire = Wire {
            session: self.session.clone(),
            stream: Arc::clone(&self.stream),
            cancel: self.cancel.clone(),
        };
        let started = wire.until_done(|| self.session.channel_session()).and_then(|mut channel| {
            let line = command::marked_line(command);
            wire.until_done(|| channel.exec(&line))?;
            Ok(channel)
        });
        let channel = started.map_err(|trouble| self.trouble(trouble, &Head::default(), doing))?;
        let mut running = RemoteProcess { wire, channel, open: true, stuck: None, full: false };
        if !giving {
            running.close_stdin();
        }
        Ok(Box::new(running))
    }

    fn trouble(&self, trouble: Trouble, _head: &Head, doing: &str) -> TransportError {
        let target = self.name.clone();
        match trouble {
            Trouble::System(e) => TransportError::Lost { target, doing: doing.into(), reason: e.to_string() },
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
        _doing: &str,
    ) -> Result<ExitStatus, TransportError> {
        if head.begun() { Ok(status) } else { Err(not_begun(&self.name, status, head, words)) }
    }
}

/// A session that does not block, and the socket to wait on.
struct Wire {
    session: Session,
    stream: Arc<TcpStream>,
    cancel: Cancel,
}

impl Wire {
    /// Waits until the socket is ready for what libssh2 wants next, for a tick at most.
    fn wait(&self) -> Result<(), Trouble> {
        self.cancel.check()?;
        // Sends nothing unless the interval of silence has passed.
        match self.session.keepalive_send() {
            Err(e) if !would_block(&e) => return Err(Trouble::System(e.into())),
            _ => {}
        }
        let flags = match self.session.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        match poll(&mut [PollFd::from_borrowed_fd(self.stream.as_fd(), flags)], Some(&TICK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn until_done<T>(&self, mut action: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Trouble> {
        loop {
            match action() {
                Ok(done) => return Ok(done),
                Err(e) if would_block(&e) => self.wait()?,
                Err(e) => return Err(Trouble::System(e.into())),
            }
        }
    }

    /// Whether a packet is only half sent: libssh2 then must be called again for the same purpose before any other.
    fn half_sent(&self) -> bool {
        matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }
}

fn would_block(error: &ssh2::Error) -> bool {
    // LIBSSH2_ERROR_EAGAIN
    error.code() == ssh2::ErrorCode::Session(-37)
}

/// What must be called again before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stuck {
    Stdout,
    Stderr,
    Stdin,
}

/// A command running in a channel.
struct RemoteProcess {
    wire: Wire,
    channel: Channel,
    /// Whether standard input is open.
    open: bool,
    stuck: Option<Stuck>,
    /// The far side took nothing the last time.
    full: bool,
}

impl RemoteProcess {
    /// `None` when there is nothing now.
    fn receive(&mut self, which: Stuck, buffer: &mut [u8]) -> Result<Option<usize>, Trouble> {
        let read = match which {
            Stuck::Stderr => self.channel.stderr().read(buffer),
            _ => self.channel.read(buffer),
        };
        match read {
            Ok(0) => Ok(None),
            Ok(n) => Ok(Some(n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.stuck = self.wire.half_sent().then_some(which);
                Ok(None)
            }
            Err(e) => Err(Trouble::System(e)),
        }
    }

    fn finish(&mut self) -> Result<ExitStatus, Trouble> {
        let (wire, channel) = (&self.wire, &mut self.channel);
        wire.until_done(|| channel.close())?;
        wire.until_done(|| channel.wait_close())?;
        let signal = wire.until_done(|| channel.exit_signal())?;
        if let Some(name) = signal.exit_signal {
            return Ok(ExitStatus::Signal(signal_number(&name)));
        }
        Ok(ExitStatus::Code(wire.until_done(|| channel.exit_status())?))
    }
}

/// The number of a signal by its name in RFC 4254 6.10; 0 for those that have none there.
fn signal_number(name: &str) -> i32 {
    let names = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("ABRT", 6),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
    ];
    names.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| *number)
}

impl Running for RemoteProcess {
    fn step(&mut self, buffer: &mut [u8], giving: bool) -> Result<Step, Trouble> {
        loop {
            self.wire.cancel.check()?;
            if self.stuck == Some(Stuck::Stdin) {
                self.wire.wait()?;
                return Ok(Step::Stdin);
            }
            let stuck = self.stuck.take();
            if stuck != Some(Stuck::Stdout)
                && let Some(n) = self.receive(Stuck::Stderr, buffer)?
            {
                return Ok(Step::Stderr(n));
            }
            if self.stuck.is_none()
                && let Some(n) = self.receive(Stuck::Stdout, buffer)?
            {
                return Ok(Step::Stdout(n));
            }
            if self.stuck.is_none() {
                if self.channel.eof() {
                    return Ok(Step::Ended(self.finish()?));
                }
                if giving && self.open && !self.full {
                    return Ok(Step::Stdin);
                }
            }
            self.wire.wait()?;
            self.full = false;
        }
    }

    fn give(&mut self, bytes: &[u8]) -> Result<usize, Trouble> {
        if !self.open {
            return Ok(bytes.len());
        }
        match self.channel.write(bytes) {
            Ok(n) => {
                self.stuck = None;
                self.full = n == 0;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.stuck = self.wire.half_sent().then_some(Stuck::Stdin);
                self.full = true;
                Ok(0)
            }
            // The command ended without reading everything, which its status tells about; a broken connection shows
            // itself at the next read.
            Err(_) => {
                self.stuck = None;
                self.open = false;
                Ok(bytes.len())
            }
        }
    }

    fn close_stdin(&mut self) {
        if std::mem::take(&mut self.open) {
            // A broken connection shows itself at the next read.
            let channel = &mut self.channel;
            let _ = self.wire.until_done(|| channel.send_eof());
        }
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        // The lane can be used again only when the channel is closed; a server that does not answer has a second.
        self.wire.session.set_timeout(1000);
        self.wire.session.set_blocking(true);
        let _ = self.channel.close();
        self.wire.session.set_blocking(false);
        self.wire.session.set_timeout(0);
    }
}
