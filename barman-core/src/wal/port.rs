//! The seam of this room: [`WalArchive`] and [`WalIntake`], their values and their error.

use std::io::Read;
use std::ops::ControlFlow;

use camino::Utf8PathBuf;

use crate::ctx::Ctx;
use crate::model::{FileTime, Lsn, SegmentName, SegmentSize, WalFileName};

/// The WAL of one server.
pub trait WalArchive: Send + Sync {
    /// Begins to take files in. Nothing is acknowledged before [`WalIntake::commit`] returns.
    fn intake<'a>(&'a self, ctx: Ctx<'a>) -> Result<Box<dyn WalIntake + 'a>, WalError>;

    /// Looks for a file in directory *and* index; a file without an index line is found too.
    fn find(&self, name: &WalFileName) -> Result<Option<WalEntry>, WalError>;

    /// The plain bytes of a file, whatever lies on disk.
    fn open(&self, name: &WalFileName) -> Result<Box<dyn Read + Send>, WalError>;

    /// The bytes as they lie on disk.
    fn open_stored(&self, name: &WalFileName) -> Result<Box<dyn Read + Send>, WalError>;

    /// Gives every entry of the range in archive order, from directory and index together, each name once.
    fn scan(
        &self,
        range: &WalRange,
        each: &mut dyn FnMut(WalEntry) -> ControlFlow<()>,
    ) -> Result<(), WalError>;

    /// What there is of a segment that never became whole, as far as it can be trusted; segments of `size`.
    ///
    /// An archive without unfinished segments need not implement it.
    fn unfinished(&self, name: SegmentName, size: SegmentSize) -> Result<Option<PartialWal>, WalError> {
        let _ = (name, size);
        Ok(None)
    }

    /// The content of an unfinished segment as a server reads it: what is valid, then zeros up to the size of a segment.
    fn open_unfinished(
        &self,
        partial: &PartialWal,
        size: SegmentSize,
    ) -> Result<Box<dyn Read + Send>, WalError> {
        let _ = size;
        Err(WalError::NotFound { name: WalFileName::Partial(partial.name) })
    }

    /// Removes files and their index lines; a directory goes only when nothing is left in it. Names that are not there
    /// are no error. Never blocks an intake for longer than the rewrite of the index takes.
    fn remove(&self, names: &[WalFileName]) -> Result<Reclaimed, WalError>;
}

/// Takes files in: checks each, stores it, and acknowledges them together.
pub trait WalIntake {
    /// Hands over one file. It may be worked on in parallel with others; what became of it stands in the report.
    ///
    /// # Errors
    /// Only what stops the whole intake (a full disk, cancellation); a refused file is not an error.
    fn put(&mut self, file: Incoming) -> Result<(), WalError>;

    /// Waits for all files, makes contents, names and index lines durable, and only then removes sources.
    ///
    /// # Errors
    /// When that could not be done; nothing is lost then, and the next intake finds the files again.
    fn commit(self: Box<Self>) -> Result<IntakeReport, WalError>;
}

/// A file to take in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its name, from the grammar.
    pub name: WalFileName,
    /// Where it lies on this host.
    pub path: Utf8PathBuf,
    /// Whether to remove it once it is safe.
    pub remove_source: bool,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The file.
    pub name: WalFileName,
    /// What was done with it.
    pub how: TakenHow,
}

