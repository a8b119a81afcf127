//! [`RemoteLane`]: a lane made of nothing but commands run in a shell of the host. How a command gets there is the
//! business of a [`RemoteShell`]; what is run, and what its output means, is the same for all of them.

use std::io::{self, Read};
use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use crate::model::Entry;

use super::command::{MARKER, sh};
use super::process::{self, Running, Trouble};
use super::remote_stream::CommandStream;
use super::{
    Exchange, ExitStatus, FetchItem, FetchSink, FileOp, Lane, Probe, RemoteCommand, StoreItem, StoreReport,
    Surveyed, TransportError, quote, remote_fetch, remote_list, remote_ops, remote_store,
};

/// Words of a host that are kept for a message.
const WORDS: usize = 4096;

/// A way to run commands on a host.
pub(super) trait RemoteShell: Send {
    /// The host in words.
    fn target(&self) -> &str;

    /// Starts a command, with or without a standard input. What it prints begins with the marker.
    fn start(&mut self, command: &RemoteCommand, giving: bool) -> Result<Box<dyn Running>, TransportError>;

    /// What stopped a command that was started.
    fn trouble(&self, trouble: Trouble, head: &Head, doing: &str) -> TransportError;

    /// What the end of a command means: its own status, or a failure of the connection.
    fn judge(
        &self,
        status: ExitStatus,
        head: &Head,
        words: &[u8],
        doing: &str,
    ) -> Result<ExitStatus, TransportError>;
}

/// Runs a command to its end. Fails when the host cannot be reached, the connection breaks, or an [`Exchange`] method
/// fails (with `Source` for stdin and `Sink` for the others).
pub(super) fn run(
    shell: &mut dyn RemoteShell,
    command: &RemoteCommand,
    io: &mut dyn Exchange,
) -> Result<ExitStatus, TransportError> {
    let mut running = shell.start(command, true)?;
    let mut marked = Marked::new(io);
    let ended = process::pump(running.as_mut(), &mut marked);
    if marked.noisy {
        return Err(marked.head.noise(shell.target()));
    }
    let status = ended.map_err(|trouble| shell.trouble(trouble, &marked.head, DOING))?;
    shell.judge(status, &marked.head, &marked.words, DOING)
}

/// What is going on when a command fails, for messages.
const DOING: &str = "running a command";

/// The error for a command that was never begun: noise, or a shell that does not run commands.
pub(super) fn not_begun(target: &str, status: ExitStatus, head: &Head, words: &[u8]) -> TransportError {
    if !head.is_empty() {
        return head.noise(target);
    }
    let reason =
        format!("the command was not run, the login shell ended with {status:?}: {}", one_line(words));
    protocol(target, "starting a command", reason)
}

/// A lane to another host.
pub(super) struct RemoteLane<S> {
    shell: S,
}

impl<S: RemoteShell> RemoteLane<S> {
    pub(super) fn new(shell: S) -> Self {
        Self { shell }
    }
}

impl<S: RemoteShell> Lane for RemoteLane<S> {
    fn exec(&mut self, command: &RemoteCommand, io: &mut dyn Exchange) -> Result<ExitStatus, TransportError> {
        run(&mut self.shell, command, io)
    }

    fn list(
        &mut self,
        root: &Utf8Path,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        remote_list::list(&mut self.shell, root, each)
    }

    fn survey(&mut self, root: &Utf8Path, each: &mut dyn FnMut(Surveyed)) -> Result<(), TransportError> {
        remote_list::survey(&mut self.shell, root, each)
    }

