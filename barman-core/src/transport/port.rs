//! The seam of this room: [`Transport`] and [`Lane`], their values and their error. No implementation lives here.

use std::io::Read;
use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use crate::model::{Entry, EntryKind, FileTime};

/// What a host can be reached by. Cheap to keep; connections are made by [`Transport::lane`].
pub trait Transport: Send + Sync {
    /// The host in words, for messages: `localhost`, or the ssh command that reaches it. Never a secret.
    fn target(&self) -> &str;

    /// Whether files of the target are files of this host (so that paths can be opened directly).
    fn is_local(&self) -> bool;

    /// Opens an independent lane; workers each take their own. Fails with [`TransportError::Unreachable`],
    /// [`TransportError::HostKey`] or [`TransportError::Denied`] when the host cannot be used.
    fn lane(&self) -> Result<Box<dyn Lane>, TransportError>;
}

/// One connection to a host. It stays on one thread; every call is finished before the next begins.
pub trait Lane: Send {
    /// Runs a command on the host, with streams both ways, and waits for its end.
    ///
    /// # Errors
    /// Only what keeps the command from being run or its end from being known; a status other than 0 is not an error.
    fn exec(&mut self, command: &RemoteCommand, io: &mut dyn Exchange) -> Result<ExitStatus, TransportError>;

    /// Walks a tree in no particular order; the root itself is not reported. Symbolic links are followed, as
    /// `rsync -L` does, except `pg_tblspc/*` and `pg_wal` (or `pg_xlog`) directly under the root, which are reported as
    /// links. A link whose target is missing is reported as [`crate::model::EntryKind::Symlink`]. Names that are not
    /// UTF-8 are an error that shows the name. What vanishes meanwhile is left out.
    fn list(
        &mut self,
        root: &Utf8Path,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TransportError>;

    /// Walks a tree, each directory before what is in it, and follows no link: what would be removed by these paths lies
    /// below the root and nowhere else. The root itself is not reported. Names that are not UTF-8 are an error.
    fn survey(&mut self, root: &Utf8Path, each: &mut dyn FnMut(Surveyed)) -> Result<(), TransportError> {
        let _ = each;
        Err(TransportError::Unsupported {
            target: root.to_string(),
            reason: "this connection cannot look at what lies there".to_owned(),
        })
    }

    /// Reads a file, or `len` bytes of it from `from`. The stream ends early when the file does.
    fn read<'a>(
        &'a mut self,
        path: &Utf8Path,
        from: u64,
        len: Option<u64>,
    ) -> Result<Box<dyn Read + Send + 'a>, TransportError>;

    /// Reads many files below `root` through one stream, in the order given.
    ///
    /// Every wanted file gets exactly one [`FetchSink::end`]. What was received is judged against what was asked for,
    /// not by an exit status: a file that is missing from the stream ends as [`Fetched::Vanished`], one cut short as
    /// [`Fetched::Shrunk`]. A root that is missing and a connection that breaks are
    /// errors; files not ended by then were not received.
    fn fetch(
        &mut self,
        root: &Utf8Path,
        wanted: &mut dyn Iterator<Item = FetchItem>,
        sink: &mut dyn FetchSink,
    ) -> Result<(), TransportError>;

    /// Writes many directories, files and links below `root` through one stream. Existing files are replaced by a new
    /// inode, never written into. Nothing is durable before [`Lane::sync`].
    fn store(
        &mut self,
        root: &Utf8Path,
        items: &mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
    ) -> Result<StoreReport, TransportError>;

    /// Looks at paths, all in one round trip, in the order given. Links are followed.
    fn probe(&mut self, paths: &[Utf8PathBuf]) -> Result<Vec<Probe>, TransportError>;

    /// Does small operations, in order and in one round trip, stopping at the first that fails. [`FileOp::WriteFile`] and
    /// the new name of [`FileOp::Rename`] are durable when it returns; the others are after [`Lane::sync`].
    fn apply(&mut self, ops: &[FileOp]) -> Result<(), TransportError>;

    /// Makes everything under `root` durable (files, directories and names). A tree that a link below `root` leads to
    /// may lie on another file system: it needs a call of its own.
    fn sync(&mut self, root: &Utf8Path) -> Result<(), TransportError>;
}

/// What [`Lane::survey`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Path below the root.
    pub path: Utf8PathBuf,
    /// What it is, itself: a link is a link.
    pub kind: EntryKind,
    /// Bytes; 0 for what is not a regular file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// How many names the inode has.
    pub links: u64,
}

/// A command for [`Lane::exec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteCommand {
    /// Program and arguments; quoted for the remote shell by the lane.
    Program(Vec<String>),
    /// A line for the remote login shell, passed as it is.
    Shell(String),
}

/// The two streams of a running command, seen from this side.
pub trait Exchange {
    /// Fills `buffer` with what goes to the command's standard input; 0 ends it. Called only as fast as it is taken.
    fn stdin(&mut self, buffer: &mut [u8]) -> std::io::Result<usize>;
    /// Takes a piece of the command's standard output.
    fn stdout(&mut self, data: &[u8]) -> std::io::Result<()>;
    /// Takes a piece of the command's standard error.
    fn stderr(&mut self, data: &[u8]) -> std::io::Result<()>;
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// Whether it exited with 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A file wanted by [`Lane::fetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchItem {
    /// Path below the root.
    pub path: Utf8PathBuf,
    /// Its size when it was listed; more may arrive.
    pub size: u64,
}

/// Size, time and mode of a file as the host reported them when reading began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: FileTime,
    /// Permission bits.
    pub mode: u32,
}

