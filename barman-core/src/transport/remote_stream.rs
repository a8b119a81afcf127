//! The standard output of a command on a host, as a [`Read`].

use std::io::{self, Read};

use camino::{Utf8Path, Utf8PathBuf};

use super::process::{Running, Step};
use super::remote::{Head, RemoteShell, file_error, keep_tail};
use super::{RemoteCommand, TransportError};

const DOING: &str = "reading a file";

/// A file being printed by a command of the host. Dropping it ends the command.
pub(super) struct CommandStream<'a, S> {
    shell: &'a mut S,
    running: Box<dyn Running>,
    path: Utf8PathBuf,
    head: Head,
    words: Vec<u8>,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    ended: bool,
}

impl<'a, S: RemoteShell> CommandStream<'a, S> {
    /// Starts the command and waits for its first bytes: a file that cannot be opened is an error here.
    pub(super) fn start(
        shell: &'a mut S,
        command: &RemoteCommand,
        path: &Utf8Path,
    ) -> Result<Box<dyn Read + Send + 'a>, TransportError> {
        let running = shell.start(command, false)?;
        let mut stream = Self {
            shell,
            running,
            path: path.to_owned(),
            head: Head::default(),
            words: Vec::new(),
            buffer: vec![0; 1 << 16],
            at: 0,
            filled: 0,
            ended: false,
        };
        stream.refill()?;
        Ok(Box::new(stream))
    }

    /// Waits for the next bytes, or for the end.
    fn refill(&mut self) -> Result<(), TransportError> {
        while self.at == self.filled && !self.ended {
            let step = self.running.step(&mut self.buffer, false);
            match step.map_err(|trouble| self.shell.trouble(trouble, &self.head, DOING))? {
                Step::Stderr(n) => keep_tail(&mut self.words, self.buffer.get(..n).unwrap_or_default()),
                Step::Stdout(n) => {
                    let data = self.buffer.get(..n).unwrap_or_default();
                    let stripped = self.head.strip(data).map(<[u8]>::len);
                    let rest = stripped.map_err(|()| self.head.noise(self.shell.target()))?;
                    (self.at, self.filled) = (n - rest, n);
                }
                Step::Stdin => {}
                Step::Ended(status) => {
                    self.ended = true;
                    let status = self.shell.judge(status, &self.head, &self.words, DOING)?;
                    if !status.success() || self.said_by_a_tool() {
                        return Err(file_error(self.shell.target(), "read", &self.path, &self.words));
                    }
                }
            }
        }
        Ok(())
    }

    /// Of a pipe only the last status is known, so words of the first program count too.
    fn said_by_a_tool(&self) -> bool {
        let text = String::from_utf8_lossy(&self.words);
        text.lines()
            .any(|line| ["tail: ", "head: ", "cat: ", "sh: "].iter().any(|tool| line.starts_with(tool)))
    }
}

impl<S: RemoteShell> Read for CommandStream<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.refill().map_err(io::Error::other)?;
        let from = self.buffer.get(self.at..self.filled).unwrap_or_default();
        let n = from.len().min(out.len());
        if let (Some(from), Some(to)) = (from.get(..n), out.get_mut(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        Ok(n)
    }
}