    fn read<'a>(
        &'a mut self,
        path: &Utf8Path,
        from: u64,
        len: Option<u64>,
    ) -> Result<Box<dyn Read + Send + 'a>, TransportError> {
        let word = quote(path.as_str());
        let tail = if from == 0 { "cat".into() } else { format!("tail -c +{}", from.saturating_add(1)) };
        let head = len.map(|len| format!(" | head -c {len}")).unwrap_or_default();
        let script = format!("LC_ALL=C; export LC_ALL; {{ {tail}{head}; }} < {word}");
        CommandStream::start(&mut self.shell, &sh(&script, &[]), path)
    }

    fn fetch(
        &mut self,
        root: &Utf8Path,
        wanted: &mut dyn Iterator<Item = FetchItem>,
        sink: &mut dyn FetchSink,
    ) -> Result<(), TransportError> {
        remote_fetch::fetch(&mut self.shell, root, wanted, sink)
    }

    fn store(
        &mut self,
        root: &Utf8Path,
        items: &mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
    ) -> Result<StoreReport, TransportError> {
        remote_store::store(&mut self.shell, root, items)
    }

    fn probe(&mut self, paths: &[Utf8PathBuf]) -> Result<Vec<Probe>, TransportError> {
        remote_ops::probe(&mut self.shell, paths)
    }

    fn apply(&mut self, ops: &[FileOp]) -> Result<(), TransportError> {
        remote_ops::apply(&mut self.shell, ops)
    }

    fn sync(&mut self, root: &Utf8Path) -> Result<(), TransportError> {
        remote_ops::sync(&mut self.shell, root)
    }
}

/// The beginning of every script that works below a root, `$1`: it goes there, or exits with 9 and the system's words.
pub(super) const ENTER: &str = "LC_ALL=C; export LC_ALL; unset TAR_OPTIONS POSIXLY_CORRECT; \
     cd -- \"$1\" >/dev/null 2>&1 || { ls -d -- \"$1/.\" >/dev/null; exit 9; }; ";

/// What [`ENTER`] exits with.
pub(super) const NO_ROOT: ExitStatus = ExitStatus::Code(9);

/// The whole output of a small command.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

struct Capture<'a> {
    input: &'a [u8],
    output: Output,
}

impl Exchange for Capture<'_> {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }

    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        if self.output.stdout.len() + data.len() > 16 << 20 {
            return Err(io::Error::other("the answer is longer than any that is expected"));
        }
        self.output.stdout.extend_from_slice(data);
        Ok(())
    }

    fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        keep_tail(&mut self.output.stderr, data);
        Ok(())
    }
}

/// Runs a small script, which is sent to `sh` on its standard input and so may be of any length.
pub(super) fn script(
    shell: &mut dyn RemoteShell,
    text: &str,
) -> Result<(ExitStatus, Output), TransportError> {
    let mut capture = Capture { input: text.as_bytes(), output: Output::default() };
    let status = run(shell, &RemoteCommand::program(["sh", "-s"]), &mut capture)?;
    Ok((status, capture.output))
}

/// Appends to what a host said, and forgets the beginning when it says too much.
pub(super) fn keep_tail(kept: &mut Vec<u8>, data: &[u8]) {
    kept.extend_from_slice(data);
    if kept.len() > 2 * WORDS {
        kept.drain(..kept.len() - WORDS);
    }
}

/// What a host said, as one line for a message.
pub(super) fn one_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("; ")
}

/// The kind of a failure, from the words of the C library.
pub(super) fn kind_of(words: &str) -> io::ErrorKind {
    let table = [
        ("No such file", io::ErrorKind::NotFound),
        ("ermission denied", io::ErrorKind::PermissionDenied),
        ("Operation not permitted", io::ErrorKind::PermissionDenied),
        ("No space left", io::ErrorKind::StorageFull),
        ("Disk quota exceeded", io::ErrorKind::QuotaExceeded),
        ("Read-only file system", io::ErrorKind::ReadOnlyFilesystem),
        ("Not a directory", io::ErrorKind::NotADirectory),
        ("Is a directory", io::ErrorKind::IsADirectory),
        ("Directory not empty", io::ErrorKind::DirectoryNotEmpty),
        ("File exists", io::ErrorKind::AlreadyExists),
        ("Directory nonexistent", io::ErrorKind::NotFound),
    ];
    table.iter().find(|(text, _)| words.contains(text)).map_or(io::ErrorKind::Other, |(_, kind)| *kind)
}

