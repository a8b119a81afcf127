//! Custom filters: any pair of shell commands from standard input to standard output.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::{Algorithm, CodecError, Compressor, FrameEncoder};

/// The configured commands, each run as `sh -c COMMAND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomFilters {
    /// `custom_compression_filter`
    pub compress: String,
    /// `custom_decompression_filter`
    pub decompress: String,
}

pub(super) struct Custom {
    filters: CustomFilters,
}

impl Custom {
    pub(super) fn new(filters: CustomFilters) -> Self {
        Self { filters }
    }
}

impl Compressor for Custom {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Custom
    }

    fn concatenable(&self) -> bool {
        false
    }

    fn encoder(&self) -> Box<dyn FrameEncoder> {
        Box::new(Encoder { command: self.filters.compress.clone() })
    }

    fn encode_stream<'a>(
        &self,
        plain: Box<dyn BufRead + Send + 'a>,
    ) -> Option<Result<Box<dyn Read + Send + 'a>, CodecError>> {
        let filter = FilterReader::start(&self.filters.compress, plain);
        Some(filter.map(|filter| Box::new(filter) as Box<dyn Read + Send + 'a>))
    }

    fn decoder<'a>(
        &self,
        packed: Box<dyn BufRead + Send + 'a>,
    ) -> Result<Box<dyn Read + Send + 'a>, CodecError> {
        Ok(Box::new(FilterReader::start(&self.filters.decompress, packed)?))
    }
}

struct Encoder {
    command: String,
}

impl FrameEncoder for Encoder {
    fn encode(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<(), CodecError> {
        frame.clear();
        let mut filter = FilterReader::start(&self.command, Box::new(plain))?;
        match filter.read_to_end(frame) {
            Ok(_) => Ok(()),
            Err(e) => {
                Err(e.downcast().unwrap_or_else(|source| CodecError::encode(Algorithm::Custom, source)))
            }
        }
    }
}

/// How much of a filter's standard error is kept for the message.
const STDERR_KEPT: usize = 2048;

/// The output of a shell command that is fed from a reader while its output is read, in one thread. The end of the output is
/// success only if the command exits with status 0. Dropped early, it kills the command; it never leaves a zombie.
pub struct FilterReader<'a> {
    command: String,
    pub(super) child: Child,
    /// None when all was written, or the command no longer reads.
    stdin: Option<ChildStdin>,
    input: Box<dyn BufRead + Send + 'a>,
    stderr: Vec<u8>,
    stderr_open: bool,
    /// What the command came to; set once.
    ended: Option<io::Result<()>>,
}

fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

impl<'a> FilterReader<'a> {
    /// Starts `sh -c command`.
    pub fn start(command: &str, input: Box<dyn BufRead + Send + 'a>) -> Result<Self, CodecError> {
        let failed = |source| CodecError::Start { command: command.to_owned(), source };
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let filter = Self {
            command: command.to_owned(),
            child,
            stdin,
            input,
            stderr: Vec::new(),
            stderr_open: true,
            ended: None,
        };
        filter.unblock().map_err(failed)?;
        Ok(filter)
    }

    /// Only what is written to and what is drained on the side; the output is read when it is ready.
    fn unblock(&self) -> io::Result<()> {
        self.stdin.as_ref().map_or(Ok(()), nonblocking)?;
        self.child.stderr.as_ref().map_or(Ok(()), nonblocking)
    }

    /// Waits until one of the pipes can go on; says whether there is output (or its end) to read.
    fn wait_ready(&mut self) -> io::Result<bool> {
        let (write, out, err) = {
            let mut fds = Vec::with_capacity(3);
            let (Some(stdout), Some(stderr)) = (&self.child.stdout, &self.child.stderr) else {
                return Ok(true);
            };
            fds.push(PollFd::new(stdout, PollFlags::IN));
            if self.stderr_open {
                fds.push(PollFd::new(stderr, PollFlags::IN));
            }
            if let Some(stdin) = &self.stdin {
                fds.push(PollFd::new(stdin, PollFlags::OUT));
            }
            loop {
                match poll(&mut fds, None) {
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                    Ok(_) => break,
                }
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let err = self.stderr_open && ready.get(1).copied().unwrap_or(false);
            let write = self.stdin.is_some() && ready.last().copied().unwrap_or(false);
            (write, ready.first().copied().unwrap_or(false), err)
        };
        if err {
            self.drain_stderr()?;
        }
        if write {
            self.feed()?;
        }
        Ok(out)
    }

    fn drain_stderr(&mut self) -> io::Result<()> {
        let Some(stderr) = &mut self.child.stderr else { return Ok(()) };
        let mut buf = [0; 1024];
        loop {
            match stderr.read(&mut buf) {
                Ok(0) => {
                    self.stderr_open = false;
                    return Ok(());
                }
                Ok(n) => {
                    let room = STDERR_KEPT.saturating_sub(self.stderr.len());
                    self.stderr.extend_from_slice(&buf[..n.min(room)]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    fn feed(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let bytes = match self.input.fill_buf() {
            // The pipe is still ready: it will be tried again.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        };
        if bytes.is_empty() {
            self.stdin = None;
            return Ok(());
        }
        match stdin.write(bytes) {
            Ok(n) => self.input.consume(n),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // The command reads no more. That is its right (`head`); its exit status tells whether it was an accident.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// After the end of the output.
    fn reap(&mut self) -> io::Result<()> {
        self.stdin = None;
        let status = self.child.wait()?;
        // Not to the end: a grandchild that lives on may hold it open.
        self.drain_stderr()?;
        if status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&self.stderr).trim().to_owned();
        let command = self.command.clone();
        Err(io::Error::new(io::ErrorKind::InvalidData, CodecError::Filter { command, status, stderr }))
    }
}

impl Read for FilterReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        match &self.ended {
            Some(Ok(())) => return Ok(0),
            Some(Err(_)) => return Err(io::Error::other("read again after an error")),
            None => {}
        }
        let result = self.next_output(buf);
        if let Err(e) = &result {
            self.ended = Some(Err(e.kind().into()));
        }
        result
    }
}

impl FilterReader<'_> {
    fn next_output(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !self.wait_ready()? {}
        let n = match &mut self.child.stdout {
            Some(stdout) => loop {
                match stdout.read(buf) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            },
            None => 0,
        };
        if n == 0 {
            self.reap()?;
            self.ended = Some(Ok(()));
        }
        Ok(n)
    }
}

impl Drop for FilterReader<'_> {
    fn drop(&mut self) {
        self.stdin = None;
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