/// How one fetched file ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// All the bytes that the file had when reading began.
    Whole,
    /// The file became shorter while it was read: only so many bytes are real (padding is never passed on).
    Shrunk {
        /// Real bytes passed to the sink.
        got: u64,
    },
    /// It is not there.
    Vanished,
    /// It may not be read, or reading failed; the host's own words.
    Denied(String),
}

/// Takes fetched files, one after the other. An error stops the whole fetch and comes back as
/// [`TransportError::Sink`].
pub trait FetchSink {
    /// A file begins. Not called for files that never arrive.
    fn begin(&mut self, path: &Utf8Path, facts: FileFacts) -> std::io::Result<()>;
    /// The next bytes of the current file.
    fn data(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    /// A file ended, or never came.
    fn end(&mut self, path: &Utf8Path, how: Fetched) -> std::io::Result<()>;
}

/// One thing written by [`Lane::store`].
pub struct StoreItem {
    /// Path below the root; parents are stored before children.
    pub path: Utf8PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, kept on files.
    pub mtime: FileTime,
    /// What it is.
    pub content: StoreContent,
}

/// The kind and content of a [`StoreItem`].
pub enum StoreContent {
    /// A directory; one that exists is left, but for its mode.
    Directory,
    /// A regular file of exactly `size` bytes. A reader that ends early or errs stops the store.
    File {
        /// Bytes that `bytes` will give.
        size: u64,
        /// The content.
        bytes: Box<dyn Read + Send>,
    },
    /// A symbolic link.
    Symlink(Utf8PathBuf),
}

/// What a store did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreReport {
    /// Regular files written.
    pub files: u64,
    /// Bytes written into them.
    pub bytes: u64,
}

/// What a probed path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Nothing is there.
    Missing,
    /// A regular file.
    File,
    /// A directory with nothing in it.
    EmptyDirectory,
    /// A directory with something in it.
    Directory,
    /// It cannot be looked into.
    Denied,
    /// Anything else.
    Other,
}

/// The answer to one path of [`Lane::probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The path asked for.
    pub path: Utf8PathBuf,
    /// What is there.
    pub kind: ProbeKind,
    /// Bytes free on the file system for this user; of the nearest existing parent when the path is missing.
    pub free: Option<u64>,
    /// Which file system that is: paths with the same text share its free space. `None` where nobody knows.
    pub file_system: Option<String>,
}

/// A small operation of [`Lane::apply`]. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOp {
    /// Makes a directory and its parents; one that exists is only given the mode.
    MakeDirs {
        /// The directory.
        path: Utf8PathBuf,
        /// Its permission bits; parents get the default.
        mode: u32,
    },
    /// Writes a small file under a temporary name, makes it durable and renames it into place.
    WriteFile {
        /// The file.
        path: Utf8PathBuf,
        /// Its bytes.
        content: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// Renames, replacing what is there.
    Rename {
        /// From here.
        from: Utf8PathBuf,
        /// To here.
        to: Utf8PathBuf,
    },
    /// Removes a file or link; one that is missing is no error.
    RemoveFile(Utf8PathBuf),
    /// Removes a directory with all it holds, without following links; one that is missing is no error.
    RemoveTree(Utf8PathBuf),
    /// Makes a symbolic link, replacing a link that is there.
    Symlink {
        /// The link.
        link: Utf8PathBuf,
        /// What it points to.
        target: Utf8PathBuf,
    },
    /// Proves that the directory can be written, by making and removing a file in it.
    ProveWritable(Utf8PathBuf),
}

/// Why a host, a command or a file could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The connection was refused, timed out, or the name is unknown.
    #[error("Cannot reach {target}: {reason}")]
    Unreachable {
        /// The host in words.
        target: String,
        /// Why, in the words of the program or library that tried.
        reason: String,
    },
    /// The host answered with a key other than the known one.
    #[error(
        "The host key of {target} is not the one that is known; \
         if the host was really reinstalled, remove its old line from known_hosts, else do not connect: {reason}"
    )]
    HostKey {
        /// The host in words.
        target: String,
        /// Which key and file, in the words of the program or library that tried.
        reason: String,
    },
    /// The host refused the login, or the operation needs rights that the login lacks.
    #[error("Permission denied on {target}: {reason}")]
    Denied {
        /// The host in words.
        target: String,
        /// What was refused.
        reason: String,
    },
    /// The connection broke in the middle.
    #[error("The connection to {target} was lost while {doing}: {reason}")]
    Lost {
        /// The host in words.
        target: String,
        /// What was going on.
        doing: String,
        /// Why, as far as it is known.
        reason: String,
    },
    /// The host lacks a program that is needed, or has one that cannot be used.
    #[error("{target} cannot be used: {reason}")]
    Unsupported {
        /// The host in words.
        target: String,
        /// What is missing and what would do.
        reason: String,
    },
    /// The other side sent something that is not what was asked for.
    #[error("Unexpected answer from {target} while {doing}: {reason}")]
    Protocol {
        /// The host in words.
        target: String,
        /// What was going on.
        doing: String,
        /// Expected and found.
        reason: String,
    },
    /// A file operation failed there.
    #[error("Cannot {verb} {path} on {target}: {reason}")]
    File {
        /// The host in words.
        target: String,
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: Utf8PathBuf,
        /// The system's words.
        reason: String,
        /// The kind of failure, where it is known.
        kind: std::io::ErrorKind,
    },
    /// The receiver of the data failed, on this side.
    #[error("Cannot store what was read from {target}")]
    Sink {
        /// The host in words.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The giver of the data failed, on this side.
    #[error("Cannot read what was to be written to {target}")]
    Source {
        /// The host in words.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] crate::ctx::Cancelled),
}

impl TransportError {
    /// Whether the same call may succeed later without anyone mending anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. })
    }
}