/// A file operation that failed on the host.
pub(super) fn file_error(target: &str, verb: &'static str, path: &Utf8Path, words: &[u8]) -> TransportError {
    let reason = one_line(words);
    let kind = kind_of(&reason);
    let reason = if reason.is_empty() { "the host gave no reason".into() } else { reason };
    TransportError::File { target: target.into(), verb, path: path.to_owned(), reason, kind }
}

/// An answer that cannot be understood.
pub(super) fn protocol(target: &str, doing: &str, reason: impl Into<String>) -> TransportError {
    TransportError::Protocol { target: target.into(), doing: doing.into(), reason: reason.into() }
}

/// The first bytes of an output, up to the marker.
#[derive(Debug, Default)]
pub(super) struct Head {
    held: Vec<u8>,
    begun: bool,
}

impl Head {
    /// Whether the marker came.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Whether nothing came at all.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes output and gives back what follows the marker. An error when something else stands before it.
    pub(super) fn strip<'d>(&mut self, data: &'d [u8]) -> Result<&'d [u8], ()> {
        if self.begun {
            return Ok(data);
        }
        let before = self.held.len();
        self.held.extend_from_slice(data);
        if self.held.starts_with(MARKER) {
            self.begun = true;
            return Ok(data.get(MARKER.len() - before..).unwrap_or_default());
        }
        let other = !MARKER.starts_with(&self.held);
        // Noise is collected up to the marker, so that the message can show it whole.
        let shown = self.held.windows(MARKER.len()).any(|w| w == MARKER) || self.held.len() > WORDS;
        if other && shown { Err(()) } else { Ok(&[]) }
    }

    /// The error for what came in place of the marker.
    pub(super) fn noise(&self, target: &str) -> TransportError {
        let text = String::from_utf8_lossy(&self.held);
        let text = text.split("barman-begin").next().unwrap_or_default();
        let shown: String = text.chars().take(200).collect();
        let reason = format!(
            "before the command ran, its login shell printed {:?}; the start-up files of the remote user (such as \
             .bashrc) must print nothing when the shell is not interactive",
            shown.trim_end()
        );
        protocol(target, "starting a command", reason)
    }
}

/// Takes the marker off the output of a command, and keeps what was said on standard error.
pub(super) struct Marked<'a> {
    pub(super) io: &'a mut dyn Exchange,
    pub(super) head: Head,
    pub(super) noisy: bool,
    pub(super) words: Vec<u8>,
}

impl<'a> Marked<'a> {
    pub(super) fn new(io: &'a mut dyn Exchange) -> Self {
        Self { io, head: Head::default(), noisy: false, words: Vec::new() }
    }
}

impl Exchange for Marked<'_> {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.io.stdin(buffer)
    }

    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        let Ok(data) = self.head.strip(data) else {
            self.noisy = true;
            return Err(io::Error::other("noise before the command"));
        };
        if data.is_empty() { Ok(()) } else { self.io.stdout(data) }
    }

    fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        keep_tail(&mut self.words, data);
        self.io.stderr(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_taken_off_in_pieces_of_any_size() {
        for piece in 1..20 {
            let mut head = Head::default();
            let got: Vec<u8> = b"barman-begin\nbarman-begin\nx"
                .chunks(piece)
                .flat_map(|data| head.strip(data).unwrap().to_vec())
                .collect();
            assert_eq!(got, b"barman-begin\nx", "{piece}");
            assert!(head.begun());
        }
    }

    #[test]
    fn noise_is_shown() {
        for piece in [1, 5, 100] {
            let mut head = Head::default();
            let all = b"Welcome to pg1!\nbarman-begin\ndata";
            assert!(all.chunks(piece).any(|data| head.strip(data).is_err()), "{piece}");
            let message = head.noise("pg1").to_string();
            assert!(message.contains("printed \"Welcome to pg1!\""), "{message}");
        }
    }
}
