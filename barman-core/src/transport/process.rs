//! A child process with its three streams, moved by one thread without ever blocking on one of them alone.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::ctx::{Cancel, Cancelled};

use super::{Exchange, ExitStatus};

/// How often a waiting process looks at the cancel flag, and whether its child is gone although someone else (such as
/// a persistent ssh master) still holds a stream open.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Bytes moved at once, and asked for as the capacity of a pipe.
const BUFFER: usize = 1 << 18;

/// What stopped a process that we ran.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It could not be started, or its streams not be moved.
    System(io::Error),
    /// [`Exchange::stdin`] failed.
    Giver(io::Error),
    /// [`Exchange::stdout`] or [`Exchange::stderr`] failed.
    Taker(io::Error),
    /// The flag was set; the process was killed.
    Cancelled(Cancelled),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

impl From<Cancelled> for Trouble {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled)
    }
}

/// A command that is running, here or elsewhere, with its three streams.
pub(super) trait Running: Send {
    /// Waits until something can be done, and says what. [`Step::Stdin`] only when `giving`.
    fn step(&mut self, buffer: &mut [u8], giving: bool) -> Result<Step, Trouble>;

    /// Writes what standard input takes now, possibly nothing. A command that no longer reads is no error: its status
    /// tells why.
    fn give(&mut self, bytes: &[u8]) -> Result<usize, Trouble>;

    /// Ends standard input.
    fn close_stdin(&mut self);
}

/// A child in a process group of its own. Dropping it kills the group and waits for the child.
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    ended: Option<ExitStatus>,
    cancel: Cancel,
}

/// What happened at the streams.
pub(super) enum Step {
    /// So many bytes of standard output lie in the buffer.
    Stdout(usize),
    /// So many bytes of standard error lie in the buffer.
    Stderr(usize),
    /// Standard input takes bytes.
    Stdin,
    /// Both outputs have ended, and so has the child.
    Ended(ExitStatus),
}

impl Process {
    pub(super) fn spawn(command: &mut Command, stdin: bool, cancel: &Cancel) -> Result<Self, Trouble> {
        cancel.check()?;
        let giver = if stdin { Stdio::piped() } else { Stdio::null() };
        command.stdin(giver).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A signal from the terminal is for this program, which then ends its children in order.
        let mut child = command.process_group(0).spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = Self { child, stdin, stdout, stderr, ended: None, cancel: cancel.clone() };
        for fd in [
            process.stdin.as_ref().map(AsFd::as_fd),
            process.stdout.as_ref().map(AsFd::as_fd),
            process.stderr.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
        {
            rustix::io::ioctl_fionbio(fd, true)?;
            // A larger pipe lets both sides work at once; where the limit of the user is reached the small one does.
            let _ = rustix::pipe::fcntl_setpipe_size(fd, BUFFER);
        }
        Ok(process)
    }

    fn ready(&self, giving: bool) -> Result<[bool; 3], Trouble> {
        let stdin = self.stdin.as_ref().filter(|_| giving).map(|f| (0, f.as_fd(), PollFlags::OUT));
        let stdout = self.stdout.as_ref().map(|f| (1, f.as_fd(), PollFlags::IN));
        let stderr = self.stderr.as_ref().map(|f| (2, f.as_fd(), PollFlags::IN));
        let (mut which, mut fds) = (Vec::with_capacity(3), Vec::with_capacity(3));
        for (index, fd, flags) in [stdin, stdout, stderr].into_iter().flatten() {
            which.push(index);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let mut ready = [false; 3];
        match poll(&mut fds, Some(&TICK)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(ready),
            Err(e) => return Err(e.into()),
        }
        for (index, fd) in which.into_iter().zip(&fds) {
            if let Some(flag) = ready.get_mut::<usize>(index) {
                *flag = !fd.revents().is_empty();
            }
        }
        Ok(ready)
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>, Trouble> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            let code = status.code().map(ExitStatus::Code);
            self.ended = code.or(status.signal().map(ExitStatus::Signal));
        }
        Ok(self.ended)
    }

    /// The outputs are closed and the child is about to end: there is nothing left to poll.
    fn wait_a_tick(&mut self) -> Result<(), Trouble> {
        let short = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        match poll(&mut [], Some(&short)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Running for Process {
    // Standard error goes first, so that words come before what they are about.
    fn step(&mut self, buffer: &mut [u8], giving: bool) -> Result<Step, Trouble> {
        loop {
            self.cancel.check()?;
            if self.stdout.is_none() && (self.stderr.is_none() || self.try_wait()?.is_some()) {
                if let Some(status) = self.try_wait()? {
                    return Ok(Step::Ended(status));
                }
                if !giving || self.stdin.is_none() {
                    self.wait_a_tick()?;
                    continue;
                }
            }
            let [stdin, stdout, stderr] = self.ready(giving)?;
            if stderr && let Some(n) = read_some(&mut self.stderr, buffer)? {
                return Ok(Step::Stderr(n));
            }
            if stdout && let Some(n) = read_some(&mut self.stdout, buffer)? {
                return Ok(Step::Stdout(n));
            }
            if stdin && self.stdin.is_some() {
                return Ok(Step::Stdin);
            }
        }
    }

    fn give(&mut self, bytes: &[u8]) -> Result<usize, Trouble> {
        let Some(stdin) = &mut self.stdin else { return Ok(bytes.len()) };
        match stdin.write(bytes) {
            Ok(n) => Ok(n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.stdin = None;
                Ok(bytes.len())
            }
            Err(e) => Err(e.into()),
        }
    }

    fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Gone already is as good.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// `None`: nothing now, or the stream just ended (and is closed).
fn read_some<R: Read>(stream: &mut Option<R>, buffer: &mut [u8]) -> Result<Option<usize>, Trouble> {
    let Some(reader) = stream else { return Ok(None) };
    match reader.read(buffer) {
        Ok(0) => {
            *stream = None;
            Ok(None)
        }
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Runs a command to its end with the streams of `io`.
pub(super) fn run(
    command: &mut Command,
    io: &mut dyn Exchange,
    cancel: &Cancel,
) -> Result<ExitStatus, Trouble> {
    pump(&mut Process::spawn(command, true, cancel)?, io)
}

/// Moves the streams of a running command to its end.
pub(super) fn pump(process: &mut dyn Running, io: &mut dyn Exchange) -> Result<ExitStatus, Trouble> {
    let mut buffer = vec![0; BUFFER];
    let mut out = vec![0; BUFFER];
    let (mut from, mut to) = (0, 0);
    loop {
        match process.step(&mut buffer, true)? {
            Step::Stdout(n) => io.stdout(buffer.get(..n).unwrap_or_default()).map_err(Trouble::Taker)?,
            Step::Stderr(n) => io.stderr(buffer.get(..n).unwrap_or_default()).map_err(Trouble::Taker)?,
            Step::Stdin => {
                if from == to {
                    (from, to) = (0, io.stdin(&mut out).map_err(Trouble::Giver)?);
                }
                if from == to {
                    process.close_stdin();
                } else {
                    from += process.give(out.get(from..to).unwrap_or_default())?;
                }
            }
            Step::Ended(status) => return Ok(status),
        }
    }
}
