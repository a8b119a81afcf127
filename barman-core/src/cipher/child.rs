//! [`Exchange`]: a program that is fed and read in one thread, and that does not outlive who feeds it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::ctx::{Cancel, Cancelled};

/// How often the flag is looked at while nothing moves.
const WATCH: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How much of the end of its standard error is kept.
const STDERR_KEPT: usize = 16 << 10;

/// A program at work.
pub(super) struct Exchange {
    child: Child,
    stdin: Option<ChildStdin>,
    stderr: Vec<u8>,
    stderr_open: bool,
    /// It stopped reading before all was written.
    refused: bool,
    cancel: Cancel,
}

/// What moved.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Moved {
    /// Bytes that it took.
    pub(super) taken: usize,
    /// Bytes that it gave; `Some(0)` is the end of its output.
    pub(super) given: Option<usize>,
}

fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl Exchange {
    pub(super) fn start(command: &mut Command, cancel: Cancel) -> io::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let new = Self { child, stdin, stderr: Vec::new(), stderr_open: true, refused: false, cancel };
        new.stdin.as_ref().map_or(Ok(()), nonblocking)?;
        new.child.stdout.as_ref().map_or(Ok(()), nonblocking)?;
        new.child.stderr.as_ref().map_or(Ok(()), nonblocking)?;
        Ok(new)
    }

    /// No more input comes.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    /// Whether it stopped reading before all was written.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Waits until some of `input` was taken or some of the output was given.
    ///
    /// # Errors
    /// Cancellation, which it carries.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Moved> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other(Cancelled));
            }
            let (write, out, err) = self.ready(!input.is_empty())?;
            if err {
                self.drain_stderr()?;
            }
            let mut moved = Moved::default();
            if write && let Some(stdin) = &mut self.stdin {
                match stdin.write(input) {
                    Ok(n) => moved.taken = n,
                    Err(e) if is_later(&e) => {}
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                        self.refused = true;
                        self.stdin = None;
                    }
                    Err(e) => return Err(e),
                }
            }
            if out && let Some(stdout) = &mut self.child.stdout {
                match stdout.read(output) {
                    Ok(n) => moved.given = Some(n),
                    Err(e) if is_later(&e) => {}
                    Err(e) => return Err(e),
                }
            }
            if moved.taken > 0 || moved.given.is_some() || self.refused && !input.is_empty() {
                return Ok(moved);
            }
        }
    }

    /// Which of its pipes can go on: the input, the output, its standard error.
    fn ready(&self, has_input: bool) -> io::Result<(bool, bool, bool)> {
        let (Some(stdout), Some(stderr)) = (&self.child.stdout, &self.child.stderr) else {
            return Err(io::Error::other("a program was started without pipes; this is a bug"));
        };
        let stdin = self.stdin.as_ref().filter(|_| has_input);
        let mut fds = vec![PollFd::new(stdout, PollFlags::IN)];
        if self.stderr_open {
            fds.push(PollFd::new(stderr, PollFlags::IN));
        }
        if let Some(stdin) = stdin {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }
        match poll(&mut fds, Some(&WATCH)) {
            Err(Errno::INTR) => return Ok((false, false, false)),
            other => other?,
        };
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let write = stdin.is_some() && is_ready(fds.len() - 1);
        Ok((write, is_ready(0), self.stderr_open && is_ready(1)))
    }

    fn drain_stderr(&mut self) -> io::Result<()> {
        let Some(stderr) = &mut self.child.stderr else { return Ok(()) };
        let mut piece = [0; 1024];
        loop {
            match stderr.read(&mut piece) {
                Ok(0) => {
                    self.stderr_open = false;
                    return Ok(());
                }
                Ok(n) => {
                    self.stderr.extend_from_slice(piece.get(..n).unwrap_or_default());
                    let surplus = self.stderr.len().saturating_sub(STDERR_KEPT);
                    self.stderr.drain(..surplus);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// After the end of its output: how it ended, and the end of its standard error.
    pub(super) fn end(&mut self) -> io::Result<(ExitStatus, String)> {
        self.stdin = None;
        let status = self.child.wait()?;
        // Not to the end: what it left running may hold it open.
        self.drain_stderr()?;
        Ok((status, String::from_utf8_lossy(&self.stderr).into_owned()))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stdin = None;
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
