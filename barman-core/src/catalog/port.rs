//! The seam of this room: [`Catalog`], [`BackupSpace`], [`BackupReader`], their values and their error.

use std::any::Any;
use std::io::{Read, Write};

use camino::{Utf8Path, Utf8PathBuf};
use time::OffsetDateTime;

use crate::ctx::Ctx;
use crate::model::{BackupId, BackupInfo, FileTime, Keep, Oid, Status};

/// The backups of one server.
pub trait Catalog: Send + Sync {
    /// The backups whose facts can be read, and what is wrong with the others. For those who show or choose.
    ///
    /// # Errors
    /// Only when the directories of the catalog cannot be read.
    fn survey(&self) -> Result<Survey, CatalogError>;

    /// All backups, by id. For those who decide what may go: what an unreadable backup needs, nobody knows.
    ///
    /// # Errors
    /// As [`Self::survey`], and when the facts of any backup cannot be read: the first such error, which names the file.
    fn list(&self) -> Result<Vec<BackupInfo>, CatalogError> {
        let Survey { backups, unreadable } = self.survey()?;
        unreadable.into_iter().next().map_or(Ok(backups), |first| Err(first.error))
    }

    /// One backup.
    fn get(&self, id: &BackupId) -> Result<BackupInfo, CatalogError>;

    /// Makes a new backup, status EMPTY, durable on return, under an id that no other backup has or had.
    fn create(&self, draft: Draft) -> Result<(BackupInfo, Box<dyn BackupSpace>), CatalogError>;

    /// Opens the space of a backup that is not yet available, to go on with it.
    fn reopen(&self, id: &BackupId) -> Result<Box<dyn BackupSpace>, CatalogError>;

    /// Changes the facts of a backup: read, changed, written and durable under a lock. A status move that
    /// [`Status::can_become`] forbids is an error and changes nothing.
    fn update(
        &self,
        id: &BackupId,
        change: &mut dyn FnMut(&mut BackupInfo),
    ) -> Result<BackupInfo, CatalogError>;

    /// Opens the files of an available backup for reading.
    fn open(&self, id: &BackupId) -> Result<Box<dyn BackupReader>, CatalogError>;

    /// Keeps a backup from being removed until the lease is dropped or its process ends.
    fn lease(&self, id: &BackupId, purpose: Purpose) -> Result<Lease, CatalogError>;

    /// What the user asked to keep of a backup.
    fn kept(&self, id: &BackupId) -> Result<Option<Keep>, CatalogError>;

    /// Sets or (with `None`) releases a keep, durably.
    fn keep(&self, id: &BackupId, keep: Option<Keep>) -> Result<(), CatalogError>;

    /// Backups whose removal was begun and not finished.
    fn removals_pending(&self) -> Result<Vec<BackupId>, CatalogError>;

    /// Removes a backup's files, then its facts. Marked first, so that a removal cut short is found again and finished.
    /// WAL is not touched. A backup with a lease is [`CatalogError::Busy`].
    ///
    /// `allowed` is asked right before the mark is made, at a moment in which no other removal can make its own and no keep
    /// can change: two that are each allowed alone must not both happen. It is not asked for a removal that was begun.
    ///
    /// # Errors
    /// What `allowed` gives, and then nothing was done.
    fn remove(
        &self,
        id: &BackupId,
        allowed: &dyn Fn() -> Result<(), CatalogError>,
        ctx: &Ctx<'_>,
    ) -> Result<Removed, CatalogError>;
}

/// What a catalog holds, as far as it can be read.
#[derive(Debug, Default)]
pub struct Survey {
    /// The backups, by id.
    pub backups: Vec<BackupInfo>,
    /// Those whose facts cannot be read, by id.
    pub unreadable: Vec<Unreadable>,
}

/// A backup whose facts cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The backup.
    pub id: BackupId,
    /// Why; it names the file.
    pub error: CatalogError,
}

/// A new backup as its maker knows it.
pub struct Draft {
    /// Local time of creation; the id is made of it, later if that one is taken.
    pub created_at: OffsetDateTime,
    /// What is known already; `id` and `status` are set by the catalog.
    pub info: BackupInfo,
}

/// Which tree of a backup a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// The data directory: `base/<id>/data`.
    Data,
    /// A tablespace: `base/<id>/<oid>`.
    Tablespace(Oid),
}

impl Root {
    /// The tree and the path in it of a file as PostgreSQL's manifests name it: those of tablespaces lie below
    /// `pg_tblspc/<oid>/` there.
    pub fn of_manifest(path: &str) -> (Self, Utf8PathBuf) {
        let below = path.strip_prefix("pg_tblspc/").and_then(|rest| rest.split_once('/'));
        match below.and_then(|(oid, rest)| Some((oid.parse().ok()?, rest))) {
            Some((oid, rest)) => (Self::Tablespace(oid), rest.into()),
            None => (Self::Data, path.into()),
        }
    }
}

/// A directory to make. Making one again is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirSpec {
    /// Which tree.
    pub root: Root,
    /// Path below it; empty for the tree itself.
    pub path: Utf8PathBuf,
    /// Permission bits.
    pub mode: u32,
}