/// See [`Taken`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenHow {
    /// Archived now; it is durable.
    Archived(WalEntry),
    /// The same content was there already.
    Known,
    /// Sound content differs from the sound content already published: the newcomer was kept aside.
    Conflict {
        /// Where it lies now.
        aside: Utf8PathBuf,
    },
    /// Not sound: kept aside with the reason.
    Refused {
        /// Where it lies now.
        aside: Utf8PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// Short with a valid beginning and changed a moment ago: still being written, left where it is.
    Growing,
    /// An unsound published file was moved aside and this one took its place.
    Replaced(WalEntry),
    /// It could not be read or stored; it stays where it is and is tried again next time.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What an intake did, in the order the files were handed over.
#[derive(Debug, Default)]
pub struct IntakeReport {
    /// Each file.
    pub files: Vec<Taken>,
    /// What stopped the intake before all files were looked at (a full disk, cancellation), unless
    /// [`WalIntake::put`] has given it. What was done before stands: it is durable, and its sources are gone.
    pub stopped: Option<WalError>,
}

impl IntakeReport {
    /// Each file, when nothing stopped the intake.
    ///
    /// # Errors
    /// What stopped it.
    pub fn complete(self) -> Result<Vec<Taken>, WalError> {
        self.stopped.map_or(Ok(self.files), Err)
    }
}

/// A file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEntry {
    /// Its name.
    pub name: WalFileName,
    /// Bytes as stored.
    pub size: u64,
    /// Last modification of the original.
    pub mtime: FileTime,
    /// Codec as recorded, `None` for plain.
    pub compression: Option<String>,
    /// Cipher as recorded, `None` for clear.
    pub encryption: Option<String>,
    /// Whether the index has a line for it.
    pub indexed: bool,
}

/// A segment that never became whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialWal {
    /// The segment.
    pub name: SegmentName,
    /// The file.
    pub path: Utf8PathBuf,
    /// The end of the last whole record in it.
    pub valid_until: Lsn,
    /// Where that record begins, if it begins in this segment.
    pub last_record: Option<Lsn>,
    /// When it was last written.
    pub mtime: FileTime,
    /// Bytes as stored.
    pub size: u64,
}

/// Part of an archive. The default is all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalRange {
    /// First name, included.
    pub from: Option<WalFileName>,
    /// Last name, included.
    pub to: Option<WalFileName>,
}

impl WalRange {
    /// Whether a name lies in the range.
    pub fn contains(&self, name: &WalFileName) -> bool {
        self.from.is_none_or(|from| from <= *name) && self.to.is_none_or(|to| *name <= to)
    }
}

/// What a removal freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// Files removed.
    pub files: u64,
    /// Bytes freed.
    pub bytes: u64,
}

/// Why the archive could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The file is not in the archive.
    #[error("WAL file '{name}' not found")]
    NotFound {
        /// The file.
        name: WalFileName,
    },
    /// A file in the archive is not what its name says.
    #[error("The archived WAL file {path} is not sound: {reason}")]
    Corrupt {
        /// The file.
        path: Utf8PathBuf,
        /// Expected and found, with the offset.
        reason: String,
    },
    /// The index has a line that cannot be read.
    #[error(
        "The WAL index {path} cannot be read at line {line}: {reason}; 'barman rebuild-xlogdb' makes it anew"
    )]
    Index {
        /// The index.
        path: Utf8PathBuf,
        /// Line number from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is full: nothing was acknowledged that is not durable, sources are where they were.
    #[error("No space left for WAL in {path}; free some space, the files wait where they are")]
    NoSpace {
        /// Where.
        path: Utf8PathBuf,
    },
    /// A stored file needs a codec, cipher or filter that is not available.
    #[error("Cannot decode {path}: {reason}")]
    Undecodable {
        /// The file.
        path: Utf8PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A codec failed.
    #[error("Cannot encode or decode {path}")]
    Codec {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: crate::codec::CodecError,
    },
    /// A delivery by put-wal is refused; nothing of it is kept.
    #[error("{text}")]
    Delivery {
        /// Which file and why, in Barman's words where it has some.
        text: String,
    },
    /// What is streamed does not fit to what is here.
    #[error("WAL cannot be received: {reason}")]
    Stream {
        /// What came, what was expected, and what to do.
        reason: String,
    },
    /// What put-wal reads is no tar archive, or not all of one.
    #[error("{reason}")]
    DeliveryStream {
        /// In Barman's words.
        reason: String,
    },
    /// A lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] crate::io::LockError),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] crate::io::IoError),
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] crate::ctx::Cancelled),
}