/// A file to write or to reuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Which tree.
    pub root: Root,
    /// Path below it.
    pub path: Utf8PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Last modification at the source, taken before reading began.
    pub mtime: FileTime,
    /// Bytes at the source when it was listed, for planning; the file may end up longer or shorter.
    pub size: u64,
}

/// What is known of a file in a backup; a row of the full manifest in the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProof {
    /// Which tree.
    pub root: Root,
    /// Path below it.
    pub path: Utf8PathBuf,
    /// Bytes.
    pub size: u64,
    /// Last modification at the source, taken before reading began.
    pub mtime: FileTime,
    /// Permission bits.
    pub mode: u32,
    /// CRC-32C (Castagnoli) of the bytes.
    pub crc32c: u32,
    /// SHA-256, when the backup was asked for one.
    pub sha256: Option<[u8; 32]>,
}

/// Where the files of a backup in the making go. Workers share it.
pub trait BackupSpace: Send + Sync {
    /// The backup.
    fn id(&self) -> BackupId;
    /// Where a tree lies, for messages.
    fn location(&self, root: Root) -> Utf8PathBuf;
    /// Makes a directory.
    fn dir(&self, spec: DirSpec) -> Result<(), CatalogError>;
    /// Begins a file; a file of that name left by an earlier attempt is replaced by a new inode.
    fn file(&self, spec: FileSpec) -> Result<Box<dyn FileSink>, CatalogError>;
    /// Makes `pg_tblspc/OID` of the data directory a link to where the tree of that tablespace lies, as `pg_basebackup`
    /// does: PostgreSQL's own tools look for tablespaces there. Making it again is no error.
    fn tablespace_link(&self, oid: Oid) -> Result<(), CatalogError>;
    /// Takes the same file from another available backup, by hard link (`link`) or by copy. A link that cannot be made
    /// becomes a copy. The content is *not* compared: the caller has proof that it is equal.
    fn reuse(
        &self,
        spec: FileSpec,
        proof: &FileProof,
        from: &BackupId,
        link: bool,
    ) -> Result<Reused, CatalogError>;
    /// What the parent (or an interrupted attempt) is proven to hold: the rows of its full manifest, by tree and path.
    /// `None` when that backup has no full manifest.
    fn proofs_of(&self, id: &BackupId) -> Result<Option<Vec<FileProof>>, CatalogError>;
    /// Begins a small file in `base/<id>/.native/`; it counts in no size that Barman shows.
    fn sidecar(&self, name: &str) -> Result<Box<dyn FileSink>, CatalogError>;
    /// Removes what was written; the facts stay.
    fn discard(self: Box<Self>) -> Result<(), CatalogError>;
    /// Makes every file, directory and name durable, writes the full manifest into the sidecar and gives the sizes.
    /// After it returns, a crash loses nothing of the space.
    ///
    /// `proofs` is the truth: a file that it names and that is not there, or has another length, is
    /// [`CatalogError::Damaged`]; a file in the trees that it does not name is a left-over of an earlier attempt and is
    /// removed. With no proofs at all nothing is removed and no manifest is written.
    fn seal(&self, proofs: &[FileProof], ctx: &Ctx<'_>) -> Result<SpaceReport, CatalogError>;
}

/// A file being written. Dropping it without [`FileSink::finish`] removes its name again.
pub trait FileSink: Write + Send {
    /// Ends the file: digest, length, mode and time are set. Not durable before [`BackupSpace::seal`].
    fn finish(self: Box<Self>) -> Result<FileProof, CatalogError>;
}

/// How a file was taken from another backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reused {
    /// Both backups share the inode.
    Linked,
    /// It is a copy of its own.
    Copied,
}

/// Sizes of a sealed backup, as Barman counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceReport {
    /// Bytes in all files.
    pub size: u64,
    /// Bytes in files that share no inode with another backup.
    pub deduplicated_size: u64,
    /// Files.
    pub files: u64,
}

/// Reads the files of a backup, whatever its layout.
pub trait BackupReader: Send + Sync {
    /// The facts.
    fn info(&self) -> &BackupInfo;
    /// Where a tree lies on this host.
    fn location(&self, root: Root) -> Utf8PathBuf;
    /// Every directory and file of a tree, parents first; links are reported, not followed.
    fn files(&self, root: Root) -> Result<Vec<crate::model::Entry>, CatalogError>;
    /// The same as far as it is known without reading the whole tree. What can be seen cheaply to be damaged is an error.
    fn outline(&self, root: Root) -> Result<Outline, CatalogError> {
        Ok(Outline::of(self.files(root)?))
    }
    /// The rows of the full manifest, or `None` for a backup of Barman's own or of an old version.
    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError>;
    /// Opens a file.
    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError>;
    /// The members of a tree in the order in which they can be read at all, for a backup that lies packed; `None` where
    /// [`BackupReader::open`] is as good.
    fn stream(&self, _root: Root) -> Result<Option<Box<dyn MemberStream>>, CatalogError> {
        Ok(None)
    }
    /// Whether what [`BackupReader::open`] and [`BackupReader::stream`] give of a file without a row in
    /// [`BackupReader::proofs`] is compared with stored checksums by the reader itself.
    fn verifies(&self, _root: Root, _path: &Utf8Path) -> bool {
        false
    }
    /// PostgreSQL's `backup_manifest`, or the one that Barman made, as it lies in the catalog; `None` where there is none.
    fn manifest(&self) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        Ok(None)
    }
    /// What lies in the data directory of a packed backup; `None` for a plain one.
    fn packed(&self) -> Result<Option<Packed>, CatalogError> {
        Ok(None)
    }
    /// Opens a file of the sidecar, `None` when there is none of that name.
    fn sidecar(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError>;
}

/// What is known of a tree before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Every directory and file, parents first; `None` where only reading the tree tells.
    pub entries: Option<Vec<crate::model::Entry>>,
    /// Bytes of its files; at least so many where the entries are not known.
    pub bytes: u64,
}

impl Outline {
    /// The outline of a tree whose entries are known.
    pub fn of(entries: Vec<crate::model::Entry>) -> Self {
        let bytes = entries.iter().map(|entry| entry.size).sum();
        Self { entries: Some(entries), bytes }
    }
}

/// The files of a packed backup as they lie, not what is in them.
#[derive(Debug)]
pub struct Packed {
    /// Archives and whatever else lies in the data directory.
    pub entries: Vec<crate::model::Entry>,
    /// The rows of the full manifest; they speak of the archives.
    pub proofs: Option<Vec<FileProof>>,
}

/// The members of a packed tree, one after the other.
pub trait MemberStream: Send {
    /// The next member with its bytes, which must be read before the next one is asked for; what is left of them is passed
    /// over. `None` at the end, when the archive was whole.
    ///
    /// # Errors
    /// An archive that cannot be read, or is cut off.
    fn next(&mut self) -> std::io::Result<Option<(crate::model::Entry, Box<dyn Read + Send>)>>;
}

/// Why a lease was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A restore reads it.
    Restore,
    /// A backup takes files from it.
    Parent,
    /// Its files are being compared with what was stored.
    Verification,
    /// A copy of it is being made for elsewhere.
    Export,
    /// Its annotations are being changed.
    Annotation,
    /// It is being taken.
    Backup,
}

/// Keeps a backup from removal while it lives.
pub struct Lease(#[allow(dead_code)] Box<dyn Any + Send>);

impl Lease {
    /// A lease held by any value, released when that is dropped.
    pub fn new(guard: impl Any + Send) -> Self {
        Self(Box::new(guard))
    }
}

/// What a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Files removed.
    pub files: u64,
    /// Whether an earlier, interrupted removal was finished.
    pub resumed: bool,
}

/// Why the catalog could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is no such backup.
    #[error("Unknown backup '{id}'")]
    NotFound {
        /// The id.
        id: BackupId,
    },
    /// A `backup.info` cannot be read as one.
    #[error("Cannot read {path} as the facts of a backup: {reason}")]
    Corrupt {
        /// The file.
        path: Utf8PathBuf,
        /// Line, key and value.
        reason: String,
    },
    /// A status move that is not part of a backup's life.
    #[error("Backup {id} is {from} and cannot become {to}")]
    IllegalStatus {
        /// The backup.
        id: BackupId,
        /// Its status.
        from: Status,
        /// The status refused.
        to: Status,
    },
    /// A file of a backup is not what its manifest or its maker says.
    #[error("{path} is damaged: expected {expected}, found {found}")]
    Damaged {
        /// The file.
        path: Utf8PathBuf,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An encrypted backup cannot be read.
    #[error("Cannot decrypt {path}")]
    Encrypted {
        /// The archive.
        path: Utf8PathBuf,
        /// What is missing, or what the cipher said.
        #[source]
        source: crate::cipher::CipherError,
    },
    /// The full manifest in a sidecar cannot be used.
    #[error("The manifest {path} cannot be used: {reason}")]
    Manifest {
        /// The manifest.
        path: Utf8PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A file that must be made anew is there.
    #[error("File {path} already exists.")]
    Exists {
        /// The file.
        path: Utf8PathBuf,
    },
    /// A backup of that id cannot come in: there is one.
    #[error("Backup '{id}' already exists in the catalog for server '{server}'")]
    Taken {
        /// The id.
        id: BackupId,
        /// The server.
        server: crate::model::ServerName,
    },
    /// What has no place in a backup was to come in with one.
    #[error("The backup cannot be imported: its member '{path}' {why}")]
    Foreign {
        /// Relative to the directory of the backup.
        path: Utf8PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Somebody uses it.
    #[error("Backup {id} is in use: {holder}")]
    Busy {
        /// The backup.
        id: BackupId,
        /// Who, since when and why.
        holder: String,
    },
    /// It was wanted to be removed, and must stay.
    #[error("Backup {id} must stay")]
    MustStay {
        /// The backup.
        id: BackupId,
    },
    /// The backup is not in a state in which its files can be used so.
    #[error("Backup {id} cannot be {action}: it is {status}")]
    WrongStatus {
        /// The backup.
        id: BackupId,
        /// What was asked.
        action: &'static str,
        /// Its status.
        status: Status,
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
